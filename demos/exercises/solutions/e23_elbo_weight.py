"""For equal variances, KL = |mu - mu_hat|^2 / (2 sigma2).
The two means differ by beta / (sqrt(alpha) sqrt(1-alpha_bar)) times eps - eps_hat: square it.
"""
import numpy as np


def elbo_weight(beta, sigma2, t):
    alpha_bar = np.prod(1 - beta[:t + 1])
    return beta[t] ** 2 / (2 * sigma2 * (1 - beta[t]) * (1 - alpha_bar))
