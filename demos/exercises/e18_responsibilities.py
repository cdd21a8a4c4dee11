"""e18. Responsibilities of a Gaussian mixture.

p(x) = sum over k of  pi_k N(x; mu_k, var_k I)  in D dimensions.
Derive r[n, k] = p(component k | x_n).

    x       (N, D)    rows are samples; some lie hundreds of sigmas away
    pi      (K,)
    mu      (K, D)
    var     (K,)      variances, sigma_k^2
    return  R (N, K)

Use Bayes' rule. Then write it in logarithms, so that far points do not end in 0/0.

Used in demos/gmm.py: responsibilities, the E step
Paper first: 10 minutes
"""
import numpy as np


def responsibilities(x, pi, mu, var):
    raise NotImplementedError("e18: return R, shape (N, K)")
