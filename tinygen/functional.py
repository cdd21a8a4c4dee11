"""Floor 5: what networks are made of: activations, normalizations, losses.

All are composed from the calculus table. Some compositions are computed so often that a fused
primitive pays: one array pass instead of five, and safe from overflow. Each stands below its plain
definition, and the tests prove that the two agree in value, gradient and Hessian-vector product.
Read the plain one to learn, run the fused one.

Names and arguments are PyTorch's, with axis for dim. Images are (N, C, H, W).
"""
import math

import numpy as np

from . import backend, ops
from .backend import TinygenError, xp
from .conv import conv_transpose, convolve
from .engine import Tensor, primitive, raw
from .ops import (elementwise, erf, exp, kernel, keepdims_shape, log, matmul, mT, pad, sigmoid,
                  sqrt, tanh, where)
from .speed import expm1, log1p


def fused(plain, *vjps, row=primitive, **options):
    """A row of the table that computes the same as the composition `plain`."""
    def declare(forward):
        op = row(*vjps, **options)(forward)
        op.plain = plain
        return op
    return declare


# Activations --------------------------------------------------------------------------------------

def relu_plain(x):
    return ops.maximum(x, 0)  # the same except at x = 0, where the tie shares g and relu passes 0


@fused(relu_plain,
       lambda g, y, x: g * (y > 0), row=elementwise)
def relu(x):
    """y = max(x, 0);   dx = g [x > 0]"""
    return xp.maximum(x, 0)


def leaky_relu_plain(x, negative_slope=0.01):
    return where(x > 0, x, x * negative_slope)


@fused(leaky_relu_plain,
       lambda g, y, x, *, negative_slope:
       g * ((x > 0) * x.dtype.type(1 - negative_slope) + negative_slope), row=elementwise)
def leaky_relu(x, *, negative_slope=0.01):
    """y = x where x > 0, else s x;   dx = g where x > 0, else s g   (s: negative_slope, 0 to 1)"""
    if not 0 <= negative_slope <= 1:
        raise TinygenError(f"leaky_relu needs a negative_slope of 0 to 1, not {negative_slope}.")
    return xp.maximum(x, x * negative_slope)  # where() is slow: the sign of x is unpredictable


def elu_plain(x, alpha=1.0):
    return where(x > 0, x, alpha * (exp(ops.minimum(x, 0)) - 1))


def _elu_vjp(g, y, x, *, alpha):
    positive = g * (x > 0)
    return positive + (g - positive) * (where(x > 0, 0.0, y) + alpha)  # at infinity 0 y is NaN


@fused(elu_plain, _elu_vjp, row=elementwise)
def elu(x, *, alpha=1.0):
    """y = x where x > 0, else a (e^x - 1);   dx = g where x > 0, else g (y + a)"""
    return xp.maximum(x, 0) + alpha * expm1(xp.minimum(x, 0))


SELU_SCALE = 1.0507009873554805  # with these two, mean 0 and variance 1 are a fixed point
SELU_ALPHA = 1.6732632423543772  # (Klambauer et al. 2017)


def selu_plain(x):
    return SELU_SCALE * elu_plain(x, SELU_ALPHA)


@fused(selu_plain,
       lambda g, y, x: _elu_vjp(SELU_SCALE * g, y / SELU_SCALE, x, alpha=SELU_ALPHA),
       row=elementwise)
def selu(x):
    """y = s elu(x, a);   dx = g s where x > 0, else g (y + s a)   (s: SELU_SCALE, a: SELU_ALPHA)"""
    return SELU_SCALE * elu(x, alpha=SELU_ALPHA)


def softplus_plain(x):
    return log(1 + exp(x))


@fused(softplus_plain,
       lambda g, y, x: g * sigmoid(x), row=elementwise)
def softplus(x):
    """y = ln(1 + e^x);   dx = g sigmoid(x)"""
    return xp.maximum(x, 0) + log1p(xp.exp(-xp.abs(x)))  # e^x would overflow


def silu_plain(x):
    return x * sigmoid(x)


def _silu_vjp(g, y, x):
    s = sigmoid(x)
    return g * (s + y * (1 - s))


@fused(silu_plain, _silu_vjp, row=elementwise)
def silu(x):
    """y = x s, s = sigmoid(x);   dx = g (s + y (1 - s))"""
    with np.errstate(over="ignore"):  # where e^-x is infinite, y is 0 (NumPy warns, CuPy does not)
        return x / (1 + xp.exp(-x))


def gelu(x, approximate="none"):
    """x times the normal distribution function at x; approximate="tanh" is a faster form.

    (Hendrycks & Gimpel 2016)
    """
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh((2 / math.pi)**0.5 * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + erf(x * 0.5**0.5))


def logsigmoid(x):
    """ln sigmoid(x), without ever taking the logarithm of 0."""
    return -softplus(-x)


# Softmax ------------------------------------------------------------------------------------------
# e^x overflows at x = 89 in float32. Subtracting the maximum changes nothing in the result, and
# makes the largest e^0.

def logsumexp_plain(x, axis=-1, keepdims=False):
    return log(ops.sum(exp(x), axis=axis, keepdims=keepdims))


def _logsumexp_vjp(g, y, x, *, axis, keepdims):
    kept = keepdims_shape(x.shape, axis)
    return g.reshape(kept) * exp(x - y.reshape(kept))


@fused(logsumexp_plain, _logsumexp_vjp)
def logsumexp(x, *, axis=-1, keepdims=False):
    """y = ln sum e^x along axis;   dx = g e^(x - y)"""
    top = x.max(axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0)  # a row of -inf: its sum is 0, the logarithm -inf
    y = xp.log(xp.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return y if keepdims else y.squeeze(axis)


def softmax_plain(x, axis=-1):
    return exp(x) / ops.sum(exp(x), axis=axis, keepdims=True)


@fused(softmax_plain,
       lambda g, y, x, *, axis: y * (g - ops.sum(g * y, axis=axis, keepdims=True)))
def softmax(x, *, axis=-1):
    """y = e^x / sum e^x along axis;   dx = y (g - sum g y)"""
    e = xp.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def log_softmax_plain(x, axis=-1):
    return x - logsumexp_plain(x, axis, keepdims=True)


@fused(log_softmax_plain,
       lambda g, y, x, *, axis: g - exp(y) * ops.sum(g, axis=axis, keepdims=True))
def log_softmax(x, *, axis=-1):
    """y = x - ln sum e^x along axis;   dx = g - e^y sum g"""
    x = x - x.max(axis=axis, keepdims=True)
    return x - xp.log(xp.exp(x).sum(axis=axis, keepdims=True))


# Layers as functions ------------------------------------------------------------------------------

def linear_plain(x, weight, bias=0.0):
    return matmul(x, mT(weight)) + bias


def _rows(x):
    """x as a matrix: every axis but the last made into one."""
    return x if x.ndim == 2 else x.reshape((-1, x.shape[-1]))


@fused(linear_plain,
       lambda g, y, x, W, b: matmul(_rows(g), W).reshape(x.shape),
       lambda g, y, x, W, b: matmul(mT(_rows(g)), _rows(x)),
       lambda g, y, x, W, b: ops.sum(_rows(g), axis=0),
       fix="x is (..., in), weight (out, in), bias (out,).")
def linear(x, weight, bias=None):
    """Y = X W^T + b;   dx = G W,   dweight = G^T X,   dbias = sum over rows of G"""
    if x.ndim < 2:
        raise ValueError("x needs a batch axis")
    y = (_rows(x) @ weight.T).reshape(x.shape[:-1] + weight.shape[:1])
    if bias is not None:
        if getattr(bias, "shape", ()) != weight.shape[:1]:
            raise ValueError("the bias is not one number for each output")
        y += bias
    return y


def pair(n):
    """A number for both axes, or (for rows, for columns), as a tuple of two."""
    both = tuple(n) if isinstance(n, (tuple, list)) else (n, n)
    if len(both) != 2:
        raise TinygenError(f"A size is one number, or two (for rows, for columns), not {n}.")
    return both


def conv2d(input, weight, bias=None, stride=1, padding=0):
    """Images (N, C, H, W) with kernels (out, C, kh, kw): (N, out, OH, OW)

    OH = floor((H + 2 padding - kh) / stride) + 1, OW likewise
    """
    return convolve(input, weight, bias, stride=pair(stride), padding=pair(padding))


def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0):
    """The adjoint of conv2d: images (N, C, H, W), kernels (C, out, kh, kw) -> (N, out, OH, OW)

    OH = (H - 1) stride - 2 padding + kh + output_padding. Each pixel of the input adds the kernel,
    times its value, to the output.
    """
    stride, padding, more = [pair(n) for n in (stride, padding, output_padding)]
    sizes = zip(input.shape[2:], stride, padding, weight.shape[2:], more)
    size = tuple((n - 1) * s - 2 * p + k + m for n, s, p, k, m in sizes)
    if any(not 0 <= m < s for m, s in zip(more, stride)) or min(size, default=1) < 1:
        raise TinygenError(f"conv_transpose2d with stride {stride} and output_padding {more} is "
                           "impossible: output_padding must be below the stride, and the result, "
                           f"here {size}, at least 1x1.")
    return conv_transpose(input, weight, bias, size=size, stride=stride, padding=padding)


def _check_blocks(name, images, k):
    if images.ndim != 4 or not isinstance(k, (int, np.integer)) or k < 1:
        raise TinygenError(f"{name} needs images (N, C, H, W) and the side of square blocks, not "
                           f"shape {images.shape} and {k!r}.")


def avg_pool2d(input, kernel_size):
    """The mean of each kernel_size x kernel_size block, of which the images are made."""
    _check_blocks("avg_pool2d", input, kernel_size)
    (n, c, h, w), k = input.shape, kernel_size
    if h % k or w % k:
        raise TinygenError(
            f"avg_pool2d cannot divide images of {h}x{w} into blocks of {k}x{k}: pad them first.")
    return ops.mean(input.reshape(n, c, h // k, k, w // k, k), axis=(3, 5))


def interpolate(input, scale_factor):
    """Nearest-neighbor upsampling: each pixel becomes a scale_factor x scale_factor block.

    Pass scale_factor by name: the second argument of PyTorch's interpolate is size.
    """
    _check_blocks("interpolate", input, scale_factor)
    (n, c, h, w), k = input.shape, scale_factor
    blocks = ops.broadcast_to(input.reshape(n, c, h, 1, w, 1), shape=(n, c, h, k, w, k))
    return blocks.reshape(n, c, h * k, w * k)


def _index(x, size, what):
    """x as a raw integer array with entries in [0, size)."""
    x = xp.asarray(raw(x))
    if x.dtype.kind not in "iu":
        raise TypeError(f"{what} needs integers, this array has dtype {x.dtype}: labels and "
                        "indices are not converted for you.")
    backend.check_index(x, size, what)
    return x


def embedding(input, weight):
    """Row `input` of the table `weight` (num_embeddings, embedding_dim), for each integer."""
    index = _index(input, len(weight), f"embedding into a table of shape {weight.shape}")
    return ops.getitem(weight, index=index)


def one_hot(labels, num_classes):
    """(...,) integers as rows of zeros with a one at the label: (..., num_classes), floating."""
    index = _index(labels, num_classes, f"one_hot of {num_classes} classes")
    return Tensor(index[..., None] == xp.arange(num_classes), dtype=backend.default_dtype())


def dropout(x, p=0.5, training=True):
    """Zero each number with probability p and scale the rest by 1/(1 - p), so the mean stays."""
    if not 0 <= p < 1:
        raise TinygenError(f"dropout needs 0 <= p < 1, not {p}.")
    if not training or p == 0:
        return x
    return x * ((backend.rand(x.shape) >= p) * xp.asarray(1 / (1 - p), dtype=x.dtype))


# Normalization: all three standardize, over different axes ----------------------------------------

def standardize_plain(x, axis, eps=1e-5):
    std = sqrt(ops.var(x, axis, keepdims=True, correction=0) + eps)
    return (x - ops.mean(x, axis, keepdims=True)) / std


def _standardize_vjp(g, y, x, *, axis, eps):
    # mean and standard deviation depend on every x_j: the second and third term
    along = g - ops.mean(g, axis, keepdims=True) - y * ops.mean(g * y, axis, keepdims=True)
    return along / sqrt(ops.var(x, axis, keepdims=True, correction=0) + eps)


@fused(standardize_plain, _standardize_vjp)
def standardize(x, *, axis, eps=1e-5):
    """y = (x - mean) / s along axis;   dx = (g - mean(g) - y mean(g y)) / s

    s = sqrt(variance + eps)
    """
    x = x - x.mean(axis=axis, keepdims=True)
    return x / xp.sqrt((x * x).mean(axis=axis, keepdims=True) + eps)


def scale_shift_plain(x, a, b):
    return x * a + b


@fused(scale_shift_plain,
       lambda g, y, x, a, b: g * a,
       lambda g, y, x, a, b: g * x,
       lambda g, y, x, a, b: g, row=elementwise)
def scale_shift(x, a, b):
    """y = x a + b;   dx = g a,   da = g x,   db = g

    As one operation, so that the product x a is not kept for the backward pass.
    """
    return x * a + b


def _affine(y, weight, bias, channels=False):
    """y weight + bias, either of them may be None; channels: one number for each channel of y."""
    shape = (-1,) + (1,) * (y.ndim - 2) if channels else None       # (C,) -> (C, 1, 1)
    weight, bias = [p if p is None or not channels else p.reshape(shape) for p in (weight, bias)]
    if weight is not None and bias is not None:
        return scale_shift(y, weight, bias)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Standardize each sample over its last axes (those of normalized_shape), then y w + b."""
    shape = normalized_shape if isinstance(normalized_shape, (tuple, list)) else [normalized_shape]
    if x.shape[x.ndim - len(shape):] != tuple(shape):
        raise TinygenError(f"layer_norm over {tuple(shape)} does not fit x of shape {x.shape}: the "
                           "last axes must be equal.")
    return _affine(standardize(x, axis=tuple(range(-len(shape), 0)), eps=eps), weight, bias)


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    """Standardize each sample (N, C, ...) over groups of C / num_groups channels, then y w + b."""
    n, c = x.shape[:2]
    if c % num_groups:
        raise TinygenError(f"group_norm cannot divide {c} channels into {num_groups} equal groups.")
    groups = x.reshape(n, num_groups, math.prod(x.shape[1:]) // num_groups)
    y = standardize(groups, axis=-1, eps=eps).reshape(x.shape)
    return _affine(y, weight, bias, channels=True)


def batch_norm(x, running_mean=None, running_var=None, weight=None, bias=None, training=False,
               momentum=0.1, eps=1e-5):
    """Standardize each channel of x (N, C, ...) over the batch, then y w + b.

    training   True: the statistics are those of the batch, and the running ones (Tensors, which are
               given new data) move towards them by `momentum`; the variance that is remembered is
               the unbiased one. False: the running ones are used
    """
    axis = (0,) + tuple(range(2, x.ndim))
    if training or running_mean is None:
        n = x.size // x.shape[1]
        if n < 2:
            raise TinygenError("batch_norm in training needs more than one value per channel, x "
                               f"has shape {x.shape}: use a larger batch, or .eval().")
        y = standardize(x, axis=axis, eps=eps)
        if running_mean is not None:
            mean, var = raw(x).mean(axis=axis), raw(x).var(axis=axis) * (n / (n - 1))
            running_mean.data = running_mean.data + momentum * (mean - running_mean.data)
            running_var.data = running_var.data + momentum * (var - running_var.data)
    else:
        shape = (-1,) + (1,) * (x.ndim - 2)
        mean, scale = raw(running_mean), 1 / xp.sqrt(raw(running_var) + eps)
        y = (x - mean.reshape(shape)) * scale.reshape(shape)
    return _affine(y, weight, bias, channels=True)


# Losses and likelihoods ---------------------------------------------------------------------------

def _reduce(loss, reduction):
    if reduction not in ("mean", "sum", "none"):
        raise TinygenError(f"reduction is 'mean', 'sum' or 'none', not {reduction!r}.")
    return {"mean": ops.mean, "sum": ops.sum, "none": lambda x: x}[reduction](loss)


def _same_shape(loss, input, target):
    for x in (input, target):
        if not hasattr(x, "shape"):
            raise TypeError(f"{loss} compares Tensors or arrays, not a {type(x).__name__}: wrap it "
                            "in tg.Tensor(...).")
    if input.shape != target.shape:
        raise TinygenError(f"{loss} compares number with number, but the input has shape "
                           f"{input.shape} and the target {target.shape}: reshape one of them.")


def squared_error_plain(x, t, n=1):
    return ops.sum((x - t)**2) / n


@fused(squared_error_plain,
       lambda g, y, x, t, *, n: g * (2 / n) * (x - t),
       lambda g, y, x, t, *, n: g * (2 / n) * (t - x), row=kernel)
def squared_error(x, t, *, n=1):
    """y = sum (x - t)^2 / n;   dx = 2 g (x - t) / n,   dt = 2 g (t - x) / n"""
    d = x - t
    return xp.sum(d * d) * (1 / n)


def mse_loss(input, target, reduction="mean"):
    """(input - target)^2"""
    _same_shape("mse_loss", input, target)
    if reduction in ("mean", "sum"):
        n = input.size or math.nan  # the mean of nothing is not a number
        return squared_error(input, target, n=n if reduction == "mean" else 1)
    return _reduce((input - target)**2, reduction)


def l1_loss(input, target, reduction="mean"):
    """|input - target|"""
    _same_shape("l1_loss", input, target)
    return _reduce(ops.abs(input - target), reduction)


def cross_entropy(input, target, reduction="mean"):
    """-ln softmax(input)[target], for logits (N, C, ...) and integer labels (N, ...).

    Class probabilities (N, C, ...) in place of labels give -sum over C of target ln softmax(input).
    """
    target = target if hasattr(target, "shape") else Tensor(target)
    if input.ndim < 2:
        raise TinygenError("cross_entropy needs logits (N, C), one row for each sample, not shape "
                           f"{input.shape}.")
    classes = input.shape[1]
    log_p = log_softmax(input, axis=1)
    if target.dtype.kind not in "iu":
        if target.ndim < input.ndim:
            raise TypeError(f"cross_entropy needs integer labels, not {target.dtype}: "
                            "target.astype('int64').")
        _same_shape("cross_entropy", input, target)
        return _reduce(-ops.sum(target * log_p, axis=1), reduction)
    wanted = input.shape[:1] + input.shape[2:]
    if target.shape != wanted:
        raise TinygenError(f"cross_entropy of logits {input.shape} needs labels of shape {wanted}, "
                           f"not {target.shape}.")
    places = list(xp.ix_(*map(xp.arange, wanted)))                      # (N, 1, ...), (1, d, ...)
    places.insert(1, _index(target, classes, f"cross_entropy over {classes} classes"))
    return _reduce(-ops.getitem(log_p, index=tuple(places)), reduction)     # (N, ...)


def bce_with_logits_plain(x, t):
    return softplus(x) - t * x


@fused(bce_with_logits_plain,
       lambda g, y, x, t: g * (sigmoid(x) - t),
       lambda g, y, x, t: -g * x, row=elementwise)
def bce_with_logits(x, t):
    """y = -t ln s - (1 - t) ln(1 - s), s = sigmoid(x);   dx = g (s - t),   dt = -g x"""
    return xp.maximum(x, 0) - t * x + log1p(xp.exp(-xp.abs(x)))


def binary_cross_entropy_with_logits(input, target, reduction="mean"):
    """-ln p(target) of a Bernoulli variable whose logit is input; target in [0, 1]"""
    _same_shape("binary_cross_entropy_with_logits", input, target)
    return _reduce(bce_with_logits(input, target), reduction)


def gaussian_nll_loss(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """-ln N(target; mean input, variance var); full=True keeps the constant ln(2 pi)/2.

    var is kept at eps or above; where it was below, its gradient is 0 (PyTorch lets it pass).
    """
    _same_shape("gaussian_nll_loss", input, target)
    if var.shape == input.shape[:-1]:
        var = var.reshape(var.shape + (1,))                            # one for each row
    if var.shape not in (input.shape, input.shape[:-1] + (1,)):
        raise TinygenError("gaussian_nll_loss needs a variance for each number or each row of "
                           f"{input.shape}, not shape {var.shape}.")
    var = ops.clip(var, min=eps)
    loss = 0.5 * (log(var) + (input - target)**2 / var)
    return _reduce(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


def kl_standard_normal(mean, logvar):
    """KL(N(mean, diag e^logvar) || N(0, I)) in nats, summed over the last axis: (N, D) -> (N,)

    1/2 sum (mean^2 + variance - 1 - ln variance)   (Kingma & Welling 2014, appendix B)
    """
    return 0.5 * ops.sum(mean * mean + exp(logvar) - 1 - logvar, axis=-1)
