"""The checker is checked: it accepts what is right, rejects what is wrong, and names the place."""
import warnings

import numpy as np
import pytest

import tinygen as tg
from table import unlisted
from tinygen import backend, nn
from tinygen.derive import mistakes
from tinygen.derive.samples import samples

rng = np.random.default_rng(0)


def wrong(*vjps, forward=lambda a: a * 1.0, **options):
    return unlisted(forward, *vjps, **options)


def softmax(a):
    return np.exp(a) / np.exp(a).sum(-1, keepdims=True)


@pytest.mark.parametrize("vjp, forward", [
    (lambda g, y, a: -g, lambda a: a * 1.0),                # sign
    (lambda g, y, a: g * 2, lambda a: a * 1.0),             # factor
    (lambda g, y, a: 0 * g + 1, lambda a: a * 1.0),         # without the upstream gradient
    (lambda g, y, a: g * (1 + 1e-4), lambda a: a * 1.0),    # a hundredth of a percent
    (lambda g, y, a: g * y, lambda a: np.tanh(a)),          # another formula
    (lambda g, y, a: g * 0, lambda a: np.exp(a)),           # a detached path
    (lambda g, y, a: y * g, softmax),                       # only the diagonal of its Jacobian
])
def test_wrong_vjps_are_rejected(vjp, forward):
    words = (r"worst is input 0, entry \(\d, \d\): "
             r"analytic .*, numerical .*, (ratio|the num)")
    with pytest.raises(tg.GradcheckError, match=words):
        tg.gradcheck(wrong(vjp, forward=forward), rng.standard_normal((3, 3)))


def test_one_wrong_entry_in_ten_thousand_is_found_at_once():
    def vjp(g, y, a):
        g = g.copy()
        g[37, 11] = 0
        return g
    with pytest.raises(tg.GradcheckError):
        tg.gradcheck(wrong(vjp), rng.standard_normal((100, 100)))


def test_a_wrong_second_derivative_is_rejected():
    """The first gradient is right but not recorded, as with a constant that forward kept."""
    def vjp(g, y, a):
        return g * (a.detach() if isinstance(a, tg.Tensor) else a) * 2
    op = wrong(vjp, forward=lambda a: a * a)
    assert tg.gradcheck(op, rng.standard_normal(3))
    with pytest.raises(tg.GradcheckError, match="the gradient of the gradient is wrong"):
        tg.gradcheck(op, rng.standard_normal(3), order=2)


def test_the_cotangent_is_random():
    """The gradient of a plain sum of softmaxes is 0, so zeros would pass a check with ones."""
    op = wrong(lambda g, y, a: g * 0, forward=softmax)
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


def test_inputs_that_f_never_uses_were_not_checked():
    """The parameters of a float32 model are copied, and the model never uses the copies."""
    layer = nn.Linear(2, 2)
    x = tg.ones(3, 2)
    words = "depends on none of its inputs.*build the model under"
    with pytest.raises(tg.GradcheckError, match=words):
        tg.gradcheck(lambda *parameters: layer(x), *layer.parameters())
    assert tg.gradcheck(lambda a, b: a * 2, [1.0], [2.0])


def test_strong_curvature_is_not_a_kink():
    twice = lambda g, y, a: 2 * g * 5000 * tg.cos(5000 * a)
    steep = unlisted(lambda a: np.sin(5000 * a), twice)
    with pytest.raises(tg.GradcheckError):
        tg.gradcheck(steep, [0.1])


def test_one_tensor_for_two_inputs():
    x = tg.Tensor([1.0, 2.0], requires_grad=True, dtype="float64")
    assert tg.gradcheck(lambda a, b: a * b, x, x)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="order=3"):
        tg.gradcheck(tg.exp, [1.0], order=3)
    with pytest.raises(tg.GradcheckError, match="NaN"), np.errstate(invalid="ignore"):
        tg.gradcheck(tg.log, [-1.0])
    with pytest.raises(tg.GradcheckError, match="two results for the same inputs"):
        tg.gradcheck(lambda x: x * tg.randn(3), np.ones(3))
    with pytest.raises(TypeError, match="no floating input"):
        tg.gradcheck(lambda x: x, np.array([1, 2]))


def test_a_wrong_gradient_next_to_a_much_larger_right_one():
    small = wrong(lambda g, y, a: 0.3 * g)
    with pytest.raises(tg.GradcheckError, match="worst is input 1"):
        tg.gradcheck(lambda a, b: 1e7 * a.sum() + small(b).sum(), [1.0, 2.0], [1.0, 2.0])


def test_a_sum_of_the_wrong_sign_is_not_checked_with_itself(monkeypatch):
    vjp, = tg.sum.vjps
    monkeypatch.setattr(tg.sum, "vjps", (lambda g, y, a, **k: -vjp(g, y, a, **k),))
    with pytest.raises(tg.GradcheckError):
        tg.gradcheck(lambda x: tg.sum(x, axis=0), np.ones((3, 2)))


def test_a_vjp_that_computes_something_else_on_tensors():
    def vjp(g, y, a):
        return 2 * g if isinstance(g, tg.Tensor) else 2 * g * a
    two_faced = wrong(vjp, forward=lambda a: a * a)
    assert tg.gradcheck(two_faced, [1.0, 2.0])
    with pytest.raises(tg.GradcheckError, match="create_graph=True.*input 0 differs"):
        tg.gradcheck(two_faced, [1.0, 2.0], order=2)


def test_arrays_among_the_outputs_and_infinite_inputs():
    assert tg.gradcheck(lambda x: (x * x, np.ones(3)), [1.0, 2.0])
    assert tg.gradcheck(lambda x: 1 / x, [np.inf, 2.0])


def test_a_vjp_without_a_return():
    words = "vjp of .* returned (None|0.0), not an array: is a return missing"
    for nothing in (None, 0.0):
        with pytest.raises(RuntimeError, match=words):
            tg.gradcheck(wrong(lambda g, y, a: nothing, forward=lambda a: a * 1), [1.0])


@pytest.mark.parametrize("f, x", [
    (tg.log, 1e-4), (tg.sqrt, 1e-4), (lambda x: x**-1, 1e-4), (lambda x: tg.tanh(1e4 * x), 1e-5)])
def test_where_f_bends_strongly_a_right_gradient_is_not_called_wrong(f, x):
    assert tg.gradcheck(f, [x, 2 * x], order=2)


@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarms(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((5, 3)) * 10.0**rng.integers(-3, 3)
    w = rng.standard_normal((3, 3))
    f = lambda x, w: tg.functional.log_softmax(tg.tanh(x @ w) * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tg.gradcheck(f, x, w, order=2, seed=seed)


# How it explains ----------------------------------------------------------------------------------

def refusal(op, *inputs, **options):
    with pytest.raises(tg.GradcheckError) as caught:
        tg.gradcheck(op, *inputs, **options)
    return caught.value


def test_the_error_has_the_numbers_and_the_name():
    error = refusal(wrong(lambda g, y, a: -g), np.ones((2, 3)))
    assert error.mistake == "sign"
    first, second = str(error).splitlines()
    assert "wrong in 6 of 6 entries" in first
    assert "ratio -1." in first
    assert second == ("It is exactly the negative of the right one: "
                      "a minus sign is missing, or one too many.")


def test_an_unknown_mistake_still_has_its_numbers():
    error = refusal(wrong(lambda g, y, a: g * tg.cos(y)), rng.standard_normal(5))
    assert error.mistake is None
    assert "worst is input 0" in str(error)


def test_inputs_drawn_from_the_same_seed_do_not_become_their_own_cotangent():
    """With u = x the gradient of a normalization is 0, whatever else the vjp computes."""
    vjp = lambda g, y, a: tg.sum(g * a, axis=0) * y
    op = wrong(vjp, forward=lambda a: a / np.sqrt((a * a).sum()))
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal(6)
        assert refusal(op, x, seed=seed).mistake != "detached"


@pytest.mark.parametrize("shape, entry", [
    ((1000, 1000), (437, 911)), ((10_000,), (7_777,)), ((7, 3, 5, 40), (6, 0, 4, 39))])
def test_a_wrong_entry_of_a_large_input_is_found_by_halving(shape, entry):
    calls = 0

    def forward(a):
        nonlocal calls
        calls += 1
        return a * 1.0

    def vjp(g, y, a):
        g = g.copy()
        g[entry] = 0
        return g
    error = refusal(wrong(vjp, forward=forward), np.ones(shape), entries=50)
    assert f"worst is input 0, entry {entry}" in str(error)
    assert calls < 4 * (50 + 3 + 2 * 25) + 20  # entries, directions, halvings, for any size


def test_a_large_input_is_diagnosed_on_a_block_of_it():
    x = rng.standard_normal((60, 50))
    assert refusal(wrong(lambda g, y, a: g / 60), x).mistake == "factor"
    transposed = wrong(lambda g, y, a: g.transpose(), forward=lambda a: a * 1.0)
    assert refusal(transposed, x[:50]).mistake == "transposed"
    diagonal = wrong(lambda g, y, a: g * y, forward=softmax)
    assert "the term - y sum(g y) over axis 1" in str(refusal(diagonal, x))


def test_one_of_several_inputs():
    right = lambda g, y, a, b, c: g
    op = wrong(right, lambda g, y, a, b, c: -g, right, forward=lambda a, b, c: a + b + c)
    error = refusal(op, *rng.standard_normal((3, 4)))
    assert error.mistake == "sign"
    assert "worst is input 1" in str(error)
    assert "of 4 entries" in str(error)


def test_a_kink_in_a_large_input_does_not_fail():
    x = rng.standard_normal((40, 40))
    x[3, 4] = x[20, 39] = 0
    with pytest.warns(UserWarning, match="sit at a kink"):
        assert tg.gradcheck(tg.functional.relu, x)


def test_a_kink_hides_no_mistake():
    x = np.clip(rng.standard_normal((40, 40)), -2.5, 2.5)
    x[3, 4] = 0
    relu = lambda a: np.maximum(a, 0)
    op = wrong(lambda g, y, a: g * (a > 0) * (1 + (a > 3)), forward=relu, elementwise=True)
    x[30, 30] = 4
    assert "entry (30, 30)" in str(refusal(op, x))
    op = wrong(lambda g, y, a: -g * (a > 0), forward=relu, elementwise=True)
    assert refusal(op, x[:5, :5]).mistake == "sign"  # the kink is left out of the comparison


def test_a_tie_that_is_shared_otherwise_is_a_kink_and_no_mistake():
    op = wrong(lambda g, y, a: g[:, None] * (a == y[:, None]), forward=lambda a: a.max(axis=1))
    with pytest.warns(UserWarning, match="2 of 6 entries sit at a kink"):
        assert tg.gradcheck(op, np.array([[1.0, 2, 2], [3, 1, 0]]))


def test_nan_is_wrong_even_at_a_kink():
    op = wrong(lambda g, y, a: g * a / abs(a), forward=lambda a: np.abs(a))
    with np.errstate(all="ignore"):
        error = refusal(op, np.array([0.0, 1.0]))
    assert error.mistake == "not_finite"


def test_errors_inside_a_vjp_are_explained_and_those_of_the_engine_pass():
    assert refusal(wrong(lambda g, y, a: g @ g), np.ones((2, 3))).mistake == "shapes"
    with pytest.raises(NotImplementedError, match="has no vjp"):
        tg.gradcheck(wrong(None, forward=lambda a: a * 1.0), np.ones(2))


@pytest.mark.parametrize("got, wanted, words", [
    ((3, 4), (4, 3), "transposed"),
    ((4, 2, 3), (2, 3, 4), "inverse permutation"),
    ((4, 5), (5,), "repeated along axis 0"),
    ((2, 4, 5), (4, 1), "repeated along axes 0 and 2"),
    ((3,), (2, 3), "summed, over axis 0"),
    ((2, 1), (2, 3), "summed, over axis 1"),
    ((2,), (2, 3), "write the shape under every factor"),
])
def test_shapes_are_explained(got, wanted, words):
    assert words.lower() in mistakes.shapes(got, wanted).lower()


def test_samples_of_a_row():
    zeros = lambda *shape: np.zeros(shape)
    numbers = [len(samples(op, zeros)) for op in (tg.add, tg.exp, tg.matmul, wrong())]
    assert numbers == [5, 4, 5, 0]
    three = wrong(lambda g, y, a, b, c: g, forward=lambda a, b, c: a + b + c, elementwise=True)
    inputs, _ = samples(three, zeros)[0]
    assert [x.shape for x in inputs] == [(3, 4)] * 3
