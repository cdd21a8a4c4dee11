"""e08. Gradient of the Bernoulli log-likelihood in the logit.

log p(x | a) = x log s(a) + (1 - x) log(1 - s(a)),   s(a) = 1 / (1 + exp(-a)),   entry by entry.
Derive d log p / da.

    x       (N, D)    pixels, 0 or 1 or gray in between
    a       (N, D)    logits; some are 800 or -800
    return  da (N, D)  (without sum or mean; of the log-likelihood, not of the loss)

Keep the sigmoid finite: exp(800) overflows.

Used in tinygen/functional.py: bce_with_logits (in binary_cross_entropy_with_logits)
Paper first: 5 minutes
"""
import numpy as np


def bernoulli_grad(x, a):
    raise NotImplementedError("e08: return da, shape (N, D)")
