"""Floor 2: convolution, in the form of the calculus table.

A convolution is linear in the image and linear in the kernel, so three operations are closed under differentiation:
the convolution, its adjoint in the image (the transposed convolution) and its adjoint in the kernel. Each vjp is one of
the other two, which is why a gradient through a gradient (WGAN-GP) needs nothing more.

    <g, convolve(x, w)>  =  <transposed(g, w), x>  =  <correlate(x, g), w>

All three are matrix products with the columns of the image: the kh x kw patches that the kernel looks at, one patch a
column (im2col). The columns are built for a few images at a time and thrown away, so they stay in the cache and cost
no memory worth mentioning.

Images are (N, C, H, W); kernels (out, in, kh, kw), and (in, out, kh, kw) for the transposed convolution.
"""
from . import backend
from .backend import TinygenError, xp
from .tensor import primitive


def pair(n):
    return tuple(n) if isinstance(n, (tuple, list)) else (n, n)


def output_size(size, kernel, stride, padding):
    """How often a kernel fits along an axis: floor((size + 2 padding - kernel) / stride) + 1"""
    return (size + 2 * padding - kernel) // stride + 1


def _places(kernel, out, stride):
    """For each offset (i, j) within the kernel: the slice of the padded image that it sees, one pixel per position."""
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i, i + stride[0] * (out[0] - 1) + 1, stride[0])
            yield i, j, (slice(None), slice(None), rows, slice(j, j + stride[1] * (out[1] - 1) + 1, stride[1]))


def _columns(x, kernel, out, stride, padding):
    """The patches of x (n, C, H, W) as columns (n, C kh kw, OH OW)."""
    (n, c, h, w), (ph, pw) = x.shape, padding
    if ph or pw:
        padded = xp.zeros((n, c, h + 2 * ph, w + 2 * pw), dtype=x.dtype)
        padded[:, :, ph:ph + h, pw:pw + w] = x
        x = padded
    columns = xp.empty((n, c) + kernel + out, dtype=x.dtype)                       # (n, C, kh, kw, OH, OW)
    for i, j, seen in _places(kernel, out, stride):
        columns[:, :, i, j] = x[seen]
    return columns.reshape(n, c * kernel[0] * kernel[1], out[0] * out[1])


def _image(columns, shape, kernel, out, stride, padding):
    """The adjoint of _columns: every pixel is the sum over the patches it was part of."""
    (n, c, h, w), (ph, pw) = shape, padding
    columns = columns.reshape((n, c) + kernel + out)
    x = xp.zeros((n, c, h + 2 * ph, w + 2 * pw), dtype=columns.dtype)
    for i, j, seen in _places(kernel, out, stride):
        x[seen] += columns[:, :, i, j]                                             # patches overlap: add, do not assign
    return x[:, :, ph:ph + h, pw:pw + w]


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
    kernel, matrix = w.shape[2:], w.reshape(len(w), -1)                            # (O, C kh kw)
    stride, padding, out = _geometry(x.shape, kernel, stride, padding)
    y = xp.empty((len(x), len(w)) + out, dtype=x.dtype)
    for part in backend.pieces(len(x), size=matrix.shape[1] * out[0] * out[1]):
        y[part] = (matrix @ _columns(x[part], kernel, out, stride, padding)).reshape((-1, len(w)) + out)
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
    matrix = w.reshape(len(w), -1)                                                 # (O, C kh kw)
    y = xp.empty((len(x), w.shape[1]) + size, dtype=x.dtype)
    for part in backend.pieces(len(x), size=matrix.shape[1] * x.shape[2] * x.shape[3]):
        columns = matrix.T @ x[part].reshape(-1, len(w), x.shape[2] * x.shape[3])  # (n, C kh kw, H W)
        y[part] = _image(columns, (len(columns),) + y.shape[1:], kernel, x.shape[2:], stride, padding)
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
    y = xp.zeros((h.shape[1], x.shape[1] * kernel[0] * kernel[1]), dtype=x.dtype)
    for part in backend.pieces(len(x), size=y.shape[1] * out[0] * out[1]):
        columns = _columns(x[part], kernel, out, stride, padding)                  # (n, C kh kw, OH OW)
        y += (h[part].reshape(len(columns), -1, out[0] * out[1]) @ columns.swapaxes(1, 2)).sum(axis=0)
    return y.reshape((h.shape[1], x.shape[1]) + kernel)


def _back_to_image(g, w, shape, stride, padding):
    """The image gradient of a convolution: as large as the image was, also where the stride left its last rows out."""
    stride, padding = pair(stride), pair(padding)
    rest = tuple(n - ((m - 1) * s - 2 * p + k) for n, m, s, p, k in zip(shape[2:], g.shape[2:], stride, padding, w.shape[2:]))
    return transposed(g, w, stride=stride, padding=padding, output_padding=rest)
