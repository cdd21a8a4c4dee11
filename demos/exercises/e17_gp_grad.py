"""e17. The gradient of a gradient penalty.

Critic:   f(x) = sum over h of  v_h tanh(W_h . x + b_h).
Penalty:  R = mean over n of (|df/dx_n| - 1)^2.
Derive dR/dW, dR/db and dR/dv.

    x       (N, D)    rows are samples
    W       (H, D)
    b, v    (H,)
    return  dW (H, D),  db (H,),  dv (H,)

First write df/dx_n, an expression that contains tanh'. Then R is an ordinary function of W, b and
v: go backward through it, and through tanh' as well.

Used in demos/gan.py: gradient_penalty
Paper first: 25 minutes
"""
import numpy as np


def gp_grad(x, W, b, v):
    raise NotImplementedError("e17: return dW, db, dv of shapes (H, D), (H,), (H,)")
