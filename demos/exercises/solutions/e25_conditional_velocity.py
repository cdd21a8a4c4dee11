"""Differentiate the path in t, then replace x_0 by x.
With c = 1 - sigma_min:  dpsi_t/dt = x_1 - c x_0,  and x = psi_t(x_0) gives
x_0 = (x - t x_1) / (1 - c t).
Over the common denominator, the numerator is x_1 (1 - c t) - c x + c t x_1: two terms cancel.
"""
import numpy as np


def conditional_velocity(x, x1, t, sigma_min):
    return (x1 - (1 - sigma_min) * x) / (1 - (1 - sigma_min) * t)
