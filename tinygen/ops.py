"""Floor 2: the calculus table. Each operation stands beside its derivative, like a page of a calculus book.

Read a row as: y = f(a, b, ...), and given g = dL/dy, the functions above it return dL/da, dL/db, ... in order.
Every vjp is written with operations of this table, so it works on raw arrays and on Tensors, and can be
differentiated again. Comparisons (a > b) give raw boolean arrays: they are constant almost everywhere.
(`samples` are inputs for the tests; skip them when reading.)

Element-wise operations broadcast; the engine sums their gradients back to the shape of each input (tensor.sum_to).
"""
import builtins
import functools
import math
import operator

import numpy as np

from . import backend
from .backend import TinygenError, xp
from .tensor import Tensor, _result, primitive, sum_to

elementwise = functools.partial(primitive, elementwise=True)
positive = lambda r: [(r(3, 4)**2 + 0.5,), (r()**2 + 0.5,)]

# Arithmetic -----------------------------------------------------------------------------------------------------------


@elementwise(lambda g, y, a, b: g,
             lambda g, y, a, b: g)
def add(a, b):
    """y = a + b;   da = g,   db = g"""
    return a + b


@elementwise(lambda g, y, a, b: g,
             lambda g, y, a, b: -g)
def sub(a, b):
    """y = a - b;   da = g,   db = -g"""
    return a - b


@elementwise(lambda g, y, a, b: g * b,
             lambda g, y, a, b: g * a)
def mul(a, b):
    """y = a b;   da = g b,   db = g a"""
    return a * b


@elementwise(lambda g, y, a, b: g / b,
             lambda g, y, a, b: -g * y / b,
             samples=lambda r: [(r(3, 4), r(3, 4)**2 + 0.5), (r(4), -0.5 - r(2, 1, 4)**2), (r(2, 3), r()**2 + 1)])
def div(a, b):
    """y = a / b;   da = g / b,   db = -g y / b"""
    return a / b


@elementwise(lambda g, y, a: -g)
def neg(a):
    """y = -a;   da = -g"""
    return -a


# Neither derivative may become 0 * inf: at b = 0 the exponent below is 0 and not -1, at a = 0 the logarithm is of 1
@elementwise(lambda g, y, a, b: g * (b * a**(b - (b != 0))),
             lambda g, y, a, b: g * (y * log(where(a == 0, 1.0, a))),
             samples=lambda r: [(r(3, 4)**2 + 0.5, r(3, 4)), (r(3)**2 + 0.5, r(2, 1)), (r(2, 3), 2), (r(2, 3), 3.0)])
def pow(a, b):
    """y = a^b;   da = g b a^(b-1),   db = g y ln a"""
    return a**b


@elementwise(lambda g, y, a: g * (a > 0) - g * (a < 0))
def abs(a):
    """y = |a|;   da = g sign(a), and 0 at a = 0"""
    return xp.abs(a)


@elementwise(lambda g, y, a, b: g * (a > b) + g * (a == b) * 0.5,
             lambda g, y, a, b: g * (a < b) + g * (a == b) * 0.5)
def maximum(a, b):
    """y = max(a, b);   da = g [a > b],   db = g [a < b],   a tie shares g equally"""
    return xp.maximum(a, b)


@elementwise(lambda g, y, a, b: g * (a < b) + g * (a == b) * 0.5,
             lambda g, y, a, b: g * (a > b) + g * (a == b) * 0.5)
def minimum(a, b):
    """y = min(a, b);   da = g [a < b],   db = g [a > b],   a tie shares g equally"""
    return xp.minimum(a, b)


@elementwise(lambda g, y, a, *, min=None, max=None: g * (a == y),
             samples=lambda r: [(r(3, 4), dict(min=-0.7, max=0.6)), (r(5), dict(max=0.1))])
def clip(a, *, min=None, max=None):
    """y = min(max(a, min), max);   da = g [min <= a <= max]"""
    return xp.clip(a, min, max)


@elementwise(None,
             lambda g, y, c, a, b: where(c, g, 0.0),
             lambda g, y, c, a, b: where(c, 0.0, g),
             samples=lambda r: [(r(3, 4) > 0, r(3, 4), r(3, 4)), (r(4) > 0, r(3, 1), r())])
def where(condition, a, b):
    """y = a where the condition holds, else b;   da = g [c],   db = g [not c]

    Both branches are computed everywhere, so 1/a in a branch that is not taken still gives 0 * inf = NaN in the
    gradient. Make the input safe first: where(a > 0, log(where(a > 0, a, 1)), 0).
    """
    return xp.where(condition, a, b)


# Functions ------------------------------------------------------------------------------------------------------------

@elementwise(lambda g, y, a: g * y)
def exp(a):
    """y = e^a;   da = g y"""
    return xp.exp(a)


@elementwise(lambda g, y, a: g / a, samples=positive)
def log(a):
    """y = ln a;   da = g / a"""
    return xp.log(a)


@elementwise(lambda g, y, a: 0.5 * g / y, samples=positive)
def sqrt(a):
    """y = sqrt(a);   da = g / 2y"""
    return xp.sqrt(a)


@elementwise(lambda g, y, a: g * cos(a))
def sin(a):
    """y = sin a;   da = g cos a"""
    return xp.sin(a)


@elementwise(lambda g, y, a: -g * sin(a))
def cos(a):
    """y = cos a;   da = -g sin a"""
    return xp.cos(a)


@elementwise(lambda g, y, a: g * (1 - y * y))
def tanh(a):
    """y = tanh a;   da = g (1 - y^2)"""
    return xp.tanh(a)


@elementwise(lambda g, y, a: g * (y * (1 - y)))
def sigmoid(a):
    """y = 1 / (1 + e^-a);   da = g y (1 - y)"""
    with np.errstate(over="ignore"):  # where e^-a becomes infinite, y is 0 (NumPy warns, CuPy does not)
        return 1 / (1 + xp.exp(-a))


@elementwise(lambda g, y, a: g * (2 / xp.pi**0.5) * exp(-a * a))
def erf(a):
    """y = 2/sqrt(pi) * integral of e^(-t^2) dt, t = 0..a;   da = 2/sqrt(pi) g e^(-a^2)"""
    return backend.erf(a)


@elementwise(lambda g, y, a, *, dtype: g, samples=lambda r: [(r(3), dict(dtype="float64"))])
def astype(a, *, dtype):
    """y = a in another floating dtype;   da = g"""
    return a.astype(dtype)


# Reductions -----------------------------------------------------------------------------------------------------------

reductions = lambda r: [(r(3, 4),), (r(2, 3, 4), dict(axis=(0, -1))), (r(3, 1), dict(axis=1, keepdims=True)), (r(),),
                        (r(2, 3, 4), dict(axis=1)), (r(3, 4), dict(axis=0, keepdims=True))]


def _axis(axis, ndim):
    """An axis counted from the front, after asking whether there is one."""
    if not isinstance(axis, (int, np.integer)):
        raise TypeError(f"An axis is a whole number (several, where an operation takes them, a tuple), not {axis!r}.")
    if not -ndim <= axis < ndim:
        raise IndexError(f"There is no axis {axis} among {ndim}: the axes are {-ndim}, ..., {ndim - 1}.")
    return axis % ndim


def _kept(shape, axis):
    """The shape after a reduction over axis with keepdims=True."""
    axes = range(len(shape)) if axis is None else [_axis(i, len(shape)) for i in (axis if isinstance(axis, tuple) else (axis,))]
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


@primitive(lambda g, y, a, *, axis=None, keepdims=False: broadcast_to(g.reshape(_kept(a.shape, axis)), shape=a.shape),
           samples=lambda r: reductions(r) + [(r(0, 3), dict(axis=0))])
def sum(a, *, axis=None, keepdims=False):
    """y = sum of a along axis;   da = g, repeated along axis"""
    return a.sum(axis=axis, keepdims=keepdims)


def _extreme_vjp(g, y, a, *, axis=None, keepdims=False):
    kept = _kept(a.shape, axis)
    winners = a == y.reshape(kept)                                         # a's shape, True at each maximum (or minimum)
    return g.reshape(kept) * winners / winners.sum(axis=axis, keepdims=True)


@primitive(_extreme_vjp, samples=reductions, fix="a maximum needs at least one element along the axis")
def max(a, *, axis=None, keepdims=False):
    """y = largest a along axis;   da = g at the maximum, shared equally by ties"""
    return a.max(axis=axis, keepdims=keepdims)


@primitive(_extreme_vjp, samples=reductions, fix="a minimum needs at least one element along the axis")
def min(a, *, axis=None, keepdims=False):
    """y = smallest a along axis;   da = g at the minimum, shared equally by ties"""
    return a.min(axis=axis, keepdims=keepdims)


def _count(shape, axis):
    """How many numbers a reduction over axis puts together."""
    return math.prod(full for full, kept in zip(shape, _kept(shape, axis)) if full != kept)


def mean(a, axis=None, keepdims=False):
    """The mean of a along axis; NaN where there is nothing to average."""
    n = _count(a.shape, axis)
    return sum(a, axis=axis, keepdims=keepdims) * (1 / n if n else math.nan)


def var(a, axis=None, keepdims=False, correction=1):
    """The variance of a along axis, sum (a - mean)^2 / (n - correction); correction=0 gives the biased one."""
    d, n = a - mean(a, axis, keepdims=True), _count(a.shape, axis) - correction
    return sum(d * d, axis=axis, keepdims=keepdims) * (1 / n if n > 0 else math.nan)


def std(a, axis=None, keepdims=False, correction=1):
    """The square root of var(); where that is 0, as for equal values, the gradient is 0, too."""
    v = var(a, axis, keepdims, correction)
    some = _raw(v) != 0
    return where(some, sqrt(where(some, v, 1.0)), 0.0)


# Linear algebra -------------------------------------------------------------------------------------------------------

def mT(a):
    """The matrix transpose: the last two axes exchanged."""
    return a.swapaxes(-1, -2)


@primitive(lambda g, y, a, b: sum_to(matmul(g, mT(b)), a.shape),
           lambda g, y, a, b: sum_to(matmul(mT(a), g), b.shape),
           samples=lambda r: [(r(2, 3), r(3, 4)), (r(5, 2, 3), r(5, 3, 4)), (r(5, 1, 2, 3), r(4, 3, 2)), (r(2, 3), r(5, 3, 1)),
                              (r(0, 3), r(3, 2))],
           fix="the last axis of a must be as long as the next-to-last of b: is a .mT missing?")
def matmul(a, b):
    """Y = A B;   dA = G B^T,   dB = A^T G   (for each matrix of a stack)"""
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError("both must have at least two axes")
    return a @ b


def _at(a, b):
    """a @ b, where a vector counts as a row on the left and as a column on the right."""
    row, column = a.ndim == 1, b.ndim == 1
    y = matmul(a[None] if row else a, b[:, None] if column else b)
    y = squeeze(y, -1) if column else y
    return squeeze(y, -1 if column else -2) if row else y


# Movement: the same numbers in other places ---------------------------------------------------------------------------

@primitive(lambda g, y, a, *, shape: g.reshape(a.shape),
           samples=lambda r: [(r(3, 4), dict(shape=(2, 6))), (r(3, 4), dict(shape=(-1,))), (r(), dict(shape=(1, 1)))])
def reshape(a, *, shape):
    """y = a in another shape;   da = g in a's shape"""
    return a.reshape(shape)


@primitive(lambda g, y, a, *, axes: permute(g, axes=tuple(sorted(range(len(axes)), key=lambda i: axes[i] % len(axes)))),
           samples=lambda r: [(r(2, 3, 4), dict(axes=(1, 2, 0))), (r(2, 3, 4), dict(axes=(-1, 0, 1))), (r(3, 2), dict(axes=(1, 0)))])
def permute(a, *, axes):
    """y = a with its axes in another order;   da = g with them put back (the inverse permutation)"""
    return a.transpose(axes)


@primitive(lambda g, y, a, *, shape: sum_to(g, a.shape),
           samples=lambda r: [(r(3, 1), dict(shape=(2, 3, 4))), (r(), dict(shape=(2,))), (r(3), dict(shape=(3,)))])
def broadcast_to(a, *, shape):
    """y = a repeated to shape;   da = g summed over the repetitions"""
    return xp.broadcast_to(a, shape)


@primitive(lambda g, y, a, *, index: scatter_add(g, index=index, shape=a.shape),
           samples=lambda r: [(r(4, 3), dict(index=1)), (r(4, 3), dict(index=(slice(None, None, 2), None, -1))),
                              (r(4, 3), dict(index=xp.asarray([2, 0, 2]))), (r(4), dict(index=xp.asarray([[1, 1], [0, 1]]))),
                              (r(4, 3), dict(index=(xp.asarray([0, 0, 3]), xp.asarray([1, 1, 2])))), (r(4), dict(index=slice(2, 2)))])
def getitem(a, *, index):
    """y = a[index];   da = zeros with g added at index (an entry used twice receives both gradients)"""
    return a[index]


@primitive(lambda g, y, a, *, index, shape: getitem(g, index=index),
           samples=lambda r: [(r(3), dict(index=1, shape=(4, 3))), (r(3, 3), dict(index=xp.asarray([2, 0, 2]), shape=(4, 3)))])
def scatter_add(a, *, index, shape):
    """y = zeros of shape with a added at index;   da = g[index]"""
    y = xp.zeros(shape, dtype=a.dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in parts):
        y[index] = a
    else:
        xp.add.at(y, index, a)  # lists and arrays of indices may name an entry twice
    return y


@primitive(lambda g, y, *xs, position, axis=0: getitem(g, index=_part(xs, position, axis)),
           samples=lambda r: [(r(2, 3), r(4, 3)), (r(2, 3), r(2, 1), r(2, 2), dict(axis=-1))],
           fix="all shapes must agree except along the axis")
def join(*xs, axis=0):
    """y = x1, x2, ... joined along axis;   dxi = its part of g"""
    return xp.concatenate(xs, axis=axis)


def _part(xs, position, axis):
    """The index of the part that input number `position` takes along axis."""
    ends = [builtins.sum(x.shape[axis] for x in xs[:n]) for n in (position, position + 1)]
    return (slice(None),) * _axis(axis, xs[0].ndim) + (slice(*ends),)


def _unpadded(a, pad):
    """((before, after) for each axis, the index of a inside its padded copy)"""
    if len(pad) % 2 or len(pad) > 2 * a.ndim:
        raise TinygenError(f"pad holds a pair (before, after) for each of the last axes, so {tuple(pad)} does not fit shape {a.shape}.")
    sides = [(0, 0)] * (a.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2]))[::-1]
    return sides, tuple(slice(before, before + n) for n, (before, _) in zip(a.shape, sides))


@primitive(lambda g, y, a, *, pad, value=0.0: getitem(g, index=_unpadded(a, pad)[1]),
           samples=lambda r: [(r(2, 3), dict(pad=(1, 2))), (r(2, 3, 4), dict(pad=(0, 1, 2, 0), value=1.5))],
           fix="pad holds (before, after) for the last axis, then for the one before it, and so on")
def pad(a, *, pad, value=0.0):
    """y = a framed by a constant;   da = g without the frame.   pad = (left, right, top, bottom, ...), last axis first"""
    sides, _ = _unpadded(a, pad)
    return xp.pad(a, sides, constant_values=value)


def concatenate(tensors, axis=0):
    """Tensors joined along an axis they already have."""
    if axis is None:
        raise TinygenError("concatenate joins along an axis, None is none: flatten() the Tensors first.")
    return join(*tensors, axis=axis)


def stack(tensors, axis=0):
    """Tensors of one shape joined along a new axis."""
    return join(*[expand_dims(x, axis) for x in tensors], axis=axis)


def expand_dims(a, axis):
    """a with an axis of length 1 inserted at position axis."""
    axis = _axis(axis, a.ndim + 1)
    return a.reshape(a.shape[:axis] + (1,) + a.shape[axis:])


def squeeze(a, axis=None):
    """a without its axes of length 1, or without that one axis."""
    drop = range(a.ndim) if axis is None else (_axis(axis, a.ndim),)
    return a.reshape(tuple(n for i, n in enumerate(a.shape) if not (n == 1 and i in drop)))


def flatten(a, start_axis=0, end_axis=-1):
    """a with the axes start_axis ... end_axis made into one."""
    start, end = _axis(start_axis, builtins.max(a.ndim, 1)), _axis(end_axis, builtins.max(a.ndim, 1))
    if start > end:
        raise TinygenError(f"flatten from axis {start_axis} to {end_axis} goes backwards: exchange them.")
    return a.reshape(a.shape[:start] + (math.prod(a.shape[start:end + 1]),) + a.shape[end + 1:])


# Making tensors -------------------------------------------------------------------------------------------------------

def _shape(size):
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else size


def zeros(*size, requires_grad=False, dtype=None):
    """A Tensor of zeros; size as numbers or as one tuple."""
    return Tensor(xp.zeros(_shape(size), dtype=dtype), requires_grad, dtype)


def ones(*size, requires_grad=False, dtype=None):
    """A Tensor of ones."""
    return Tensor(xp.ones(_shape(size), dtype=dtype), requires_grad, dtype)


def zeros_like(x, requires_grad=False):
    """Zeros of x's shape and dtype."""
    return Tensor(xp.zeros(x.shape, dtype=x.dtype), requires_grad, x.dtype)


def ones_like(x, requires_grad=False):
    """Ones of x's shape and dtype."""
    return Tensor(xp.ones(x.shape, dtype=x.dtype), requires_grad, x.dtype)


def randn_like(x, requires_grad=False):
    """Independent draws from N(0, 1) of x's shape, and dtype if x is floating."""
    draws = backend.randn(x.shape)
    return _fresh(draws.astype(x.dtype, copy=False) if x.dtype.kind == "f" else draws, requires_grad)


def full(size, fill_value, requires_grad=False, dtype=None):
    """A Tensor of one value."""
    return Tensor(xp.full(size, fill_value, dtype=dtype), requires_grad, dtype)


def arange(start, end=None, step=1, dtype=None):
    """start, start + step, ... up to but without end; arange(n) counts 0, ..., n - 1."""
    return Tensor(xp.arange(0, start, step) if end is None else xp.arange(start, end, step), dtype=dtype)


def linspace(start, end, steps, dtype=None):
    """`steps` equally spaced numbers from start to end, both included."""
    return Tensor(xp.linspace(start, end, steps), dtype=dtype)


def eye(n, m=None, dtype=None):
    """The identity matrix, (n, m)."""
    return Tensor(xp.eye(n, m), dtype=dtype)


def _fresh(data, requires_grad=False):
    """A leaf around data that nobody else holds, which need not be copied."""
    x = _result(data)
    x.requires_grad = requires_grad
    return x


def randn(*size, requires_grad=False):
    """Independent draws from N(0, 1)."""
    return _fresh(backend.randn(_shape(size)), requires_grad)


def rand(*size, requires_grad=False):
    """Independent draws from the uniform distribution on [0, 1)."""
    return _fresh(backend.rand(_shape(size)), requires_grad)


def randint(low, high, size=None):
    """Independent integers low, ..., high - 1: randint(low, high, size), or randint(high, size) with low = 0."""
    low, high, size = (0, low, high) if size is None else (low, high, size)
    return _fresh(backend.randint(low, high, size))


def randperm(n):
    """The integers 0, ..., n - 1 in random order."""
    return _fresh(backend.randperm(n))


# Operators and methods of Tensor --------------------------------------------------------------------------------------

def _raw(x):
    return x.data if isinstance(x, Tensor) else x


def _index(index, shape):
    """An index with raw arrays in place of Tensors and lists, integer arrays checked against the axis they look into."""
    parts = [_raw(i) for i in (index if isinstance(index, tuple) else (index,))]
    parts = [xp.asarray(i, dtype=int if isinstance(i, list) and not i else None) if isinstance(i, (list, np.ndarray)) else i for i in parts]
    axis = 0
    for n, part in enumerate(parts):
        kind = getattr(getattr(part, "dtype", None), "kind", "")
        if part is Ellipsis:
            axis = len(shape) - builtins.sum(getattr(p, "ndim", 1) if getattr(p, "dtype", None) == bool else p is not None
                                             for p in parts[n + 1:])
        elif kind == "i" and axis < len(shape):
            backend.check_index(xp.where(part < 0, part + shape[axis], part), shape[axis], f"axis {axis} of shape {shape}")
        axis += part.ndim if kind == "b" else part is not None and part is not Ellipsis
    return tuple(parts) if isinstance(index, tuple) else parts[0]


def _permute(a, *axes):
    return permute(a, axes=_shape(axes))


def _swapaxes(a, axis0, axis1):
    axes, axis0, axis1 = list(range(a.ndim)), _axis(axis0, a.ndim), _axis(axis1, a.ndim)
    axes[axis0], axes[axis1] = axis1, axis0
    return permute(a, axes=tuple(axes))


def _T(a):
    if a.ndim > 2:
        raise TinygenError(f".T is for matrices, this Tensor has shape {a.shape}: use .mT to exchange the last two axes, "
                           "or .permute(...) to name them all.")
    return permute(a, axes=tuple(range(a.ndim))[::-1])


Tensor.__add__, Tensor.__radd__ = add, lambda a, b: add(b, a)
Tensor.__sub__, Tensor.__rsub__ = sub, lambda a, b: sub(b, a)
Tensor.__mul__, Tensor.__rmul__ = mul, lambda a, b: mul(b, a)
Tensor.__truediv__, Tensor.__rtruediv__ = div, lambda a, b: div(b, a)
Tensor.__pow__, Tensor.__rpow__ = pow, lambda a, b: pow(b, a)
Tensor.__matmul__, Tensor.__rmatmul__ = _at, lambda a, b: _at(b, a)
Tensor.__neg__, Tensor.__abs__ = neg, abs
Tensor.__getitem__ = lambda a, index: getitem(a, index=_index(index, a.shape))
Tensor.__iter__ = lambda a: (a[i] for i in range(len(a)))
Tensor.__hash__ = object.__hash__  # equality compares values, so Tensors are kept apart by identity
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Tensor, f"__{_name}__", lambda a, b, compare=getattr(operator, _name): compare(a.data, _raw(b)))

for _method in (exp, log, sqrt, sin, cos, tanh, sigmoid, abs, clip, sum, mean, var, std, max, min, squeeze, flatten, astype):
    setattr(Tensor, _method.__name__, _method)
Tensor.reshape = Tensor.view = lambda a, *shape: reshape(a, shape=_shape(shape))
Tensor.broadcast_to = Tensor.expand = lambda a, *shape: broadcast_to(a, shape=_shape(shape))
Tensor.permute, Tensor.transpose, Tensor.swapaxes = _permute, _swapaxes, _swapaxes
Tensor.unsqueeze, Tensor.clamp = expand_dims, clip
Tensor.T, Tensor.mT = property(_T), property(mT)
Tensor.argmax = lambda a, axis=None: a.data.argmax(axis=axis)
