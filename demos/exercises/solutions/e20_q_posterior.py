"""With abar' = abar_{t-1}:  x_t ~ N(sqrt(alpha) x_{t-1}, beta),  x_{t-1} ~ N(sqrt(abar') x_0, 1 - abar').
Quadratic in x_{t-1}; precisions add: alpha/beta + 1/(1-abar') = (1-abar_t) / (beta (1-abar')).
The mean is the variance times [sqrt(alpha) x_t / beta + sqrt(abar') x_0 / (1-abar')].
"""
import numpy as np


def q_posterior(x_t, x0, beta, t):
    before = np.prod(1 - beta[:t])  # abar_{t-1}, an empty product for t = 0
    abar = before * (1 - beta[t])
    mean = np.sqrt(before) * beta[t] * x0 + np.sqrt(1 - beta[t]) * (1 - before) * x_t
    return mean / (1 - abar), beta[t] * (1 - before) / (1 - abar)
