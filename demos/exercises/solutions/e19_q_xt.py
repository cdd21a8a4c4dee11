"""Follow mean and variance through the steps.
Every step multiplies the mean by sqrt(alpha_s): in all by sqrt(alpha_bar_t).
The variance v becomes alpha v + 1 - alpha, so every step multiplies 1 - v by alpha.
After all steps 1 - v = alpha_bar_t, v = 1 - alpha_bar_t.
"""
import numpy as np


def q_xt(x0, beta, t):
    alpha_bar = np.prod(1 - beta[:t + 1])
    return np.sqrt(alpha_bar) * x0, np.sqrt(1 - alpha_bar)
