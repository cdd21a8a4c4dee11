"""Write the density with its normalizer, then differentiate.
log N = -1/2 [log 2 pi + logvar + (x - mean)^2 exp(-logvar)].
d/dmean = (x - mean) exp(-logvar);   d/dlogvar = -1/2 + 1/2 (x - mean)^2 exp(-logvar).
"""
import numpy as np


def gaussian_grad(x, mean, logvar):
    dmean = (x - mean) * np.exp(-logvar)
    return dmean, 0.5 * (x - mean) * dmean - 0.5
