"""Multiply two Gaussian densities in x_{t-1}: their precisions add.
With before = alpha_bar_{t-1}:
    x_t ~ N(sqrt(alpha) x_{t-1}, beta),   x_{t-1} ~ N(sqrt(before) x_0, 1 - before).
1 / variance = alpha / beta + 1 / (1 - before) = (1 - alpha_bar_t) / (beta (1 - before)).
mean = variance * [sqrt(alpha) x_t / beta + sqrt(before) x_0 / (1 - before)].
"""
import numpy as np


def q_posterior(x_t, x0, beta, t):
    before = np.prod(1 - beta[:t])  # alpha_bar_{t-1}, an empty product for t = 0
    alpha_bar = before * (1 - beta[t])
    mean = np.sqrt(before) * beta[t] * x0 + np.sqrt(1 - beta[t]) * (1 - before) * x_t
    return mean / (1 - alpha_bar), beta[t] * (1 - before) / (1 - alpha_bar)
