"""A stand-in for CuPy on machines without a GPU: as strict as the real thing, and it counts.

StrictArray holds a NumPy array and lets nobody see it. It refuses what CuPy refuses (implicit
conversion to NumPy, mixing with NumPy arrays and lists, where= and initial=, names and keywords
that CuPy does not have) and what CuPy silently gets wrong (an index out of range wraps around). It
returns 0-d arrays from reductions, and element-wise results in C order, as CuPy does.

It counts the times that the host would wait for the device (`syncs`), and the kernels, copies and
uploads that would be started (`launches`), by the rules of CuPy 14.2's sources. It shows that the
plumbing is right, not that a GPU computes the right numbers: for that, run the suite with
TINYGEN_BACKEND=cupy on a machine that has one. What is claimed here about CuPy is listed case by
case in tests/test_strict.py, which runs on real CuPy as well.
"""
import operator
import pathlib
import types

import numpy as np

from tinygen import backend

count = types.SimpleNamespace(syncs=0, launches=0)


# From and to the device ---------------------------------------------------------------------------

def inside(x):
    """The NumPy array within x, or a number, for a device operation."""
    if isinstance(x, StrictArray):
        return x._array
    if isinstance(x, (np.ndarray, list, tuple)):
        raise TypeError(f"Unsupported type {type(x)}: this operand lives on the host")
    return x


def only_arrays(xs):
    """The NumPy arrays within a list of device arrays."""
    if not all(isinstance(x, StrictArray) for x in xs):
        raise TypeError("Only cupy arrays can be joined: one of these lives on the host")
    return [x._array for x in xs]


def wrap(y, base=None):
    """A StrictArray around a NumPy array or scalar; base: the array whose memory it looks into."""
    if isinstance(y, tuple):
        return tuple(wrap(part, base) for part in y)
    if not isinstance(y, (np.ndarray, np.generic)):
        return y
    result = StrictArray.__new__(StrictArray)
    result._array = np.asarray(y)
    result.base = base if base is None or base.base is None else base.base
    return result


def launched(y, launches=1):
    """wrap() for a result that was computed on the device, in so many launches."""
    count.launches += launches
    return wrap(y)


def viewed(y, owner):
    """wrap() for a result that may be a view of owner; else it was copied."""
    shares = np.may_share_memory(y, owner._array)
    return wrap(y, owner) if shares else launched(y)


def in_c_order(y):
    """Results of element-wise operations are in C order, whatever the order of their inputs."""
    return np.ascontiguousarray(y).reshape(y.shape)


class StrictArray:
    __slots__ = ("_array", "base", "__weakref__")
    __hash__ = None

    shape, ndim, size, dtype, nbytes, strides = (
        property(operator.attrgetter(f"_array.{name}"))
        for name in ("shape", "ndim", "size", "dtype", "nbytes", "strides"))

    # What NumPy may do with it

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        """np.sin(x) and np.float32(2) * x compute on the device."""
        if any(hasattr(x, "requires_grad") for x in inputs):
            return NotImplemented  # array * tensor calls Tensor.__rmul__
        if method != "__call__" or kwargs:
            raise TypeError(f"cupy has no {ufunc.__name__}.{method} with {sorted(kwargs)}")
        return elementwise(ufunc, *inputs)

    def __array_function__(self, function, types, args, kwargs):
        """np.stack([x, y]) is cupy.stack([x, y])."""
        return getattr(backend.xp, function.__name__)(*args, **kwargs)

    # What makes the host wait

    def _wait(self):
        count.syncs += 1
        return self._array

    get = _wait

    def item(self): return self._wait().item()
    def tolist(self): return self._wait().tolist()
    def __float__(self): return float(self._wait())
    def __int__(self): return int(self._wait())
    def __bool__(self): return bool(self._wait())
    def __repr__(self): return f"StrictArray({self._wait()!r})"
    def __format__(self, spec): return format(self._wait(), spec)

    # Views and places

    def __len__(self): return len(self._array)
    def __iter__(self): return (self[i] for i in range(len(self)))

    @property
    def T(self): return wrap(self._array.T, self)

    @property
    def mT(self): return wrap(self._array.swapaxes(-1, -2), self)

    def reshape(self, *shape): return viewed(self._array.reshape(*shape), self)
    def ravel(self): return viewed(self._array.ravel(), self)
    def transpose(self, *axes): return wrap(self._array.transpose(*axes), self)
    def swapaxes(self, a, b): return wrap(self._array.swapaxes(a, b), self)
    def squeeze(self, axis=None): return wrap(self._array.squeeze(axis), self)
    def view(self, *args): return wrap(self._array.view(*args), self)

    def __getitem__(self, index):
        plain, arrays = places(index)
        y = self._array[plain]  # NumPy raises on an index that CuPy would wrap around
        if not arrays:
            return wrap(y, self)
        return launched(y, arrays + 2 if arrays > 1 else 1)

    def __setitem__(self, index, value):
        if isinstance(value, (list, tuple)) or isinstance(value, np.ndarray) and value.ndim:
            raise ValueError(f"{type(value)} cannot be used to fill a device array")
        plain, arrays = places(index)
        self._array[plain] = value._array if isinstance(value, StrictArray) else value
        count.launches += 1

    # Copies and computations

    def copy(self): return launched(self._array.copy())
    def flatten(self): return launched(self._array.flatten())
    def fill(self, value): self[...] = value
    def take(self, index, axis=None): return launched(self._array.take(inside(index), axis=axis))
    def repeat(self, n, axis=None): return launched(self._array.repeat(n, axis=axis))
    def clip(self, low=None, high=None): return elementwise(np.clip, self, low, high)
    def dot(self, other): return product(self, other)
    def argsort(self, axis=-1): return launched(self._array.argsort(axis=axis))
    def cumsum(self, axis=None): return launched(self._array.cumsum(axis=axis))
    def cumprod(self, axis=None): return launched(self._array.cumprod(axis=axis))

    def astype(self, dtype, copy=True):
        same = not copy and self.dtype == np.dtype(dtype)
        return self if same else launched(self._array.astype(dtype))

    def sort(self, axis=-1):
        self._array.sort(axis=axis)
        count.launches += 1

    def mean(self, axis=None, dtype=None, out=None, keepdims=False):
        y = self._array.mean(axis=axis, dtype=dtype, keepdims=keepdims)
        return launched(y, 2 if self._cub(axis) else 1)

    def var(self, axis=None, dtype=None, out=None, ddof=0, keepdims=False):
        y = self._array.var(axis=axis, ddof=ddof, keepdims=keepdims)
        return launched(y, 3 if self._cub(axis) else 2)

    def std(self, axis=None, dtype=None, out=None, ddof=0, keepdims=False):
        return elementwise(np.sqrt, self.var(axis, dtype, out, ddof, keepdims))

    def _cub(self, axis):
        """Whether CUB sums this: a contiguous array over all or its last axes; then it divides."""
        axes = range(self.ndim) if axis is None else np.atleast_1d(axis) % max(self.ndim, 1)
        last = sorted(axes) == list(range(self.ndim - len(axes), self.ndim))
        return bool(self._array.flags.c_contiguous and last)


def places(index):
    """(an index of NumPy arrays, how many arrays it holds); a mask makes the host wait."""
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if isinstance(part, (list, np.ndarray)):
            raise IndexError("an index of the host would be uploaded: make it a device array first")
        if getattr(part, "dtype", None) == bool:
            count.syncs += 1  # how many are True decides the shape
    plain = tuple(i._array if isinstance(i, StrictArray) else i for i in parts)
    arrays = sum(isinstance(i, StrictArray) for i in parts)
    return plain if isinstance(index, tuple) else plain[0], arrays


def elementwise(f, *inputs):
    return launched(in_c_order(np.asarray(f(*[inside(x) for x in inputs]))))


def product(a, b, out=None):
    """a @ b, with the copies and lists of pointers that CuPy hands to cuBLAS."""
    a, b, out = map(inside, (a, b, out))
    if out is not None and not out.flags.c_contiguous:
        raise ValueError("Output array must be C-contiguous")
    y = np.matmul(a, b, out=out)
    if a.ndim <= 2 and b.ndim <= 2:
        copies = sum(not (x.flags.c_contiguous or x.flags.f_contiguous) for x in (a, b))
        return launched(y, 1 + copies)
    copies = sum(not x.flags.c_contiguous for x in (a, b))
    pointers = 3 if a.shape[:-2] != b.shape[:-2] else 0
    return launched(y, 1 + copies + pointers)


# Operators and reductions, by name

def _operator(op, swapped=False):
    def method(a, b):
        if hasattr(b, "requires_grad"):
            return NotImplemented  # array * tensor calls Tensor.__rmul__
        a, b = (b, a) if swapped else (a, b)
        return product(a, b) if op is operator.matmul else elementwise(op, a, b)
    return method


def _in_place(op):
    def method(a, b):
        op(a._array, inside(b))
        count.launches += 1
        return a
    return method


def _reduction(name):
    def method(self, axis=None, dtype=None, out=None, keepdims=False):
        more = {} if dtype is None else {"dtype": dtype}
        return launched(getattr(self._array, name)(axis=axis, keepdims=keepdims, **more))
    return method


def _arg(name):
    def method(self, axis=None, out=None, keepdims=False):
        return launched(getattr(self._array, name)(axis=axis))
    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_",
              "xor", "lt", "le", "gt", "ge", "eq", "ne"):
    _op = getattr(operator, _name)
    _dunder = _name.rstrip("_")
    setattr(StrictArray, f"__{_dunder}__", _operator(_op))
    setattr(StrictArray, f"__r{_dunder}__", _operator(_op, swapped=True))
for _name in ("iadd", "isub", "imul", "itruediv"):
    setattr(StrictArray, f"__{_name}__", _in_place(getattr(operator, _name)))
for _name in ("neg", "abs", "invert"):
    setattr(StrictArray, f"__{_name}__", lambda a, op=getattr(operator, _name): elementwise(op, a))
for _name in ("sum", "prod", "max", "min", "any", "all"):
    setattr(StrictArray, _name, _reduction(_name))
for _name in ("argmax", "argmin"):
    setattr(StrictArray, _name, _arg(_name))


# The namespace ------------------------------------------------------------------------------------

def _asarray(a, dtype=None, *args, **kwargs):
    if isinstance(a, StrictArray):
        return a if dtype is None or a.dtype == np.dtype(dtype) else a.astype(dtype)
    if isinstance(a, (list, tuple)) and any(isinstance(i, StrictArray) for i in a):
        if not all(isinstance(i, StrictArray) for i in a):
            raise TypeError("Device arrays mixed with numbers or arrays of the host")
        return launched(np.asarray(only_arrays(a), dtype=dtype), len(a))
    return launched(np.array(a, dtype=dtype))


def _array(a, dtype=None, copy=True, **kwargs):
    return launched(np.array(inside(a) if isinstance(a, StrictArray) else a, dtype=dtype))


def _where(condition, a, b):
    if not isinstance(condition, StrictArray):
        raise AttributeError(f"{type(condition).__name__!r} object has no attribute 'astype'")
    return elementwise(np.where, condition, a, b)


def _concatenate(arrays, axis=0):
    arrays = only_arrays(arrays)
    few = len(arrays) <= 8 or len({a.dtype for a in arrays}) > 1
    return launched(np.concatenate(arrays, axis=axis), len(arrays) if few else 2)


def _stack(arrays, axis=0):
    arrays = only_arrays(arrays)
    return launched(np.stack(arrays, axis=axis), len(arrays) if len(arrays) <= 8 else 2)


def _clip(a, a_min=None, a_max=None):
    if not isinstance(a, StrictArray):
        raise AttributeError(f"{type(a).__name__!r} object has no attribute 'clip'")
    return a.clip(a_min, a_max)


def _empty(shape, dtype=float):
    return wrap(np.empty(shape, dtype=dtype))


def _windows(x, window_shape, axis=None):
    """It puts the window's size on the device and looks at it: an upload, a kernel and a wait."""
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis)
    count.launches += 2 * len(axes)
    count.syncs += len(axes)
    return wrap(np.lib.stride_tricks.sliding_window_view(x._array, window_shape, axis=axis), x)


def _as_strided(x, shape, strides):
    return wrap(np.lib.stride_tricks.as_strided(x._array, shape, strides), x)


class _Add:
    """add is used as add.at as well."""

    def __call__(self, a, b):
        return elementwise(operator.add, a, b)

    @staticmethod
    def at(a, index, b):
        plain, _ = places(index)
        np.add.at(a._array, plain, inside(b))
        count.launches += 1


def _function(name, arguments):
    """NumPy's function of that name on StrictArrays, with the keywords that CuPy knows."""
    function = getattr(np, name)

    def call(*args, **kwargs):
        if hasattr(StrictArray, name) and args and isinstance(args[0], StrictArray):
            found = getattr(args[0], name)
            return found(*args[1:], **kwargs) if callable(found) else found
        known = arguments or kwargs
        unknown = [k for k in kwargs if k not in known and "**" not in str(arguments)]
        if unknown or {"where", "initial"} & set(kwargs):
            raise TypeError(f"cupy.{name} has no keyword {unknown or 'where or initial'}")
        if isinstance(function, np.ufunc):
            return elementwise(function, *args)
        sizes = (list, tuple)  # shapes and axes are given by the host
        plain = [a if isinstance(a, sizes) else inside(a) for a in args]
        named = {k: v if isinstance(v, sizes) else inside(v) for k, v in kwargs.items()}
        y = function(*plain, **named)
        owner = next((a for a in args if isinstance(a, StrictArray)), None)
        if owner is None or not isinstance(y, np.ndarray):
            return launched(y)
        return viewed(y, owner)
    call.__name__ = name
    return call


def _free(name):
    """A function that takes sizes and numbers, tuples included, from the host."""
    function = getattr(np, name)
    return lambda *args, **kwargs: launched(function(*args, **kwargs))


def _namespace():
    text = (pathlib.Path(__file__).parent / "cupy_names.txt").read_text()
    names = {}
    for name, *arguments in [line.split() for line in text.splitlines()[1:]]:
        value = getattr(np, name, None)
        if isinstance(value, type) or isinstance(value, (float, int, type(None))):
            names[name] = value
        elif callable(value):
            names[name] = _function(name, arguments[0].split(",") if arguments else [])
    names |= {name: _free(name) for name in ("zeros", "ones", "full", "arange", "linspace", "eye")}
    tricks = types.SimpleNamespace(as_strided=_as_strided, sliding_window_view=_windows)
    names["lib"] = types.SimpleNamespace(stride_tricks=tricks)
    names.update(
        ndarray=StrictArray, asarray=_asarray, array=_array, add=_Add(), where=_where, clip=_clip,
        concatenate=_concatenate, stack=_stack, empty=_empty, matmul=product, newaxis=None,
        result_type=lambda *xs: np.result_type(*[getattr(x, "_array", x) for x in xs]))
    return types.SimpleNamespace(**names)


class _Generator:
    """What cupy.random.Generator has, and no more."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)

    def standard_normal(self, size=None, dtype=float):
        return launched(self._rng.standard_normal(size=size, dtype=dtype))

    def random(self, size=None, dtype=float):
        return launched(self._rng.random(size=size, dtype=dtype))

    def integers(self, low, high=None, size=None):
        return launched(self._rng.integers(low, high, size=size), 2)


def _fuse(formula):
    def kernel(*args):
        before = count.launches
        y = formula(*args)
        count.launches = before + 1
        return y
    return kernel


def library():
    numpy = backend.LIBRARIES["numpy"]()
    return backend.Library(
        "strict", _namespace(), to_numpy=lambda x: x.get().copy(), random=_Generator,
        erf=lambda x: launched(numpy.erf(x._array)), fuse=_fuse)


backend.LIBRARIES["strict"] = library
