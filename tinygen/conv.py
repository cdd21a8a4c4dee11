"""Floor 4: convolution, in the form of the calculus table.

A convolution is linear in the image and linear in the kernel, so three operations are closed under
differentiation: the convolution, its adjoint in the image (the transposed convolution) and its
adjoint in the kernel. Each vjp is one of the other two, which is why a gradient through a gradient
(WGAN-GP) needs nothing more.

    <g, convolve(x, w)>  =  <conv_transpose(g, w), x>  =  <conv_weight(x, g), w>

(As everywhere in this field the kernel is not flipped: signal processing calls this correlation.)

Each is one matrix product. `columns` writes out what the kernel looks at, one patch a row (im2col);
`add_columns` is its transpose and adds every patch to the place where it came from. On a processor
a few images are worked on at a time, so that their columns stay in the cache.

Images are (N, C, H, W); kernels (out, in, kh, kw), and (in, out, kh, kw) where the convolution is
transposed. Sizes, strides and paddings are pairs, for rows and for columns. Results lie in memory
with the channels last, as the next convolution needs them.
"""
from . import ops
from .backend import xp
from .engine import primitive
from .speed import chunks


def output_size(size, kernel, stride, padding):
    """Of a convolution, for rows and columns: floor((size + 2 padding - kernel) / stride) + 1"""
    if min(stride) < 1 or min(padding) < 0:
        raise ValueError("a stride is at least 1 and a padding at least 0")
    out = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding))
    if min(out) < 1:
        raise ValueError(f"a kernel of {kernel} does not fit on images of {tuple(size)}")
    return out


def _check(x, w, b, inputs, outputs):
    fits = x.ndim == w.ndim == 4 and x.shape[1] == w.shape[inputs]
    if not fits or b is not None and getattr(b, "shape", ()) != (w.shape[outputs],):
        raise ValueError("the numbers of channels do not fit together")


def columns(x, kernel, stride, padding):
    """Every patch of the images x (N, C, H, W) as a row: (N OH OW, kh kw C)"""
    (n, c, h, w), (kh, kw), (sh, sw), (ph, pw) = x.shape, kernel, stride, padding
    oh, ow = output_size((h, w), kernel, stride, padding)
    image = xp.zeros((n, h + 2 * ph, w + 2 * pw, c), dtype=x.dtype)
    image[:, ph:ph + h, pw:pw + w] = x.transpose(0, 2, 3, 1)
    to_n, to_h, to_w, to_c = image.strides              # in bytes, to the next one in memory
    patches = xp.lib.stride_tricks.as_strided(          # a view: kw pixels are one run of numbers
        image, (n, oh, ow, kh, kw * c), (to_n, sh * to_h, sw * to_w, to_h, to_c))
    return patches.reshape(n * oh * ow, kh * kw * c)


def add_columns(rows, size, kernel, stride, padding):
    """The transpose of columns: (N OH OW, kh kw C) -> (N, H, W, C), size = (H, W)"""
    (h, w), (kh, kw), (sh, sw), (ph, pw) = size, kernel, stride, padding
    oh, ow = output_size(size, kernel, stride, padding)
    patches = rows.reshape(-1, oh, ow, kh, kw, rows.shape[1] // (kh * kw))
    image = xp.zeros((len(patches), h + 2 * ph, w + 2 * pw, patches.shape[5]), dtype=rows.dtype)
    for i in range(kh):
        for j in range(kw):
            image[:, i:i + sh * oh:sh, j:j + sw * ow:sw] += patches[:, :, :, i, j]
    return image[:, ph:ph + h, pw:pw + w]


def _pixels(x):
    """Images (N, C, H, W) with one pixel a row: (N H W, C)"""
    return x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def convolve_plain(x, w, *, stride=(1, 1), padding=(0, 0)):
    """y[n, o, u, v] = sum of x[n, c, s u + i - p, s v + j - p] w[o, c, i, j] over c, i, j"""
    (sh, sw), (ph, pw) = stride, padding
    oh, ow = output_size(x.shape[2:], w.shape[2:], stride, padding)
    x = ops.pad(x, pad=(pw, pw, ph, ph))
    row = sh * xp.arange(oh).reshape(oh, 1, 1, 1) + xp.arange(w.shape[2]).reshape(-1, 1)
    column = sw * xp.arange(ow).reshape(ow, 1, 1) + xp.arange(w.shape[3])
    patches = x[:, :, row, column]                                      # (N, C, OH, OW, kh, kw)
    return (patches[:, None] * w[:, :, None, None]).sum(axis=(2, 5, 6))     # (N, O, OH, OW)


@primitive(lambda g, y, x, w, b, **k: conv_transpose(g, w, size=x.shape[2:], **k),
           lambda g, y, x, w, b, **k: conv_weight(x, g, kernel=w.shape[2:], **k),
           lambda g, y, x, w, b, **k: ops.sum(g, axis=(0, 2, 3)),
           fix="images are (N, C, H, W), the kernel is (out, C, kh, kw), the bias (out,).")
def convolve(x, w, b=None, *, stride=(1, 1), padding=(0, 0)):
    """y = columns(x) w + b;   dx = conv_transpose(g, w),   dw = conv_weight(x, g),   db = sum(g)"""
    _check(x, w, b, inputs=1, outputs=0)
    out = output_size(x.shape[2:], w.shape[2:], stride, padding)
    matrix = w.transpose(2, 3, 1, 0).reshape(-1, len(w))                # (kh kw C, O)
    y = xp.empty((len(x), *out, len(w)), dtype=xp.result_type(x, w))
    for part in chunks(len(x), size=out[0] * out[1] * len(matrix)):
        patches = columns(x[part], w.shape[2:], stride, padding)        # (n OH OW, kh kw C)
        xp.matmul(patches, matrix, out=y[part].reshape(-1, len(w)))
    if b is not None:
        y += b
    return y.transpose(0, 3, 1, 2)


@primitive(lambda g, y, x, w, b, *, size, **k: convolve(g, w, **k),
           lambda g, y, x, w, b, *, size, **k: conv_weight(g, x, kernel=w.shape[2:], **k),
           lambda g, y, x, w, b, **k: ops.sum(g, axis=(0, 2, 3)),
           fix="images are (N, C, H, W), the kernel is (C, out, kh, kw), the bias (out,).")
def conv_transpose(x, w, b=None, *, size, stride=(1, 1), padding=(0, 0)):
    """y = add_columns(x w) + b;   dx = convolve(g, w),   dw = conv_weight(g, x),   db = sum(g)

    Every pixel of x adds the kernel, times its value, to images of the given size. With stride 1
    that is a convolution with the flipped kernel.
    """
    _check(x, w, b, inputs=0, outputs=1)
    (kh, kw), (ph, pw) = w.shape[2:], padding
    if x.shape[2:] != output_size(size, (kh, kw), stride, padding):
        raise ValueError(f"the result cannot be of size {tuple(size)}")
    if tuple(stride) == (1, 1) and ph < kh and pw < kw:
        flipped = w[:, :, ::-1, ::-1].swapaxes(0, 1)
        return convolve(x, flipped, b, padding=(kh - 1 - ph, kw - 1 - pw))
    matrix = w.transpose(0, 2, 3, 1).reshape(len(w), -1)                # (O, kh kw C)
    y = xp.empty((len(x), *size, w.shape[1]), dtype=xp.result_type(x, w))
    for part in chunks(len(x), size=x.shape[2] * x.shape[3] * matrix.shape[1]):
        y[part] = add_columns(_pixels(x[part]) @ matrix, size, (kh, kw), stride, padding)
    if b is not None:
        y += b
    return y.transpose(0, 3, 1, 2)


@primitive(lambda g, y, x, h, *, kernel, **k: conv_transpose(h, g, size=x.shape[2:], **k),
           lambda g, y, x, h, *, kernel, **k: convolve(x, g, **k),
           fix="h holds one number for each position of the kernel, (N, O, OH, OW).")
def conv_weight(x, h, *, kernel, stride=(1, 1), padding=(0, 0)):
    """y = columns(x)^T h;   dx = conv_transpose(h, g),   dh = convolve(x, g)

    y[o, c, i, j] = sum of h[n, o, u, v] x[n, c, s u + i - p, s v + j - p] over n, u, v
    """
    out = output_size(x.shape[2:], kernel, stride, padding)
    if h.shape[:1] + h.shape[2:] != x.shape[:1] + out:
        raise ValueError(f"h must be of shape {(len(x), 'O', *out)}")
    y = xp.zeros((kernel[0] * kernel[1] * x.shape[1], h.shape[1]), dtype=xp.result_type(x, h))
    for part in chunks(len(x), size=out[0] * out[1] * len(y)):
        y += columns(x[part], kernel, stride, padding).T @ _pixels(h[part])
    return y.reshape(*kernel, -1, h.shape[1]).transpose(3, 2, 0, 1)     # (O, C, kh, kw)
