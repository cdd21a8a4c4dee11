"""Given x_0, eps is N(0, I) and independent of the fresh noise: with weight w on eps the variance is
w^2 + sigma^2. It must be 1 - abar_s, so w = sqrt(1 - abar_s - sigma^2). The mean must be sqrt(abar_s) x_0.
"""
import numpy as np


def ddim_step(x_t, eps, abar_t, abar_s, sigma, noise):
    x0 = (x_t - np.sqrt(1 - abar_t) * eps) / np.sqrt(abar_t)
    return np.sqrt(abar_s) * x0 + np.sqrt(1 - abar_s - sigma ** 2) * eps + sigma * noise
