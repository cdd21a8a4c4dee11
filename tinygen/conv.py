"""Floor 2: convolution, in the form of the calculus table.

A convolution is linear in the image and linear in the kernel, so three operations are closed under differentiation:
the convolution, its adjoint in the image (the transposed convolution) and its adjoint in the kernel. Each vjp is one of
the other two, which is why a gradient through a gradient (WGAN-GP) needs nothing more.

    <g, convolve(x, w)>  =  <transposed(g, w), x>  =  <correlate(x, g), w>

(As everywhere in this field the kernel is not turned round, so in signal processing our convolve, too, is a correlation.)

All three are matrix products with the patches of the image: what the kernel looks at, kh x kw pixels of C channels, one
patch a row. Written out (im2col), each pixel would stand there kh kw times, with stride 1. But the patches of one column of
places overlap in a strip of the image, kw pixels wide: with the strip in one stretch of memory, each patch is a stretch of
it, and a matrix product can read it where it lies (Cho & Brand, "MEC: memory-efficient convolution", 2017). So each pixel
is copied kw times only, and for a few images at a time, so that the strips stay in the cache. (On a GPU all images go
together, for there it is calls that cost; CuPy's product does write the patches out.)

Results lie in memory with the channels last, as the next convolution wants them; their shape is the usual one. Operations
number by number keep that order, a reshape that mixes channels with pixels, as in group norm, puts the usual one back.

Images are (N, C, H, W); kernels (out, in, kh, kw), and (in, out, kh, kw) for the transposed convolution.
"""
from . import backend
from .backend import TinygenError, xp
from .ops import sum
from .tensor import primitive


def pair(n):
    """A number for both axes, or (for rows, for columns), as a tuple of two."""
    both = tuple(n) if isinstance(n, (tuple, list)) else (n, n)
    if len(both) != 2:
        raise TinygenError(f"A size is one number, or two (for rows, for columns), not {n}.")
    return both


def output_size(size, kernel, stride, padding):
    """How often a kernel fits along an axis: floor((size + 2 padding - kernel) / stride) + 1"""
    return (size + 2 * padding - kernel) // stride + 1


def _covered(out, kernel, stride):
    """How many pixels `out` places of a kernel cover along an axis."""
    return (out - 1) * stride + kernel


def _strips(x, kw, out, stride, left, top, height):
    """For each of `out` columns of places, the strip of the images x (n, C, H, W) that a kernel passes: (n, out, height, kw, C).

    kw         width of the kernel in pixels
    left, top  where the first strip begins, each next one `stride` pixels further right; this may be outside the image,
               where all is 0
    height     how many rows of pixels the strips have
    """
    width = _covered(out, kw, stride)
    image = x[:, :, max(top, 0):max(top + height, 0), max(left, 0):max(left + width, 0)].transpose(0, 2, 3, 1)
    seen = xp.zeros((len(x), height, width, x.shape[1]), dtype=x.dtype)
    seen[:, max(-top, 0):, max(-left, 0):][:, :image.shape[1], :image.shape[2]] = image
    strips = xp.lib.stride_tricks.sliding_window_view(seen, kw, axis=2)[:, :, ::stride]            # (n, height, out, C, kw)
    return xp.ascontiguousarray(strips.transpose(0, 2, 1, 4, 3))


def _pieces(x, kernel, out, stride, padding):
    """The strips of a convolution, for a few images at a time: (which images, their strips)."""
    height = _covered(out[0], kernel[0], stride[0])
    for part in backend.pieces(len(x), size=out[1] * height * kernel[1] * x.shape[1]):
        yield part, _strips(x[part], kernel[1], out[1], stride[1], -padding[1], -padding[0], height)


def _patches(strips, kh, out, stride, first=0):
    """The patches, kh rows high, in strips (n, OW, height, kw, C): (out, n OW, kh kw C), a view.

    first   the row of the strips where the first of the `out` rows of patches begins, each next one `stride` rows further down
    """
    n, columns, height, kw, channels = strips.shape
    row = kw * channels                                                            # numbers in a row of a strip
    patches = xp.lib.stride_tricks.sliding_window_view(strips.reshape(n * columns, height * row), kh * row, axis=1)
    return patches[:, first * row::stride * row][:, :out].swapaxes(0, 1)


def _products(strips, w, out, stride, first=0):
    """Every patch in the strips times the kernel w (O, C, kh, kw): (n, out, OW, O)"""
    matrix = w.transpose(0, 2, 3, 1).reshape(len(w), -1).T                         # (kh kw C, O)
    pixels = _patches(strips, w.shape[2], out, stride, first) @ matrix             # (out, n OW, O)
    return pixels.reshape((out,) + strips.shape[:2] + (-1,)).swapaxes(0, 1)


def _steps(stride, padding):
    """stride and padding as pairs, after asking whether they are possible."""
    stride, padding = pair(stride), pair(padding)
    if min(stride) < 1 or min(padding) < 0:
        raise TinygenError(f"A convolution wants a stride of at least 1 and a padding of at least 0, not {stride} and {padding}.")
    return stride, padding


def _geometry(x_shape, kernel, stride, padding):
    """(stride, padding, output size), after asking whether they make sense together."""
    stride, padding = _steps(stride, padding)
    out = tuple(output_size(*sizes) for sizes in zip(x_shape[2:], kernel, stride, padding))
    if min(out) < 1:
        raise TinygenError(f"A {kernel[0]}x{kernel[1]} kernel with stride {stride} and padding {padding} does not fit on images of "
                           f"{x_shape[2]}x{x_shape[3]}: use a smaller kernel or more padding.")
    return stride, padding, out


def _channels(name, x, w, b, axis):
    if x.ndim != 4 or w.ndim != 4 or x.shape[1] != w.shape[axis]:
        order = ("(out, in, kh, kw)", "(in, out, kh, kw)")[axis == 0]
        raise TinygenError(f"{name} cannot take images {x.shape} with a kernel {w.shape}: images are (N, C, H, W), the kernel is "
                           f"{order}, and both must have the same number of input channels.")
    if b is not None and getattr(b, "shape", ()) != (w.shape[1 - axis],):
        raise TinygenError(f"{name} cannot take a bias of shape {getattr(b, 'shape', ())} with a kernel {w.shape}: it wants one "
                           f"number for each of the {w.shape[1 - axis]} output channels.")


samples = lambda r: [(r(2, 3, 5, 4), r(4, 3, 3, 2), r(4), dict(stride=(2, 1), padding=(1, 0))), (r(2, 2, 4, 4), r(3, 2, 1, 1)),
                     (r(1, 1, 3, 3), r(1, 1, 3, 3), dict(padding=1)), (r(2, 1, 6, 5), r(2, 1, 2, 3), dict(stride=3, padding=1))]


@primitive(lambda g, y, x, w, b=None, *, stride=1, padding=0: _back_to_image(g, w, x.shape, stride, padding),
           lambda g, y, x, w, b=None, *, stride=1, padding=0: correlate(x, g, kernel=w.shape[2:], stride=stride, padding=padding),
           lambda g, y, x, w, b=None, *, stride=1, padding=0: sum(g, axis=(0, 2, 3)),
           samples=samples)
def convolve(x, w, b=None, *, stride=1, padding=0):
    """y = convolution of x with w, plus b for each channel;   dx = transposed(g, w),   dw = correlate(x, g),   db = sum of g

    y[n, o, u, v] = b[o] + sum over c, i, j of x[n, c, u s + i - p, v s + j - p] w[o, c, i, j]   with stride s and padding p
    """
    _channels("conv2d", x, w, b, 1)
    stride, padding, out = _geometry(x.shape, w.shape[2:], stride, padding)
    y = xp.empty((len(x),) + out + (len(w),), dtype=xp.result_type(x, w))
    for part, strips in _pieces(x, w.shape[2:], out, stride, padding):
        y[part] = _products(strips, w, out[0], stride[0])
    if b is not None:
        y += b
    return y.transpose(0, 3, 1, 2)


def _residues(stride, padding, kernel, size):
    """The convolutions that a transposed one consists of, along one axis, as dicts: the pixels of y, the taps, how many, the start.

    Pixel u of y meets pixel a of x in tap i wherever u = a s + i - p, so i is u + p up to multiples of s. The pixels
    u = r, r + s, r + 2s, ... thus meet the same taps, i = (r + p) mod s and each s-th after it: a convolution of stride 1 with
    these taps in reverse order, whose first patch begins at pixel `start` of x.
    """
    found = []
    for r in range(stride):
        pixels, taps = range(r, size, stride), range((r + padding) % stride, kernel, stride)
        if pixels and taps:
            found.append(dict(pixels=slice(r, size, stride), out=len(pixels), taps=slice(taps.start, kernel, stride), count=len(taps),
                              start=(r + padding) // stride - len(taps) + 1))
    return found


@primitive(lambda g, y, x, w, b=None, *, stride=1, padding=0, output_padding=0: convolve(g, w, stride=stride, padding=padding),
           lambda g, y, x, w, b=None, *, stride=1, padding=0, output_padding=0:
           correlate(g, x, kernel=w.shape[2:], stride=stride, padding=padding),
           lambda g, y, x, w, b=None, *, stride=1, padding=0, output_padding=0: sum(g, axis=(0, 2, 3)),
           samples=lambda r: [(r(2, 4, 3, 3), r(4, 3, 3, 2), r(3), dict(stride=(2, 1), padding=(1, 0), output_padding=(1, 0))),
                              (r(2, 3, 4, 4), r(3, 2, 1, 1)), (r(1, 2, 2, 2), r(2, 1, 4, 4), dict(stride=2, padding=1))])
def transposed(x, w, b=None, *, stride=1, padding=0, output_padding=0):
    """y = every pixel of x stamping w, plus b for each channel;   dx = convolve(g, w),   dw = correlate(g, x),   db = sum of g

    y[n, c, u, v] = b[c] + sum over all o, a, d, i, j with u = a s + i - p and v = d s + j - p of x[n, o, a, d] w[o, c, i, j]
    """
    _channels("conv_transpose2d", x, w, b, 0)
    (stride, padding), rest, kernel = _steps(stride, padding), pair(output_padding), w.shape[2:]
    size = tuple((n - 1) * s - 2 * p + k + o for n, s, p, k, o in zip(x.shape[2:], stride, padding, kernel, rest))
    if min(size) < 1 or any(not 0 <= o < s for o, s in zip(rest, stride)):
        raise TinygenError(f"conv_transpose2d of images {x.shape[2]}x{x.shape[3]} with a {kernel[0]}x{kernel[1]} kernel, stride {stride}, "
                           f"padding {padding} and output_padding {rest} is impossible: output_padding must be below the stride, "
                           f"and the result of size {size} at least 1x1.")
    y = xp.zeros((len(x),) + size + (w.shape[1],), dtype=xp.result_type(x, w))     # stays 0 where no tap comes
    rows, columns = (_residues(*axis) for axis in zip(stride, padding, kernel, size))
    top = min((row["start"] for row in rows), default=0)
    height = max((row["start"] + _covered(row["out"], row["count"], 1) for row in rows), default=top) - top
    strip = size[1] // stride[1] * height * kernel[1] // stride[1] * x.shape[1]    # numbers in the strips of an image, about
    for part in backend.pieces(len(x), size=strip):
        for column in columns:
            strips = _strips(x[part], column["count"], column["out"], 1, column["start"], top, height)
            for row in rows:
                taps = w[:, :, row["taps"], column["taps"]][:, :, ::-1, ::-1].swapaxes(0, 1)            # (out, in, taps, taps)
                y[part, row["pixels"], column["pixels"]] = _products(strips, taps, row["out"], 1, row["start"] - top)
    if b is not None:
        y += b
    return y.transpose(0, 3, 1, 2)


@primitive(lambda g, y, x, h, *, kernel, stride=1, padding=0: _back_to_image(h, g, x.shape, stride, padding),
           lambda g, y, x, h, *, kernel, stride=1, padding=0: convolve(x, g, stride=stride, padding=padding),
           samples=lambda r: [(r(2, 3, 5, 4), r(2, 4, 3, 3), dict(kernel=(3, 2), stride=(2, 1), padding=(1, 0))),
                              (r(2, 1, 6, 5), r(2, 2, 3, 2), dict(kernel=(2, 3), stride=3, padding=1))])
def correlate(x, h, *, kernel, stride=1, padding=0):
    """y = correlation of x with h;   dx = transposed(h, g),   dh = convolve(x, g)

    y[o, c, i, j] = sum over n, u, v of h[n, o, u, v] x[n, c, u s + i - p, v s + j - p]
    """
    kernel = tuple(kernel)
    stride, padding, out = _geometry(x.shape, kernel, stride, padding)
    if (len(h),) + h.shape[2:] != (len(x),) + out:
        raise TinygenError(f"correlate of images {x.shape} wants an h for each of them and each place of the kernel, (N, O, OH, OW) = "
                           f"{(len(x), 'O') + out}, not shape {h.shape}.")
    y = xp.zeros((h.shape[1], kernel[0] * kernel[1] * x.shape[1]), dtype=xp.result_type(x, h))
    for part, strips in _pieces(x, kernel, out, stride, padding):
        pixels = h[part].transpose(2, 0, 3, 1).reshape(out[0], -1, h.shape[1])     # (OH, n OW, O)
        y += (pixels.swapaxes(1, 2) @ _patches(strips, kernel[0], out[0], stride[0])).sum(0)
    return y.reshape((len(y),) + kernel + (-1,)).transpose(0, 3, 1, 2)             # (O, C, kh, kw)


def _back_to_image(g, w, shape, stride, padding):
    """The image gradient of a convolution: as large as the image was, also where the stride left its last rows out."""
    stride, padding = pair(stride), pair(padding)
    rest = tuple(n - ((m - 1) * s - 2 * p + k) for n, m, s, p, k in zip(shape[2:], g.shape[2:], stride, padding, w.shape[2:]))
    return transposed(g, w, stride=stride, padding=padding, output_padding=rest)
