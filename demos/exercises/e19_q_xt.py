"""e19. Diffusion: from x_0 to x_t in one step.

One noising step:  x_s = sqrt(1 - beta_s) x_{s-1} + sqrt(beta_s) eps_s,   eps_s ~ N(0, I).
Derive mean and standard deviation of  q(x_t | x_0).

    x0      (N, D)
    beta    (T,)      indexed 0 .. T-1: beta[0] is the first step, x_t has gone through steps 0 .. t
    t       0 .. T-1
    return  mean (N, D),  std, one number

Notation in all diffusion exercises:
    alpha = 1 - beta,   alpha_bar_t = alpha_0 alpha_1 ... alpha_t,   alpha_bar_{-1} = 1.

Used in demos/forward_process.py: q_sample
Paper first: 10 minutes
"""
import numpy as np


def q_xt(x0, beta, t):
    raise NotImplementedError("e19: return mean, std of shapes (N, D), ()")
