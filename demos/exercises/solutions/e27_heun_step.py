"""Compare the Taylor series of the exact path and of one step.
Exact: x(t+h) = x + h f + h^2/2 (f_t + f_x f) + O(h^3).
The second slope is f(x + h f, t + h) = f + h (f_t + f_x f) + O(h^2).
So the average of both slopes, times h, agrees up to and including h^2: the error is O(h^3).
"""
import numpy as np


def heun_step(f, x, t, h):
    k1 = f(x, t)
    return x + h / 2 * (k1 + f(x + h * k1, t + h))
