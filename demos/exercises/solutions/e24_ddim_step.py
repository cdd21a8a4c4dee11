"""Mean and variance of x_s given x_0 fix the two weights.
The mean must be sqrt(alpha_bar_s) x_0, which is the first weight.
Given x_0, eps is N(0, I) and independent of the fresh noise. So with the weight w of eps the
variance is w^2 + sigma^2. It must be 1 - alpha_bar_s, so w = sqrt(1 - alpha_bar_s - sigma^2).
"""
import numpy as np


def ddim_step(x_t, eps, alpha_bar_t, alpha_bar_s, sigma, noise):
    x0 = (x_t - np.sqrt(1 - alpha_bar_t) * eps) / np.sqrt(alpha_bar_t)
    return np.sqrt(alpha_bar_s) * x0 + np.sqrt(1 - alpha_bar_s - sigma ** 2) * eps + sigma * noise
