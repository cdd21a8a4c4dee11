"""e01. Backward pass of a matrix product.

Forward:  Y = X W.  A loss L depends on X and W only through Y.
Given G = dL/dY, derive dL/dX and dL/dW.

    X       (N, D)    rows are samples
    W       (D, K)
    G       (N, K)    the upstream gradient
    return  dX (N, D),  dW (D, K)

Start from Y_nk = sum_d X_nd W_dk and ask which entries of Y depend on one X_nd.
The shapes leave little choice.

Used in tinygen/ops.py: matmul
Paper first: 5 minutes
"""
import numpy as np


def matmul_vjp(X, W, G):
    raise NotImplementedError("e01: return dX, dW of shapes (N, D), (D, K)")
