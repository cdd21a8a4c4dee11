"""Floor 7: inputs to try every row of the calculus table on.

Each entry maps r, where r(*shape) gives random numbers, to a list of inputs; a dict at the end of a
tuple holds attributes. A row without an entry that is element-wise gets the usual shapes.
"""
import numpy as np

from ..backend import xp
from ..engine import Tensor


def _positive(r):
    return [(r(3, 4)**2 + 0.5,), (r()**2 + 0.5,)]


def _along_axes(r):
    return [(r(3, 4),), (r(2, 3, 4), dict(axis=1)), (r(3, 4), dict(axis=0)), (r(3, 1),)]


def _reductions(r):
    return [(r(3, 4),), (r(),), (r(2, 3, 4), dict(axis=1)), (r(2, 3, 4), dict(axis=(0, -1))),
            (r(3, 1), dict(axis=1, keepdims=True)), (r(3, 4), dict(axis=0, keepdims=True))]


SAMPLES = {
    "as_used": lambda r: [(r(3, 4),)],
    "div": lambda r: [(r(3, 4), r(3, 4)**2 + 0.5), (r(4), -0.5 - r(2, 1, 4)**2),
                      (r(2, 3), r()**2 + 1)],
    "pow": lambda r: [(r(3, 4)**2 + 0.5, r(3, 4)), (r(3)**2 + 0.5, r(2, 1)), (r(2, 3), 2),
                      (r(2, 3), 3.0)],
    "clip": lambda r: [(r(3, 4), dict(min=-0.7, max=0.6)), (r(5), dict(max=0.1))],
    "where": lambda r: [(r(3, 4) > 0, r(3, 4), r(3, 4)), (r(4) > 0, r(3, 1), r())],
    "log": _positive,
    "sqrt": _positive,
    "astype": lambda r: [(r(3), dict(dtype="float64"))],
    "sum": lambda r: _reductions(r) + [(r(0, 3), dict(axis=0))],
    "max": _reductions,
    "min": _reductions,
    "matmul": lambda r: [(r(2, 3), r(3, 4)), (r(5, 2, 3), r(5, 3, 4)), (r(5, 1, 2, 3), r(4, 3, 2)),
                         (r(2, 3), r(5, 3, 1)), (r(0, 3), r(3, 2))],
    "reshape": lambda r: [(r(3, 4), dict(shape=(2, 6))), (r(3, 4), dict(shape=(-1,))),
                          (r(), dict(shape=(1, 1)))],
    "permute": lambda r: [(r(2, 3, 4), dict(axes=(1, 2, 0))), (r(2, 3, 4), dict(axes=(-1, 0, 1))),
                          (r(3, 2), dict(axes=(1, 0)))],
    "broadcast_to": lambda r: [(r(3, 1), dict(shape=(2, 3, 4))), (r(), dict(shape=(2,))),
                               (r(3), dict(shape=(3,)))],
    "getitem": lambda r: [(r(4, 3), dict(index=index)) for index in (
        1, (slice(None, None, 2), None, -1), xp.asarray([2, 0, 2]), xp.asarray([[1, 1], [0, 1]]),
        (xp.asarray([0, 0, 3]), xp.asarray([1, 1, 2])), slice(2, 2))],
    "add_at": lambda r: [(r(3), dict(index=1, shape=(4, 3))),
                         (r(3, 3), dict(index=xp.asarray([2, 0, 2]), shape=(4, 3)))],
    "join": lambda r: [(r(2, 3), r(4, 3)), (r(2, 3), r(2, 1), dict(axis=-1))],
    "pad": lambda r: [(r(2, 3), dict(pad=(1, 2))), (r(2, 3, 4), dict(pad=(0, 1, 2, 0), value=1.5))],
    "convolve": lambda r: [
        (r(2, 3, 5, 4), r(4, 3, 3, 2), r(4), dict(stride=(2, 1), padding=(1, 0))),
        (r(2, 2, 4, 4), r(3, 2, 1, 1)), (r(1, 1, 3, 3), r(1, 1, 3, 3), dict(padding=(1, 1))),
        (r(2, 1, 6, 5), r(2, 1, 2, 3), dict(stride=(3, 3), padding=(1, 1)))],
    "conv_transpose": lambda r: [
        (r(2, 4, 3, 3), r(4, 3, 3, 2), r(3), dict(size=(6, 4), stride=(2, 1), padding=(1, 0))),
        (r(2, 3, 4, 4), r(3, 2, 1, 1), dict(size=(4, 4))),
        (r(1, 2, 2, 2), r(2, 1, 4, 4), dict(size=(4, 4), stride=(2, 2), padding=(1, 1))),
        (r(2, 2, 3, 4), r(2, 3, 3, 3), r(3), dict(size=(3, 4), padding=(1, 1)))],
    "conv_weight": lambda r: [
        (r(2, 3, 5, 4), r(2, 4, 3, 3), dict(kernel=(3, 2), stride=(2, 1), padding=(1, 0))),
        (r(2, 1, 6, 5), r(2, 2, 3, 2), dict(kernel=(2, 3), stride=(3, 3), padding=(1, 1)))],
    "logsumexp": lambda r: _along_axes(r) + [(r(2, 3, 4), dict(axis=(0, 2), keepdims=True))],
    "softmax": _along_axes,
    "log_softmax": _along_axes,
    "linear": lambda r: [(r(5, 3), r(4, 3), r(4)), (r(5, 3), r(4, 3)),
                         (r(2, 5, 3), r(4, 3), r(4)), (r(0, 3), r(4, 3), r(4))],
    "standardize": lambda r: [(r(3, 4), dict(axis=-1)), (r(5, 3, 2), dict(axis=(0, 2))),
                              (r(3, 4), dict(axis=0, eps=0.1))],
    "squared_error": lambda r: [(r(3, 4), r(3, 4)), (r(2, 0), r(2, 0)), (r(5), r(5), dict(n=5))],
    "scale_shift": lambda r: [(r(2, 3, 4), r(3, 1), r(3, 1)), (r(3), r(3), r())],
}

# Equal shapes, broadcasting both ways, 0-d, axes of length 0 and 1
USUAL = {1: [[(3, 4)], [()], [(2, 0)], [(1, 1)]],
         2: [[(3, 4), (3, 4)], [(2, 1, 4), (3, 1)], [(), (2,)], [(3,), (2, 3)], [(4, 0), (1,)]]}


def samples(op, r):
    """[(inputs, attributes)] to check a primitive with; empty if there are none."""
    found = op.samples or SAMPLES.get(op.__name__)
    if found:
        return [(s[:-1], s[-1]) if isinstance(s[-1], dict) else (s, {}) for s in found(r)]
    arity = len(op.input_names)
    shapes = USUAL.get(arity, [[(3, 4)] * arity]) if op.elementwise else []
    return [([r(*s) for s in row], {}) for row in shapes]


def as_function(op, inputs, attributes):
    """A sample of a primitive as gradcheck needs it: (f of its floating arrays, these arrays)."""
    free = [n for n, x in enumerate(inputs) if getattr(x, "dtype", None) == np.float64]

    def f(*xs):
        full = [Tensor(x) if hasattr(x, "dtype") else x for x in inputs]
        for n, x in zip(free, xs):
            full[n] = x
        return op(*full, **attributes)
    return f, [np.asarray(inputs[n]) for n in free]
