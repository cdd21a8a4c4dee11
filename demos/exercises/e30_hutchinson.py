"""e30. Flow matching: Hutchinson's trace estimator.

In many dimensions the trace of the Jacobian J is too expensive, but one product J v is cheap.
Derive, from
    E[v v^T] = I   (entries of v are +1 or -1, independent),
an estimate of tr J for each v, whose mean over v is exactly tr J.

    v, Jv     (M, D)    one vector in each row, and J times it
    return    estimate (M,)

Used in demos/flow_ode.py: divergence takes the exact trace; many dimensions need this estimate
Paper first: 5 minutes
"""
import numpy as np


def hutchinson(v, Jv):
    raise NotImplementedError("e30: return one estimate for each row, shape (M,)")
