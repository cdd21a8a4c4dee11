"""Floor 7: several cores.

NumPy's matrix products use every core, all else one. Where a job splits into independent parts,
threads can share them out, because NumPy releases Python's lock while it computes.
"""
import contextvars
import ctypes
import functools
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .. import backend
from ..backend import TinygenError

if hasattr(os, "sched_getaffinity"):
    CORES = len(os.sched_getaffinity(0))  # those that this process may use
else:
    CORES = os.cpu_count()


@functools.cache
def _openblas():
    """OpenBLAS, as NumPy's wheels bring it, or None where products come from elsewhere."""
    here = pathlib.Path(np.__file__).parent
    for path in [*here.parent.glob("numpy.libs/*openblas*"), *here.glob(".dylibs/*openblas*")]:
        library = ctypes.CDLL(str(path))  # loaded long ago, so this only finds it
        if hasattr(library, "scipy_openblas_set_num_threads64_"):
            return library


def on_cores(f, items, cores=CORES):
    """[f(item) for item in items], `cores` of them at a time, each in the caller's modes.

    f must not draw random numbers, which would come in an unpredictable order. On a GPU the items
    come one after the other, because each uses all of it. metrics.in_blocks(f, x, cores=...) is
    made of this.
    """
    if not isinstance(cores, int) or cores < 1:
        raise TinygenError(f"cores is a whole number of at least 1, not {cores!r}.")
    if cores == 1 or backend.name() != "numpy":
        return [f(item) for item in items]
    library = _openblas()
    before = library.scipy_openblas_get_num_threads64_() if library else None
    try:
        if library:  # one thread a product: threads with threads of their own wait for each other
            library.scipy_openblas_set_num_threads64_(1)
        with ThreadPoolExecutor(cores) as pool:
            jobs = [pool.submit(contextvars.copy_context().run, f, item) for item in items]
            return [job.result() for job in jobs]
    finally:
        if library:
            library.scipy_openblas_set_num_threads64_(before)
