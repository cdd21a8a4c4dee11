"""e22. Diffusion: the reverse mean from a predicted eps.

Take the posterior mean of e20, replace x_0 by the value that follows from
    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps,
and simplify.

    x_t, eps    (N, D)
    beta        (T,)    indexed 0 .. T-1
    t           0 .. T-1
    return      mu (N, D)

Notation:  alpha = 1 - beta,   alpha_bar_t = alpha_0 ... alpha_t.
The result is a line of the sampling algorithm (Alg. 2).

Used in demos/ddpm.py: ddpm_step
Paper first: 15 minutes
"""
import numpy as np


def reverse_mean(x_t, eps, beta, t):
    raise NotImplementedError("e22: return mu, shape (N, D)")
