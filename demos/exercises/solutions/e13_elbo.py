"""Write z = m + (z - m): the cross term has mean 0.
With r = x - W m - b:   E |x - W z - b|^2 = |r|^2 + tr(W S W^T).
E log p(x | z) = -1/2 [D log(2 pi s2) + (|r|^2 + tr(W S W^T)) / s2].
KL(N(m, S) || N(0, I)) = 1/2 [tr S + |m|^2 - K - log det S].
"""
import numpy as np


def elbo(x, W, b, s2, m, S):
    r = x - W @ m - b
    likelihood = -0.5 * (len(x) * np.log(2 * np.pi * s2) + (r @ r + np.trace(W @ S @ W.T)) / s2)
    return likelihood - 0.5 * (np.trace(S) + m @ m - len(m) - np.linalg.slogdet(S)[1])
