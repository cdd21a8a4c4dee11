"""e22. Diffusion: the reverse mean from a predicted eps.

Replace x_0 in the posterior mean of e20 by what x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps implies for it,
and simplify.

    x_t, eps    (N, D)
    beta        (T,)    indexed 0 .. T-1
    t           0 .. T-1
    return      mu (N, D)

alpha = 1 - beta, abar_t = alpha_0 ... alpha_t. The result is a line of the sampling algorithm (Alg. 2).

Used in demos/ddpm.py: the sampling step
Paper first: 15 minutes
"""
import numpy as np


def reverse_mean(x_t, eps, beta, t):
    raise NotImplementedError("e22: return mu, shape (N, D)")
