"""Floor 1: what only makes things faster. Skip this file when you read to understand."""
import dis
import functools

import numpy as np

from . import backend
from .backend import xp

CACHE = 1 << 19  # numbers that stay in a processor's cache: 2 MB of float32


# Keep the memory of one training step for the next one. glibc returns a freed block to the system
# if it is larger than all that were freed before it (or than 32 MB), and fetches it again, page by
# page, in the next step. That took up to a quarter of the time of a convolutional network. Freeing
# one block of almost 32 MB is enough.
np.empty((32 << 20) - (64 << 10), np.uint8)


def chunks(n, size=1):
    """Slices that cover range(n), for work that needs about `size` numbers for each of n items.

    On a processor each chunk is so short that its numbers stay in the cache. On a GPU there is one
    chunk, because there each operation costs the same time to start, however long it is.
    """
    step = max(1, CACHE // max(1, size)) if backend.name() == "numpy" else max(1, n)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def fuse(formula):
    """An element-wise formula of several steps, compiled into one kernel for arrays on a GPU.

    NumPy's arrays, and Tensors, go through it step by step. Attributes become constants of the
    kernel.
    """
    steps = [step.opname for step in dis.get_instructions(formula)]
    if sum(name.startswith(("BINARY", "UNARY", "COMPARE", "CALL")) for name in steps) < 2:
        return formula  # a single step is one kernel already
    kernels = {}

    @functools.wraps(formula)
    def call(*arrays, **attributes):
        library = backend.library()
        if library.fuse is None or not isinstance(arrays[0], xp.ndarray):
            return formula(*arrays, **attributes)
        key = (library.name, *attributes.items())
        if key not in kernels:
            kernels[key] = library.fuse(lambda *arrays: formula(*arrays, **attributes))
        return kernels[key](*arrays)
    return call


# Functions that NumPy computes one number at a time, made of functions that it computes by the
# vector: several times as fast, and right to the last few digits as well.

def expm1(x):
    """e^x - 1 = tanh(x / 2) (e^x + 1)"""
    return xp.tanh(0.5 * x) * (xp.exp(x) + 1)


def log1p(x):
    """ln(1 + x) for x in [0, 1]: u = 1 + x is rounded, and the rest is put back, d ln u = du / u"""
    u = 1 + x
    return xp.log(u) + (x - (u - 1)) / u
