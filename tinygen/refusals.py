"""Floor 1: what the engine refuses, in sentences. Skip this file when you read to understand.

Every sentence says what happened, the shapes, and the fix. The functions receive what they talk
about (primitives, Tensors, arrays) and look at attributes only: this file imports no engine. All
do nothing but raise, because the engine tests in its own line, where a call would cost time; only
those called check_... test as well.
"""
import os
import traceback

import numpy as np

from . import backend
from .backend import TinygenError, xp


# Tensors ------------------------------------------------------------------------------------------

def not_an_array(data, error):
    raise TypeError(
        f"A Tensor cannot be made from {type(data).__name__}: {str(error).rstrip('.')}; pass one "
        "array, or numbers in lists of equal length (tg.stack joins Tensors).") from None


def check_leaf(data, requires_grad):
    if data.dtype.kind not in "fiub":
        raise TypeError(f"A Tensor holds floats, integers or booleans, not dtype {data.dtype}; "
                        "convert the data to numbers first.")
    if not isinstance(requires_grad, (bool, np.bool_)):
        raise TypeError(f"requires_grad is True or False, not {requires_grad!r}: "
                        "pass a dtype by its name, dtype=...")
    if requires_grad and data.dtype.kind != "f":
        raise TypeError(f"Only floating Tensors have gradients, this one is {data.dtype}: "
                        "pass dtype='float32', or leave requires_grad=False.")


def item(tensor):
    raise ValueError(f"Only a Tensor of one element is a number, this one has shape "
                     f"{tensor.shape}: reduce it with .sum() or .mean(), or index one element.")


def length_of_a_number():
    raise TypeError("A Tensor of shape () is one number and has no length: use .item().")


def conversion_to_numpy():
    raise TypeError("NumPy cannot see inside a Tensor without losing its history: call "
                    "tensor.numpy() for the values, or the function of the same name in tinygen "
                    "for a differentiable result.")


def assignment_into():
    raise TypeError("A Tensor cannot be assigned into, because the gradient of what was "
                    "overwritten would be wrong: build the result with tg.where, tg.stack or "
                    "tg.concatenate, or assign a new array to tensor.data.")


def in_place():
    raise TypeError("A Tensor is not changed in place, because results made from it could then not "
                    "be differentiated: write x = x + y for a new one, or x.data = x.data + y.data "
                    "for a parameter that you update by hand.")


def copy_of_a_result(tensor):
    raise TypeError("Only leaf Tensors can be copied or pickled; this one is the result of "
                    f"{tensor.op.__name__}: copy tensor.detach() instead.")


# Forward ------------------------------------------------------------------------------------------

def arguments(op, args, kwargs):
    names = op.input_names + op.attribute_names
    given = {*names[:len(args)], *kwargs, *op.defaults}
    missing = [name for name in names if name not in given]
    how = f"with {len(args)} positional arguments and the keywords {sorted(kwargs)}"
    if missing and given <= set(names):
        how = f"without {missing[0]}"
    if {"dim", "keepdim"} & set(kwargs):
        how += "; PyTorch's dim and keepdim are called axis and keepdims here"
    raise TypeError(f"{op.__name__}({', '.join(names)}) was called {how}.")


def operand(op, x):
    raise TypeError(f"{op.__name__} cannot take a {type(x).__name__} from {type(x).__module__} "
                    f"next to Tensors while the backend is {backend.name()!r}: wrap it in "
                    "tg.Tensor(...), which moves it there.")


def check_vjps(op, args, wanted):
    missing = [f"{op.input_names[i]} of shape {args[i].shape}" for i in wanted if not op.vjps[i]]
    if missing:
        raise NotImplementedError(f"{op.__name__} has no vjp for its input {missing[0]}: pass it "
                                  ".detach()ed, or write the missing row of the table.")


def _foreign(op, arrays):
    """The error of computing with an array that lives elsewhere, or None."""
    for a in arrays:
        if hasattr(a, "shape") and not isinstance(a, xp.ndarray):
            return TypeError(f"{op.__name__} got an array of {type(a).__module__} while the "
                             f"backend is {backend.name()!r}: make every Tensor after "
                             "backend.use(...), or wrap the array in tg.Tensor(...).")


def result(op, y, arrays):
    raise _foreign(op, arrays) or TypeError(
        f"{op.__name__} must return an array, it returned a {type(y).__name__}.")


def explain(op, arrays, attributes, error):
    """The error of a forward computation, in one sentence."""
    foreign = _foreign(op, arrays)
    if foreign or isinstance(error, TinygenError):
        raise foreign or error from None
    given = " and ".join(f"{a.shape} {a.dtype}" if hasattr(a, "shape") else repr(a)
                         for a in arrays if a is not None)
    given += "".join(f", {name}={value}" for name, value in attributes.items())
    fix = op.fix or f"see help({op.__module__}.{op.__name__})."
    if op.elementwise and len(arrays) > 1 and "broadcast" in str(error):
        fix = "counted from the right, axes must be equal or 1."
    kind = next(k for k in (IndexError, TypeError, ValueError) if isinstance(error, k))
    raise kind(f"{op.__name__} cannot take {given}: {str(error).rstrip('. ')}; {fix}") from None


# Backward -----------------------------------------------------------------------------------------

def nothing_to_differentiate():
    raise RuntimeError("There is nothing to differentiate: this Tensor was not made from one with "
                       "requires_grad=True, or was made under no_grad() or from a .detach()ed one.")


def backward(output):
    raise RuntimeError(f"backward() needs a Tensor of one element, this one has shape "
                       f"{output.shape}: reduce it with .sum() or .mean(), or pass the upstream "
                       "gradient.")


def gradient_of_wrong_shape(gradient, output):
    raise ValueError(f"The upstream gradient has shape {gradient.shape}, the Tensor "
                     f"{output.shape}: they must be equal.")


class GradientShapeError(RuntimeError):
    """A vjp returned a gradient of shape `got` for an input of shape `wanted`."""

    def __init__(self, op, got, wanted):
        super().__init__(f"The vjp of {op.__name__} returned a gradient of shape {got} for an "
                         f"input of shape {wanted}: the two must be equal.")
        self.got = got
        self.wanted = wanted


def check_gradient(op, g, x):
    """Only an element-wise operation may leave it to the engine to undo broadcasting."""
    if not hasattr(g, "shape"):
        raise RuntimeError(f"The vjp of {op.__name__} returned {g!r}, not an array: "
                           "is a return missing?")
    pairs = zip(x.shape[::-1], g.shape[::-1])
    if not op.elementwise or x.ndim > g.ndim or any(n not in (1, m) for n, m in pairs):
        raise GradientShapeError(op, g.shape, x.shape)


def grad_of_something_else():
    raise TypeError("tg.grad needs a Tensor and a sequence of Tensors: grad(loss, [w, b]); sum "
                    "several outputs into one.")


def independent_of(i, x):
    raise RuntimeError(f"The output does not depend on input {i} of shape {x.shape}: was it "
                       ".detach()ed, made without requires_grad=True, or never used? "
                       "(allow_unused=True gives None instead.)")


# Inside tg.debug() --------------------------------------------------------------------------------

def check_finite(op, y, arrays):
    """Remember the user's line in y, and stop if y is the first NaN or Inf."""
    y.line = user_line()
    if y.dtype.kind == "f" and not bool(xp.isfinite(y.data).all()):
        what = "NaN" if bool(xp.isnan(y.data).any()) else "Inf"
        given = [f"{a.shape} in [{float(a.min()):.4g}, {float(a.max()):.4g}]"
                 if getattr(a, "size", 0) else repr(a) for a in arrays]
        raise FloatingPointError(f"{op.__name__} made the first {what}, from "
                                 f"{' and '.join(given)}, at {y.line}.")


def user_line():
    """Where the caller's own code stands, as "file:line: text": the innermost frame outside."""
    package = os.path.dirname(__file__) + os.sep
    frames = [f for f in traceback.extract_stack() if not f.filename.startswith(package)]
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}: {frames[-1].line}"
