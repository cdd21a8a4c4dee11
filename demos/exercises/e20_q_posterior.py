"""e20. Diffusion: one step back when x_0 is known.

Derive mean and variance of  q(x_{t-1} | x_t, x_0),  a Gaussian.

    x_t, x0    (N, D)
    beta       (T,)    indexed 0 .. T-1
    t          0 .. T-1;  for t = 0 the answer is x_0 itself, with variance 0
    return     mean (N, D),  variance, one number

Bayes: q(x_t | x_{t-1}) q(x_{t-1} | x_0), complete the square.
alpha = 1 - beta, abar_t = alpha_0 ... alpha_t, abar_{-1} = 1 (Python's abar[-1] is something else).

Used in demos/ddpm.py: the posterior of the forward process
Paper first: 20 minutes
"""
import numpy as np


def q_posterior(x_t, x0, beta, t):
    raise NotImplementedError("e20: return mean, variance of shapes (N, D), ()")
