"""e27. Heun's method.

dx/dt = f(x, t). Euler's method follows the slope at the start. Heun's method predicts the end point
with Euler's method, then starts again with the average of the slopes at both ends.
Show on paper that the error of one step is of order h^3, and write one step.

    f         a function; call f(x, t)
    x         (D,)
    t, h      numbers; h may be negative
    return    x_new (D,), an estimate of x(t + h)

Used in demos/flow_ode.py: heun
Paper first: 10 minutes
"""
import numpy as np


def heun_step(f, x, t, h):
    raise NotImplementedError("e27: return x(t + h), shape of x")
