"""Floor 3: Tensors from nothing: constants, ranges, random numbers.

A size is given as numbers, zeros(2, 3), or as one tuple, zeros((2, 3)).
"""
from . import backend
from .backend import xp
from .engine import Tensor, new_tensor


def shape_of(size):
    """(2, 3) of f(2, 3) and of f((2, 3))."""
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else size


def zeros(*size, requires_grad=False, dtype=None):
    """A Tensor of zeros."""
    return Tensor(xp.zeros(shape_of(size), dtype=dtype), requires_grad, dtype)


def ones(*size, requires_grad=False, dtype=None):
    """A Tensor of ones."""
    return Tensor(xp.ones(shape_of(size), dtype=dtype), requires_grad, dtype)


def full(size, fill_value, requires_grad=False, dtype=None):
    """A Tensor of one value."""
    return Tensor(xp.full(size, fill_value, dtype=dtype), requires_grad, dtype)


def zeros_like(x, requires_grad=False):
    """Zeros of x's shape and dtype."""
    return Tensor(xp.zeros(x.shape, dtype=x.dtype), requires_grad, x.dtype)


def ones_like(x, requires_grad=False):
    """Ones of x's shape and dtype."""
    return Tensor(xp.ones(x.shape, dtype=x.dtype), requires_grad, x.dtype)


def arange(start, end=None, step=1, dtype=None):
    """start, start + step, ... up to but excluding end; arange(n) counts 0, ..., n - 1."""
    start, end = (0, start) if end is None else (start, end)
    return Tensor(xp.arange(start, end, step), dtype=dtype)


def linspace(start, end, steps, dtype=None):
    """`steps` equally spaced numbers from start to end, both included."""
    return Tensor(xp.linspace(start, end, steps), dtype=dtype)


def eye(n, m=None, dtype=None):
    """The identity matrix, (n, m)."""
    return Tensor(xp.eye(n, m), dtype=dtype)


def _drawn(data, requires_grad):
    """A leaf around random numbers, which need not be copied."""
    x = new_tensor(data)
    x.requires_grad = requires_grad
    return x


def randn(*size, requires_grad=False):
    """Independent draws from N(0, 1)."""
    return _drawn(backend.randn(shape_of(size)), requires_grad)


def randn_like(x, requires_grad=False):
    """Independent draws from N(0, 1) of x's shape, and of its dtype if x is floating."""
    dtype = x.dtype if x.dtype.kind == "f" else backend.default_dtype()
    return _drawn(backend.randn(x.shape).astype(dtype, copy=False), requires_grad)


def rand(*size, requires_grad=False):
    """Independent draws from the uniform distribution on [0, 1)."""
    return _drawn(backend.rand(shape_of(size)), requires_grad)


def randint(low, high, size=None):
    """Independent integers low, ..., high - 1; randint(high, size) begins at 0."""
    low, high, size = (0, low, high) if size is None else (low, high, size)
    return new_tensor(backend.randint(low, high, size))


def randperm(n):
    """The integers 0, ..., n - 1 in random order."""
    return new_tensor(backend.randperm(n))
