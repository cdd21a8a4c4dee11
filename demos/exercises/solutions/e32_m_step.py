"""Set the derivatives of Q to 0. With N_k = sum_n r_nk:
pi: maximize sum_k N_k log pi_k with sum pi = 1, so pi_k = N_k / N.
mu: sum_n r_nk (x_n - mu_k) / var_k = 0, the weighted mean.
var: -D N_k / (2 var_k) + sum_n r_nk |x_n - mu_k|^2 / (2 var_k^2) = 0, so var_k is the weighted
mean square of one coordinate.
"""
import numpy as np


def m_step(x, R):
    n = R.sum(0)                                            # (K,)
    mu = R.T @ x / n[:, None]                               # (K, D)
    square = ((x[:, None] - mu) ** 2).sum(2)                # (N, K)
    return n / len(x), mu, (R * square).sum(0) / n / x.shape[1]
