"""The checker is checked: it accepts what is right and rejects what is wrong, and says where."""
import warnings

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend, nn
from tinygen.tensor import PRIMITIVES, primitive

rng = np.random.default_rng(0)


def wrong(*vjps, forward=lambda a: a * 1.0, **options):
    """A primitive with a wrong vjp, outside the table."""
    kept = dict(PRIMITIVES)
    op = primitive(*vjps, **options)(forward)
    PRIMITIVES.clear()
    PRIMITIVES.update(kept)
    return op


@pytest.mark.parametrize("vjp, forward", [
    (lambda g, y, a: -g, lambda a: a * 1.0),                                    # sign
    (lambda g, y, a: g * 2, lambda a: a * 1.0),                                 # factor
    (lambda g, y, a: 0 * g + 1, lambda a: a * 1.0),                             # forgot the upstream gradient
    (lambda g, y, a: g * (1 + 1e-4), lambda a: a * 1.0),                        # a hundredth of a percent
    (lambda g, y, a: g * y, lambda a: np.tanh(a)),                              # another formula
    (lambda g, y, a: g * 0, lambda a: np.exp(a)),                               # a detached path
    (lambda g, y, a: y * g, lambda a: np.exp(a) / np.exp(a).sum(-1, keepdims=True)),   # softmax: the diagonal only
])
def test_wrong_vjps_are_rejected(vjp, forward):
    with pytest.raises(tg.GradcheckError, match=r"worst is input 0, entry \(\d, \d\): analytic .*, numerical .*, (ratio|the num)"):
        tg.gradcheck(wrong(vjp, forward=forward), rng.standard_normal((3, 3)))


def test_one_wrong_entry_in_ten_thousand_is_found_at_once():
    def vjp(g, y, a):
        g = g.copy()
        g[37, 11] = 0
        return g
    with pytest.raises(tg.GradcheckError):
        tg.gradcheck(wrong(vjp), rng.standard_normal((100, 100)))


def test_a_wrong_second_derivative_is_rejected():
    """The value and the first gradient are right, the gradient is not recorded: what a cached constant does."""
    def vjp(g, y, a):
        return g * (a.detach() if isinstance(a, tg.Tensor) else a) * 2
    op = wrong(vjp, forward=lambda a: a * a)
    assert tg.gradcheck(op, rng.standard_normal(3))
    with pytest.raises(tg.GradcheckError, match="the gradient of the gradient is wrong"):
        tg.gradcheck(op, rng.standard_normal(3), order=2)


def test_the_cotangent_is_random():
    """The gradient of a plain sum of softmaxes is 0, so zeros would pass a check with ones."""
    op = wrong(lambda g, y, a: g * 0, forward=lambda a: np.exp(a) / np.exp(a).sum(-1, keepdims=True))
    with pytest.raises(tg.GradcheckError):
        tg.gradcheck(op, rng.standard_normal((3, 4)))


def test_a_kink_is_named_and_does_not_fail():
    with pytest.warns(UserWarning, match="1 of 3 entries sit at a kink"):
        assert tg.gradcheck(tg.functional.relu, np.array([1.0, 0.0, -2.0]))


def test_parameters_are_perturbed_where_they_stand():
    with backend.precision("float64"):
        model = nn.Linear(2, 1)
        x = tg.randn(4, 2)
        assert tg.gradcheck(lambda w, b: (model(x)**2).mean(), *model.parameters(), order=2)


def test_inputs_come_back_unchanged():
    x = rng.standard_normal(4)
    kept = x.copy()
    leaf = tg.Tensor(x, requires_grad=True, dtype="float64")
    tg.gradcheck(tg.exp, x, order=2)
    tg.gradcheck(tg.exp, leaf, order=2)
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(leaf.numpy(), kept)


def test_what_it_refuses():
    with pytest.raises(tg.GradcheckError, match="two results for the same inputs"):
        tg.gradcheck(lambda x: x * tg.randn(3), np.ones(3))
    with pytest.raises(TypeError, match="no floating input"):
        tg.gradcheck(lambda x: x, np.array([1, 2]))


@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarms(seed):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((5, 3)) * 10.0**rng.integers(-3, 3), rng.standard_normal((3, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tg.gradcheck(lambda x, w: tg.functional.log_softmax(tg.tanh(x @ w) * 3), x, w, order=2, seed=seed)
