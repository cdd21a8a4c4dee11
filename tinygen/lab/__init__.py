"""What demos need and no lecture talks about. The engine does not know this folder."""
