"""A museum of wrong derivatives that gradcheck must reject, and whose mistake it must name.

Each exhibit names its origin: the library, course or issue tracker where the mistake was found, or
where a check missed it. "classroom" stands for what everybody writes once.
"""
import warnings

import numpy as np
import pytest

import tinygen as tg
from table import PRIMITIVES, unlisted
from tinygen import functional as F
from tinygen.conv import convolve, conv_weight
from tinygen.derive.mistakes import MISTAKES
from tinygen.derive.samples import as_function, samples
from tinygen.engine import raw
from tinygen.ops import broadcast_to, getitem, matmul, mean, mT, permute, sqrt, sum, var, where

MUSEUM = []


def exhibit(name, origin, forward, *vjps, shapes, mistake, words, order=1, **options):
    """A wrong primitive, the shapes of its inputs, and what the checker should answer.

    mistake   the name of the mistake; None where it has none
    words     a pattern that the message matches
    """
    op = unlisted(forward, *vjps, **options)
    MUSEUM.append(pytest.param(op, shapes, order, mistake, words, id=name))


def detached(x):
    """x as a constant: no gradient flows through it."""
    return x.detach() if isinstance(x, tg.Tensor) else x


# Signs and factors --------------------------------------------------------------------------------

exhibit("sub", "classroom: the minus belongs to db",
        lambda a, b: a - b,
        lambda g, y, a, b: g,
        lambda g, y, a, b: g,
        elementwise=True, shapes=[(3, 4), (3, 4)], mistake="sign",
        words="input 1, entry .* exactly the negative .* minus sign")
exhibit("mean_is_not_sum", "classroom",
        lambda a: a.mean(axis=0),
        lambda g, y, a: broadcast_to(g, shape=a.shape),
        shapes=[(4, 3)], mistake="factor",
        words="is 4 times the right one; 4 is the length of axis 0 of the input: divide")
exhibit("averaged_twice",
        "classroom: the loss takes the mean, its vjp divides by the batch size once more",
        lambda a: (a * a).mean(axis=0),
        lambda g, y, a: 2 * g * a / len(a)**2,
        shapes=[(5, 3)], mistake="factor",
        words="is 1/5 times the right one; 5 is the length of axis 0 of the input: mul")
exhibit("mean_over_two_axes",
        "smolgrad: multiplies the numbers of the axes instead of their lengths",
        lambda a: a.mean(axis=(1, 2)),
        lambda g, y, a: broadcast_to(g.reshape((-1, 1, 1)) / (1 * 2), shape=a.shape),
        shapes=[(2, 3, 5)], mistake="factor", words="is 7.5 times the right one")
exhibit("all_entries", "classroom",
        lambda a: a.mean(),
        lambda g, y, a: broadcast_to(g, shape=a.shape),
        shapes=[(3, 4)], mistake="factor",
        words="12 is the length of axes 0 and 1 of the input: divide")
exhibit("attention_scale", "classroom: the 1/sqrt(d) of attention",
        lambda q: q.sum(axis=1) / 5**0.5,
        lambda g, y, q: broadcast_to(g[:, None], shape=q.shape),
        shapes=[(3, 5)], mistake="factor",
        words="the square root of the length of axis 1 of the input")
exhibit("standard_deviation",
        "keras #3283, #9970; an example of DeZero: exp(logvar) taken for exp(logvar / 2)",
        lambda logvar: np.exp(logvar / 2),
        lambda g, y, logvar: g * y,
        elementwise=True, shapes=[(4, 3)], mistake="factor",
        words="is 2 times the right one; 2 is a 1/2 that is missing")
exhibit("used_twice", "micrograd #2: the second use of a node overwrites the gradient of the first",
        lambda a: a + a,
        lambda g, y, a: g,
        elementwise=True, shapes=[(4, 3)], mistake="factor",
        words="is 1/2 times the right one; .* one of two equal paths")
exhibit("dropout", "classroom: the mask without its 1 / (1 - p)",
        lambda a: a * 1.25,
        lambda g, y, a: g,
        shapes=[(4, 3)], mistake="factor", words="is 1/1.25 times the right one")

# The chain rule -----------------------------------------------------------------------------------

exhibit("no_upstream", 'PyTorch\'s gradcheck asks for it: "backward not multiplied by grad_output"',
        lambda a: np.exp(a),
        lambda g, y, a: y,
        elementwise=True, shapes=[(3, 4)], mistake="upstream", words="multiply by g")
exhibit("no_upstream_of_a_loss",
        "classroom: cross-entropy as the last line of every network, where g is 1",
        lambda a: (a * a).sum(),
        lambda g, y, a: 2 * a,
        shapes=[(3, 4)], mistake="upstream", words="multiply by g")
exhibit("upstream_twice", "classroom",
        lambda a: np.exp(a),
        lambda g, y, a: g * g * y,
        elementwise=True, shapes=[(3, 4)], mistake="not_linear", words="the factor g just once")
exhibit("g_passed_on", "classroom: a layer that was given a backward pass to fill in",
        lambda a: np.sin(a),
        lambda g, y, a: g,
        elementwise=True, shapes=[(3, 4)], mistake="passed_on", words="It is g itself")
exhibit("never_called",
        "smolgrad: indexing files its backward under a name that the engine does not call",
        lambda a: a[:2],
        lambda g, y, a: 0 * a,
        shapes=[(3, 4)], mistake="detached", words="No gradient arrives")
exhibit("zero_softmax", "DeZero: with a cotangent of ones its test of softmax passes zeros",
        lambda a: np.exp(a) / np.exp(a).sum(axis=1, keepdims=True),
        lambda g, y, a: 0 * g,
        shapes=[(3, 4)], mistake="detached", words="No gradient arrives")
exhibit("max_cut_off", "TrenTorch #53, #58: max and mean silently drop the gradient",
        lambda a: a.max(axis=1),
        lambda g, y, a: 0 * a,
        shapes=[(3, 4)], mistake="detached", words="No gradient arrives")
exhibit("untaken_branch",
        "HIPS autograd #802, jax #347: NaN from the branch that where does not take",
        lambda a: np.where(a > 0, np.sqrt(a), 0),
        lambda g, y, a: where(a > 0, g, 0.0) * 0.5 / sqrt(a),
        shapes=[(3, 4)], mistake="not_finite",
        words=r"where\(\) also differentiates the branch that is not taken")

# Shapes and places --------------------------------------------------------------------------------

exhibit("bias", "tinygrad 2021: broadcasting between different numbers of axes",
        lambda x, b: x + b,
        lambda g, y, x, b: g,
        lambda g, y, x, b: g,
        shapes=[(4, 5), (5,)], mistake="shapes",
        words=r"\(4, 5\) for an input of shape \(5,\).*repeated along axis 0")
exhibit("mse_broadcast", "DeZero: a column of predictions against a row of targets",
        lambda p, t: ((p - t)**2).sum(),
        lambda g, y, p, t: 2 * g * (p - t),
        lambda g, y, p, t: -2 * g * (p - t),
        shapes=[(4, 1), (4,)], mistake="shapes",
        words="repeated along axis 1, so its gradient is the sum")
exhibit("summed_too_much", "TinyTorch: a sum over the batch in a vjp that needs none",
        lambda x: x * 2.0,
        lambda g, y, x: (2 * g).sum(axis=0),
        shapes=[(4, 3)], mistake="shapes", words="Too much was summed, over axis 0")
exhibit("expand", "minitorch #1: expand hidden in add, where the repetitions are forgotten",
        lambda x: np.repeat(x, 3, axis=0),
        lambda g, y, x: g[:1],
        shapes=[(1, 4)], mistake="overwritten", words="is used 3 times")
exhibit("square_matmul", "classroom: the shapes of square matrices do not complain",
        lambda a, b: a @ b,
        lambda g, y, a, b: matmul(b, mT(g)),
        lambda g, y, a, b: matmul(mT(a), g),
        shapes=[(4, 4), (4, 4)], mistake="transposed", words="the transpose of the right one")
exhibit("batched_matmul", "DeZero: .T reverses all axes of a stack of matrices",
        lambda a, b: a @ b,
        lambda g, y, a, b: matmul(g, b.transpose(2, 1, 0)),
        lambda g, y, a, b: matmul(a.transpose(2, 1, 0), g),
        shapes=[(5, 2, 3), (5, 3, 4)], mistake="shapes", words="write the shape under every factor")
exhibit("permute",
        "smolgrad: axes where their inverse should be; the checks of DeZero and minitorch miss it",
        lambda a: a.transpose(1, 2, 0),
        lambda g, y, a: permute(g, axes=(1, 2, 0)),
        shapes=[(3, 3, 3)], mistake="not_inverted",
        words=r"permuted by \(1, 2, 0\) again instead of back, by \(2, 0, 1\)")
exhibit("permute_of_other_sizes", "smolgrad: the same, as it crashes",
        lambda a: a.transpose(1, 2, 0),
        lambda g, y, a: permute(g, axes=(1, 2, 0)),
        shapes=[(2, 3, 4)], mistake="shapes", words="the inverse permutation")
exhibit("attention_heads", "classroom: two axes exchanged after a product in between",
        lambda a: a * np.arange(27.0).reshape(3, 3, 3),
        lambda g, y, a: (g * np.arange(27.0).reshape(3, 3, 3)).swapaxes(0, 1),
        shapes=[(3, 3, 3)], mistake="transposed", words=r"Its axes must be permuted by \(1, 0, 2\)")
exhibit("sum_without_keepdims", "TinyTorch: sum(axis=1) sends [1, 2, 3] to every row",
        lambda a: a.sum(axis=1),
        lambda g, y, a: broadcast_to(g, shape=a.shape),
        shapes=[(3, 3)], mistake="another_axis", words="repeated along axis 0 instead of axis 1")
exhibit("duplicate_index",
        "TinyTorch: the gradient of x[[0, 0, 1]] is [1, 1, 0] instead of [2, 1, 0]",
        lambda a: a[[0, 0, 1]],
        lambda g, y, a: where(np.array([[1], [1], [0]]) == 1, getitem(g, index=[1, 2, 2]), 0.0),
        shapes=[(3, 2)], mistake="overwritten", words="is used 2 times but receives one gradient")
exhibit("exchanged_rows", "classroom: two vjps in the wrong order",
        lambda a, b: a * b,
        lambda g, y, a, b: g * a,
        lambda g, y, a, b: g * b,
        elementwise=True, shapes=[(3, 4), (3, 4)], mistake="exchanged",
        words=r"It is the gradient of input [01]")
exhibit("join", "classroom: the parts of g handed out in the wrong order",
        lambda a, b: np.concatenate([a, b]),
        lambda g, y, a, b: g[3:],
        lambda g, y, a, b: g[:3],
        shapes=[(3, 2), (3, 2)], mistake="exchanged", words=r"It is the gradient of input [01]")
exhibit("kernel_flipped", "classroom: convolution or cross-correlation?",
        lambda x, w: convolve(x, w),
        lambda g, y, x, w: F.conv_transpose2d(g, w),
        lambda g, y, x, w: conv_weight(x, g, kernel=(3, 3))[:, :, ::-1, ::-1],
        shapes=[(2, 1, 5, 4), (2, 1, 3, 3)], mistake="flipped", words="reversed along axes 2 and 3")
exhibit("leaky_relu", "classroom: the slope of the other side forgotten",
        lambda x: np.where(x > 0, x, 0.1 * x),
        lambda g, y, x: g * (x > 0),
        elementwise=True, shapes=[(4, 5)], mistake="region", words="exactly where x < 0")
exhibit("last_column", "classroom: an edge that the loop does not reach",
        lambda x: np.tanh(x),
        lambda g, y, x: g * (1 - y * y) * np.array([1, 1, 1, 0]),
        elementwise=True, shapes=[(3, 4)], mistake="region", words="exactly at index 3 of axis 1")

# Terms of a formula -------------------------------------------------------------------------------

exhibit("tanh", "classroom: the square forgotten",
        lambda a: np.tanh(a),
        lambda g, y, a: g * (1 - y),
        elementwise=True, shapes=[(3, 4)], mistake="wrong_factor",
        words=r"A factor 1 \+ y is missing")
exhibit("softsign", "classroom: the quotient rule without its square",
        lambda a: a / (1 + np.abs(a)),
        lambda g, y, a: g / (1 + np.abs(a)),
        elementwise=True, shapes=[(3, 4)], mistake="square", words="a square is missing")
exhibit("squared_twice", "classroom: the power of a power, multiplied once too often",
        lambda a: a**3 / 3,
        lambda g, y, a: g * a**4,
        elementwise=True, shapes=[(3, 4)], mistake="square", words="a square is too many")
exhibit("division", "classroom: d(a/b)/db = -a / b^2",
        lambda a, b: a / b,
        lambda g, y, a, b: g / b,
        lambda g, y, a, b: -g * y,
        elementwise=True, shapes=[(3, 4), (3, 4)], mistake="wrong_factor",
        words="input 1, .*It has a factor x too many")
exhibit("own_factor", "classroom: d(ab)/da = b, not a",
        lambda a, b: a * b + b,
        lambda g, y, a, b: g * a,
        lambda g, y, a, b: g * (a + 1),
        elementwise=True, shapes=[(3, 4), (3, 4)], mistake="wrong_factor",
        words="factor .* where .* should stand")
exhibit("sigmoid", "classroom: s (1 - s) of the input instead of the output",
        lambda a: 1 / (1 + np.exp(-a)),
        lambda g, y, a: g * a * (1 - a),
        elementwise=True, shapes=[(3, 4)], mistake="x_for_y",
        words="the output y instead of the input x")
exhibit("center", "classroom: the mean depends on every entry",
        lambda a: a - a.mean(axis=1, keepdims=True),
        lambda g, y, a: g,
        shapes=[(3, 4)], mistake="missing_sum",
        words=r"the term - mean\(g\) over axis 1 is missing")
exhibit("softmax_diagonal", "classroom: y (1 - y), as for the sigmoid",
        lambda a: np.exp(a) / np.exp(a).sum(axis=1, keepdims=True),
        lambda g, y, a: g * y,
        shapes=[(3, 4)], mistake="missing_product",
        words=r"the term - y sum\(g y\) over axis 1 is missing")
exhibit("log_softmax", "classroom",
        lambda a: a - np.log(np.exp(a).sum(axis=1, keepdims=True)),
        lambda g, y, a: g,
        shapes=[(3, 4)], mistake="missing_product",
        words=r"the term - e\^y sum\(g\) over axis 1 is missing")
exhibit("log_partition", "classroom",
        lambda a: a - np.exp(a).sum(axis=0),
        lambda g, y, a: g,
        shapes=[(3, 4)], mistake="missing_product", words=r"such as e\^y sum\(g\), is missing")
exhibit("max_of_all", "classroom: every entry receives g, not only the largest",
        lambda a: a.max(axis=1),
        lambda g, y, a: broadcast_to(g[:, None], shape=a.shape),
        shapes=[(3, 4)], mistake=None, words="wrong in 9 of 12")
exhibit("unit_vectors", "classroom: the length depends on every entry",
        lambda a: a / np.sqrt((a * a).sum(axis=1, keepdims=True)),
        lambda g, y, a: g / sqrt(sum(a * a, axis=1, keepdims=True)),
        shapes=[(3, 4)], mistake="missing_product", words=r"such as [xy] sum\(g [xy]\), is missing")
exhibit("layer_norm",
        "Odyssey #3873, Mnemosyne #987: a cotangent of ones hides the gradient of a normalization",
        lambda a: (a - a.mean(axis=1, keepdims=True)) / a.std(axis=1, keepdims=True),
        lambda g, y, a: g / sqrt(var(a, axis=1, keepdims=True, correction=0)),
        shapes=[(3, 6)], mistake="two_terms",
        words=r"two terms are missing, like the mean\(g\) and the y mean\(g y\)")
exhibit("batch_norm", "classroom: the variance taken for a constant",
        lambda a: (a - a.mean(axis=0)) / a.std(axis=0),
        lambda g, y, a: (g - mean(g, axis=0)) / sqrt(var(a, axis=0, correction=0)),
        shapes=[(6, 3)], mistake="missing_product", words="constant along axis 0")
exhibit("not_divided", "classroom: everything right but the 1 / s in front",
        lambda a: (a - a.mean(axis=1, keepdims=True)) / a.std(axis=1, keepdims=True),
        lambda g, y, a: g - mean(g, axis=1, keepdims=True) - y * mean(g * y, axis=1, keepdims=True),
        shapes=[(3, 6)], mistake="slices", words="Along axis 1 it is right up to a factor")
exhibit("cumulative_sum", "classroom: the gradient sums from the other end",
        lambda a: a.cumsum(axis=0),
        lambda g, y, a: matmul(np.tri(len(a)), g),
        shapes=[(4, 3)], mistake=None, words="wrong in")

# Second derivatives -------------------------------------------------------------------------------

exhibit("cached_deviation",
        "DeZero: BatchNorm keeps 1/s as a constant, so its second derivative is wrong by a third",
        lambda a: (a - a.mean(axis=0)) / a.std(axis=0),
        lambda g, y, a: (g - mean(g, axis=0) - y * mean(g * y, axis=0)) / np.std(raw(a), axis=0),
        shapes=[(6, 3)], order=2, mistake="frozen",
        words="number kept from the forward computation")
exhibit("convolution_twice",
        "DeZero: the second derivative of a convolution does not reach the image",
        lambda x, w: convolve(x, w),
        lambda g, y, x, w: F.conv_transpose2d(g, w),
        lambda g, y, x, w: conv_weight(detached(x), g, kernel=w.shape[2:]),
        shapes=[(2, 1, 4, 4), (2, 1, 3, 3)], order=2, mistake="frozen",
        words="the gradient of the gradient is wrong")


def rejected(op, shapes, order, seed=0):
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"), pytest.raises(tg.GradcheckError) as caught:
        tg.gradcheck(op, *[rng.standard_normal(s) for s in shapes], order=order, seed=seed)
    return caught


@pytest.mark.parametrize("op, shapes, order, mistake, words", MUSEUM)
def test_it_is_rejected_and_named(op, shapes, order, mistake, words):
    for seed in range(5):
        caught = rejected(op, shapes, order, seed)
        assert caught.value.mistake == mistake, str(caught.value)
        caught.match("(?s)" + words)


def test_the_museum_is_complete():
    """Nearly every exhibit is named, and every mistake that can be named has an exhibit."""
    mistakes = [exhibit.values[3] for exhibit in MUSEUM]
    named = [mistake for mistake in mistakes if mistake]
    assert len(MUSEUM) >= 45
    assert len(named) >= len(MUSEUM) - 2
    assert set(named) == {"shapes", *MISTAKES}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_a_right_row_is_never_rejected(name):
    op = PRIMITIVES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(200):
            rng = np.random.default_rng(seed)
            for sample in samples(op, lambda *shape: rng.standard_normal(shape)):
                f, xs = as_function(op, *sample)
                assert tg.gradcheck(f, *xs, seed=seed, directions=1)
