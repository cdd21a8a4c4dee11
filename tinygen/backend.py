"""Floor 0: where the numbers live, NumPy on the processor or CuPy on the GPU.

`xp` is a namespace that holds the functions of the library in use, so that the rest of tinygen
writes `xp.exp(x)` once and runs on either. Only this file chooses between the two libraries.

The floors, of which none needs a higher one: 0 backend; 1 refusals and speed, which a reader may
skip; 2 engine; 3 ops (and create); 4 methods and conv; 5 functional; 6 nn and optim.

    tg.backend.use("cupy")          # or set TINYGEN_BACKEND=cupy before starting Python
    tg.backend.name()               # "cupy"
    with tg.backend.precision("float64"): ...       # gradient checks need 16 digits, training 7
"""
import collections
import contextlib
import contextvars
import json
import math
import os
import types
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction

import numpy as np


class TinygenError(ValueError):
    """A request that cannot be met. The text is one sentence: what happened, and the fix."""


xp = types.SimpleNamespace()  # filled by use() with the names of NumPy or of CuPy
_active = None                # the Library in use


# What tinygen needs of an array library:
#     name      "numpy" or "cupy"
#     module    the functions that fill `xp`
#     to_numpy  array -> the same as a NumPy array
#     random    seed -> a generator with standard_normal, random and integers
#     erf       the error function, which is in neither module
#     fuse      compiles an element-wise formula into one kernel (one call of the GPU), or is None
Library = collections.namedtuple("Library", "name module to_numpy random erf fuse")


def _numpy():
    erf_of_each = np.vectorize(math.erf, otypes=[float])
    erf = lambda x: erf_of_each(x).astype(np.result_type(x, np.float32))  # float32 stays float32
    return Library("numpy", np, np.asarray, np.random.default_rng, erf, fuse=None)


def _cupy():
    install = 'pip install "cupy-cuda12x[ctk]" (cupy-cuda13x for CUDA 13)'
    try:
        import cupy
        from cupyx.scipy.special import erf
        a = cupy.ones((2, 2))
        float((a @ a + 1).sum())  # one tiny job that needs the driver, the compiler and cuBLAS
    except ImportError as error:
        raise TinygenError(f"The backend 'cupy' needs the CuPy library ({error}): {install}, or "
                           "choose the backend 'numpy'.") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"  # in one line
        raise TinygenError(f"CuPy is installed but no usable GPU answers ({reason}): check the "
                           f"driver with nvidia-smi, reinstall with {install}, or choose the "
                           "backend 'numpy'.") from error
    fuse = cupy.fuse(kernel_name="formula")
    return Library("cupy", cupy, cupy.asnumpy, cupy.random.default_rng, erf, fuse)


LIBRARIES = {"numpy": _numpy, "cupy": _cupy}


def use(name):
    """Compute with "numpy" or "cupy" from now on. The random numbers start again from seed 0.

    Tensors made before stay where they are and cannot be mixed with new ones.
    """
    global _active
    if name not in LIBRARIES:
        raise TinygenError(f"There is no backend {name!r}; choose one of {', '.join(LIBRARIES)}.")
    _active = LIBRARIES[name]()
    vars(xp).clear()  # the same object with other contents, because other files have imported it
    vars(xp).update(vars(_active.module))
    manual_seed(0)


def library():
    """The Library in use."""
    return _active


def name():
    """The backend in use: "numpy" or "cupy"."""
    return _active.name


def to_numpy(x):
    """x (a Tensor, a raw array or a number) as a NumPy array on the host."""
    _raise_late_errors()  # of indices, see the end of this file
    x = x.data if hasattr(x, "requires_grad") else x  # a Tensor; that class is on a higher floor
    return _active.to_numpy(x) if isinstance(x, xp.ndarray) else np.asarray(x)


def asarray(x, dtype=None):
    """x as a raw array of the backend in use. Data on the host move to the device."""
    return xp.asarray(x, dtype=dtype)


# Settings that a `with` block changes -------------------------------------------------------------

class setting(contextlib.ContextDecorator):
    """`with setting(stack, value):` puts value on top of a stack, for the running thread only.

    stack   a ContextVar (a variable of which each thread has its own) that holds a tuple, whose
            last entry counts. So blocks may be nested, and a function that is decorated with a
            setting may call itself.
    """

    def __init__(self, stack, value):
        self.stack = stack
        self.value = value

    def __call__(self, f):
        if isgeneratorfunction(f) or iscoroutinefunction(f) or isasyncgenfunction(f):
            raise TypeError(
                f"{f.__name__} is a generator or async, so its body runs later, outside the `with` "
                "block: write the `with` inside it, around lines without yield or await.")
        return super().__call__(f)

    def __enter__(self):
        self.stack.set(self.stack.get() + (self.value,))

    def __exit__(self, *error):
        self.stack.set(self.stack.get()[:-1])


_precision = contextvars.ContextVar("precision", default=(np.dtype("float32"),))


def default_dtype():
    """The dtype of new floating Tensors, parameters and random numbers."""
    return _precision.get()[-1]


def precision(dtype):
    """`with precision("float64"):` change the default dtype, which is float32 otherwise."""
    if getattr(dtype, "__name__", str(dtype)) not in ("float32", "float64"):
        raise TinygenError(f"precision() takes 'float32' or 'float64', not {dtype!r}.")
    return setting(_precision, np.dtype(dtype))


# Random numbers -----------------------------------------------------------------------------------
# Two generators: `host` is always NumPy's, `device` draws where the arrays live. They are the same
# one on NumPy, and after manual_seed(..., host=True).

_rng = types.SimpleNamespace(host=None, device=None)


def manual_seed(seed, host=False):
    """Start the random numbers again from `seed`.

    host=True draws every number with NumPy even on CuPy: slower, but the same numbers on every
    machine, so that everyone in a classroom sees the same samples.
    """
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise TinygenError(f"A seed is a whole number of at least 0, not {seed!r}.")
    _rng.host = np.random.default_rng(seed)
    _rng.device = _rng.host if host or name() == "numpy" else _active.random(seed)


def host_rng():
    """The NumPy generator behind manual_seed(), for data that are made on the host."""
    return _rng.host


def randn(shape):
    """Independent draws from N(0, 1), as a raw array of the default dtype."""
    return xp.asarray(_rng.device.standard_normal(size=shape, dtype=default_dtype().type))


def rand(shape):
    """Independent draws from the uniform distribution on [0, 1), of the default dtype."""
    return xp.asarray(_rng.device.random(size=shape, dtype=default_dtype().type))


def randint(low, high, shape):
    """Independent integers low, ..., high - 1, each equally likely."""
    return xp.asarray(_rng.device.integers(low, high, size=shape))


def randperm(n):
    """The integers 0, ..., n - 1 in random order (always drawn on the host)."""
    return xp.asarray(_rng.host.permutation(n))


def rng_state():
    """The state of the random numbers as a string, for a checkpoint; see set_rng_state().

    The generator of a GPU hides its state. So this call starts that generator again, from a seed
    drawn on the host: the run that goes on and the run that is resumed then see the same numbers.
    """
    state = {}
    if _rng.device is not _rng.host:
        state["device_seed"] = int(_rng.host.integers(2**31))
        _rng.device = _active.random(state["device_seed"])
    state["host"] = _rng.host.bit_generator.state
    return json.dumps(state)


def set_rng_state(text):
    """Continue with the random numbers from a state that rng_state() gave."""
    state = json.loads(text)
    _rng.host.bit_generator.state = state["host"]
    _rng.device = _active.random(state["device_seed"]) if "device_seed" in state else _rng.host


# Index checks -------------------------------------------------------------------------------------
# NumPy raises on an index out of range; CuPy silently wraps around. Looking at an index on the GPU
# would make the host wait for it, so the check runs there and its verdict is read by the next
# to_numpy().

_bad_index = {}  # text of the error -> 0-d boolean on the device: was any index bad so far?


def check_index(index, size, what):
    """Raise IndexError unless every entry of the integer array `index` lies in [0, size)."""
    text = (f"{what} has an index outside 0..{size - 1}: "
            "correct the index, or enlarge the table it looks up.")
    bad = ((index < 0) | (index >= size)).any()
    if name() != "numpy":
        _bad_index[text] = _bad_index.get(text, False) | bad
    elif bad:
        raise IndexError(text)


def _raise_late_errors():
    found = [text for text, bad in _bad_index.items() if bool(bad)]
    _bad_index.clear()
    if found:
        raise IndexError(found[0])


use(os.environ.get("TINYGEN_BACKEND", "numpy"))
