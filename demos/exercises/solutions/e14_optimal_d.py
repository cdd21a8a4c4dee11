"""At the best D, the slope of p log D + q log(1 - D) is 0.
p/D - q/(1-D) = 0  gives  p (1-D) = q D,  D = p / (p + q).
The second derivative -p/D^2 - q/(1-D)^2 is negative: a maximum.
"""
import numpy as np


def optimal_d(p, q):
    return p / (p + q)
