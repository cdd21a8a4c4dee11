"""e20. Diffusion: one step back when x_0 is known.

Derive mean and variance of  q(x_{t-1} | x_t, x_0),  a Gaussian.

    x_t, x0    (N, D)
    beta       (T,)    indexed 0 .. T-1
    t          0 .. T-1;  for t = 0 the answer is x_0 itself, with variance 0
    return     mean (N, D),  variance, one number

Use Bayes' rule, q(x_t | x_{t-1}) q(x_{t-1} | x_0), and complete the square.
Notation:  alpha = 1 - beta,   alpha_bar_t = alpha_0 ... alpha_t,   alpha_bar_{-1} = 1
(in Python, alpha_bar[-1] is the last entry instead).

Used in demos/forward_process.py: posterior
Paper first: 20 minutes
"""
import numpy as np


def q_posterior(x_t, x0, beta, t):
    raise NotImplementedError("e20: return mean, variance of shapes (N, D), ()")
