"""The rule for jointly Gaussian variables, for each component.
Component k: x_t ~ N(t m, var), var = t^2 s^2 + (1-t)^2.
cov(x_1, x_t) = t s^2 and cov(x_0, x_t) = 1-t, so
    E[x_1 - x_0 | x, k] = m + (t s^2 - (1-t)) / var (x - t m).
Average over the components with p(k | x), the responsibilities at time t.
"""
import numpy as np


def marginal_velocity(x, t, w, m, s):
    var = t ** 2 * s ** 2 + (1 - t) ** 2                    # (K,)
    offset = x[:, None] - t * m                             # (N, K)
    logs = np.log(w) - 0.5 * np.log(var) - 0.5 * offset ** 2 / var
    r = np.exp(logs - logs.max(1, keepdims=True))
    u = m + (t * s ** 2 - (1 - t)) / var * offset
    return (r * u).sum(1) / r.sum(1)
