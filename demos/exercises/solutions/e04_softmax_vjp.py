"""The gradient is p times (g minus the mean of g under p).
log p_i = z_i - log sum_j exp(z_j), so dp_i/dz_j = p_i (delta_ij - p_j).
dL/dz_j = sum_i g_i p_i (delta_ij - p_j) = p_j (g_j - sum_i p_i g_i).
"""
import numpy as np


def softmax_vjp(z, g):
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p * (g - (p * g).sum(1, keepdims=True))
