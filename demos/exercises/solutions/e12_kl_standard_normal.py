"""In 1-D, z = mean + sigma eps:  log q = -logvar/2 - eps^2/2,  log p = -z^2/2  (both without log(2 pi)/2).
E eps^2 = 1 and E z^2 = mean^2 + sigma^2, so E[log q - log p] = (mean^2 + sigma^2 - 1 - logvar) / 2.
Dimensions are independent: their KLs add.
"""
import numpy as np


def kl_standard_normal(mean, logvar):
    return 0.5 * (mean ** 2 + np.exp(logvar) - 1 - logvar).sum(1)
