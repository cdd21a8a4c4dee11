"""x_t and v are a rotation of x_0 and eps.
With c = sqrt(alpha_bar) and s = sqrt(1 - alpha_bar):
    x_t = c x_0 + s eps,   v = dx_t/dth = -s x_0 + c eps.
Solve the first equation for x_0. The inverse of a rotation is its transpose:
    x_0 = c x_t - s v,   eps = s x_t + c v.
"""
import numpy as np


def convert(x_t, eps, v, alpha_bar):
    c = np.sqrt(alpha_bar)
    s = np.sqrt(1 - alpha_bar)
    x0 = (x_t - s * eps) / c
    return x0, c * eps - s * x0, c * x_t - s * v, s * x_t + c * v
