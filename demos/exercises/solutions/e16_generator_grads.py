"""dD/da = D (1 - D).   d/da log(1 - D) = -D;   d/da (-log D) = -(1 - D).
Where the discriminator is sure (a = -10), D = 0.00005: the first loss is silent, the second pulls with -1.
"""
import numpy as np


def generator_grads(a):
    D = 0.5 * (1 + np.tanh(0.5 * a))
    return -D, D - 1
