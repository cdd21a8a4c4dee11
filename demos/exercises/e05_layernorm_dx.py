"""e05. Backward pass of layer normalization.

Forward, for each row x of D features:
    mu = mean of x,   var = mean of (x - mu)^2  (biased, 1/D),   xhat = (x - mu) / sqrt(var + 1e-5),
    y = gamma * xhat + beta.
Given g = dL/dy, derive dL/dx.

    x, g    (N, D)    rows are samples
    gamma   (D,)
    return  dx (N, D)

Every x_j of a row changes mu and var of that row, and so every y_i of it: three paths in all.

Used in tinygen/functional.py: layer_norm (through the vjp of standardize)
Paper first: 20 minutes
"""
import numpy as np


def layernorm_dx(x, g, gamma):
    raise NotImplementedError("e05: return dL/dx, shape (N, D)")
