"""Functions of networks against independent definitions, and the gradients of composed ones.

The gradients of the primitives are checked in test_ops.py.
"""
import math
import warnings

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend, functional as F

rng = np.random.default_rng(0)


def values(f, *xs):
    with backend.precision("float64"):
        return f(*[tg.Tensor(x) for x in xs]).numpy()


@pytest.mark.parametrize("f, definition", [
    (F.relu, lambda x: max(x, 0.0)),
    (lambda x: F.leaky_relu(x, 0.2), lambda x: x if x > 0 else 0.2 * x),
    (lambda x: F.elu(x, 0.7), lambda x: x if x > 0 else 0.7 * math.expm1(x)),
    (F.selu, lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x))),
    (F.softplus, lambda x: math.log1p(math.exp(x))),
    (F.silu, lambda x: x / (1 + math.exp(-x))),
    (F.gelu, lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2))),
    (lambda x: F.gelu(x, "tanh"),
     lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    (F.sigmoid, lambda x: 1 / (1 + math.exp(-x))),
    (F.logsigmoid, lambda x: -math.log1p(math.exp(-x))),
])
def test_activations(f, definition, library):
    x = np.array([-30.0, -3.0, -0.5, 0.0, 1e-3, 2.0, 30.0])
    np.testing.assert_allclose(values(f, x), [definition(v) for v in x], rtol=1e-12, atol=1e-100)
    assert tg.gradcheck(f, rng.standard_normal((3, 4)), order=2)


def test_selu_keeps_mean_0_and_variance_1():
    """E selu(z) = 0 and E selu(z)^2 = 1 for z ~ N(0, 1), by quadrature."""
    z, w = np.polynomial.hermite_e.hermegauss(200)
    w = w / w.sum()
    y = values(F.selu, z)
    assert abs(w @ y) < 1e-3  # the kink at 0 limits the quadrature
    assert abs(w @ y**2 - 1) < 1e-3


@pytest.mark.parametrize("x", [
    [1000.0, -1000.0, 0.0, 999.0], [-1e4, -1e4, -1e4, -1e4], [80.0, 90.0, -200.0, 0.0]])
def test_extreme_logits_stay_finite(x, library):
    x = tg.Tensor([x], requires_grad=True)
    functions = (F.softmax, F.log_softmax, F.logsumexp, F.sigmoid, F.softplus, F.logsigmoid,
                 F.silu, F.elu, F.selu,
                 lambda x: F.cross_entropy(x, tg.Tensor([1])),
                 lambda x: F.binary_cross_entropy_with_logits(x, 0 * x + 1))
    for f in functions:
        x.grad = None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            f(x).sum().backward()
        assert np.isfinite(backend.to_numpy(x.grad)).all()
        assert np.isfinite(f(x).numpy()).all()
    assert F.softmax(x).sum().item() == pytest.approx(1)


def test_logsumexp_of_nothing_is_minus_infinity():
    x = tg.Tensor([[-np.inf, -np.inf], [0.0, 0.0]])
    with np.errstate(divide="ignore"):
        assert F.logsumexp(x).numpy().tolist() == [-np.inf, pytest.approx(math.log(2))]


def test_small_probabilities_keep_their_digits(library):
    x = np.array([-80.0, -30.0, -3.0, 0.0, 3.0, 30.0])
    np.testing.assert_allclose(F.sigmoid(tg.Tensor(x)).numpy(), 1 / (1 + np.exp(-x)), rtol=1e-6)
    np.testing.assert_allclose(F.silu(tg.Tensor(x)).numpy(), x / (1 + np.exp(-x)), rtol=1e-6)


def test_leaky_relu_needs_a_slope_that_leaks(library):
    for slope in (-0.1, 1.5):
        with pytest.raises(tg.TinygenError, match="negative_slope of 0 to 1"):
            F.leaky_relu(tg.ones(3), negative_slope=slope)
    x = tg.Tensor([-2.0, 0.0, 3.0], requires_grad=True)
    F.leaky_relu(x, negative_slope=0.2).sum().backward()
    slopes = backend.to_numpy(x.grad).tolist()
    assert slopes == [pytest.approx(0.2), pytest.approx(0.2), 1.0]


def test_linear_is_a_matrix_product(library):
    x = rng.standard_normal((2, 5, 3))
    w = rng.standard_normal((4, 3))
    b = rng.standard_normal(4)
    np.testing.assert_allclose(values(F.linear, x, w, b), x @ w.T + b, rtol=1e-12)
    np.testing.assert_allclose(values(F.linear, x[0], w), x[0] @ w.T, rtol=1e-12)


def test_embedding_and_one_hot(library):
    table = rng.standard_normal((5, 3))
    rows = [[4, 0], [2, 2]]
    labels = tg.Tensor(rows)
    np.testing.assert_allclose(values(lambda t: F.embedding(labels, t), table), table[rows])
    np.testing.assert_array_equal(F.one_hot(labels, 5).numpy(), np.eye(5)[rows])
    assert tg.gradcheck(lambda t: F.embedding(labels, t), table, order=2)


def test_dropout_keeps_the_mean(library):
    x = tg.ones(200_000)
    y = F.dropout(x, 0.25).numpy()
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    assert abs(y.mean() - 1) < 5 * (1 / 3 / 200_000)**0.5  # five standard errors
    assert F.dropout(x, 0.25, training=False) is x
    with pytest.raises(tg.TinygenError, match="0 <= p < 1"):
        F.dropout(x, 1.5)


def test_normalizations_standardize(library):
    x = 3 + 2 * rng.standard_normal((6, 4, 5))
    with backend.precision("float64"):
        t = tg.Tensor(x)
        cases = [(F.layer_norm(t, 5, eps=0), 2),
                 (F.layer_norm(t, (4, 5), eps=0), (1, 2)),
                 (F.batch_norm(t, training=True, eps=0), (0, 2)),
                 (F.group_norm(t, 1, eps=0), (1, 2))]
    for y, axes in cases:
        np.testing.assert_allclose(y.numpy().mean(axes), 0, atol=1e-12)
        np.testing.assert_allclose(y.numpy().var(axes), 1, rtol=1e-12)

    w = rng.standard_normal(4)
    b = rng.standard_normal(4)
    assert tg.gradcheck(lambda x, w, b: F.group_norm(x, 2, w, b), x, w, b, order=2)
    assert tg.gradcheck(lambda x, w, b: F.batch_norm(x, None, None, w, b, True), x, w, b, order=2)
    w = rng.standard_normal(5)
    b = rng.standard_normal(5)
    assert tg.gradcheck(lambda x, w, b: F.layer_norm(x, (5,), w, b), x, w, b, order=2)

    refused = (lambda: F.layer_norm(t, 4),
               lambda: F.group_norm(t, 3),
               lambda: F.batch_norm(t[:1, :, 0], training=True))
    for bad in refused:
        with pytest.raises(tg.TinygenError):
            bad()


def test_losses_against_their_definitions(library):
    x = rng.standard_normal((4, 3))
    t = rng.random((4, 3))
    y = np.array([0, 2, 1, 1])
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)     # softmax
    s = 1 / (1 + np.exp(-x))                            # sigmoid
    v = t + 0.1                                         # variances
    cases = [
        (lambda x, t, r: F.mse_loss(x, t, r), (x - t)**2),
        (lambda x, t, r: F.l1_loss(x, t, r), abs(x - t)),
        (lambda x, t, r: F.cross_entropy(x, tg.Tensor(y), r), -np.log(p[range(4), y])),
        (lambda x, t, r: F.cross_entropy(x, tg.Tensor(t), r), -(t * np.log(p)).sum(1)),
        (lambda x, t, r: F.binary_cross_entropy_with_logits(x, t, r),
         -t * np.log(s) - (1 - t) * np.log(1 - s)),
        (lambda x, t, r: F.gaussian_nll_loss(x, t, tg.Tensor(v), full=True, reduction=r),
         0.5 * np.log(2 * np.pi * v) + (x - t)**2 / 2 / v),
    ]
    for f, each in cases:
        expected = {"none": each, "mean": each.mean(), "sum": each.sum()}
        for reduction, value in expected.items():
            found = values(lambda x, t: f(x, t, reduction), x, t)
            np.testing.assert_allclose(found, value, rtol=1e-10)
        assert tg.gradcheck(lambda x: f(x, tg.Tensor(t), "mean"), x, order=2)
    with pytest.raises(tg.TinygenError, match="'mean', 'sum' or 'none', not 'average'"):
        F.mse_loss(tg.ones(1), tg.ones(1), reduction="average")


def test_a_masked_logit_has_probability_zero(library):
    x = tg.Tensor([[0.0, -np.inf, 1.0]], requires_grad=True)
    loss = F.cross_entropy(x, tg.Tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + math.e), rel=1e-6)
    assert np.isfinite(backend.to_numpy(x.grad)).all()


def test_cross_entropy_of_images_and_variances_per_row(library):
    x = rng.standard_normal((2, 3, 4))
    y = np.array([[0, 2, 1, 1], [2, 2, 0, 1]])
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, y[:, None], 1)[:, 0])
    found = values(lambda x: F.cross_entropy(x, tg.Tensor(y), "none"), x)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert tg.gradcheck(lambda x: F.cross_entropy(x, tg.Tensor(y)), x, order=2)

    x = x[0, :2, :2]
    v = np.array([0.5, 2.0])                                    # one variance for each row
    found = values(lambda x: F.gaussian_nll_loss(x, 0 * x, tg.Tensor(v), reduction="none"), x)
    expected = 0.5 * (np.log(v[:, None]) + x**2 / v[:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_kl_is_the_integral_of_its_definition(library):
    """E_q[ln q - ln p] by Gauss-Hermite quadrature, exact for a quadratic."""
    mean = rng.standard_normal((3, 2))
    logvar = rng.standard_normal((3, 2))
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    std = np.exp(logvar / 2)
    z = mean[..., None] + std[..., None] * nodes                # (3, 2, 20)
    log_q = -0.5 * nodes**2 - np.log(std)[..., None]
    expected = ((log_q + 0.5 * z**2) @ weights).sum(1)
    np.testing.assert_allclose(values(F.kl_standard_normal, mean, logvar), expected, rtol=1e-12)
    assert tg.gradcheck(F.kl_standard_normal, mean, logvar, order=2)


def test_what_losses_and_layers_refuse_in_a_sentence():
    x = tg.ones(2)
    logits = tg.ones(2, 3)
    for loss in (F.mse_loss, F.l1_loss, F.binary_cross_entropy_with_logits):
        with pytest.raises(TypeError, match="not a float: wrap it in tg.Tensor"):
            loss(x, 0.0)
    with pytest.raises(TypeError, match="integer labels, not float32"):
        F.cross_entropy(logits, tg.Tensor([0.0, 1.0]))
    of_list = F.cross_entropy(logits, [0, 1]).item()
    assert of_list == F.cross_entropy(logits, tg.Tensor([0, 1])).item()
    for bias in (tg.zeros(1), tg.zeros(2, 3), 1.0):
        with pytest.raises(ValueError, match=r"linear cannot take .*one number for each output"):
            F.linear(logits, tg.ones(4, 3), bias)
    images = tg.ones(1, 3, 4, 4)
    for resize in (F.avg_pool2d, F.interpolate):
        for x, k in ((images[0], 2), (images, (2, 2)), (images, 0)):
            with pytest.raises(tg.TinygenError, match="needs images"):
                resize(x, k)


def test_elu_far_out_has_slope_1():
    x = tg.Tensor([np.inf, 1e30], requires_grad=True)
    F.elu(x).sum().backward()
    np.testing.assert_array_equal(x.grad, [1, 1])


@pytest.mark.parametrize("alpha", [0.3, 1.0, -0.7])
def test_elu_for_any_alpha(alpha):
    assert tg.gradcheck(lambda x: F.elu(x, alpha=alpha), [-1.0, 2.0, -0.3], order=2)
