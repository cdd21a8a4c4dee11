"""Floor 2: convolution, in the form of the calculus table.

A convolution is linear in the image and linear in the kernel, so three operations are closed under differentiation:
the convolution, its adjoint in the image (the transposed convolution) and its adjoint in the kernel. Each vjp is one of
the other two, which is why a gradient through a gradient (WGAN-GP) needs nothing more.

    <g, convolve(x, w)>  =  <transposed(g, w), x>  =  <correlate(x, g), w>

All three are matrix products with the patches of the image: what the kernel looks at, kh x kw pixels of C channels, in one
row for each place (im2col). The rows are built for a few images at a time and thrown away, so they stay in the cache
and cost little memory (on a GPU for all images at once, in one call).

Images are (N, C, H, W); kernels (out, in, kh, kw), and (in, out, kh, kw) for the transposed convolution.
"""
import itertools

from . import backend
from .backend import TinygenError, xp
from .tensor import primitive


def pair(n):
    return tuple(n) if isinstance(n, (tuple, list)) else (n, n)


def output_size(size, kernel, stride, padding):
    """How often a kernel fits along an axis: floor((size + 2 padding - kernel) / stride) + 1"""
    return (size + 2 * padding - kernel) // stride + 1


def _patches(x, kernel, out, stride, start):
    """What a kernel sees of images x (n, C, H, W) at each of `out` places, one place a row: (n OH OW, kh kw C).

    start   the pixel (row, column) where the first patch begins; it may lie outside the image, where all is 0
    """
    (top, left), size = start, [(o - 1) * s + k for o, s, k in zip(out, stride, kernel)]
    image = x[:, :, max(top, 0):max(top + size[0], 0), max(left, 0):max(left + size[1], 0)].transpose(0, 2, 3, 1)
    # channels last: the row of a patch, kw pixels of C channels, is one stretch of memory
    seen = xp.zeros((len(x), *size, x.shape[1]), dtype=x.dtype)                    # (n, H', W', C), zeros around the image
    seen[:, max(-top, 0):, max(-left, 0):][:, :image.shape[1], :image.shape[2]] = image
    patches = xp.lib.stride_tricks.sliding_window_view(seen, kernel, axis=(1, 2))[:, ::stride[0], ::stride[1]]
    return patches.transpose(0, 1, 2, 4, 5, 3).reshape(len(x) * out[0] * out[1], -1)       # (n, OH, OW, kh, kw, C), copied here


def _products(y, x, w, stride, start):
    """Write into y (N, O, OH, OW) each patch of x (N, C, H, W) times the kernel w (O, C, kh, kw)."""
    matrix, out = w.transpose(2, 3, 1, 0).reshape(-1, len(w)), y.shape[2:]         # (kh kw C, O)
    for part in backend.pieces(len(x), size=len(matrix) * out[0] * out[1]):
        pixels = _patches(x[part], w.shape[2:], out, stride, start) @ matrix       # (n OH OW, O)
        y[part] = pixels.reshape((-1,) + out + (len(w),)).transpose(0, 3, 1, 2)


def _geometry(x_shape, kernel, stride, padding):
    """(stride, padding, output size), after asking whether they make sense together."""
    stride, padding = pair(stride), pair(padding)
    out = tuple(output_size(*sizes) for sizes in zip(x_shape[2:], kernel, stride, padding))
    if min(stride) < 1 or min(padding) < 0 or min(out) < 1:
        raise TinygenError(f"A {kernel[0]}x{kernel[1]} kernel with stride {stride} and padding {padding} does not fit on images of "
                           f"{x_shape[2]}x{x_shape[3]}: use a smaller kernel or more padding.")
    return stride, padding, out


def _channels(name, x, w, axis):
    if x.ndim != 4 or w.ndim != 4 or x.shape[1] != w.shape[axis]:
        order = ("(out, in, kh, kw)", "(in, out, kh, kw)")[axis == 0]
        raise TinygenError(f"{name} cannot take images {x.shape} with a kernel {w.shape}: images are (N, C, H, W), the kernel is "
                           f"{order}, and both must have the same number of input channels.")


samples = lambda r: [(r(2, 3, 5, 4), r(4, 3, 3, 2), dict(stride=(2, 1), padding=(1, 0))), (r(2, 2, 4, 4), r(3, 2, 1, 1)),
                     (r(1, 1, 3, 3), r(1, 1, 3, 3), dict(padding=1)), (r(2, 1, 6, 5), r(2, 1, 2, 3), dict(stride=3, padding=1))]


@primitive(lambda g, y, x, w, *, stride=1, padding=0: _back_to_image(g, w, x.shape, stride, padding),
           lambda g, y, x, w, *, stride=1, padding=0: correlate(x, g, kernel=w.shape[2:], stride=stride, padding=padding),
           samples=samples)
def convolve(x, w, *, stride=1, padding=0):
    """y = convolution of x with w;   dx = transposed(g, w),   dw = correlate(x, g)

    y[n, o, a, b] = sum over c, i, j of x[n, c, a s + i - p, b s + j - p] w[o, c, i, j]   with stride s and padding p
    """
    _channels("conv2d", x, w, 1)
    stride, padding, out = _geometry(x.shape, w.shape[2:], stride, padding)
    y = xp.empty((len(x), len(w)) + out, dtype=x.dtype)
    _products(y, x, w, stride, (-padding[0], -padding[1]))
    return y


@primitive(lambda g, y, x, w, *, stride=1, padding=0, output_padding=0: convolve(g, w, stride=stride, padding=padding),
           lambda g, y, x, w, *, stride=1, padding=0, output_padding=0:
           correlate(g, x, kernel=w.shape[2:], stride=stride, padding=padding),
           samples=lambda r: [(r(2, 4, 3, 3), r(4, 3, 3, 2), dict(stride=(2, 1), padding=(1, 0), output_padding=(1, 0))),
                              (r(2, 3, 4, 4), r(3, 2, 1, 1)), (r(1, 2, 2, 2), r(2, 1, 4, 4), dict(stride=2, padding=1))])
def transposed(x, w, *, stride=1, padding=0, output_padding=0):
    """y = every pixel of x stamping w;   dx = convolve(g, w),   dw = correlate(g, x)

    y[n, c, a s + i - p, b s + j - p] = sum over all o, a, b, i, j that give this place of x[n, o, a, b] w[o, c, i, j]
    """
    _channels("conv_transpose2d", x, w, 0)
    (stride, padding, rest), kernel = map(pair, (stride, padding, output_padding)), w.shape[2:]
    size = tuple((n - 1) * s - 2 * p + k + o for n, s, p, k, o in zip(x.shape[2:], stride, padding, kernel, rest))
    if min(size) < 1 or any(not 0 <= o < s for o, s in zip(rest, stride)):
        raise TinygenError(f"conv_transpose2d of images {x.shape[2]}x{x.shape[3]} with a {kernel[0]}x{kernel[1]} kernel, stride {stride}, "
                           f"padding {padding} and output_padding {rest} is impossible: output_padding must be below the stride, "
                           f"and the result of size {size} at least 1x1.")
    y = xp.zeros((len(x), w.shape[1]) + size, dtype=x.dtype)
    # Pixel u of y meets pixel a of x in tap i wherever u = a s + i - p. So the pixels u = r + s m, m = 0, 1, ..., meet the
    # taps i = first + s j only, where r + p = s q + first, at a = m + q - j: a convolution with these taps, turned round.
    for residue in itertools.product(range(stride[0]), range(stride[1])):
        first = [(r + p) % s for r, p, s in zip(residue, padding, stride)]
        taps = w[:, :, first[0]::stride[0], first[1]::stride[1]][:, :, ::-1, ::-1].swapaxes(0, 1)      # (C, O, kh / s, kw / s)
        start = [(r + p) // s - k + 1 for r, p, s, k in zip(residue, padding, stride, taps.shape[2:])]
        pixels = y[:, :, residue[0]::stride[0], residue[1]::stride[1]]
        if taps.size and pixels.size:
            _products(pixels, x, taps, (1, 1), start)
    return y


@primitive(lambda g, y, x, h, *, kernel, stride=1, padding=0: _back_to_image(h, g, x.shape, stride, padding),
           lambda g, y, x, h, *, kernel, stride=1, padding=0: convolve(x, g, stride=stride, padding=padding),
           samples=lambda r: [(r(2, 3, 5, 4), r(2, 4, 3, 3), dict(kernel=(3, 2), stride=(2, 1), padding=(1, 0))),
                              (r(2, 1, 6, 5), r(2, 2, 3, 2), dict(kernel=(2, 3), stride=3, padding=1))])
def correlate(x, h, *, kernel, stride=1, padding=0):
    """y = correlation of x with h;   dx = transposed(h, g),   dh = convolve(x, g)

    y[o, c, i, j] = sum over n, a, b of h[n, o, a, b] x[n, c, a s + i - p, b s + j - p]
    """
    kernel = tuple(kernel)
    stride, padding, out = _geometry(x.shape, kernel, stride, padding)
    if h.shape[2:] != out:
        raise TinygenError(f"correlate wants one h for each place of the kernel, {out}, but h has shape {h.shape}.")
    y = xp.zeros((h.shape[1], kernel[0] * kernel[1] * x.shape[1]), dtype=x.dtype)
    for part in backend.pieces(len(x), size=y.shape[1] * out[0] * out[1]):
        pixels = h[part].transpose(0, 2, 3, 1).reshape(-1, h.shape[1])             # (n OH OW, O)
        y += pixels.T @ _patches(x[part], kernel, out, stride, (-padding[0], -padding[1]))
    return y.reshape((len(y),) + kernel + (-1,)).transpose(0, 3, 1, 2)             # (O, C, kh, kw)


def _back_to_image(g, w, shape, stride, padding):
    """The image gradient of a convolution: as large as the image was, also where the stride left its last rows out."""
    stride, padding = pair(stride), pair(padding)
    rest = tuple(n - ((m - 1) * s - 2 * p + k) for n, m, s, p, k in zip(shape[2:], g.shape[2:], stride, padding, w.shape[2:]))
    return transposed(g, w, stride=stride, padding=padding, output_padding=rest)
