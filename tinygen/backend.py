"""Floor 0: where the numbers live. NumPy on the processor or CuPy on the graphics card, and nobody else has to know.

`xp` is a namespace filled with the names of whichever library is in use, so the rest of tinygen writes `xp.exp(x)`
once and runs on both. This is the only file that knows there are two libraries.

    tg.backend.use("cupy")          # or set TINYGEN_BACKEND=cupy before starting Python
    tg.backend.name()               # "cupy"
    with tg.backend.precision("float64"): ...       # gradient checks want 16 digits, training wants 7
"""
import contextlib
import ctypes
import functools
import json
import math
import os
import pathlib
import types

import numpy as np


# Made and dropped at once, on purpose. glibc gives a block of memory back to the system as soon as it is free, if it is larger
# than all that were freed before (or than 32 MiB), and takes it anew, page by page, in the next training step. After this line
# the memory of one step is still there for the next: up to a quarter of the time of a convolutional network.
np.empty((32 << 20) - (64 << 10), np.uint8)


class TinygenError(ValueError):
    """Something that was asked for cannot be done; the text is one sentence saying what, and how to mend it."""


xp = types.SimpleNamespace()  # filled by use(): every public name of NumPy or CuPy
_active = None                # the Library in use
default_dtype = np.dtype("float32")


class Library:
    """What tinygen needs of an array library beyond the functions in `xp`."""

    def __init__(self, name, module, to_numpy, random, erf, fuse):
        self.name, self.module, self.to_numpy = name, module, to_numpy
        self.random = random  # seed -> generator with standard_normal, random, integers
        self.erf = erf        # the error function, which neither NumPy nor CuPy has
        self.fuse = fuse      # turns an element-wise formula into one kernel


def _numpy():
    erf = np.vectorize(math.erf, otypes=[float])
    return Library("numpy", np, to_numpy=np.asarray, random=np.random.default_rng,
                    erf=lambda x: erf(x).astype(np.result_type(x, np.float32) if x.dtype.kind == "f" else default_dtype), fuse=lambda f: f)


def _cupy():
    install = 'install it with: pip install "cupy-cuda12x[ctk]" (or cupy-cuda13x for CUDA 13), or stay with --backend numpy'
    try:
        import cupy
        from cupyx.scipy.special import erf
        a = cupy.ones((2, 2))
        float((a @ a + 1).sum())  # one tiny job that needs the driver, the compiler and cuBLAS
    except ImportError as error:
        raise TinygenError(f"The backend 'cupy' needs the CuPy library ({error}); {install}.") from error
    except Exception as error:
        reason = " ".join(str(error).split())
        raise TinygenError(f"CuPy is installed but no usable GPU answers ({type(error).__name__}: {reason}); "
                           f"check the driver with nvidia-smi, {install}.") from error
    return Library("cupy", cupy, to_numpy=cupy.asnumpy, random=cupy.random.default_rng, erf=erf, fuse=cupy.fuse)


LIBRARIES = {"numpy": _numpy, "cupy": _cupy}


def use(name):
    """Compute with "numpy" or "cupy" from now on, the random numbers starting again from seed 0.

    Tensors made before stay where they are and cannot be mixed with new ones.
    """
    global _active
    if name not in LIBRARIES:
        raise TinygenError(f"There is no backend {name!r}; choose one of {', '.join(LIBRARIES)}.")
    library = LIBRARIES[name]()
    xp.__dict__.clear()
    xp.__dict__.update(vars(library.module))
    _active = library
    manual_seed(0)


def name():
    """The backend in use: "numpy" or "cupy"."""
    return _active.name


def to_numpy(x):
    """x (a Tensor, a raw array of either library, or a number) as a NumPy array on the host."""
    _raise_late_errors()
    x = x.data if hasattr(x, "requires_grad") else x
    return _active.to_numpy(x) if isinstance(x, xp.ndarray) else np.asarray(x)


def asarray(x, dtype=None):
    """x as a raw array of the backend in use; moves host data to the device."""
    return xp.asarray(x, dtype=dtype)


def erf(x):
    """erf(x) = 2/sqrt(pi) * integral of exp(-t^2) from 0 to x, element by element."""
    return _active.erf(x)


def fuse(formula):
    """Compile an element-wise formula into one GPU kernel where the backend can; on NumPy, and on Tensors, it stays as it is."""
    compiled = {}

    @functools.wraps(formula)
    def call(*args):
        if not isinstance(args[0], xp.ndarray):
            return formula(*args)
        if _active.name not in compiled:
            compiled[_active.name] = _active.fuse(formula)
        return compiled[_active.name](*args)
    return call


CACHE = 1 << 20  # numbers that stay in a processor's cache: 4 MiB of float32


def pieces(n, size=1):
    """Slices that cover range(n), for work that needs about `size` numbers for each of n items.

    On a processor each piece is so short that its numbers stay in the cache; on a GPU there is one piece, for there each
    array operation costs the same time to start however long it is.
    """
    step = max(1, CACHE // max(1, size)) if _active.name == "numpy" else max(1, n)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


@contextlib.contextmanager
def precision(dtype):
    """Inside `with precision("float64"):` new floating Tensors, parameters and random numbers have that dtype."""
    global default_dtype
    if str(dtype) not in ("float32", "float64"):
        raise TinygenError(f"precision() takes 'float32' or 'float64', not {dtype!r}.")
    before, default_dtype = default_dtype, np.dtype(dtype)
    try:
        yield
    finally:
        default_dtype = before


# ---------------------------------------------------------------------------------------------- random numbers
# Two generators: `host` is always NumPy's; `device` draws where the arrays live. On NumPy they are the same one.

_rng = types.SimpleNamespace(host=None, device=None)


def manual_seed(seed, host=False):
    """Start the random numbers again from `seed`.

    host=True draws every number with NumPy even on CuPy: slower, but the same numbers on every machine, so that
    everyone in a classroom sees the same samples.
    """
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise TinygenError(f"A seed is a whole number of at least 0, not {seed!r}.")
    _rng.host = np.random.default_rng(seed)
    _rng.device = _rng.host if host or _active.name == "numpy" else _active.random(seed)


def _draw(method, *args, **kwargs):
    return xp.asarray(getattr(_rng.device, method)(*args, **kwargs))


def host_rng():
    """The NumPy generator behind manual_seed(), for data that are made on the host."""
    return _rng.host


def randn(shape):
    """Independent draws from N(0, 1), as a raw array of the default dtype."""
    return _draw("standard_normal", size=shape, dtype=default_dtype.type)


def rand(shape):
    """Independent draws from the uniform distribution on [0, 1), as a raw array of the default dtype."""
    return _draw("random", size=shape, dtype=default_dtype.type)


def randint(low, high, shape):
    """Independent integers low, ..., high - 1, each equally likely."""
    return _draw("integers", low, high, size=shape)


def randperm(n):
    """The integers 0, ..., n - 1 in random order (always drawn on the host)."""
    return xp.asarray(_rng.host.permutation(n))


def rng_state():
    """The state of the random numbers as a string, for a checkpoint; set_rng_state() goes on from it.

    A GPU generator cannot tell its state, so it is started afresh here from a seed drawn on the host: the run
    that goes on and the run that is resumed then see the same numbers.
    """
    state = {"host": _rng.host.bit_generator.state}
    if _rng.device is not _rng.host:
        state["device_seed"] = int(_rng.host.integers(2**31))
        state["host"] = _rng.host.bit_generator.state
        _rng.device = _active.random(state["device_seed"])
    return json.dumps(state)


def set_rng_state(text):
    """Go on with the random numbers from a state that rng_state() gave."""
    state = json.loads(text)
    _rng.host.bit_generator.state = state["host"]
    _rng.device = _active.random(state["device_seed"]) if "device_seed" in state else _rng.host


# ---------------------------------------------------------------------------------------------- index checks
# NumPy raises on an index out of range; CuPy silently wraps around. Looking at an index on the GPU would make the
# host wait for it, so such an index is judged there and the verdict read at the next transfer to the host.

_verdicts = {}  # text of the error -> 0-d boolean on the device: was any index bad so far?


def check_index(index, size, what):
    """Raise IndexError unless every entry of the integer array `index` lies in [0, size)."""
    text = f"{what} has an index outside 0..{size - 1}: lower the index, or enlarge the table it looks up."
    bad = ((index < 0) | (index >= size)).any()
    if not isinstance(bad, (bool, np.bool_)):
        _verdicts[text] = bad | _verdicts[text] if text in _verdicts else bad
    elif bad:
        raise IndexError(text)


def _raise_late_errors():
    while _verdicts:
        text, bad = _verdicts.popitem()
        if bool(bad):
            _verdicts.clear()
            raise IndexError(text)


# ---------------------------------------------------------------------------------------------- several cores
# NumPy's matrix products use every core, all else one. Where a job falls into parts that do not need each other, threads can
# share them out: NumPy lets go of Python's lock while it computes.

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # that this process may use


@functools.cache
def _openblas():
    """OpenBLAS, as NumPy's wheels bring it along, or None where the matrix products come from elsewhere."""
    here = pathlib.Path(np.__file__).parent
    for path in [*here.parent.glob("numpy.libs/*openblas*"), *here.glob(".dylibs/*openblas*")]:
        library = ctypes.CDLL(str(path))  # loaded long ago, so this only finds it
        if hasattr(library, "scipy_openblas_set_num_threads64_"):
            return library


def on_cores(f, items, cores=CORES):
    """[f(item) for item in items], `cores` of them at a time; on a GPU one after the other, for there each uses all of it.

    f must not draw random numbers, which would come in an order left to chance, and must not switch modes (train, precision,
    recording), which are the same for all threads. metrics.in_blocks(f, x, cores=...) is made of this.
    """
    if not isinstance(cores, int) or cores < 1:
        raise TinygenError(f"cores is a whole number of at least 1, not {cores!r}.")
    if cores == 1 or name() != "numpy":
        return [f(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor  # here, for it takes 6 ms that most programs need not wait
    library = _openblas()
    before = library.scipy_openblas_get_num_threads64_() if library else None
    try:
        if library:  # one thread for each product: threads that have threads of their own wait for each other
            library.scipy_openblas_set_num_threads64_(1)
        with ThreadPoolExecutor(cores) as pool:
            return list(pool.map(f, items))
    finally:
        if library:
            library.scipy_openblas_set_num_threads64_(before)


use(os.environ.get("TINYGEN_BACKEND", "numpy"))
