"""Both follow from E[x_0 | x].
Given x_1, x_t ~ N(t x_1, (1-t)^2), so score = E[-(x - t x_1) / (1-t)^2 | x] = -E[x_0 | x] / (1-t).
x = (1-t) E[x_0 | x] + t E[x_1 | x], so E[x_1 | x] = (x + (1-t)^2 score) / t.
u = E[x_1 - x_0 | x] = (x + (1-t) score) / t; solve for the score.
"""
import numpy as np


def score_velocity(x, t, score, velocity):
    return (x + (1 - t) * score) / t, (t * velocity - x) / (1 - t)
