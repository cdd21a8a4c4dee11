"""v^T J v has the mean sum_ij J_ij E[v_i v_j] = sum_i J_ii = tr J.
One number for each row: multiply v and J v entry by entry and sum over the dimensions.
"""
import numpy as np


def hutchinson(v, Jv):
    return (v * Jv).sum(1)
