"""e15. The value of the game at the optimal discriminator.

p and q are two distributions over M bins (each sums to 1). Put the best D of e14 into
    V = sum over the bins of  p log D + q log(1 - D)
and express the result in terms of the Jensen-Shannon divergence (natural logarithms)
    JSD = KL(p || m) / 2 + KL(q || m) / 2,   m = (p + q) / 2.

    p, q    (M,)    some entries may be 0; 0 log 0 counts as 0
    return  V, one number

Used in demos/gan.py: optimal_loss, which is -V; --exact draws it in loss.png
Paper first: 10 minutes
"""
import numpy as np


def value_at_optimum(p, q):
    raise NotImplementedError("e15: return V, one number")
