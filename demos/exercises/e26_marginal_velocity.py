"""e26. Flow matching: the marginal velocity, exactly.

Data in 1-D:  x_1 ~ sum over k of  w_k N(m_k, s_k^2).   Noise:  x_0 ~ N(0, 1).
x_t = (1-t) x_0 + t x_1,  so t = 0 is noise and t = 1 is data.
Derive the velocity that a perfect network learns,
    u(x, t) = E[x_1 - x_0 | x_t = x].

    x          (N,)
    t          number in [0, 1)
    w, m, s    (K,)    weights, means, standard deviations
    return     u (N,)

Start with one component: x_1, x_0 and x_t are jointly Gaussian. Then weight the components by
their probabilities given this x.

Used in demos/flow_matching.py: exact_velocity, where each component is one data point (s = 0)
Paper first: 25 minutes
"""
import numpy as np


def marginal_velocity(x, t, w, m, s):
    raise NotImplementedError("e26: return u, shape (N,)")
