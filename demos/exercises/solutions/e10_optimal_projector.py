"""Given P, the loss is the mean of |(x - mu)(I - P)|^2, smallest when mu is the mean of the data.
Then it is tr((I - P) C) = tr C - tr(U^T C U) with the covariance C and P = U U^T, U^T U = I.
tr(U^T C U) is largest for the k eigenvectors of C with the largest eigenvalues: principal components.
"""
import numpy as np


def optimal_projector(X, k):
    mu = X.mean(0)
    V = np.linalg.svd(X - mu, full_matrices=False)[2][:k]  # rows: right singular vectors, largest first
    return V.T @ V, mu
