"""x_t is fixed: sqrt(abar) dx_0 + sqrt(1-abar) deps = 0, so deps^2 = abar / (1-abar) dx_0^2, the SNR.
dv = sqrt(abar) deps - sqrt(1-abar) dx_0 = -(abar + 1 - abar) / sqrt(1-abar) dx_0: dv^2 = dx_0^2 / (1-abar).
"""
import numpy as np


def loss_weights(abar):
    return abar / (1 - abar), 1 / (1 - abar)
