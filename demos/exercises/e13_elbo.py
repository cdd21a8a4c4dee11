"""e13. The ELBO of a linear Gaussian model.

Model:  p(z) = N(0, I),  p(x | z) = N(W z + b, s2 I).   Approximate posterior:  q(z) = N(m, S).
Derive  ELBO = E_q[log p(x | z)] - KL(q || p(z))  in closed form, with all its constants.

    x, b    (D,)    one sample
    W       (D, K)
    s2      number, the noise variance
    m       (K,)
    S       (K, K)  a full covariance matrix
    return  elbo, one number

E_q |x - W z - b|^2 has two parts: write z = m + (z - m). np.linalg.slogdet gives log det S.

Used in demos/linear_vae.py: exact_means, the terms of the bound without sampling
Paper first: 20 minutes
"""
import numpy as np


def elbo(x, W, b, s2, m, S):
    raise NotImplementedError("e13: return the ELBO, one number")
