"""e21. Diffusion: eps, x_0 and v.

x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps.
With alpha_bar = cos(th)^2 this is a rotation, and v = dx_t/dth.
A network may predict eps, x_0 or v. Derive four conversions:
    x0_from_eps    x_0 from x_t and eps
    v_from_eps     v   from x_t and eps
    x0_from_v      x_0 from x_t and v
    eps_from_v     eps from x_t and v

    x_t, eps, v    (N, D)    eps and v belong to two separate questions, not to each other
    alpha_bar      number
    return         x0_from_eps, v_from_eps, x0_from_v, eps_from_v, all (N, D)

Used in demos/forward_process.py: target (v) and to_eps
Paper first: 10 minutes
"""
import numpy as np


def convert(x_t, eps, v, alpha_bar):
    raise NotImplementedError("e21: return x0_from_eps, v_from_eps, x0_from_v, eps_from_v")
