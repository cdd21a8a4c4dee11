"""The chain rule goes through dD/da = D (1 - D).
d/da log(1 - D) = -D;   d/da (-log D) = -(1 - D).
At a = -10, D = 0.00005: the gradient of the first loss is almost 0, that of the second almost -1.
"""
import numpy as np


def generator_grads(a):
    D = 0.5 * (1 + np.tanh(0.5 * a))
    return -D, D - 1
