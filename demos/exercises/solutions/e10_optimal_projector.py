"""The best projector is that of principal component analysis.
Given P, the loss is the mean of |(x - mu)(I - P)|^2, smallest when mu is the mean of the data.
Then it is tr((I - P) C) = tr C - tr(U^T C U). C is the covariance, P = U U^T, and U^T U = I.
tr(U^T C U) is largest for the k eigenvectors of C with the largest eigenvalues.
"""
import numpy as np


def optimal_projector(X, k):
    mu = X.mean(0)
    _, _, V = np.linalg.svd(X - mu, full_matrices=False)    # rows: directions, the largest first
    V = V[:k]                                               # (k, D)
    return V.T @ V, mu
