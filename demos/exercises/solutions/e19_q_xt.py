"""Every step multiplies the mean by sqrt(alpha_s): in all sqrt(abar_t).
The variance v becomes alpha v + 1 - alpha, so 1 - v is multiplied by alpha: 1 - v = abar_t, v = 1 - abar_t.
"""
import numpy as np


def q_xt(x0, beta, t):
    abar = np.prod(1 - beta[:t + 1])
    return np.sqrt(abar) * x0, np.sqrt(1 - abar)
