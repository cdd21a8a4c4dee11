"""The dimensions are independent, so their KLs add up.
In 1-D, with z = mean + sigma eps and without the term -log(2 pi)/2, which cancels:
    log q = -logvar/2 - eps^2/2,   log p = -z^2/2.
E eps^2 = 1 and E z^2 = mean^2 + sigma^2, so
    E[log q - log p] = (mean^2 + sigma^2 - 1 - logvar) / 2.
"""
import numpy as np


def kl_standard_normal(mean, logvar):
    return 0.5 * (mean ** 2 + np.exp(logvar) - 1 - logvar).sum(1)
