"""Floor 3: what networks are made of, composed from the calculus table: activations, normalisations, losses.

Some compositions are computed so often that a fused primitive pays: one array pass in place of five, and safe from
overflow. Each stands below its plain definition, and the tests prove that the two agree in value, gradient and
Hessian-vector product. Read the plain one to learn, run the fused one.

Names and arguments are PyTorch's, with axis for dim. Images are (N, C, H, W).
"""
import math

import numpy as np

from . import backend
from .backend import TinygenError, xp
from .conv import convolve, transposed
from .ops import (_kept, abs, broadcast_to, clip, erf, exp, getitem, log, matmul, maximum, mean, minimum, mT, pad, permute, primitive, sigmoid,
                  sqrt, sum, tanh, var, where)
from .tensor import Tensor


def fused(plain, *vjps, **options):
    """A primitive that computes the same as the composition `plain`."""
    def declare(forward):
        op = primitive(*vjps, **options)(forward)
        op.plain = plain
        return op
    return declare


# Activations ----------------------------------------------------------------------------------------------------------

def relu_plain(x):
    return maximum(x, 0)  # the same but at x = 0, where the tie shares the gradient and relu's is 0


@fused(relu_plain,
       lambda g, y, x: g * (y > 0), elementwise=True)
def relu(x):
    """y = max(x, 0);   dx = g [x > 0]"""
    return xp.maximum(x, 0)


def leaky_relu_plain(x, negative_slope=0.01):
    return where(x > 0, x, x * negative_slope)


@fused(leaky_relu_plain,
       lambda g, y, x, *, negative_slope=0.01: g * ((x > 0) * x.dtype.type(1 - negative_slope) + negative_slope), elementwise=True)
def leaky_relu(x, *, negative_slope=0.01):
    """y = x where x > 0, else s x;   dx = g where x > 0, else s g   (s: negative_slope, 0 to 1)"""
    if not 0 <= negative_slope <= 1:
        raise TinygenError(f"leaky_relu wants a negative_slope of 0 to 1, not {negative_slope}.")
    return xp.maximum(x, x * negative_slope)  # where() takes many times as long: the processor cannot guess the sign of x


def elu_plain(x, alpha=1.0):
    return where(x > 0, x, alpha * (exp(minimum(x, 0)) - 1))


def _elu_vjp(g, y, x, *, alpha=1.0):
    positive = g * (x > 0)
    return positive + (g - positive) * (where(x > 0, 0.0, y) + alpha)  # at infinity 0 * y would be NaN


@fused(elu_plain, _elu_vjp, elementwise=True)
def elu(x, *, alpha=1.0):
    """y = x where x > 0, else a (e^x - 1);   dx = g where x > 0, else g (y + a)"""
    return xp.maximum(x, 0) + alpha * xp.expm1(xp.minimum(x, 0))


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # the fixed point mean 0, variance 1 (Klambauer et al. 2017)


def selu_plain(x):
    return SELU_SCALE * elu_plain(x, SELU_ALPHA)


@backend.fuse
def _selu_vjp(g, y, x):
    positive = g * (x > 0)
    return SELU_SCALE * positive + (g - positive) * (y + SELU_SCALE * SELU_ALPHA)


@fused(selu_plain, _selu_vjp, elementwise=True)
@backend.fuse
def selu(x):
    """y = s elu(x, a);   dx = g s where x > 0, else g (y + s a)      s = SELU_SCALE, a = SELU_ALPHA"""
    positive = xp.maximum(x, 0)  # x - positive is min(x, 0), but faster (NaN at infinity)
    return SELU_SCALE * positive + SELU_SCALE * SELU_ALPHA * xp.expm1(x - positive)


def softplus_plain(x):
    return log(1 + exp(x))


@fused(softplus_plain,
       lambda g, y, x: g * sigmoid(x), elementwise=True)
@backend.fuse
def softplus(x):
    """y = ln(1 + e^x);   dx = g sigmoid(x)"""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))  # e^x would overflow


def silu_plain(x):
    return x * sigmoid(x)


@backend.fuse
def _silu_vjp(g, y, x):
    s = sigmoid(x)
    return g * (s + y * (1 - s))


@fused(silu_plain, _silu_vjp, elementwise=True)
@backend.fuse
def silu(x):
    """y = x s, s = sigmoid(x);   dx = g (s + y (1 - s))"""
    with np.errstate(over="ignore"):  # where e^-x becomes infinite, y is 0 (NumPy warns, CuPy does not)
        return x / (1 + xp.exp(-x))


def gelu(x, approximate="none"):
    """x times the normal distribution function at x; approximate="tanh" is the faster form of Hendrycks & Gimpel."""
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh((2 / xp.pi)**0.5 * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + erf(x * 0.5**0.5))


def logsigmoid(x):
    """ln sigmoid(x), without ever taking the logarithm of 0."""
    return -softplus(-x)


# Softmax --------------------------------------------------------------------------------------------------------------
# e^x overflows at x = 89 in float32; shifting by the maximum changes nothing in the result and makes the largest e^0.

along_axes = lambda r: [(r(3, 4),), (r(2, 3, 4), dict(axis=1)), (r(3, 4), dict(axis=0)), (r(3, 1),)]


def logsumexp_plain(x, axis=-1, keepdims=False):
    return log(sum(exp(x), axis=axis, keepdims=keepdims))


def _logsumexp_vjp(g, y, x, *, axis=-1, keepdims=False):
    kept = _kept(x.shape, axis)
    return g.reshape(kept) * exp(x - y.reshape(kept))


@fused(logsumexp_plain, _logsumexp_vjp, samples=lambda r: along_axes(r) + [(r(2, 3, 4), dict(axis=(0, 2), keepdims=True))])
def logsumexp(x, *, axis=-1, keepdims=False):
    """y = ln sum e^x along axis;   dx = g e^(x - y)"""
    top = x.max(axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0)  # a row of -inf: the sum is 0, its logarithm -inf
    y = xp.log(xp.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return y if keepdims else y.squeeze(axis)


def softmax_plain(x, axis=-1):
    return exp(x) / sum(exp(x), axis=axis, keepdims=True)


@fused(softmax_plain,
       lambda g, y, x, *, axis=-1: y * (g - sum(g * y, axis=axis, keepdims=True)), samples=along_axes)
def softmax(x, *, axis=-1):
    """y = e^x / sum e^x along axis;   dx = y (g - sum g y)"""
    e = xp.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def log_softmax_plain(x, axis=-1):
    return x - logsumexp_plain(x, axis, keepdims=True)


@fused(log_softmax_plain,
       lambda g, y, x, *, axis=-1: g - exp(y) * sum(g, axis=axis, keepdims=True), samples=along_axes)
def log_softmax(x, *, axis=-1):
    """y = x - ln sum e^x along axis;   dx = g - e^y sum g"""
    x = x - x.max(axis=axis, keepdims=True)
    return x - xp.log(xp.exp(x).sum(axis=axis, keepdims=True))


# Layers as functions --------------------------------------------------------------------------------------------------

def linear_plain(x, weight, bias=0.0):
    return matmul(x, mT(weight)) + bias


def _rows(x):
    """x as a matrix: every axis but the last made into one."""
    return x if x.ndim == 2 else x.reshape((-1, x.shape[-1]))


@fused(linear_plain,
       lambda g, y, x, W, b=None: matmul(_rows(g), W).reshape(x.shape),
       lambda g, y, x, W, b=None: matmul(mT(_rows(g)), _rows(x)),
       lambda g, y, x, W, b=None: sum(_rows(g), axis=0),
       samples=lambda r: [(r(5, 3), r(4, 3), r(4)), (r(5, 3), r(4, 3)), (r(2, 5, 3), r(4, 3), r(4)), (r(0, 3), r(4, 3), r(4))],
       fix="x is (..., in), weight (out, in), bias (out,)")
def linear(x, weight, bias=None):
    """Y = X W^T + b;   dX = G W,   dW = G^T X,   db = sum over rows of G"""
    if x.ndim < 2:
        raise ValueError("x needs a batch axis")
    y = (_rows(x) @ weight.T).reshape(x.shape[:-1] + weight.shape[:1])
    if bias is not None:
        if getattr(bias, "shape", ()) != weight.shape[:1]:
            raise ValueError("the bias is not one number for each output")
        y += bias
    return y


def conv2d(input, weight, bias=None, stride=1, padding=0):
    """Images (N, C, H, W) with kernels (out, C, kh, kw): (N, out, OH, OW), OH = floor((H + 2 padding - kh) / stride) + 1"""
    return convolve(input, weight, bias, stride=stride, padding=padding)


def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0):
    """The adjoint of conv2d: (N, C, H, W), kernels (C, out, kh, kw) -> (N, out, OH, OW), OH = (H - 1) stride - 2 padding + kh
    + output_padding. Each pixel of the input stamps the kernel onto the output."""
    return transposed(input, weight, bias, stride=stride, padding=padding, output_padding=output_padding)


def _blocks(input, k, where):
    """(n, c, h, w, k) after asking whether these are images and a side of blocks."""
    if input.ndim != 4 or not isinstance(k, (int, np.integer)) or k < 1:
        raise TinygenError(f"{where} wants images (N, C, H, W) and the side of square blocks, not shape {input.shape} and {k!r}.")
    return (*input.shape, k)


def avg_pool2d(input, kernel_size):
    """The mean of each kernel_size x kernel_size block; height and width must be multiples of it."""
    n, c, h, w, k = _blocks(input, kernel_size, "avg_pool2d")
    if h % k or w % k:
        raise TinygenError(f"avg_pool2d cannot divide images of {h}x{w} into blocks of {k}x{k}: pad them first.")
    return mean(input.reshape(n, c, h // k, k, w // k, k), axis=(3, 5))


def interpolate(input, scale_factor):
    """Nearest-neighbour upsampling: each pixel becomes a scale_factor x scale_factor block.

    Pass scale_factor by name: the second argument of PyTorch's interpolate is size.
    """
    n, c, h, w, k = _blocks(input, scale_factor, "interpolate")
    return broadcast_to(input.reshape(n, c, h, 1, w, 1), shape=(n, c, h, k, w, k)).reshape(n, c, h * k, w * k)


def embedding(input, weight):
    """Row `input` of the table `weight` (num_embeddings, embedding_dim), for each integer in input."""
    index = _integers(input, "embedding")
    backend.check_index(index, weight.shape[0], f"embedding into a table of shape {weight.shape}")
    return getitem(weight, index=index)


def one_hot(labels, num_classes):
    """(...,) integers as (..., num_classes) rows of zeros with a one at the label, in the default float dtype."""
    index = _integers(labels, "one_hot")
    backend.check_index(index, num_classes, f"one_hot of {num_classes} classes")
    return Tensor(index[..., None] == xp.arange(num_classes), dtype=backend.default_dtype)


def _integers(x, where):
    x = x.data if isinstance(x, Tensor) else xp.asarray(x)
    if x.dtype.kind not in "iu":
        raise TypeError(f"{where} wants integers, this array has dtype {x.dtype}: labels and indices are not converted for you.")
    return x


def dropout(x, p=0.5, training=True):
    """Zero each number with probability p and scale the rest by 1/(1 - p), so that the mean stays; nothing if not training."""
    if not 0 <= p < 1:
        raise TinygenError(f"dropout wants 0 <= p < 1, not {p}.")
    if not training or p == 0:
        return x
    return x * ((backend.rand(x.shape) >= p) * xp.asarray(1 / (1 - p), dtype=x.dtype))


# Normalisation: all three standardise, over different axes -----------------------------------------------------------

def standardize_plain(x, axis, eps=1e-5):
    return (x - mean(x, axis, keepdims=True)) / sqrt(var(x, axis, keepdims=True, correction=0) + eps)


def _standardize_vjp(g, y, x, *, axis, eps=1e-5):
    # mean and standard deviation depend on every x_j: the second and third term
    along = g - mean(g, axis, keepdims=True) - y * mean(g * y, axis, keepdims=True)
    return along / sqrt(var(x, axis, keepdims=True, correction=0) + eps)


@fused(standardize_plain, _standardize_vjp,
       samples=lambda r: [(r(3, 4), dict(axis=-1)), (r(5, 3, 2), dict(axis=(0, 2))), (r(3, 4), dict(axis=0, eps=0.1))])
def standardize(x, *, axis, eps=1e-5):
    """y = (x - mean) / s, s = sqrt(variance + eps), along axis;   dx = (g - mean(g) - y mean(g y)) / s"""
    x = x - x.mean(axis=axis, keepdims=True)
    return x / xp.sqrt((x * x).mean(axis=axis, keepdims=True) + eps)


def scale_shift_plain(x, a, b):
    return x * a + b


@fused(scale_shift_plain,
       lambda g, y, x, a, b: g * a,
       lambda g, y, x, a, b: g * x,
       lambda g, y, x, a, b: g, elementwise=True, samples=lambda r: [(r(2, 3, 4), r(3, 1), r(3, 1)), (r(3), r(3), r())])
@backend.fuse
def scale_shift(x, a, b):
    """y = x a + b;   dx = g a,   da = g x,   db = g

    As one operation, so that the product x a is not kept for the backward pass.
    """
    return x * a + b


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Standardise each sample over its last axes (those of normalized_shape), then scale and shift."""
    shape = tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if x.shape[x.ndim - len(shape):] != shape:
        raise TinygenError(f"layer_norm over {shape} does not fit x of shape {x.shape}: the last axes must be equal.")
    return _scale_shift(standardize(x, axis=tuple(range(-len(shape), 0)), eps=eps), weight, bias)


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    """Standardise each sample (N, C, ...) over groups of C / num_groups channels, then scale and shift each channel."""
    n, c = x.shape[:2]
    if c % num_groups:
        raise TinygenError(f"group_norm cannot divide {c} channels into {num_groups} equal groups.")
    y = standardize(x.reshape(n, num_groups, math.prod(x.shape[1:]) // num_groups), axis=-1, eps=eps).reshape(x.shape)
    return _scale_shift_channels(y, weight, bias)


def batch_norm(x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """Standardise each channel of x (N, C, ...) over the batch, then scale and shift it.

    training   True: the statistics are the batch's, and the running ones (raw arrays, changed in place) move towards
               them by `momentum`; the variance that is remembered is the unbiased one. False: the running ones are used
    """
    axis = (0,) + tuple(range(2, x.ndim))
    if training or running_mean is None:
        n = x.size // x.shape[1]
        if n < 2:
            raise TinygenError(f"batch_norm in training needs more than one value per channel, x has shape {x.shape}: "
                               "use a larger batch, or .eval().")
        y = standardize(x, axis=axis, eps=eps)
        if running_mean is not None:
            values = x.data if isinstance(x, Tensor) else x
            running_mean += momentum * (values.mean(axis=axis) - running_mean)
            running_var += momentum * (values.var(axis=axis) * (n / (n - 1)) - running_var)
    else:
        shape = (-1,) + (1,) * (x.ndim - 2)
        y = (x - running_mean.reshape(shape)) * (1 / xp.sqrt(running_var + eps)).reshape(shape)
    return _scale_shift_channels(y, weight, bias)


def _scale_shift(y, weight, bias):
    """scale_shift, where either may be None."""
    if weight is not None and bias is not None:
        return scale_shift(y, weight, bias)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _scale_shift_channels(y, weight, bias):
    """weight and bias hold a number for each channel of y (N, C, ...)."""
    shape = (-1,) + (1,) * (y.ndim - 2)                                       # (C,) -> (C, 1, 1)
    return _scale_shift(y, *(p if p is None else p.reshape(shape) for p in (weight, bias)))


# Losses and likelihoods -----------------------------------------------------------------------------------------------

def _reduce(loss, reduction):
    if reduction not in ("mean", "sum", "none"):
        raise TinygenError(f"reduction is 'mean', 'sum' or 'none', not {reduction!r}.")
    return loss if reduction == "none" else mean(loss) if reduction == "mean" else sum(loss)


def _same_shape(input, target, loss):
    for x in (input, target):
        if not hasattr(x, "shape"):
            raise TypeError(f"{loss} compares Tensors or arrays, not a {type(x).__name__}: wrap it in tg.Tensor(...).")
    if input.shape != target.shape:
        raise TinygenError(f"{loss} compares number with number, but the input has shape {input.shape} and the target "
                           f"{target.shape}: reshape one of them.")


def squared_error_plain(x, t):
    return (x - t)**2


@backend.fuse
def _squared_error_vjp(g, y, x, t):
    return g * (2 * (x - t))


@fused(squared_error_plain, _squared_error_vjp, lambda g, y, x, t: -_squared_error_vjp(g, y, x, t), elementwise=True)
@backend.fuse
def squared_error(x, t):
    """y = (x - t)^2;   dx = 2 g (x - t),   dt = -2 g (x - t)"""
    d = x - t
    return d * d


def mse_loss(input, target, reduction="mean"):
    """(input - target)^2"""
    _same_shape(input, target, "mse_loss")
    return _reduce(squared_error(input, target), reduction)


def l1_loss(input, target, reduction="mean"):
    """|input - target|"""
    _same_shape(input, target, "l1_loss")
    return _reduce(abs(input - target), reduction)


def cross_entropy(input, target, reduction="mean"):
    """-ln softmax(input)[target]: logits (N, C, ...) against integer labels (N, ...), or class probabilities (N, C, ...)"""
    target = target if hasattr(target, "shape") else Tensor(target)
    if input.ndim < 2:
        raise TinygenError(f"cross_entropy wants logits (N, C), one row for each sample, not shape {input.shape}.")
    log_p = log_softmax(input, axis=1)
    if target.dtype.kind not in "iu":
        if target.ndim < input.ndim:
            raise TypeError(f"cross_entropy wants integer labels, not {target.dtype}: target.astype('int64').")
        _same_shape(input, target, "cross_entropy")
        return _reduce(-sum(target * log_p, axis=1), reduction)
    index = _integers(target, "cross_entropy")
    if index.shape != input.shape[:1] + input.shape[2:]:
        raise TinygenError(f"cross_entropy of logits {input.shape} wants labels of shape {input.shape[:1] + input.shape[2:]}, not "
                           f"{index.shape}.")
    backend.check_index(index, input.shape[1], f"cross_entropy over {input.shape[1]} classes")
    rows = permute(log_p, axes=(0, *range(2, input.ndim), 1)).reshape(index.size, input.shape[1])   # (N, C, ...) -> (N ..., C)
    return _reduce(-getitem(rows, index=(xp.arange(index.size), index.reshape(-1))).reshape(index.shape), reduction)


def bce_with_logits_plain(x, t):
    return softplus(x) - t * x


@fused(bce_with_logits_plain,
       lambda g, y, x, t: g * (sigmoid(x) - t),
       lambda g, y, x, t: -g * x, elementwise=True)
@backend.fuse
def bce_with_logits(x, t):
    """y = -t ln s - (1 - t) ln(1 - s), s = sigmoid(x);   dx = g (s - t),   dt = -g x"""
    return xp.maximum(x, 0) - t * x + xp.log1p(xp.exp(-xp.abs(x)))


def binary_cross_entropy_with_logits(input, target, reduction="mean"):
    """-ln p(target) of a Bernoulli variable whose logit is input; target in [0, 1]"""
    _same_shape(input, target, "binary_cross_entropy_with_logits")
    return _reduce(bce_with_logits(input, target), reduction)


def gaussian_nll_loss(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """-ln N(target; mean input, variance var); full=True keeps the constant ln(2 pi)/2.

    var is kept at eps or above; where it was below, its gradient is 0 (PyTorch lets it pass).
    """
    _same_shape(input, target, "gaussian_nll_loss")
    var = var.reshape(var.shape + (1,)) if var.shape == input.shape[:-1] else var                     # one for each row
    if var.shape not in (input.shape, input.shape[:-1] + (1,)):
        raise TinygenError(f"gaussian_nll_loss wants a variance for each number or each row of {input.shape}, not shape {var.shape}.")
    var = clip(var, min=eps)
    loss = 0.5 * (log(var) + (input - target)**2 / var)
    return _reduce(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


def kl_standard_normal(mean, logvar):
    """KL(N(mean, diag e^logvar) || N(0, I)) in nats, summed over the last axis: (N, D) gives (N,)

    1/2 sum (mean^2 + variance - 1 - ln variance)   (Kingma & Welling 2014, appendix B)
    """
    return 0.5 * sum(mean * mean + exp(logvar) - 1 - logvar, axis=-1)
