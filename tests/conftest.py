"""Every test starts from the same random numbers.

Tests that ask for `library` run on every backend at hand.
"""
import os
import pathlib
import sys

# Small matrices: threads only wait for each other, above all on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

import strict
from tinygen import backend

DEMOS = pathlib.Path(__file__).parent.parent / "demos"
sys.path.insert(0, str(DEMOS))  # tests import the demos by name
chosen = os.environ.get("TINYGEN_BACKEND", "numpy")


@pytest.fixture(autouse=True)
def fresh():
    backend.manual_seed(0)
    yield
    if backend.name() != chosen:
        backend.use(chosen)


@pytest.fixture(params=["numpy", "strict"] if chosen == "numpy" else [chosen])
def library(request):
    """The name of the backend in use.

    NumPy and the strict stand-in, or real CuPy with TINYGEN_BACKEND=cupy.
    """
    backend.use(request.param)
    return request.param


@pytest.fixture
def count():
    """The strict stand-in as backend, with its counters set to zero."""
    backend.use("strict")
    strict.count.syncs = 0
    strict.count.launches = 0
    return strict.count
