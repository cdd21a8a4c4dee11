"""By Bayes' rule the responsibilities are a softmax over the components.
r_nk = pi_k N(x_n; mu_k, var_k I) / (the same, summed over k): a softmax over k of
    log pi_k - D/2 log var_k - |x_n - mu_k|^2 / (2 var_k).
D/2 log(2 pi) is common to all k and cancels.
"""
import numpy as np


def responsibilities(x, pi, mu, var):
    distance = ((x[:, None] - mu) ** 2).sum(2)              # (N, K)
    normalizer = 0.5 * x.shape[1] * np.log(var)             # (K,)
    logs = np.log(pi) - normalizer - 0.5 * distance / var   # (N, K)
    R = np.exp(logs - logs.max(1, keepdims=True))
    return R / R.sum(1, keepdims=True)
