"""Put x_0 = (x_t - sqrt(1-alpha_bar) eps) / sqrt(alpha_bar) into the posterior mean.
Here alpha_bar = alpha before, where before = alpha_bar_{t-1}.
Coefficient of x_t:  [beta + alpha (1-before)] / (sqrt(alpha) (1-alpha_bar)) = 1 / sqrt(alpha).
Coefficient of eps:  -beta / (sqrt(alpha) sqrt(1-alpha_bar)).
"""
import numpy as np


def reverse_mean(x_t, eps, beta, t):
    alpha_bar = np.prod(1 - beta[:t + 1])
    return (x_t - beta[t] / np.sqrt(1 - alpha_bar) * eps) / np.sqrt(1 - beta[t])
