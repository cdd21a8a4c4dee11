"""The logarithm of softmax splits the loss into two simple terms.
For one row, -sum_k y_k log p_k = log sum_j exp(z_j) - sum_k y_k z_k, because the y_k sum to 1.
The first term has the derivative exp(z_k) / sum_j exp(z_j) = p_k, the second -y_k.
The mean brings 1/N. Subtracting the maximum of the row cancels in p and keeps exp finite.
"""
import numpy as np


def ce_grad(z, y):
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return (p - y) / len(z)
