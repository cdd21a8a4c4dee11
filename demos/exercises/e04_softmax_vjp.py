"""e04. Backward pass of softmax.

Forward, for each row:  p = softmax(z),  p_k = exp(z_k) / sum_j exp(z_j).
A loss L depends on z only through p. Given g = dL/dp, derive dL/dz.

    z, g    (N, K)    rows are samples; some logits are as large as 1000
    return  dz (N, K)

One expression is enough. Do not build the K x K Jacobian.

Used in tinygen/functional.py: softmax
Paper first: 10 minutes
"""
import numpy as np


def softmax_vjp(z, g):
    raise NotImplementedError("e04: return dL/dz, shape (N, K)")
