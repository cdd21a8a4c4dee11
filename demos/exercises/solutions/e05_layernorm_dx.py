"""Three paths lead from x_j to the loss.
h = g gamma is the gradient of xhat = (x - mu) / s, where s = sqrt(var + eps).
    direct                                                              h_j / s
    through mu:  dmu/dx_j = 1/D,       dxhat_i/dmu = -1/s               -mean(h) / s
    through s:   ds/dx_j = xhat_j / D,  dxhat_i/ds = -xhat_i / s        -xhat_j mean(h xhat) / s
(mu inside var does not count: sum_i (x_i - mu) = 0.)
"""
import numpy as np


def layernorm_dx(x, g, gamma):
    s = np.sqrt(x.var(1, keepdims=True) + 1e-5)
    xhat = (x - x.mean(1, keepdims=True)) / s
    h = g * gamma
    return (h - h.mean(1, keepdims=True) - xhat * (h * xhat).mean(1, keepdims=True)) / s
