"""Along a trajectory only the divergence changes the density.
d/dt log p(x_t) = (dp/dt + u . grad p) / p, and
dp/dt = -div(p u) = -u . grad p - p div u: what is left is -div u.
u_i = tanh(A_i . x + b_i), so du_i/dx_i = (1 - u_i^2) A_ii.
"""
import numpy as np


def dlogp_dt(x, A, b):
    return -(1 - np.tanh(x @ A.T + b) ** 2) @ np.diag(A)
