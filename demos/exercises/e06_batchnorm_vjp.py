"""e06. Backward pass of batch normalization (training mode).

Forward, for each feature (column) of the batch:
    mu = mean over n,   var = mean over n of (x - mu)^2  (biased, 1/N),
    xhat = (x - mu) / sqrt(var + 1e-5),   y = gamma * xhat + beta.
Given g = dL/dy, derive the gradients of x, gamma and beta.

    x, g    (N, D)    rows are samples
    gamma   (D,)
    return  dx (N, D),  dgamma (D,),  dbeta (D,)

Used in tinygen/functional.py: batch_norm (through the vjps of standardize and scale_shift)
Paper first: 15 minutes
"""
import numpy as np


def batchnorm_vjp(x, g, gamma):
    raise NotImplementedError("e06: return dx, dgamma, dbeta of shapes (N, D), (D,), (D,)")
