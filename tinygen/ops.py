"""Floor 3: the calculus table. Each operation stands next to its derivative, as in a calculus book.

Read a row as: y = f(a, b, ...), and given g = dL/dy, the functions in its decorator return dL/da,
dL/db, ... in order. Every vjp is written with operations of this table (of rows further down as
well), so it works on raw arrays and on Tensors, and can be differentiated again. Comparisons
(a > b) give raw boolean arrays: they are constant almost everywhere. In the formulas [a > b] is 1
where it holds, else 0.

Element-wise operations broadcast; the engine sums their gradients back to the shape of each input
(engine.sum_to). From here on pow, abs, min, max and sum are rows of this table, not Python's.
"""
import math

import numpy as np

from . import backend
from .backend import TinygenError, xp
from .engine import primitive, raw, sum_to
from .speed import fuse


def kernel(*vjps, **options):
    """Declare a primitive of which each formula is one kernel on a GPU; elsewhere fuse is nothing.

    (fuse keeps names, docstrings and arguments, and leaves Tensors alone: see speed.py.)
    """
    def declare(forward):
        return primitive(*[vjp and fuse(vjp) for vjp in vjps], **options)(fuse(forward))
    return declare


def elementwise(*vjps, **options):
    """Declare a primitive whose inputs broadcast, each formula one kernel on a GPU."""
    return kernel(*vjps, elementwise=True, **options)


# Arithmetic ---------------------------------------------------------------------------------------

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
             lambda g, y, a, b: -g * y / b)
def div(a, b):
    """y = a / b;   da = g / b,   db = -g y / b"""
    return a / b


@elementwise(lambda g, y, a: -g)
def neg(a):
    """y = -a;   da = -g"""
    return -a


def _pow_da(g, y, a, b):
    if not isinstance(b, (int, float)) or b == 0:
        a = a + ((a == 0) & (b == 0))  # at a = b = 0 take a = 1, so that b a^-1 is 0, not 0 * inf
    return g * (b * a**(b - 1))


def _pow_db(g, y, a, b):
    return g * (y * log(a + (a == 0)))  # at a = 0 take ln 1 instead of ln 0


@elementwise(_pow_da, _pow_db)
def pow(a, b):
    """y = a^b;   da = g b a^(b-1),   db = g y ln a"""
    return a**b


@elementwise(lambda g, y, a: g * (a > 0) - g * (a < 0))
def abs(a):
    """y = |a|;   da = g sign(a)"""
    return xp.abs(a)


@elementwise(lambda g, y, a, b: g * (a > b) + g * (a == b) * 0.5,
             lambda g, y, a, b: g * (a < b) + g * (a == b) * 0.5)
def maximum(a, b):
    """y = max(a, b);   da = g [a > b] + g/2 [a = b],   db = g [a < b] + g/2 [a = b]"""
    return xp.maximum(a, b)


@elementwise(lambda g, y, a, b: g * (a < b) + g * (a == b) * 0.5,
             lambda g, y, a, b: g * (a > b) + g * (a == b) * 0.5)
def minimum(a, b):
    """y = min(a, b);   da = g [a < b] + g/2 [a = b],   db = g [a > b] + g/2 [a = b]"""
    return xp.minimum(a, b)


@elementwise(lambda g, y, a, *, min, max: g * (a == y))
def clip(a, *, min=None, max=None):
    """y = min(max(a, min), max);   da = g [a = y], where nothing was cut off"""
    return xp.clip(a, min, max)


@elementwise(None,
             lambda g, y, condition, a, b: where(condition, g, 0.0),
             lambda g, y, condition, a, b: where(condition, 0.0, g))
def where(condition, a, b):
    """y = a where the condition holds, else b;   da = g [condition],   db = g [not condition]

    Both branches are computed everywhere, so 1/a in a branch that is not taken still gives
    0 * inf = NaN in the gradient. Make the input safe first:
    where(a > 0, log(where(a > 0, a, 1)), 0).
    """
    return xp.where(xp.asarray(condition), a, b)


# Functions ----------------------------------------------------------------------------------------

@elementwise(lambda g, y, a: g * y)
def exp(a):
    """y = e^a;   da = g y"""
    return xp.exp(a)


@elementwise(lambda g, y, a: g / a)
def log(a):
    """y = ln a;   da = g / a"""
    return xp.log(a)


@elementwise(lambda g, y, a: 0.5 * g / y)
def sqrt(a):
    """y = sqrt(a);   da = g / (2 y)"""
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
    with np.errstate(over="ignore"):  # where e^-a is infinite, y is 0 (NumPy warns, CuPy does not)
        return 1 / (1 + xp.exp(-a))


@elementwise(lambda g, y, a: g * (2 / math.pi**0.5) * exp(-a * a))
def erf(a):
    """y = 2/sqrt(pi) * integral of e^(-t^2) dt, t = 0..a;   da = 2/sqrt(pi) g e^(-a^2)"""
    return backend.library().erf(a)


@elementwise(lambda g, y, a, *, dtype: g)
def astype(a, *, dtype):
    """y = a in another floating dtype;   da = g"""
    return a.astype(dtype)


# Reductions ---------------------------------------------------------------------------------------

def axis_number(axis, ndim):
    """An axis counted from the front; IndexError if there is none."""
    if not isinstance(axis, (int, np.integer)):
        raise TypeError(f"An axis is a whole number, not {axis!r}.")
    if not -ndim <= axis < ndim:
        raise IndexError(
            f"There is no axis {axis} among {ndim}: the axes are {-ndim}, ..., {ndim - 1}.")
    return axis % ndim


def keepdims_shape(shape, axis):
    """The shape after a reduction over axis (a number, a tuple, None) with keepdims=True."""
    if axis is None:
        return (1,) * len(shape)
    axes = axis if isinstance(axis, tuple) else (axis,)
    gone = [axis_number(i, len(shape)) for i in axes]
    return tuple(1 if i in gone else n for i, n in enumerate(shape))


def _sum_vjp(g, y, a, *, axis, keepdims):
    return broadcast_to(g.reshape(keepdims_shape(a.shape, axis)), shape=a.shape)


@primitive(_sum_vjp, fix="axis is a whole number, a tuple of them, or None.")
def sum(a, *, axis=None, keepdims=False):
    """y = sum of a along axis;   da = g, repeated along axis"""
    return a.sum(axis=axis, keepdims=keepdims)


def _extreme_vjp(g, y, a, *, axis, keepdims):
    kept = keepdims_shape(a.shape, axis)
    winners = a == y.reshape(kept)        # of a's shape, True at each maximum (or minimum)
    return g.reshape(kept) * winners / winners.sum(axis=axis, keepdims=True)


@primitive(_extreme_vjp, fix="a maximum needs at least one element along the axis.")
def max(a, *, axis=None, keepdims=False):
    """y = largest a along axis;   da = g at the maximum, shared equally by ties"""
    return a.max(axis=axis, keepdims=keepdims)


@primitive(_extreme_vjp, fix="a minimum needs at least one element along the axis.")
def min(a, *, axis=None, keepdims=False):
    """y = smallest a along axis;   da = g at the minimum, shared equally by ties"""
    return a.min(axis=axis, keepdims=keepdims)


def _over(total, n):
    return total * (1 / n if n > 0 else math.nan)


def mean(a, axis=None, keepdims=False):
    """The mean of a along axis; NaN where there is nothing to average."""
    total = sum(a, axis=axis, keepdims=keepdims)
    return _over(total, a.size // (total.size or 1))


def var(a, axis=None, keepdims=False, correction=1):
    """The variance of a along axis, sum (a - mean)^2 / (n - correction); 0: the biased one."""
    d = a - mean(a, axis, keepdims=True)
    total = sum(d * d, axis=axis, keepdims=keepdims)
    return _over(total, a.size // (total.size or 1) - correction)


def std(a, axis=None, keepdims=False, correction=1):
    """The square root of var(); where that is 0, as for equal values, its gradient is 0."""
    v = var(a, axis, keepdims, correction)
    some = raw(v) != 0
    return where(some, sqrt(where(some, v, 1.0)), 0.0)


# Linear algebra -----------------------------------------------------------------------------------

def mT(a):
    """The matrix transpose: the last two axes exchanged."""
    return a.swapaxes(-1, -2)


@primitive(lambda g, y, a, b: sum_to(matmul(g, mT(b)), a.shape),
           lambda g, y, a, b: sum_to(matmul(mT(a), g), b.shape),
           fix="the last axis of a must be as long as the next-to-last of b: is a .mT missing?")
def matmul(a, b):
    """Y = A B;   dA = G B^T,   dB = A^T G   (for each matrix of a stack)"""
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError("both must have at least two axes")
    return a @ b


# Movement: the same numbers in other places -------------------------------------------------------

@primitive(lambda g, y, a, *, shape: g.reshape(a.shape))
def reshape(a, *, shape):
    """y = a in another shape;   da = g in a's shape"""
    return a.reshape(shape)


def _inverse(axes):
    return tuple(np.argsort([i % len(axes) for i in axes]).tolist())


@primitive(lambda g, y, a, *, axes: permute(g, axes=_inverse(axes)))
def permute(a, *, axes):
    """y = a with its axes in another order;   da = g with them put back (inverse permutation)"""
    return a.transpose(axes)


@primitive(lambda g, y, a, *, shape: sum_to(g, a.shape))
def broadcast_to(a, *, shape):
    """y = a repeated to shape;   da = g summed over the repetitions"""
    return xp.broadcast_to(a, shape)


@primitive(lambda g, y, a, *, index: add_at(g, index=index, shape=a.shape))
def getitem(a, *, index):
    """y = a[index];   da = zeros with g added at index (an entry used twice receives both)"""
    return a[index]


@primitive(lambda g, y, a, *, index, shape: getitem(g, index=index))
def add_at(a, *, index, shape):
    """y = zeros of shape with a added at index;   da = g[index]"""
    y = xp.zeros(shape, dtype=a.dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in parts):
        y[index] = a
    else:
        xp.add.at(y, index, a)  # lists and arrays of indices may name an entry twice
    return y


def _part(a, axis, start, end):
    """The index of start ... end - 1 along an axis of a."""
    return (slice(None),) * axis_number(axis, a.ndim) + (slice(start, end),)


@primitive(lambda g, y, a, b, *, axis: getitem(g, index=_part(a, axis, None, a.shape[axis])),
           lambda g, y, a, b, *, axis: getitem(g, index=_part(a, axis, a.shape[axis], None)),
           fix="all shapes must agree except along the axis.")
def join(a, b, *, axis=0):
    """y = a, then b along axis;   da = the first part of g,   db = the rest of g"""
    return xp.concatenate((a, b), axis=axis)


def _sides(a, pad):
    """(before, after) for each axis of a, in order."""
    if len(pad) % 2 or len(pad) > 2 * a.ndim:
        raise TinygenError("pad holds a pair (before, after) for each of the last axes, so "
                           f"{tuple(pad)} does not fit shape {a.shape}.")
    return [(0, 0)] * (a.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2]))[::-1]


@primitive(lambda g, y, a, *, pad, value: getitem(g, index=tuple(
               slice(before, before + n) for n, (before, _) in zip(a.shape, _sides(a, pad)))),
           fix="pad holds (before, after) for the last axis, then for the one before it, ...")
def pad(a, *, pad, value=0.0):
    """y = a padded with a constant;   da = g without the padding

    pad = (left, right, top, bottom, ...): the last axis comes first.
    """
    return xp.pad(a, _sides(a, pad), constant_values=value)


# Made of the rows ---------------------------------------------------------------------------------

def concatenate(tensors, axis=0):
    """Tensors joined along an axis that they already have: the first half, then the second."""
    if axis is None or len(tensors) == 0:
        raise TinygenError("concatenate joins at least one Tensor, along an axis, not "
                           f"{len(tensors)} along axis {axis}: flatten() them to forget the axes.")
    if len(tensors) == 1:
        return tensors[0]
    half = len(tensors) // 2
    return join(concatenate(tensors[:half], axis), concatenate(tensors[half:], axis), axis=axis)


def stack(tensors, axis=0):
    """Tensors of one shape joined along a new axis."""
    return concatenate([expand_dims(x, axis) for x in tensors], axis)


def expand_dims(a, axis):
    """a with an axis of length 1 inserted at position axis."""
    axis = axis_number(axis, a.ndim + 1)
    return a.reshape(a.shape[:axis] + (1,) + a.shape[axis:])


def squeeze(a, axis=None):
    """a without its axes of length 1, or without that one axis."""
    drop = range(a.ndim) if axis is None else (axis_number(axis, a.ndim),)
    return a.reshape(tuple(n for i, n in enumerate(a.shape) if not (n == 1 and i in drop)))


def flatten(a, start_axis=0, end_axis=-1):
    """a with the axes start_axis ... end_axis made into one."""
    a = a if a.ndim else a.reshape(1)
    start = axis_number(start_axis, a.ndim)
    end = axis_number(end_axis, a.ndim)
    if start > end:
        raise TinygenError(f"flatten from axis {start_axis} to {end_axis} goes backwards: "
                           "exchange them.")
    return a.reshape(a.shape[:start] + (math.prod(a.shape[start:end + 1]),) + a.shape[end + 1:])
