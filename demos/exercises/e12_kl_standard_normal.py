"""e12. KL divergence from a Gaussian to the standard normal.

q(z) = product over d of N(z_d; mean_d, sigma_d^2),   logvar = log sigma^2,   p(z) = N(z; 0, I).
Derive  KL(q || p) = E_q[log q(z) - log p(z)]  in closed form, one number for each sample.

    mean, logvar    (N, D)    rows are samples
    return          kl (N,)

All you need is E_q z = mean and E_q (z - mean)^2 = sigma^2.

Used in tinygen/functional.py: kl_standard_normal
Paper first: 10 minutes
"""
import numpy as np


def kl_standard_normal(mean, logvar):
    raise NotImplementedError("e12: return the KL of each sample, shape (N,)")
