"""Is this derivative right, and why: for deriving along. The engine does not know this folder."""
