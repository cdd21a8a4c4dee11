"""Floor 4: Tensor, continued: operators, methods made of the calculus table, and what is refused.

These stand here and not in engine.py because they need ops.py, which needs the engine.
"""
import numpy as np

from . import backend, ops, refusals
from .backend import TinygenError, xp
from .create import shape_of
from .engine import Tensor, new_tensor, raw


def continued(body):
    """Move what a class body defines into Tensor."""
    for name, value in vars(body).items():
        if name not in ("__module__", "__dict__", "__weakref__", "__doc__"):
            setattr(Tensor, name, value)


@continued
class Methods:

    # Operators

    __add__ = ops.add
    __sub__ = ops.sub
    __mul__ = ops.mul
    __truediv__ = ops.div
    __pow__ = ops.pow
    __neg__ = ops.neg
    __abs__ = ops.abs

    def __radd__(self, other): return ops.add(other, self)
    def __rsub__(self, other): return ops.sub(other, self)
    def __rmul__(self, other): return ops.mul(other, self)
    def __rtruediv__(self, other): return ops.div(other, self)
    def __rpow__(self, other): return ops.pow(other, self)
    def __rmatmul__(self, other): return Methods.__matmul__(other, self)

    def __matmul__(self, other):
        """self @ other, where a vector counts as a row on the left, as a column on the right."""
        row, column = self.ndim == 1, other.ndim == 1
        y = ops.matmul(self[None] if row else self, other[:, None] if column else other)
        y = ops.squeeze(y, -1) if column else y
        return ops.squeeze(y, -1 if column else -2) if row else y

    # Comparisons: raw boolean arrays

    def __lt__(self, other): return self.data < raw(other)
    def __le__(self, other): return self.data <= raw(other)
    def __gt__(self, other): return self.data > raw(other)
    def __ge__(self, other): return self.data >= raw(other)
    def __eq__(self, other): return self.data == raw(other)
    def __ne__(self, other): return self.data != raw(other)

    __hash__ = object.__hash__  # equality compares values, so Tensors are told apart by identity

    # Functions and reductions

    exp = ops.exp
    log = ops.log
    sqrt = ops.sqrt
    sin = ops.sin
    cos = ops.cos
    tanh = ops.tanh
    sigmoid = ops.sigmoid
    abs = ops.abs
    clip = clamp = ops.clip
    astype = ops.astype
    sum = ops.sum
    max = ops.max
    min = ops.min
    mean = ops.mean
    var = ops.var
    std = ops.std

    def argmax(self, axis=None):
        """The index of the largest value along axis, a raw array."""
        return self.data.argmax(axis=axis)

    # Shapes and places

    squeeze = ops.squeeze
    unsqueeze = ops.expand_dims
    flatten = ops.flatten
    mT = property(ops.mT)

    def reshape(self, *shape):
        """The same numbers in another shape; one size may be -1."""
        return ops.reshape(self, shape=shape_of(shape))

    def broadcast_to(self, *shape):
        """self repeated to shape."""
        return ops.broadcast_to(self, shape=shape_of(shape))

    def permute(self, *axes):
        """self with all its axes in another order."""
        return ops.permute(self, axes=shape_of(axes))

    def swapaxes(self, axis0, axis1):
        """self with two axes exchanged."""
        axes = list(range(self.ndim))
        i, j = [ops.axis_number(axis, self.ndim) for axis in (axis0, axis1)]
        axes[i], axes[j] = j, i
        return ops.permute(self, axes=tuple(axes))

    @property
    def T(self):
        """The transpose of a matrix."""
        if self.ndim > 2:
            raise TinygenError(f".T is for matrices, this Tensor has shape {self.shape}: use .mT "
                               "to exchange the last two axes, or .permute(...) to name them all.")
        return ops.permute(self, axes=tuple(range(self.ndim))[::-1])

    view = reshape
    expand = broadcast_to
    transpose = swapaxes

    def __getitem__(self, index):
        return ops.getitem(self, index=checked_index(index, self.shape))

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __len__(self):
        return self.shape[0] if self.shape else refusals.length_of_a_number()

    # As an array, as a number, as text, as a copy

    def numpy(self):
        """The values as a NumPy array on the host: not a copy where they are there already."""
        return backend.to_numpy(self.data)

    def item(self):
        """The value of a one-element Tensor as a Python number."""
        return self.numpy().item() if self.size == 1 else refusals.item(self)

    __float__ = item

    def __int__(self): return int(self.item())
    def __bool__(self): return bool(self.item())

    def __format__(self, spec):
        return format(self.item(), spec) if spec else str(self)  # f"{loss:.3f}"

    def __repr__(self):
        text = np.array2string(self.numpy(), precision=4, separator=", ", prefix="Tensor(")
        end = f", op={self.op.__name__}" if self.op else ", requires_grad=True" * self.requires_grad
        return f"Tensor({text}, shape={self.shape}, dtype={self.dtype}{end})"

    def __reduce__(self):  # for copy.deepcopy and pickle
        if self.op:
            refusals.copy_of_a_result(self)
        return restored, (type(self), self.data, self.grad, self.requires_grad)

    # What would go wrong

    def __array__(self, *args, **kwargs): refusals.conversion_to_numpy()
    def __setitem__(self, index, value): refusals.assignment_into()
    def in_place(self, other): refusals.in_place()

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = in_place


def restored(kind, data, grad, requires_grad):
    """A copy of a leaf. Like every new Tensor it is the youngest, in whichever process."""
    x = new_tensor(data, kind)
    x.grad = grad
    x.requires_grad = requires_grad
    return x


def checked_index(index, shape):
    """An index of raw arrays, integer arrays checked against the axis they look into."""
    parts = [_index_part(i) for i in (index if isinstance(index, tuple) else (index,))]
    axes = [part.ndim if getattr(part, "dtype", None) == bool else int(part is not None)
            for part in parts]                  # of the indexed array, that each part takes
    axis = 0
    for part, taken in zip(parts, axes):
        if part is Ellipsis:
            taken = len(shape) - (sum(axes) - 1)
        elif getattr(part, "dtype", bool) != bool and axis < len(shape):
            size = shape[axis]
            backend.check_index(xp.where(part < 0, part + size, part), size,
                                f"axis {axis} of shape {shape}")
        axis += taken
    return tuple(parts) if isinstance(index, tuple) else parts[0]


def _index_part(part):
    """A Tensor, list or NumPy array as a raw array; numbers, slices and so on as they are."""
    if isinstance(part, (list, np.ndarray)):
        return xp.asarray(part, dtype=int if isinstance(part, list) and not part else None)
    return raw(part)
