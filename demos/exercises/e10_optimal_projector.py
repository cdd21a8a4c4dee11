"""e10. The best linear auto-encoder.

A linear auto-encoder with a code of k numbers reconstructs  x  by  mu + (x - mu) P.
The matrix P projects orthogonally onto a subspace of k dimensions. Find the P and mu for which the
mean of |x - reconstruction|^2 is smallest.

    X       (N, D)    rows are samples, their mean is not 0
    k       number of code units
    return  P (D, D),  mu (D,)

First find the best mu for a given P, then write the loss as a trace with the covariance matrix.
np.linalg.eigh or np.linalg.svd does the numerical work.

Used in demos/autoencoder.py: pca and project, the exact optimum of the linear model
Paper first: 15 minutes
"""
import numpy as np


def optimal_projector(X, k):
    raise NotImplementedError("e10: return P, mu of shapes (D, D), (D,)")
