"""y is linear in x and in w, so go through it one kernel entry (i, j) at a time.
Forward, (i, j) adds  w[o, c, i, j] * (window of xpad)[n, c, r, s]  to y[n, o, r, s].
Backward, dw[o, c, i, j] = sum over n, r, s of g * window.
The window receives the sum over o of w * g.
Windows of different i, j overlap, so add them up in dxpad and remove the padding at the end.
"""
import numpy as np


def conv2d_vjp(x, w, g):
    xpad = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    dxpad = np.zeros_like(xpad)
    dw = np.zeros_like(w)
    rows, cols = g.shape[2:]
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            window = np.s_[:, :, i:i + 2 * rows:2, j:j + 2 * cols:2]
            dw[:, :, i, j] = np.einsum("nors,ncrs->oc", g, xpad[window])
            dxpad[window] += np.einsum("nors,oc->ncrs", g, w[:, :, i, j])
    return dxpad[:, :, 1:-1, 1:-1], dw
