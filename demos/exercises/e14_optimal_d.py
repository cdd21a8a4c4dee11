"""e14. The optimal discriminator.

At one point the data have density p and the samples of the generator have density q. The
discriminator maximizes
    p log D + q log(1 - D)
over the number D between 0 and 1. Derive the best D.

    p, q    arrays of one shape, not negative, never both 0
    return  D, the same shape

Used in demos/gan.py: OPTIMAL_SCORE, the logit of this D
Paper first: 5 minutes
"""
import numpy as np


def optimal_d(p, q):
    raise NotImplementedError("e14: return D, shape of p")
