"""The derivative of the sigmoid, ds/da = s (1 - s), cancels the denominators.
d/da [x log s + (1-x) log(1-s)] = x (1-s) - (1-x) s = x - s(a).
s(a) = (1 + tanh(a/2)) / 2 never overflows.
"""
import numpy as np


def bernoulli_grad(x, a):
    return x - 0.5 * (1 + np.tanh(0.5 * a))
