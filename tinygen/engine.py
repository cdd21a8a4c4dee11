"""Floor 2: the engine. It records what was computed, and walks back through the record.

It contains no calculus. A Tensor is an array that remembers how it was made: calling a primitive on
Tensors computes the result and notes the primitive and its inputs. (The operators and methods of
Tensor are primitives or made of them; methods.py attaches them.) `backward` then visits the results
youngest first. A result is always younger than what it was made from, so everything that flows into
a gradient has arrived before the gradient is passed on. At each result it applies the primitive's
vector-Jacobian products (vjps), which stand beside its formula in ops.py:

    y = op(x)   and   g = dL/dy   give   dL/dx = vjp(g, y, x)

The vjps are written with primitives as well. An ordinary backward() runs them on raw arrays, which
is fast and records nothing. With create_graph=True the very same lines run on Tensors and are
recorded, so that the gradient can be differentiated again.
"""
import contextvars
import functools
import inspect
import itertools
import re

import numpy as np

from . import backend, refusals
from .backend import setting, xp

PRIMITIVES = {}              # name -> primitive: the calculus table, filled by the floors above
_counter = itertools.count()
_recording = contextvars.ContextVar("recording", default=(True,))
_debugging = contextvars.ContextVar("debugging", default=(False,))


class Tensor:
    """An array that remembers how it was made, so that it can be differentiated.

    data           a raw NumPy or CuPy array, a list, or numbers; they are copied. Floating data
                   take the default dtype (float32, or that of backend.precision) unless dtype says
                   otherwise; integers and booleans stay as they are
    requires_grad  True for a leaf (a Tensor that no operation made) whose gradient is wanted;
                   backward() adds it to .grad, a raw array

    To change a Tensor, assign a new array: p.data = p.data - 0.1 * p.grad. Results made before keep
    the arrays they were computed with, so their gradients stay right. Do not write into .data[...],
    nor into an array that was used beside Tensors or as an index.

    How a result was made:
    op, inputs, attributes   the primitive, the Tensors, arrays and numbers it got, its keywords
    wanted                   the positions of those inputs that need a gradient
    values                   the raw arrays of that computation: the result, then the inputs
    line                     of the user's code, only inside tg.debug()

    A leaf has none of these. Methods that need calculus, and what a Tensor refuses: methods.py.
    """
    requires_grad = False
    grad = op = None
    inputs = wanted = values = ()
    attributes = {}
    __array_ufunc__ = None  # NumPy then leaves array * tensor to Tensor.__rmul__

    def __init__(self, data, requires_grad=False, dtype=None):
        try:
            data = xp.asarray(raw(data))
            if dtype is None and data.dtype.kind == "f":
                dtype = backend.default_dtype()
            self.data = xp.array(data, dtype=dtype)
        except (ValueError, TypeError) as error:
            refusals.not_an_array(data, error)
        refusals.check_leaf(self.data, requires_grad)
        self.requires_grad = bool(requires_grad)
        self._serial = next(_counter)

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    dtype = property(lambda self: self.data.dtype)

    def numpy(self):
        """The values as a NumPy array on the host."""
        return backend.to_numpy(self.data)

    def detach(self):
        """The same values, cut off from the graph: no gradient flows through the result."""
        return new_tensor(self.data)

    def backward(self, gradient=None):
        """Add d(self)/d(leaf) to .grad of every leaf that self was made from.

        gradient   the upstream gradient dL/d(self), of self's shape; 1 where self is one number
        """
        if not self.requires_grad:
            refusals.nothing_to_differentiate()
        pairs = walk_back(self, seed(self, gradient))
        leaves = [(x, g) for x, g in pairs if x.op is None]  # all of them, before any is written to
        for x, g in _owned(leaves):
            x.grad = g if x.grad is None else x.grad + g


def raw(x):
    """The raw array of a Tensor; anything else as it is."""
    return x.data if isinstance(x, Tensor) else x


def new_tensor(data, kind=Tensor):
    """A leaf around a raw array, which is neither checked nor copied."""
    y = kind.__new__(kind)
    y.data = data
    y._serial = next(_counter)
    return y


# Forward: recording -------------------------------------------------------------------------------

def primitive(*vjps, elementwise=False, samples=None, fix=None):
    r'''Declare a differentiable operation: a formula on raw arrays, with one vjp for each input.

        @primitive(lambda g, y, a, b: g * b,
                   lambda g, y, a, b: g * a, elementwise=True)
        def mul(a, b):
            """y = a b;   da = g b,   db = g a"""
            return a * b

    vjps         called as vjp(g, y, *inputs, **attributes), and only where a gradient is wanted;
                 None where there is none
    elementwise  inputs broadcast; the engine sums each gradient back to its input's shape
    samples      r -> a list of sample inputs for the tests, see derive/samples.py
    fix          what to try when the formula refuses its inputs

    Inputs that may carry a gradient are positional in the definition, attributes (axis, shape, ...)
    keyword-only. A call may name either, and leave out what has a default: vjps receive them all.
    On raw arrays alone the result is a raw array. The docstring's first line is the formula, then
    "d... = " for each vjp, separated by ; and , as above: explain() prints them.
    '''
    def declare(forward):
        parameters = inspect.signature(forward).parameters.values()
        inputs = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
        attributes = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        arity = len(inputs)
        keywords = frozenset(attributes)
        usual = {name: defaults[name] for name in attributes if name in defaults}
        text = (forward.__doc__ or "y = ?").split("\n")[0]
        formula, *gradients = re.split(r"[;,]\s+(?=d\w+ = )", text)

        @functools.wraps(forward)
        def op(*args, **kwargs):
            given = {**usual, **kwargs} if keywords else kwargs
            if len(args) != arity or given.keys() != keywords:
                args, given = _bind(op, args, kwargs)
            for x in args:
                if isinstance(x, Tensor):
                    return _apply(op, args, given)
            return forward(*args, **given)

        vars(op).update(forward=forward, vjps=vjps + (None,) * (arity - len(vjps)),
                        inputs=inputs, attributes=attributes, defaults=defaults, formula=formula,
                        gradients=gradients, elementwise=elementwise, samples=samples, fix=fix)
        PRIMITIVES[op.__name__] = op
        return op
    return declare


def _bind(op, args, kwargs):
    """The arguments as the definition has them: every input in its place, attributes by name."""
    names = op.inputs + op.attributes
    named = {**dict(zip(names, args)), **kwargs}
    given = {**op.defaults, **named}
    if len(named) < len(args) + len(kwargs) or given.keys() != set(names):
        refusals.arguments(op, args, kwargs)
    return [given[name] for name in op.inputs], {name: given[name] for name in op.attributes}


_PLAIN = {float, int, bool, type(None)}  # Python's own numbers take the dtype of what they meet
_float64 = np.dtype("float64")


def _apply(op, args, attributes):
    """Compute op(*args); where a gradient may be wanted, record how."""
    arrays = [x.data if isinstance(x, Tensor) else x if type(x) in _PLAIN else _operand(op, x)
              for x in args]
    y = new_tensor(_compute(op, args, arrays, attributes))
    if _debugging.get()[-1]:
        refusals.watch(op, y, arrays)
    if _recording.get()[-1] and y.data.dtype.kind == "f":
        wanted = [i for i, x in enumerate(args) if isinstance(x, Tensor) and x.requires_grad
                  and (op.vjps[i] or refusals.missing_vjp(op, x))]
        if wanted:
            y.requires_grad = True
            y.op, y.inputs, y.attributes = op, args, attributes
            y.values, y.wanted = (y.data, *arrays), tuple(wanted)
    return y


def _operand(op, x):
    """What stands next to Tensors, as a raw array."""
    known = (xp.ndarray, list, tuple, np.generic)
    return xp.asarray(x) if isinstance(x, known) else refusals.operand(op, x)


def _compute(op, args, arrays, attributes):
    """The formula of op on raw arrays. float64 comes only from Tensors of float64."""
    try:
        y = op.forward(*arrays, **attributes)
    except (ValueError, TypeError, IndexError) as error:
        raise refusals.explained(op, arrays, attributes, error) from None
    if not isinstance(y, xp.ndarray):  # NumPy's reductions return scalars
        y = xp.asarray(y) if isinstance(y, np.generic) else refusals.result(op, y, arrays)
    if y.dtype is _float64 and "dtype" not in attributes:  # which astype was asked for
        if not any(isinstance(x, Tensor) and x.dtype is _float64 for x in args):
            y = y.astype(backend.default_dtype(), copy=False)
    return y


# Backward: one loop -------------------------------------------------------------------------------

def walk_back(output, g, targets=None, create_graph=False):
    """The chain rule: yield (y, dL/dy) for every Tensor y behind output, youngest first.

    g             dL/d(output), where to start
    targets       visit only what lies between these Tensors and the output
    create_graph  run the vjps on Tensors, so that they are recorded
    """
    order = _history(output, targets)
    on_path = set(order)
    gradients = {output: g}         # of the Tensors still to be visited
    for y in order:
        g = gradients.pop(y)        # complete, because all that used y is younger
        yield y, g
        values = y.values if not create_graph else [
            _recorded(x, a) for x, a in zip((y, *y.inputs), y.values)]
        for i in y.wanted:
            x = y.inputs[i]
            if x in on_path:
                gx = _fit(y.op.vjps[i](g, *values, **y.attributes), y.values[i + 1], y.op)
                gradients[x] = gradients[x] + gx if x in gradients else gx


def _history(output, targets=None):
    """The Tensors behind output, youngest first; with targets, only those made from one of them."""
    found, todo = {output}, [output]
    while todo:
        y = todo.pop()
        new = {y.inputs[i] for i in y.wanted} - found
        found |= new
        todo += new
    history = sorted(found, key=lambda y: y._serial, reverse=True)
    if targets is None:
        return history
    kept = set(targets)
    for y in reversed(history):
        if any(y.inputs[i] in kept for i in y.wanted):
            kept.add(y)
    return [y for y in history if y in kept]


@primitive(lambda g, y, x, *, value: g)
def as_used(x, *, value=None):
    """y = x, with the value it had when it was used;   dx = g"""
    return x if value is None else value


def _recorded(x, array):
    """x for a recorded vjp: as it was when it was used, should .data have been assigned since."""
    return x if raw(x) is array else as_used(x, value=array) if isinstance(x, Tensor) else array


def sum_to(g, shape):
    """Undo broadcasting: the gradient of a repeated input is the sum over its repetitions."""
    lead = g.ndim - len(shape)
    repeated = [lead + i for i, n in enumerate(shape) if n == 1 != g.shape[lead + i]]
    return g.sum(axis=(*range(lead), *repeated), keepdims=True).reshape(shape)


def _fit(g, x, op):
    """The gradient g in the shape and dtype of the array x. Element-wise ones may be larger."""
    if getattr(g, "shape", None) != x.shape:
        refusals.check_gradient(op, g, x)
        g = sum_to(g, x.shape)
    return g if g.dtype == x.dtype else g.astype(x.dtype)


def _owned(pairs):
    """The same (x, g), each leaf's g being an array of its own: no view, and no other leaf's."""
    taken = set()
    for x, g in pairs:
        if x.op is None and (g.base is not None or id(g) in taken):
            g = g.copy()
        taken.add(id(g))
        yield x, g


def seed(output, gradient):
    """The raw gradient that a backward pass starts from."""
    if gradient is None:
        return xp.ones_like(output.data) if output.size == 1 else refusals.backward(output)
    gradient = xp.array(raw(gradient), dtype=output.dtype)
    if gradient.shape != output.shape:
        refusals.gradient_of_wrong_shape(gradient, output)
    return gradient


def grad(output, inputs, grad_output=None, create_graph=False, allow_unused=False):
    """The gradients of output by each of inputs, as a list of Tensors. No .grad is touched.

    output        a Tensor; of one element, unless grad_output is given
    inputs        a Tensor or a sequence of Tensors
    grad_output   the upstream gradient, of output's shape
    create_graph  True records the backward pass, so that the result can be differentiated again
    allow_unused  True gives None for an input that output does not depend on, else that is an error
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if not all(isinstance(x, Tensor) for x in [output, *inputs]):
        refusals.grad_of_something_else()
    g = seed(output, grad_output)
    if create_graph:
        g = grad_output if isinstance(grad_output, Tensor) else new_tensor(g)
    wanted = set(inputs)
    with setting(_recording, create_graph or _recording.get()[-1]):
        pairs = [(x, g) for x, g in walk_back(output, g, inputs, create_graph) if x in wanted]
    found = dict(pairs) if create_graph else {x: new_tensor(g) for x, g in _owned(pairs)}
    for i, x in enumerate(inputs):
        if x not in found and not allow_unused:
            refusals.independent_of(i, x)
    return [found.get(x) for x in inputs]


# Modes --------------------------------------------------------------------------------------------

def no_grad():
    """`with tg.no_grad():` or `@tg.no_grad()`: compute without recording, as for sampling."""
    return setting(_recording, False)


def debug():
    """`with tg.debug():` stop at the first operation that makes a NaN or Inf, and name the line."""
    return setting(_debugging, True)
