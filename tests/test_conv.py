"""Convolutions against explicit loops, the adjoint identities, and the formula for their sizes."""
import itertools
import tracemalloc

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend, functional as F, speed
from tinygen.conv import add_columns, columns, conv_transpose, conv_weight, convolve, convolve_plain

rng = np.random.default_rng(0)
CASES = [  # shape of the images, of the kernel, stride, padding
    ((2, 3, 5, 4), (4, 3, 3, 2), (2, 1), (1, 0)),
    ((2, 2, 4, 4), (3, 2, 1, 1), (1, 1), (0, 0)),
    ((1, 1, 3, 3), (1, 1, 3, 3), (1, 1), (1, 1)),
    ((2, 1, 7, 6), (2, 1, 2, 3), (3, 3), (1, 1)),
    ((3, 2, 6, 6), (2, 2, 4, 4), (2, 2), (1, 1)),
    ((1, 2, 5, 5), (3, 2, 5, 5), (1, 1), (2, 2)),
    ((1, 1, 2, 2), (2, 1, 1, 1), (3, 3), (1, 1)),  # reads nothing but padding
]
cases = pytest.mark.parametrize("shape, kernel, stride, padding", CASES)


@pytest.fixture(autouse=True)
def double():
    with backend.precision("float64"):
        yield


def by_loops(x, w, stride, padding):
    """The definition, one multiplication at a time."""
    (sh, sw), (ph, pw) = stride, padding
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    out = [(x.shape[2 + i] - w.shape[2 + i]) // stride[i] + 1 for i in (0, 1)]
    y = np.zeros((len(x), len(w), *out))
    for n, o, a, b, c, i, j in itertools.product(*map(range, y.shape + w.shape[1:])):
        y[n, o, a, b] += x[n, c, a * sh + i, b * sw + j] * w[o, c, i, j]
    return y


@cases
@pytest.mark.parametrize("cache", [1, 10**6])
def test_convolution_is_its_definition(shape, kernel, stride, padding, cache, monkeypatch, library):
    monkeypatch.setattr(speed, "CACHE", cache)  # one image at a time, and all at once
    x = rng.standard_normal(shape)
    w = rng.standard_normal(kernel)
    y = convolve(tg.Tensor(x), tg.Tensor(w), stride=stride, padding=padding).numpy()
    np.testing.assert_allclose(y, by_loops(x, w, stride, padding), rtol=1e-12, atol=1e-12)


@cases
def test_the_three_are_adjoint(shape, kernel, stride, padding, library):
    """<g, convolve(x, w)> = <conv_transpose(g, w), x> = <conv_weight(x, g), w>"""
    x = rng.standard_normal(shape)
    w = rng.standard_normal(kernel)
    y = by_loops(x, w, stride, padding)
    g = rng.standard_normal(y.shape)
    back = conv_transpose(tg.Tensor(g), tg.Tensor(w), size=shape[2:],
                          stride=stride, padding=padding).numpy()
    weight = conv_weight(tg.Tensor(x), tg.Tensor(g), kernel=kernel[2:],
                         stride=stride, padding=padding).numpy()
    assert back.shape == x.shape
    assert weight.shape == w.shape
    assert (g * y).sum() == pytest.approx((back * x).sum(), rel=1e-12)
    assert (g * y).sum() == pytest.approx((weight * w).sum(), rel=1e-12)


@cases
def test_the_fast_convolution_is_the_plain_one(shape, kernel, stride, padding, library):
    """In value, gradient and second gradient."""
    x = tg.Tensor(rng.standard_normal(shape), requires_grad=True)
    w = tg.Tensor(rng.standard_normal(kernel), requires_grad=True)
    y = convolve(x, w, stride=stride, padding=padding)
    u = tg.Tensor(rng.standard_normal(y.shape), requires_grad=True)
    found = []
    for f in (convolve, convolve_plain):
        y = f(x, w, stride=stride, padding=padding)
        first = tg.grad((y * y * u).sum(), [x, w], create_graph=True)
        second = tg.grad(sum((g * g).sum() for g in first), [x, w, u])
        found.append([y, *first, *second])
    for fast, plain in zip(*found):
        np.testing.assert_allclose(fast.numpy(), plain.numpy(), rtol=1e-11, atol=1e-11)


@cases
def test_columns_and_add_columns_are_adjoint(shape, kernel, stride, padding, library):
    x = backend.asarray(rng.standard_normal(shape))
    rows = columns(x, kernel[2:], stride, padding)
    h = backend.asarray(rng.standard_normal(rows.shape))
    back = add_columns(h, shape[2:], kernel[2:], stride, padding).transpose(0, 3, 1, 2)
    assert back.shape == x.shape
    assert rows.shape[1] == np.prod(kernel[1:])
    assert float((rows * h).sum()) == pytest.approx(float((x * back).sum()), rel=1e-12)


@pytest.mark.parametrize("size, k, s, p, o", [
    (7, 4, 2, 1, 0), (7, 3, 2, 1, 1), (1, 7, 1, 0, 0), (4, 3, 1, 1, 0)])
def test_transposed_sizes(size, k, s, p, o):
    x = tg.randn(2, 3, size, size)
    w = tg.randn(3, 2, k, k)
    y = F.conv_transpose2d(x, w, tg.randn(2), stride=s, padding=p, output_padding=o)
    expected = (size - 1) * s - 2 * p + k + o
    assert y.shape == (2, 2, expected, expected)


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_integer_images_give_floating_results(dtype, library):
    x = rng.integers(0, 256, (2, 3, 4, 4)).astype(dtype)
    w = rng.standard_normal((2, 3, 3, 3))
    b = rng.standard_normal(2)
    y = F.conv2d(tg.Tensor(x), tg.Tensor(w), tg.Tensor(b), padding=1).numpy()
    expected = by_loops(x, w, (1, 1), (1, 1)) + b[:, None, None]
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)

    swapped = tg.Tensor(w.swapaxes(0, 1))  # the kernel of a transposed convolution is (in, out)
    back = F.conv_transpose2d(tg.Tensor(x), swapped, tg.Tensor(b), padding=1).numpy()
    flipped = w[:, :, ::-1, ::-1]
    expected = by_loops(x, flipped, (1, 1), (1, 1)) + b[:, None, None]
    np.testing.assert_allclose(back, expected, rtol=1e-12, atol=1e-12)


def test_a_penalty_through_a_convolutional_critic(library):
    """WGAN-GP: the gradient of |grad_x critic(x)| by the weights of two convolutions."""
    w1 = rng.standard_normal((3, 1, 3, 3))
    w2 = rng.standard_normal((2, 3, 4, 4))
    x = tg.Tensor(rng.standard_normal((2, 1, 6, 6)), requires_grad=True)

    def penalty(w1, w2):
        hidden = F.leaky_relu(F.conv2d(x, w1, stride=1, padding=1), 0.2)
        score = F.conv2d(hidden, w2, stride=2, padding=1)
        g, = tg.grad(score.sum(), x, create_graph=True)
        return ((tg.sqrt((g * g).sum(axis=(1, 2, 3))) - 1)**2).mean()
    assert tg.gradcheck(penalty, w1, w2)


def test_biases_pooling_and_upsampling(library):
    x = rng.standard_normal((2, 3, 4, 6))
    b = rng.standard_normal(4)
    w = rng.standard_normal((4, 3, 3, 3))
    y = F.conv2d(tg.Tensor(x), tg.Tensor(w), tg.Tensor(b), padding=1).numpy()
    expected = by_loops(x, w, (1, 1), (1, 1)) + b[:, None, None]
    np.testing.assert_allclose(y, expected, rtol=1e-12)

    means = x.reshape(2, 3, 2, 2, 3, 2).mean((3, 5))
    repeated = x.repeat(2, 2).repeat(2, 3)
    np.testing.assert_allclose(F.avg_pool2d(tg.Tensor(x), 2).numpy(), means, rtol=1e-12)
    np.testing.assert_array_equal(F.interpolate(tg.Tensor(x), scale_factor=2).numpy(), repeated)
    assert tg.gradcheck(lambda x: F.avg_pool2d(F.interpolate(x, scale_factor=3), 2), x, order=2)

    w_transposed = rng.standard_normal((3, 4, 3, 3))
    assert tg.gradcheck(lambda x, w, b: F.conv2d(x, w, b, 2, 1), x, w, b, order=2)
    assert tg.gradcheck(lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1),
                        x, w_transposed, b, order=2)


@pytest.mark.parametrize("act, words", [
    (lambda: F.conv2d(tg.zeros(2, 3, 5, 5), tg.zeros(4, 2, 3, 3)),
     r"\(2, 3, 5, 5\) float64 and \(4, 2, 3, 3\) float64.*channels.*kernel is \(out, C, kh, kw\)"),
    (lambda: F.conv2d(tg.zeros(2, 3, 5, 5), tg.zeros(4, 3, 3, 3), tg.zeros(3)),
     r"and \(3,\) float64.*channels.*the bias \(out,\)"),
    (lambda: F.conv_transpose2d(tg.zeros(2, 3, 5, 5), tg.zeros(3, 4, 3, 3), tg.zeros(1)),
     r"and \(1,\) float64.*channels.*kernel is \(C, out, kh, kw\), the bias \(out,\)"),
    (lambda: F.conv2d(tg.zeros(3, 5, 5), tg.zeros(4, 3, 3, 3)),
     r"images are \(N, C, H, W\)"),
    (lambda: F.conv2d(tg.zeros(2, 3, 2, 2), tg.zeros(4, 3, 3, 3)),
     r"a kernel of \(3, 3\) does not fit on images of \(2, 2\)"),
    (lambda: F.conv_transpose2d(tg.zeros(2, 3, 5, 5), tg.zeros(3, 2, 3, 3), stride=2,
                                output_padding=2),
     "below the stride"),
    (lambda: F.conv2d(tg.zeros(2, 3, 5, 5), tg.zeros(4, 3, 3, 3), 1.0),
     r"and 1.0, .*channels.*the bias \(out,\)"),
    (lambda: F.conv2d(tg.zeros(2, 3, 5, 5), tg.zeros(4, 3, 3, 3), stride=0),
     r"stride=\(0, 0\).*a stride is at least 1"),
    (lambda: F.conv2d(tg.zeros(2, 3, 5, 5), tg.zeros(4, 3, 3, 3), padding=(0, -1)),
     r"padding=\(0, -1\).*a padding at least 0"),
    (lambda: F.conv_transpose2d(tg.zeros(2, 3, 5, 5), tg.zeros(3, 4, 3, 3), padding=-1),
     "a padding at least 0"),
    (lambda: F.conv2d(tg.zeros(2, 3, 5, 5), tg.zeros(4, 3, 3, 3), stride=(1, 2, 3)),
     r"one number, or two .* not \(1, 2, 3\)"),
    (lambda: conv_weight(tg.zeros(1, 3, 5, 5), tg.zeros(3, 4, 3, 3), kernel=(3, 3)),
     r"\(3, 4, 3, 3\) .*must be of shape \(1, 'O', 3, 3\)"),
    (lambda: F.avg_pool2d(tg.zeros(1, 1, 5, 5), 2),
     "5x5 into blocks of 2x2"),
])
def test_misfits_are_explained(act, words):
    with pytest.raises(ValueError, match=words):
        act()


def test_columns_are_not_kept():
    """A step keeps activations, their gradients, and the columns of the images in the cache."""
    with backend.precision("float32"):
        x = tg.Tensor(rng.standard_normal((32, 16, 28, 28)), requires_grad=True)
        w = tg.Tensor(rng.standard_normal((16, 16, 3, 3)), requires_grad=True)
        tracemalloc.start()
        F.conv2d(x, w, padding=1).sum().backward()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    bytes_of_all_columns = 32 * 16 * 9 * 28 * 28 * 4
    assert peak < bytes_of_all_columns
