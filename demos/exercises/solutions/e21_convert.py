"""With c = sqrt(abar), s = sqrt(1 - abar):  x_t = c x_0 + s eps  and  v = dx_t/dth = -s x_0 + c eps.
Solve the first for x_0. The two together are a rotation, whose inverse is its transpose:
x_0 = c x_t - s v,   eps = s x_t + c v.
"""
import numpy as np


def convert(x_t, eps, v, abar):
    c, s = np.sqrt(abar), np.sqrt(1 - abar)
    x0 = (x_t - s * eps) / c
    return x0, c * eps - s * x0, c * x_t - s * v, s * x_t + c * v
