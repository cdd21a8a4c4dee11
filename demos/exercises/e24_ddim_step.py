"""e24. Diffusion: the DDIM step.

From x_t jump to an earlier, less noisy time s (alpha_bar_s > alpha_bar_t). Predict x_0 from x_t
and eps, then combine
    x_s = (weight) x_0 + (weight) eps + sigma noise
so that  q(x_s | x_0) = N(sqrt(alpha_bar_s) x_0, (1 - alpha_bar_s) I)  holds for EVERY sigma.
Derive the weights.

    x_t, eps, noise             (N, D)    eps is the predicted noise, noise is fresh
    alpha_bar_t, alpha_bar_s    numbers
    sigma                       number;  0 is deterministic
    return                      x_s (N, D)

Used in demos/ddim.py: ddim_step
Paper first: 15 minutes
"""
import numpy as np


def ddim_step(x_t, eps, alpha_bar_t, alpha_bar_s, sigma, noise):
    raise NotImplementedError("e24: return x_s, shape (N, D)")
