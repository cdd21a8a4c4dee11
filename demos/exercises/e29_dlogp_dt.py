"""e29. Flow matching: the density along a trajectory.

Points move with dx/dt = u(x) = tanh(A x + b). Derive how fast the logarithm of their density
changes along the way:   d/dt log p_t(x_t).

    x         (N, D)    rows are samples, each on its own trajectory
    A         (D, D)
    b         (D,)
    return    dlogp (N,)

Use the continuity equation dp/dt + div(p u) = 0, or det(I + h J) = 1 + h tr J + ...

Used in demos/flow_ode.py: log_likelihood
Paper first: 15 minutes
"""
import numpy as np


def dlogp_dt(x, A, b):
    raise NotImplementedError("e29: return dlogp, shape (N,)")
