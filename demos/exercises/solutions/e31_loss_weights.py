"""x_t is fixed, so an error dx_0 in x_0 implies an error deps in eps.
sqrt(alpha_bar) dx_0 + sqrt(1-alpha_bar) deps = 0, so
    deps^2 = alpha_bar / (1-alpha_bar) dx_0^2  (the signal-to-noise ratio).
dv = sqrt(alpha_bar) deps - sqrt(1-alpha_bar) dx_0
   = -(alpha_bar + 1 - alpha_bar) / sqrt(1-alpha_bar) dx_0, so dv^2 = dx_0^2 / (1-alpha_bar).
"""
import numpy as np


def loss_weights(alpha_bar):
    return alpha_bar / (1 - alpha_bar), 1 / (1 - alpha_bar)
