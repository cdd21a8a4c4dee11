"""Y_nk = sum_d X_nd W_dk, so X_nd moves row n of Y, by W_dk:     dX_nd = sum_k G_nk W_dk,   dX = G W^T.
W_dk moves column k of Y, by X_nd:                             dW_dk = sum_n X_nd G_nk,   dW = X^T G.
"""
import numpy as np


def matmul_vjp(X, W, G):
    return G @ W.T, X.T @ G
