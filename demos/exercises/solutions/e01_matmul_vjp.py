"""Ask which entries of Y = X W depend on one entry of X, and on one entry of W.
Y_nk = sum_d X_nd W_dk, so X_nd enters row n of Y, times W_dk:
    dX_nd = sum_k G_nk W_dk,   dX = G W^T.
W_dk enters column k of Y, times X_nd:
    dW_dk = sum_n X_nd G_nk,   dW = X^T G.
"""
import numpy as np


def matmul_vjp(X, W, G):
    return G @ W.T, X.T @ G
