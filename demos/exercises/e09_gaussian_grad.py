"""e09. Gradient of the Gaussian log-likelihood in mean and log-variance.

log N(x; mean, sigma^2),  with logvar = log sigma^2,  entry by entry.
Derive its gradients with respect to mean and with respect to logvar.

    x, mean, logvar    (N, D)
    return  dmean (N, D),  dlogvar (N, D)  (of the log-likelihood, not of the loss)

Write the density with its normalizer first.

Used in tinygen/functional.py: gaussian_nll_loss
Paper first: 10 minutes
"""
import numpy as np


def gaussian_grad(x, mean, logvar):
    raise NotImplementedError("e09: return dmean, dlogvar, both of shape (N, D)")
