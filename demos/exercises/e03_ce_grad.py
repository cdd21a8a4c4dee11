"""e03. Gradient of the softmax cross-entropy.

Forward:  L = mean over n of  -sum_k y[n, k] log p[n, k],   p = softmax(z) for each row.
Derive dL/dz.

    z       (N, K)    logits, rows are samples; some are as large as 1000
    y       (N, K)    one-hot labels
    return  dz (N, K)

Most of what you write down on the way cancels.

Used in tinygen/functional.py: cross_entropy (through the vjp of log_softmax)
Paper first: 10 minutes
"""
import numpy as np


def ce_grad(z, y):
    raise NotImplementedError("e03: return dL/dz, shape (N, K)")
