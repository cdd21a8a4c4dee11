"""The calculus table as test cases: every primitive with each of its samples."""
import numpy as np

from tinygen.derive.samples import as_function, samples
from tinygen.engine import PRIMITIVES, primitive


def draw(*shape):
    return draw.rng.standard_normal(shape)


draw.rng = np.random.default_rng(1)


def samples_of(op):
    """[(inputs, attributes)] of a primitive; an error if it has none."""
    found = samples(op, draw)
    assert found, f"the primitive {op.__name__} has no samples: add samples=... to its row"
    return found


CASES = [(name, i) for name, op in PRIMITIVES.items() for i in range(len(samples_of(op)))]


def case(name, i):
    """(the primitive, a function of Tensors only, its inputs as float64 NumPy arrays).

    Numbers and booleans among the inputs stay fixed.
    """
    draw.rng = np.random.default_rng(sum(map(ord, name)) + i)
    op = PRIMITIVES[name]
    return op, *as_function(op, *samples_of(op)[i])


def unlisted(forward, *vjps, **options):
    """A primitive that stays outside the table."""
    kept = dict(PRIMITIVES)
    op = primitive(*vjps, **options)(forward)
    PRIMITIVES.clear()
    PRIMITIVES.update(kept)
    return op
