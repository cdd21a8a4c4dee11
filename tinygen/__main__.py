"""`python -m tinygen`: the calculus table, every row checked now. Exit code 1 if one is wrong."""
import argparse
import sys

from .derive.explain import reference

argparse.ArgumentParser(prog="python -m tinygen", description=__doc__).parse_args()
sys.exit(bool(reference()))
