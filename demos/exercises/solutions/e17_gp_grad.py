"""Write the forward pass in five steps, then go backward through each.
Forward:  a = W x + b,  h = tanh(a),  u = v (1 - h^2),  g = W^T u = df/dx,  R = mean (|g| - 1)^2.
Backward:  dg = 2 (|g| - 1) g / (|g| N).
From g = W^T u:  du = W dg, and the first part of dW, u dg^T.
From u = v (1 - h^2):  dv = du (1 - h^2)  and  dh = -2 h v du.
From a:  da = dh (1 - h^2), db = da, and the second part of dW, da x^T. Sum over the samples.
"""
import numpy as np


def gp_grad(x, W, b, v):
    h = np.tanh(x @ W.T + b)                                # (N, H)
    u = v * (1 - h ** 2)                                    # (N, H)
    g = u @ W                                               # (N, D)
    norm = np.sqrt((g ** 2).sum(1, keepdims=True))
    dg = 2 * (norm - 1) * g / norm / len(x)                 # (N, D)
    du = dg @ W.T                                           # (N, H)
    da = -2 * h * v * du * (1 - h ** 2)                     # (N, H), the second-order path
    return u.T @ dg + da.T @ x, da.sum(0), (du * (1 - h ** 2)).sum(0)
