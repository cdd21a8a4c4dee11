"""e32. The M step of a Gaussian mixture.

Given responsibilities R, maximize over all pi (sum 1), mu and var
    Q = sum over n, k of  r[n, k] log( pi_k N(x_n; mu_k, var_k I) ).

    x       (N, D)    rows are samples
    R       (N, K)    rows sum to 1
    return  pi (K,),  mu (K, D),  var (K,)    var_k is the variance sigma_k^2 of one coordinate

pi needs a Lagrange multiplier (or softmax logits). Do not forget the D in the normalizer of the
density.

Used in demos/gmm.py: em_step, the M step
Paper first: 15 minutes
"""
import numpy as np


def m_step(x, R):
    raise NotImplementedError("e32: return pi, mu, var of shapes (K,), (K, D), (K,)")
