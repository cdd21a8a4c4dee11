"""e25. Flow matching: the conditional velocity.

The conditional path goes from noise x_0 (t = 0) to a small cloud around the data point x_1 (t = 1):
    psi_t(x_0) = (1 - (1 - sigma_min) t) x_0 + t x_1.
u(x, t | x_1) is the velocity of the path that is at x at time t.
Derive it as a function of x, not of x_0.

    x, x1        (N, D)
    t            number in [0, 1], both ends included
    sigma_min    number > 0
    return       u (N, D)

Used in demos/flow_matching.py: flow_matching_loss, with sigma_min = 0
Paper first: 10 minutes
"""
import numpy as np


def conditional_velocity(x, x1, t, sigma_min):
    raise NotImplementedError("e25: return u, shape (N, D)")
