"""Floor 2: the engine. It records what was computed, and walks back through the record.

The rules of calculus are not here. A Tensor is an array that remembers how it was made: calling a
primitive on Tensors computes the result and notes the primitive and its inputs. `backward` then
visits the results youngest first. A result is always younger than what it was made from, so
everything that flows into a gradient has arrived before the gradient is passed on. At each result
it applies the primitive's vector-Jacobian products (vjps), which stand beside its formula in
ops.py. With L for the number that is differentiated, the loss:

    y = op(x)   and   g = dL/dy   give   dL/dx = vjp(g, y, x)

The vjps are written with primitives as well. backward() runs them on raw arrays, which is fast and
records nothing. grad(..., create_graph=True) runs the very same lines on Tensors, so that they are
recorded and the gradient can be differentiated again.

A result keeps its inputs alive, and nothing points from an input to its results. So nothing is
freed while the loss exists, and everything once it is gone.
"""
import contextvars
import functools
import inspect
import itertools
import re

import numpy as np

from . import backend, refusals  # a call of refusals raises an error; check_... only if it must
from .backend import setting, xp

PRIMITIVES = {}              # name -> primitive: the calculus table
_births = itertools.count()  # Tensors are numbered in the order in which they are made
_recording = contextvars.ContextVar("recording", default=(True,))
_debugging = contextvars.ContextVar("debugging", default=(False,))


class Tensor:
    """An array that remembers how it was made, so that it can be differentiated.

    data           a raw NumPy or CuPy array, a list, or numbers; they are copied. Floating data
                   take the default dtype (float32, or that of backend.precision) unless dtype says
                   otherwise; integers and booleans stay as they are
    requires_grad  True for a leaf (a Tensor without a history) whose gradient is wanted;
                   backward() adds it to .grad, a raw array

    To change a Tensor, assign a new array: p.data = p.data - 0.1 * p.grad. Results made before keep
    the arrays they were computed with, so their gradients stay right. Do not write into an array
    that Tensors have met: not with p.data -= ..., which does, nor with p.data[...] = ... .

    The history of a result (a leaf has none):
    op          the primitive that made it
    inputs      what the primitive was called with: Tensors, raw arrays, numbers
    attributes  its keywords, such as axis
    wanted      the positions of the inputs that need a gradient
    values      the raw arrays of the computation: that of the result, then those of the inputs
    line        the line of the user's code, only inside tg.debug()

    In a set or a dict a Tensor stands for itself, whatever its values. Operators, and methods that
    need calculus, are attached by methods.py.
    """
    requires_grad = False
    grad = op = line = None
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
        self._birth = next(_births)

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    dtype = property(lambda self: self.data.dtype)

    def detach(self):
        """The same values, cut off from the graph: no gradient flows through the result."""
        return new_tensor(self.data)

    def backward(self, gradient=None):
        """Add dL/d(leaf) to .grad of every leaf that self was made from.

        gradient   dL/d(self), of self's shape; without it self must be one number, L itself
        """
        if not self.requires_grad:
            refusals.nothing_to_differentiate()
        leaves = [(x, g) for x, g in walk_back(self, upstream(self, gradient)) if x.op is None]
        for x, g in _owned(leaves):  # only now, so that an error on the way has changed no .grad
            x.grad = g if x.grad is None else xp.asarray(x.grad + g)


def raw(x):
    """The raw array of a Tensor; anything else as it is."""
    return x.data if isinstance(x, Tensor) else x


def new_tensor(data, kind=Tensor):
    """A Tensor, or one of a subclass of it, around a raw array that is not checked or copied."""
    y = kind.__new__(kind)
    y.data = data
    y._birth = next(_births)
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
                 None for an input that has no derivative, such as the condition of where()
    elementwise  inputs broadcast; the engine sums each gradient back to its input's shape
    samples      a function that makes inputs for the tests: see derive/samples.py
    fix          a hint for the error when the formula refuses its inputs

    Inputs are positional in the definition, attributes (axis, shape, ...) keyword-only. A call may
    give any of them by position or by name, and leave out what has a default. The formula gets raw
    arrays, and so does the caller if none of the inputs is a Tensor. The docstring's first line is
    the formula, then "d... = " for each vjp, separated by ; and , as above: explain() prints them.
    '''
    def declare(forward):
        parameters = inspect.signature(forward).parameters.values()
        input_names = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
        attribute_names = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        attribute_defaults = {k: defaults[k] for k in attribute_names if k in defaults}
        text = (forward.__doc__ or "y = ?").split("\n")[0]
        formula, *gradients = re.split(r"[;,]\s+(?=d\w+ = )", text)  # ["y = a b", "da = g b", ...]

        @functools.wraps(forward)
        def op(*args, **attributes):
            given = {**attribute_defaults, **attributes}
            if len(args) != len(input_names) or list(given) != attribute_names:
                args, given = _bind(op, args, attributes)
            for x in args:  # any(...) takes longer
                if isinstance(x, Tensor):
                    return _apply(op, args, given)
            return forward(*args, **given)

        vars(op).update(forward=forward, formula=formula, gradients=gradients, samples=samples,
                        vjps=vjps + (None,) * (len(input_names) - len(vjps)), fix=fix,
                        input_names=input_names, attribute_names=attribute_names, defaults=defaults,
                        elementwise=elementwise)
        PRIMITIVES[op.__name__] = op
        return op
    return declare


def _bind(op, args, kwargs):
    """The arguments as the definition has them: (all inputs in order, all attributes by name)."""
    names = op.input_names + op.attribute_names
    named = {**dict(zip(names, args)), **kwargs}
    given = {**op.defaults, **named}
    if len(named) < len(args) + len(kwargs) or given.keys() != set(names):
        refusals.arguments(op, args, kwargs)  # too many, one twice, an unknown or a missing one
    return [given[k] for k in op.input_names], {k: given[k] for k in op.attribute_names}


_PLAIN = {float, int, bool, type(None)}  # Python's numbers, which take the dtype of what they meet


def _apply(op, args, attributes):
    """Compute op(*args); where a gradient may be wanted, record how."""
    arrays = [x.data if isinstance(x, Tensor) else
              x if type(x) in _PLAIN else
              _operand(op, x) for x in args]
    y = new_tensor(_compute(op, args, arrays, attributes))
    if _debugging.get()[-1]:
        refusals.check_finite(op, y, arrays)
    if _recording.get()[-1] and y.data.dtype.kind == "f":
        wanted = [i for i, x in enumerate(args) if isinstance(x, Tensor) and x.requires_grad]
        if wanted:
            if None in op.vjps:
                refusals.check_vjps(op, args, wanted)
            y.requires_grad = True
            y.op, y.inputs, y.attributes = op, args, attributes
            y.values, y.wanted = (y.data, *arrays), wanted
    return y


def _operand(op, x):
    """An input that is not a Tensor, as a raw array."""
    known = (xp.ndarray, list, tuple, np.generic)
    return xp.asarray(x) if isinstance(x, known) else refusals.operand(op, x)


def _compute(op, args, arrays, attributes):
    """The formula of op on raw arrays. The result is of float64 only if one of its Tensors is."""
    try:
        y = op.forward(*arrays, **attributes)
    except (ValueError, TypeError, IndexError) as error:
        refusals.explain(op, arrays, attributes, error)
    if not isinstance(y, xp.ndarray):  # NumPy makes scalars of arrays of shape ()
        y = xp.asarray(y) if isinstance(y, np.generic) else refusals.result(op, y, arrays)
    if y.dtype == np.float64 and "dtype" not in attributes:  # an attribute of astype
        if not any(isinstance(x, Tensor) and x.dtype == np.float64 for x in args):
            y = y.astype(backend.default_dtype(), copy=False)
    return y


# Backward: one loop -------------------------------------------------------------------------------

def walk_back(output, gradient, targets=None, create_graph=False):
    """The chain rule: yield (y, dL/dy) for output and every Tensor behind it, youngest first.

    gradient      dL/d(output)
    targets       visit only what lies between these Tensors and the output
    create_graph  run the vjps on Tensors, so that they are recorded
    """
    order = _history(output, targets)
    visited = set(order)
    gradients = {output: gradient}      # of Tensors that are still to be visited
    for y in order:
        g = gradients.pop(y)            # complete, because all that used y is younger
        yield y, g
        values = y.values
        if create_graph:
            values = [_recorded(x, value) for x, value in zip((y, *y.inputs), y.values)]
        for i in y.wanted:
            x = y.inputs[i]
            if x in visited:
                gx = y.op.vjps[i](g, *values, **y.attributes)
                gx = _fit(gx, y.values[1 + i], y.op)
                gradients[x] = gradients[x] + gx if x in gradients else gx


def _history(output, targets):
    """output and the Tensors behind it, youngest first; only targets and what was made from them.

    Without targets: all that need a gradient.
    """
    found, history = {output}, [output]
    for y in history:                   # which grows meanwhile
        new = {y.inputs[i] for i in y.wanted} - found
        found |= new
        history += new
    history.sort(key=lambda y: y._birth, reverse=True)
    if targets is None:
        return history
    kept = set(targets)
    for y in reversed(history):         # oldest first: its inputs have been decided on
        if any(y.inputs[i] in kept for i in y.wanted):
            kept.add(y)
    return [y for y in history if y in kept]


def _recorded(x, value):
    """x for a vjp that is recorded; where .data was assigned since, with the value used."""
    if raw(x) is value:
        return x
    return as_used(x, value=value) if isinstance(x, Tensor) else value


@primitive(lambda g, y, x, *, value: g)
def as_used(x, *, value=None):
    """y = x, with the value it had when it was used;   dx = g"""
    return x if value is None else value


def sum_to(g, shape):
    """Undo broadcasting: the gradient of a repeated input is the sum over its repetitions."""
    lead = g.ndim - len(shape)          # axes that shape does not have
    repeated = [lead + i for i, n in enumerate(shape) if n != g.shape[lead + i]]
    return g.sum(axis=(*range(lead), *repeated), keepdims=True).reshape(shape)


def _fit(g, x, op):
    """The gradient g in the shape and dtype of x, the raw array of an input.

    That of an element-wise op still has the shape of the result.
    """
    if getattr(g, "shape", None) != x.shape:
        refusals.check_gradient(op, g, x)
        g = sum_to(g, x.shape)
    return g if g.dtype == x.dtype else g.astype(x.dtype)


def _owned(steps):
    """The same (x, g), but each g an array that nothing else uses: not a view, not another's g."""
    taken = set()
    for x, g in steps:
        alone = isinstance(g, xp.ndarray) and g.base is None and id(g) not in taken
        taken.add(id(g))
        yield x, g if alone else xp.array(g)


def upstream(output, gradient):
    """The raw gradient that a backward pass starts from."""
    if gradient is None:
        return xp.ones_like(output.data) if output.size == 1 else refusals.backward(output)
    gradient = xp.array(raw(gradient), dtype=output.dtype)
    if gradient.shape != output.shape:
        refusals.gradient_of_wrong_shape(gradient, output)
    return gradient


def grad(output, inputs, grad_output=None, create_graph=False, allow_unused=False):
    """The gradients of output with respect to inputs, as a list of Tensors. No .grad is touched.

    output        a Tensor; of one element, unless grad_output is given
    inputs        a Tensor or a sequence of Tensors
    grad_output   the upstream gradient dL/d(output), of output's shape
    create_graph  True records the backward pass, so that the result can be differentiated again
    allow_unused  True gives None for an input that output does not depend on, instead of an error
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if not all(isinstance(x, Tensor) for x in [output, *inputs]):
        refusals.grad_of_something_else()
    first = upstream(output, grad_output)
    if create_graph:  # a Tensor, itself if it was one: the result depends on it as well
        first = grad_output if isinstance(grad_output, Tensor) else new_tensor(first)
    asked = set(inputs)
    with setting(_recording, create_graph or _recording.get()[-1]):  # also inside no_grad()
        found = {x: g for x, g in walk_back(output, first, inputs, create_graph) if x in asked}
    if not create_graph:
        found = {x: new_tensor(g) for x, g in _owned(found.items())}
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
