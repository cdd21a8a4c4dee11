"""The calculus table as test cases: every primitive with each of its samples."""
import inspect

import numpy as np

import tinygen as tg
from tinygen.tensor import PRIMITIVES


def draw(*shape):
    return draw.rng.standard_normal(shape)


draw.rng = np.random.default_rng(1)


def samples_of(op):
    """[(inputs, attributes)] for a primitive; an error if it has none."""
    if op.samples:
        found = [(s[:-1], s[-1]) if isinstance(s[-1], dict) else (s, {}) for s in op.samples(draw)]
    elif op.elementwise:  # equal shapes, broadcasting both ways, 0-d, size 0 and 1
        arity = len([p for p in inspect.signature(op.forward).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD])
        shapes = {1: [[(3, 4)], [()], [(2, 0)], [(1, 1)]],
                  2: [[(3, 4), (3, 4)], [(2, 1, 4), (3, 1)], [(), (2,)], [(3,), (2, 3)], [(4, 0), (1,)]]}[arity]
        found = [([draw(*s) for s in row], {}) for row in shapes]
    else:
        found = []
    assert found, f"the primitive {op.__name__} has no samples: add samples=... to its row"
    return found


CASES = [(name, i) for name, op in PRIMITIVES.items() for i in range(len(samples_of(op)))]


def case(name, i):
    """A function of Tensors only, and its inputs as float64 NumPy arrays; numbers and booleans stay fixed."""
    draw.rng = np.random.default_rng(sum(map(ord, name)) + i)
    op = PRIMITIVES[name]
    inputs, attributes = samples_of(op)[i]
    free = [n for n, x in enumerate(inputs) if getattr(x, "dtype", None) == np.float64]

    def f(*xs):
        full = list(inputs)
        for n, x in zip(free, xs):
            full[n] = x
        full = [tg.Tensor(x) if isinstance(x, np.ndarray) else x for x in full]
        return op(*full, **attributes)
    return op, f, [np.asarray(inputs[n]) for n in free]
