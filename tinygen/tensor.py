"""Floor 1: the engine. Records what was computed and walks back through it. It knows no calculus.

A Tensor is an array that remembers how it was made. Calling a primitive on Tensors computes the result and notes the
primitive and its inputs (the operators + - * / @ and the methods of Tensor are primitives or made of them, and attached at
the end of ops.py). `backward` then visits the results youngest first (a result is always younger than what it was made
from, so everything that flows into a gradient has arrived before it is passed on) and applies each primitive's
vector-Jacobian product (vjp), which stands beside its formula in ops.py:

    y = op(x)   and   g = dL/dy   give   dL/dx = vjp(g, y, x)

The vjps are themselves written with primitives. An ordinary backward() runs them on raw arrays, which is fast and
records nothing; with create_graph=True the very same lines run on Tensors and are recorded, so the gradient can be
differentiated again.
"""
import contextlib
import functools
import inspect
import itertools
import linecache
import math
import operator
import os
import sys

import numpy as np

from . import backend
from .backend import TinygenError, xp

_birth = itertools.count()  # numbers the Tensors in order of creation
_recording = True           # switched off by no_grad()
_debugging = False          # switched on by debug()

PRIMITIVES = {}             # name -> primitive: the calculus table, filled by the floors above


class Tensor:
    """An array that remembers how it was made, so that it can be differentiated.

    data           raw NumPy or CuPy array, a list, or numbers. Floating data takes the default dtype (float32, or that
                   of backend.precision) unless dtype says otherwise; integers and booleans stay as they are
    requires_grad  True for the leaves (Tensors that no operation made) whose gradient is wanted; backward() writes it to
                   .grad (a raw array)

    The data are copied: changing the array later does not change the Tensor. (An array that stands beside Tensors in an
    operation, or as an index, is not: leave it as it is until after backward().) To change a Tensor in place, assign into
    tensor.data[...] and call tensor.changed(): differentiating results made before is then an error, and not silently wrong.
    """
    __slots__ = ("data", "grad", "requires_grad", "_number", "_op", "_inputs", "_attributes", "_line", "__weakref__")
    __array_ufunc__ = None  # NumPy: array * tensor is the Tensor's business

    def __init__(self, data, requires_grad=False, dtype=None):
        data = data.data if isinstance(data, Tensor) else data
        try:
            data = xp.asarray(data)
            if dtype is None and data.dtype.kind == "f":
                dtype = backend.default_dtype
            self.data = xp.array(data, dtype=dtype)
        except (ValueError, TypeError) as error:
            raise TypeError(f"A Tensor cannot be made from {type(data).__name__}: {str(error).rstrip('.')}; pass one array, or "
                            "numbers in lists of equal length (tg.stack joins Tensors).") from None
        if self.data.dtype.kind not in "fiub":
            raise TypeError(f"A Tensor holds floats, integers or booleans, not dtype {self.data.dtype}; "
                            "convert the data to numbers first.")
        if not isinstance(requires_grad, (bool, np.bool_)):
            raise TypeError(f"requires_grad is True or False, not {requires_grad!r}: pass a dtype by its name, dtype=...")
        if requires_grad and self.data.dtype.kind != "f":
            raise TypeError(f"Only floating Tensors have gradients, this one is {self.data.dtype}: "
                            "pass dtype='float32', or leave requires_grad=False.")
        self.grad = None
        self.requires_grad = requires_grad
        self._number = next(_birth)
        self._op = None
        self._inputs = ()
        self._attributes = None

    # What it looks like ---------------------------------------------------------------------------------------------

    @property
    def shape(self):
        return self.data.shape

    @property
    def ndim(self):
        return self.data.ndim

    @property
    def size(self):
        return self.data.size

    @property
    def dtype(self):
        return self.data.dtype

    def __len__(self):
        if not self.shape:
            raise TypeError("A Tensor of shape () is one number and has no length: use .item().")
        return self.shape[0]

    def __repr__(self):
        text = np.array2string(self.numpy(), precision=4, separator=", ", prefix="Tensor(")
        made = f", op={self._op.__name__}" if self._op else ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({text}, shape={self.shape}, dtype={self.dtype}{made})"

    # Out of the graph -----------------------------------------------------------------------------------------------

    def numpy(self):
        """The values as a NumPy array on the host."""
        return backend.to_numpy(self.data)

    def item(self):
        """The value of a one-element Tensor as a Python number."""
        if self.size != 1:
            raise ValueError(f"Only a Tensor of one element is a number, this one has shape {self.shape}: "
                             "reduce it with .sum() or .mean(), or index one element.")
        return self.numpy().item()

    __float__ = item

    def __int__(self):
        return int(self.item())

    def __bool__(self):
        return bool(self.item())

    def __format__(self, spec):
        return format(self.item(), spec) if spec else str(self)  # f"{loss:.3f}"

    def detach(self):
        """The same values, cut off from the graph: no gradient flows through the result."""
        return _result(self.data)

    def __array__(self, *args, **kwargs):
        raise TypeError("NumPy cannot see inside a Tensor without losing its history: call tensor.numpy() for the values, "
                        "or the function of the same name in tinygen for a differentiable result.")

    def __setitem__(self, index, value):
        raise TypeError("A Tensor cannot be assigned into, because the gradient of what was overwritten would be wrong: "
                        "build the result with tg.where, tg.stack or tg.concatenate, or assign into tensor.data.")

    def _in_place(self, other):
        raise TypeError("A Tensor is not changed in place, since results made from it could then not be differentiated: write "
                        "x = x + y for a new one, or x.data += y.data for a parameter that you update by hand.")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = _in_place

    def __deepcopy__(self, memo):
        if self._op is not None:
            raise TypeError(f"Only leaf Tensors can be deep-copied; this one is the result of {self._op.__name__}: "
                            "copy tensor.detach() instead.")
        copy = memo[id(self)] = type(self).__new__(type(self))
        Tensor.__init__(copy, self.data.copy(), self.requires_grad, self.dtype)
        return copy

    def changed(self):
        """Note that .data was changed in place: differentiating results made before that is then an error, for the vjps
        would compute with the new values. Optimisers and load_state_dict() do this themselves."""
        self._number = next(_birth)

    # Backward -------------------------------------------------------------------------------------------------------

    def backward(self, gradient=None):
        """Add d(self)/d(leaf) to .grad of every leaf with requires_grad=True that self was made from.

        gradient   the upstream gradient dL/d(self), of self's shape; 1 where self has a single element
        """
        for leaf, g in _pull_back(self, _upstream(self, gradient)):
            if leaf._op is None:
                leaf.grad = xp.asarray(g) if leaf.grad is None else leaf.grad + g


def _result(data, op=None, inputs=(), attributes=None):
    """A Tensor around a freshly computed array: Tensor() without the questions asked of user data."""
    y = Tensor.__new__(Tensor)
    y.data = data
    y.grad = None
    y.requires_grad = op is not None
    y._number = next(_birth)
    y._op = op
    y._inputs = inputs
    y._attributes = attributes
    return y


# Forward: recording ---------------------------------------------------------------------------------------------------

def primitive(*vjps, elementwise=False, samples=None, fix=None):
    r'''Declare a differentiable operation: a formula on raw arrays, with one vjp per argument beside it.

        @primitive(lambda g, y, a, b: g * b,
                   lambda g, y, a, b: g * a, elementwise=True)
        def mul(a, b):
            """y = a b;   da = g b,   db = g a"""
            return a * b

    vjps         called as vjp(g, y, *inputs, **attributes), evaluated only where a gradient is wanted; None where there
                 is none. An operation on any number of inputs (*xs) has one vjp, which is also told position=i
    elementwise  inputs broadcast, so the engine sums each gradient back to its input's shape
    samples      r -> list of sample inputs for the tests, r(*shape) being random numbers; a dict at the end of a tuple
                 holds attributes. Element-wise operations have default samples
    fix          what to try when the forward computation refuses its inputs

    Inputs that may carry a gradient are positional, attributes (axis, shape, ...) keyword-only in the definition.
    Called on raw arrays alone, the result is a raw array.
    '''
    def declare(forward):
        parameters = inspect.signature(forward).parameters.values()
        variadic = any(p.kind == p.VAR_POSITIONAL for p in parameters)
        arity = math.inf if variadic else sum(p.kind == p.POSITIONAL_OR_KEYWORD for p in parameters)
        keywords = {p.name for p in parameters if p.kind == p.KEYWORD_ONLY}

        @functools.wraps(forward)
        def op(*inputs, **attributes):
            if len(inputs) > arity or not keywords.issuperset(attributes):
                inputs, attributes = _sort_arguments(op, inputs, attributes)
            for x in inputs:
                if isinstance(x, Tensor):
                    return _apply(op, inputs, attributes)
            return forward(*inputs, **attributes)

        op.forward, op.variadic, op.elementwise, op.samples, op.fix = forward, variadic, elementwise, samples, fix
        op.vjps = vjps if variadic else vjps + (None,) * (arity - len(vjps))
        PRIMITIVES[op.__name__] = op
        return op
    return declare


def _apply(op, inputs, attributes):
    """Compute op(*inputs) and remember how, if a gradient may be wanted."""
    inputs = tuple([x if isinstance(x, Tensor) or type(x) in _NUMBERS else _beside_tensors(op, x, inputs) for x in inputs])
    arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
    try:
        y = op.forward(*arrays, **attributes)
    except (ValueError, TypeError, IndexError) as error:
        raise _explained(op, arrays, attributes, error) from None
    if not isinstance(y, xp.ndarray):
        y = _result_array(op, y, arrays)
    if y.dtype is _float64 and "dtype" not in attributes:  # astype was asked for it
        y = _keep_precision(y, arrays)
    if _debugging:
        _check_finite(op, y, arrays)
    wanted = False
    if _recording and y.dtype.kind == "f":
        for x, vjp in zip(inputs, op.vjps * len(inputs) if op.variadic else op.vjps):
            if isinstance(x, Tensor) and x.requires_grad:
                wanted = True
                if vjp is None:
                    raise NotImplementedError(f"{op.__name__} has no vjp for its input of shape {x.shape}: pass it "
                                              ".detach()ed, or write the missing row of the table.")
    y = _result(y, op, inputs, attributes) if wanted else _result(y)
    if _debugging:
        y._line = user_line()  # for explain; the slot stays empty otherwise
    return y


_float64 = np.dtype("float64")
_NUMBERS = {float, int, bool}  # Python's own numbers take the dtype of what they meet; NumPy's scalars would impose theirs


def _foreign(op, arrays):
    """The error of computing with an array that lives elsewhere, or None."""
    for a in arrays:
        if hasattr(a, "shape") and not isinstance(a, xp.ndarray):
            return TypeError(f"{op.__name__} got an array of {type(a).__module__} while the backend is {backend.name()!r}: "
                             "make every Tensor after backend.use(...), or wrap the array in tg.Tensor(...).")


def _result_array(op, y, arrays):
    """NumPy's reductions return scalars; an array of the wrong library is an error."""
    if isinstance(y, np.generic):
        return xp.asarray(y)
    raise _foreign(op, arrays) or TypeError(f"{op.__name__} must return an array, it returned a {type(y).__name__}.")


def _beside_tensors(op, x, inputs):
    """A raw operand beside Tensors: arrays take the Tensors' floating dtype, so that float32 stays float32."""
    if x is None:
        return None
    if isinstance(x, np.generic):
        return x.item()
    if isinstance(x, (list, tuple)):
        x = xp.asarray(x)
    if not isinstance(x, xp.ndarray):
        raise TypeError(f"{op.__name__} cannot take a {type(x).__name__} from {type(x).__module__} beside Tensors while the "
                        f"backend is {backend.name()!r}: wrap it in tg.Tensor(...), which moves it there.")
    dtypes = [t.dtype for t in inputs if isinstance(t, Tensor) and t.dtype.kind == "f"] or [backend.default_dtype]
    return x.astype(np.result_type(*dtypes), copy=False) if x.dtype.kind == "f" else x


def _keep_precision(y, arrays):
    """float64 only comes from float64: NumPy makes it of float32 with integers, which here stay float32."""
    if any(getattr(x, "dtype", None) is _float64 for x in arrays):
        return y
    return y.astype(backend.default_dtype, copy=False)


def _sort_arguments(op, inputs, attributes):
    """Called with inputs by keyword or attributes by position: put each where the definition has it."""
    parameters = inspect.signature(op.forward).parameters.values()
    names = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    keywords = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
    given = dict(zip(names + keywords, inputs))
    wrong = [k for k in attributes if k not in names + keywords or k in given]
    if len(inputs) > len(names + keywords) or wrong or op.variadic:
        hint = "; PyTorch's dim and keepdim are called axis and keepdims here" if {"dim", "keepdim"} & set(wrong) else ""
        raise TypeError(f"{op.__name__}({', '.join(names + keywords)}) was called with {len(inputs)} positional arguments "
                        f"and the keywords {sorted(attributes)}{hint}.")
    given.update(attributes)
    last = max([i for i, name in enumerate(names) if name in given], default=-1)
    missing = [name for name in names[:last] if name not in given]
    if missing:
        raise TypeError(f"{op.__name__} was called without {missing[0]}: its inputs are {', '.join(names)}, in this order.")
    inputs = [given.pop(name) for name in names[:last + 1]]
    return inputs, given


def _explained(op, arrays, attributes, error):
    """The error of a forward computation, in one sentence: what happened, the shapes, the fix."""
    if isinstance(error, TinygenError):
        return error
    foreign = _foreign(op, arrays)
    if foreign:
        return foreign
    given = " and ".join(f"{a.shape} {a.dtype}" if hasattr(a, "shape") else repr(a) for a in arrays)
    given += "".join(f", {key}={value}" for key, value in attributes.items())
    fix = op.fix or (f"see help({op.__module__}.{op.__name__})" if not (op.elementwise and len(arrays) > 1 and "broadcast" in str(error))
                     else "counted from the right, axes must be equal or 1")
    kind = next(k for k in (IndexError, TypeError, ValueError) if isinstance(error, k))
    return kind(f"{op.__name__} cannot take {given}: {str(error).rstrip('. ')}; {fix}{'' if fix.endswith('?') else '.'}")


# Backward: one loop ---------------------------------------------------------------------------------------------------

def _pull_back(output, g, targets=None, create_graph=False):
    """The chain rule: yield (tensor, dL/d tensor) for every tensor behind `output`, youngest first, given g = dL/d output.

    The cotangents, gradients dL/d(result) on their way, wait in a dict until everything that flows into them has arrived,
    then are taken out and passed on.
    Sums are made out of place, so two inputs may safely receive the same array. With targets, only the tensors on a
    path from a target to the output are visited: those that the output was made from and that were made from a target.
    """
    history = _history(output)
    needed = {id(t) for t in history}
    if targets is not None:  # only the paths from the targets to the output
        needed &= {id(t) for t in targets}
        for y in reversed(history):
            if any(id(x) in needed for x in y._inputs):
                needed.add(id(y))
    cotangents = {id(output): g}
    for y in history:
        if id(y) not in needed or id(y) not in cotangents:
            continue
        g = cotangents.pop(id(y))
        yield y, g
        if y._op is None:
            continue
        _check_unchanged(y)
        inputs = y._inputs if create_graph else [x.data if isinstance(x, Tensor) else x for x in y._inputs]
        for i, x in enumerate(y._inputs):
            if isinstance(x, Tensor) and x.requires_grad and id(x) in needed:
                vjp, position = (y._op.vjps[0], {"position": i}) if y._op.variadic else (y._op.vjps[i], {})
                gx = vjp(g, y if create_graph else y.data, *inputs, **y._attributes, **position)
                gx = _fit(gx, x, y._op)
                if x._op is None and not create_graph and (gx is g or gx.base is not None):
                    gx = gx.copy()  # a leaf keeps its gradient, so it must own it
                known = cotangents.get(id(x))
                cotangents[id(x)] = gx if known is None else known + gx


def _check_unchanged(y):
    """A leaf that was changed in place is younger than the results made from it before: their vjps would use new values."""
    for x in y._inputs:
        if isinstance(x, Tensor) and x._number > y._number:
            raise RuntimeError(f"An input of shape {x.shape} of {y._op.__name__} was changed in place after it was used, so the "
                               "gradient would be wrong: compute the loss again after optimizer.step().")


def _history(output):
    """Every Tensor that output was made from and that wants a gradient, youngest first; output is the first."""
    seen, todo = {id(output): output}, [output]
    while todo:
        for x in todo.pop()._inputs:
            if isinstance(x, Tensor) and x.requires_grad and id(x) not in seen:
                seen[id(x)] = x
                todo.append(x)
    return sorted(seen.values(), key=operator.attrgetter("_number"), reverse=True)


def sum_to(g, shape):
    """Undo broadcasting: where an input was repeated along an axis, its gradient is the sum along that axis."""
    lead = g.ndim - len(shape)
    repeated = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 != g.shape[lead + i])
    return g.sum(axis=repeated, keepdims=True).reshape(shape)


def _fit(g, x, op):
    """The gradient g as x needs it: of x's shape and dtype. Only element-wise operations may be unbroadcast."""
    shape = x.data.shape
    if not hasattr(g, "shape"):
        raise RuntimeError(f"The vjp of {op.__name__} returned {g!r}, not an array: is a return missing?")
    if g.shape != shape:
        if not (op.elementwise and _broadcasts(shape, g.shape)):
            raise RuntimeError(f"The vjp of {op.__name__} returned a gradient of shape {g.shape} for an input of shape "
                               f"{shape}: the two must be equal.")
        g = sum_to(g, shape)
    return g if g.dtype == x.data.dtype else g.astype(x.data.dtype)


def _broadcasts(small, large):
    """Whether an array of shape `small` broadcasts to shape `large`."""
    return len(small) <= len(large) and all(n in (1, m) for n, m in zip(small[::-1], large[::-1]))


def _upstream(output, gradient):
    """The raw gradient a backward pass starts from."""
    if not output.requires_grad:
        raise RuntimeError("There is nothing to differentiate: this Tensor was not made from one with requires_grad=True, "
                           "or was made under no_grad() or from a .detach()ed one.")
    if gradient is None:
        if output.size != 1:
            raise RuntimeError(f"Only one number has a gradient without more being said, this Tensor has shape "
                               f"{output.shape}: reduce it with .sum() or .mean(), or pass the upstream gradient.")
        return xp.ones(output.shape, dtype=output.dtype)
    gradient = xp.array(gradient.data if isinstance(gradient, Tensor) else gradient, dtype=output.dtype)
    if gradient.shape != output.shape:
        raise ValueError(f"The upstream gradient has shape {gradient.shape}, the Tensor {output.shape}: they must be equal.")
    return gradient


def grad(output, inputs, grad_output=None, create_graph=False, allow_unused=False):
    """The gradients of output with respect to each of inputs, as a list of Tensors; no .grad is touched.

    output        a Tensor; of one element, unless grad_output is given
    inputs        a Tensor or a sequence of Tensors
    grad_output   the upstream gradient, of output's shape
    create_graph  True records the backward pass, so that the result can be differentiated again
    allow_unused  True gives None for an input that output does not depend on; otherwise that is an error
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if not all(isinstance(x, Tensor) for x in [output, *inputs]):
        raise TypeError("tg.grad wants a Tensor and a sequence of Tensors: grad(loss, [w, b]); sum several outputs into one.")
    if allow_unused and not output.requires_grad:
        return [None] * len(inputs)
    g = _upstream(output, grad_output)
    if create_graph:
        g = grad_output if isinstance(grad_output, Tensor) else _result(g)
    found = {}
    with _switch(_recording=True) if create_graph else contextlib.nullcontext():  # on raw arrays nothing records (threads share modes)
        for x, gx in _pull_back(output, g, inputs, create_graph):
            found[id(x)] = gx if create_graph else _result(xp.asarray(gx))
    for i, x in enumerate(inputs):
        if id(x) not in found and not allow_unused:
            raise RuntimeError(f"The output does not depend on input {i} of shape {x.shape}: was it .detach()ed, made without "
                               "requires_grad=True, or never used? (allow_unused=True gives None instead.)")
    return [found.get(id(x)) for x in inputs]


# Modes ----------------------------------------------------------------------------------------------------------------

class _switch(contextlib.ContextDecorator):
    """Set flags of this module inside a `with` block or a decorated function; may be entered again inside itself."""

    def __init__(self, **modes):
        self.modes, self.before = modes, []

    def __call__(self, function):
        if inspect.isgeneratorfunction(function):
            raise TypeError(f"{function.__name__} is a generator, which runs when its caller likes: write the `with` inside it, around "
                            "what lies between two yields.")
        return super().__call__(function)

    def __enter__(self):
        self.before.append({name: globals()[name] for name in self.modes})
        globals().update(self.modes)

    def __exit__(self, *error):
        globals().update(self.before.pop())


def no_grad():
    """`with tg.no_grad():` or `@tg.no_grad()`: compute without recording, for sampling and evaluation."""
    return _switch(_recording=False)


def debug():
    """`with tg.debug():` stop at the first forward operation that makes a NaN or Inf, and name it and your line."""
    return _switch(_debugging=True)


def _check_finite(op, y, arrays):
    if y.dtype.kind == "f" and not bool(xp.isfinite(y).all()):
        what = "NaN" if bool(xp.isnan(y).any()) else "Inf"
        given = " and ".join(f"{a.shape} in [{float(a.min()):.4g}, {float(a.max()):.4g}]" if getattr(a, "size", 0) else repr(a)
                             for a in arrays)
        raise FloatingPointError(f"{op.__name__} made the first {what}, from {given}, at {user_line()}.")


def user_line():
    """Where the caller's own code stands, as "file:line: text": the innermost frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back and os.path.dirname(frame.f_code.co_filename) == os.path.dirname(__file__):
        frame = frame.f_back
    name, line = frame.f_code.co_filename, frame.f_lineno
    return f"{os.path.basename(name)}:{line}: {linecache.getline(name, line).strip()}"
