"""All exercises in teaching order, and the folder that holds the answers."""
import os
import pathlib

# Importing a chapter registers its classes.
import _checks_backprop   # noqa: F401
import _checks_latent     # noqa: F401
import _checks_gan        # noqa: F401
import _checks_diffusion  # noqa: F401
import _checks_flow       # noqa: F401
from _grading import EXERCISES  # noqa: F401

HERE = pathlib.Path(__file__).parent
ANSWERS = HERE / os.environ.get("EXERCISES", "")  # a folder in here, such as "solutions", ...
if not ANSWERS.is_dir():
    ANSWERS = pathlib.Path(os.environ["EXERCISES"]).resolve()  # ... or else any other folder
