"""e07. Backward pass of a convolution.

Forward, a cross-correlation with stride 2 and padding 1:
    y[n, o, r, c] = sum over ch, i, j of  w[o, ch, i, j] * xpad[n, ch, 2 r + i, 2 c + j].
xpad is x padded with one row or column of zeros on every side; i counts the 2 rows of the kernel,
and j its 3 columns.
Given g = dL/dy, derive dL/dx and dL/dw.

    x       (N, C, H, W)
    w       (O, C, 2, 3)
    g       (N, O, R, S)    R = H // 2 + 1,  S = (W - 1) // 2 + 1
    return  dx (N, C, H, W),  dw (O, C, 2, 3)

Loop over i and j only. For fixed i, j the entries of xpad that are read form the strided window
xpad[:, :, i : i + 2 R : 2, j : j + 2 S : 2], and the rest is a product of matrices (np.einsum).

Used in tinygen/conv.py: conv_transpose for dx, conv_weight for dw: the vjps of convolve
Paper first: 25 minutes
"""
import numpy as np


def conv2d_vjp(x, w, g):
    raise NotImplementedError("e07: return dx, dw of shapes (N, C, H, W), (O, C, 2, 3)")
