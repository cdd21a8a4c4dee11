"""`python -m tinygen`: the calculus table, every row checked now. Exit code 1 if one is wrong."""
import sys

from .explain import reference

if __name__ == "__main__":
    sys.exit(bool(reference()))
