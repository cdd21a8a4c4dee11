"""A stand-in for CuPy on machines without a GPU: stricter than the real thing, and it counts.

StrictArray holds a NumPy array and lets nobody see it. It refuses what CuPy refuses (implicit conversion to NumPy, mixing
with NumPy arrays, where= and initial=, names and keywords CuPy does not have), refuses what CuPy silently gets wrong
(an index out of range wraps around), and returns 0-d arrays from reductions, as CuPy does. It counts the times the host
would wait for the device (`syncs`) and the kernels it would start (`launches`). It shows that the plumbing is right, not
that a GPU computes the right numbers: for that, run the suite with TINYGEN_BACKEND=cupy on a machine that has one.
"""
import operator
import pathlib
import types

import numpy as np

from tinygen import backend

count = types.SimpleNamespace(syncs=0, launches=0)


def _inside(x):
    """The NumPy array within x, for a device operation; refuses arrays that live on the host."""
    if isinstance(x, StrictArray):
        return x._array
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: this array lives on the host")
    if isinstance(x, (list, tuple)):
        return type(x)(_inside(i) for i in x)
    return x


def _launch(y, view=False, owner=None):
    """Wrap a result, counting the kernel that computed it; a view costs none."""
    if isinstance(y, (tuple, list)):
        return type(y)(_launch(i, view, owner) for i in y)
    if not isinstance(y, (np.ndarray, np.generic)):
        return y
    count.launches += not view
    result = StrictArray.__new__(StrictArray)
    result._array = np.asarray(y)
    result.base = None if not view else owner.base if owner.base is not None else owner
    return result


class StrictArray:
    __slots__ = ("_array", "base", "__weakref__")
    __array_ufunc__ = None

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def _wait(self):
        count.syncs += 1
        return self._array

    get = _wait
    item = lambda self: self._wait().item()
    tolist = lambda self: self._wait().tolist()
    __float__ = lambda self: float(self._wait())
    __int__ = __index__ = lambda self: int(self._wait())
    __bool__ = lambda self: bool(self._wait())
    __repr__ = lambda self: f"StrictArray({self._wait()!r})"
    __format__ = lambda self, spec: format(self._wait(), spec)
    __len__ = lambda self: len(self._array)
    __hash__ = None

    shape, ndim, size, dtype, nbytes, strides = (property(operator.attrgetter(f"_array.{name}"))
                                        for name in ("shape", "ndim", "size", "dtype", "nbytes", "strides"))
    T = property(lambda self: _launch(self._array.T, True, self))
    mT = property(lambda self: _launch(self._array.swapaxes(-1, -2), True, self))

    def _index(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        if any(getattr(i, "dtype", None) == bool for i in parts):
            count.syncs += 1  # how many are True decides the shape
        plain = tuple(i._array if isinstance(i, StrictArray) else i for i in parts)
        return plain if isinstance(index, tuple) else plain[0]

    def __getitem__(self, index):
        plain = self._index(index)
        y = self._array[plain]  # NumPy raises on an index that CuPy would wrap around
        return _launch(y, np.may_share_memory(y, self._array), self)

    def __setitem__(self, index, value):
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        self._array[self._index(index)] = _inside(value)
        count.launches += 1

    def _view(self, name, *args):
        y = getattr(self._array, name)(*args)
        return _launch(y, np.may_share_memory(y, self._array), self)

    reshape = lambda self, *shape: self._view("reshape", *shape)
    ravel = lambda self: self._view("ravel")
    transpose = lambda self, *axes: self._view("transpose", *axes)
    swapaxes = lambda self, a, b: self._view("swapaxes", a, b)
    squeeze = lambda self, axis=None: self._view("squeeze", axis)
    view = lambda self, *args: self._view("view", *args)

    def astype(self, dtype, copy=True):
        return self if not copy and self.dtype == np.dtype(dtype) else _launch(self._array.astype(dtype))

    def sort(self, axis=-1):
        self._array.sort(axis=axis)
        count.launches += 1

    def fill(self, value):
        self[...] = value


def _reduction(name):
    def method(self, axis=None, dtype=None, out=None, keepdims=False):
        return _launch(np.asarray(getattr(self._array, name)(axis=axis, dtype=dtype, keepdims=keepdims)))
    return method


def _simple(name):
    def method(self, *args, **kwargs):
        return _launch(np.asarray(getattr(self._array, name)(*_inside(args), **kwargs)))
    return method


def _arg(name):
    def method(self, axis=None, out=None, keepdims=False):
        return _launch(np.asarray(getattr(self._array, name)(axis=axis)))
    return method


for _name in ("sum", "mean", "prod"):
    setattr(StrictArray, _name, _reduction(_name))
for _name in ("copy", "cumsum", "cumprod", "repeat", "take", "argsort", "dot", "clip", "flatten"):
    setattr(StrictArray, _name, _simple(_name))
for _name in ("max", "min", "any", "all"):
    setattr(StrictArray, _name, lambda self, axis=None, out=None, keepdims=False, _name=_name:
            _launch(np.asarray(getattr(self._array, _name)(axis=axis, keepdims=keepdims))))
for _name in ("var", "std"):
    setattr(StrictArray, _name, lambda self, axis=None, dtype=None, out=None, ddof=0, keepdims=False, _name=_name:
            _launch(np.asarray(getattr(self._array, _name)(axis=axis, ddof=ddof, keepdims=keepdims))))
for _name in ("argmax", "argmin"):
    setattr(StrictArray, _name, _arg(_name))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lt", "le", "gt", "ge", "eq", "ne"):
    _op, _dunder = getattr(operator, _name), _name.rstrip("_")
    setattr(StrictArray, f"__{_dunder}__", lambda a, b, op=_op: _device_op(op, a, b))
    setattr(StrictArray, f"__r{_dunder}__", lambda a, b, op=_op: _device_op(op, b, a))
for _name in ("iadd", "isub", "imul", "itruediv"):
    def _in_place(a, b, op=getattr(operator, _name)):
        op(a._array, _inside(b))
        count.launches += 1
        return a
    setattr(StrictArray, f"__{_name}__", _in_place)
for _name in ("neg", "abs", "invert"):
    setattr(StrictArray, f"__{_name}__", lambda a, op=getattr(operator, _name): _launch(op(a._array)))


def _device_op(op, a, b):
    if hasattr(a, "requires_grad") or hasattr(b, "requires_grad"):
        return NotImplemented  # the Tensor's business
    return _launch(op(_inside(a), _inside(b)))


def _function(name, arguments):
    """NumPy's function of that name on StrictArrays, with the keywords CuPy knows."""
    function = getattr(np, name)

    def call(*args, **kwargs):
        unknown = [k for k in kwargs if k in ("where", "initial") or arguments and k not in arguments and "**" not in "".join(arguments)]
        if unknown:
            raise TypeError(f"cupy.{name} has no keyword {unknown}")
        y = function(*_inside(args), **{k: _inside(v) for k, v in kwargs.items()})
        owner = next((a for a in args if isinstance(a, StrictArray) and np.may_share_memory(y, a._array)), None)
        return _launch(y, owner is not None, owner)
    call.__name__ = name
    return call


def _asarray(a, dtype=None, *args, **kwargs):
    if isinstance(a, StrictArray):
        return a if dtype is None or a.dtype == np.dtype(dtype) else a.astype(dtype)
    if isinstance(a, (list, tuple)) and any(isinstance(i, StrictArray) for i in a):
        return _launch(np.asarray(_inside(a), dtype=dtype))
    return _launch(np.array(a, dtype=dtype), view=False)


def _array(a, dtype=None, **kwargs):
    return _launch(np.array(a._array if isinstance(a, StrictArray) else a, dtype=dtype))


class _Add:
    """add is also used as add.at"""

    def __call__(self, a, b):
        return _device_op(operator.add, a, b)

    @staticmethod
    def at(a, index, b):
        np.add.at(a._array, a._index(index), _inside(b))
        count.launches += 1


def _namespace():
    lines = [line.split() for line in (pathlib.Path(__file__).parent / "cupy_names.txt").read_text().splitlines()[1:]]
    names = {}
    for name, *arguments in lines:
        value = getattr(np, name, None)
        if isinstance(value, type) or isinstance(value, (float, int, type(None))):
            names[name] = value
        elif callable(value):
            names[name] = _function(name, arguments[0].split(",") if arguments else [])
    strided = lambda x, shape, strides: _launch(np.lib.stride_tricks.as_strided(x._array, shape, strides), True, x)
    names["lib"] = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=strided))
    names.update(ndarray=StrictArray, asarray=_asarray, array=_array, add=_Add(), newaxis=None)
    return types.SimpleNamespace(**names)


class _Generator:
    """What cupy.random.Generator has, and no more."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)

    def standard_normal(self, size=None, dtype=float):
        return _launch(self._rng.standard_normal(size=size, dtype=dtype))

    def random(self, size=None, dtype=float):
        return _launch(self._rng.random(size=size, dtype=dtype))

    def integers(self, low, high=None, size=None):
        return _launch(self._rng.integers(low, high, size=size))


def _fuse(formula):
    def kernel(*args):
        before = count.launches
        y = formula(*args)
        count.launches = before + 1
        return y
    return kernel


def _to_numpy(x):
    return x.get().copy()


def _erf(x):
    return _launch(backend._numpy().erf(x._array))


def library():
    return backend.Library("strict", _namespace(), _to_numpy, _Generator, _erf, _fuse)


backend.LIBRARIES["strict"] = library
