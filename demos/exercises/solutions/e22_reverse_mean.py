"""Put x_0 = (x_t - sqrt(1-abar) eps) / sqrt(abar) into the posterior mean, with abar = alpha abar'.
Coefficient of x_t:  [beta + alpha (1-abar')] / (sqrt(alpha) (1-abar)) = 1 / sqrt(alpha).
Coefficient of eps:  -beta / (sqrt(alpha) sqrt(1-abar)).
"""
import numpy as np


def reverse_mean(x_t, eps, beta, t):
    abar = np.prod(1 - beta[:t + 1])
    return (x_t - beta[t] / np.sqrt(1 - abar) * eps) / np.sqrt(1 - beta[t])
