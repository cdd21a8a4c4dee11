"""e28. Flow matching: score and velocity are the same information.

x_t = (1-t) x_0 + t x_1,  x_0 ~ N(0, I),  0 < t < 1.
    score     = d log p_t(x) / dx
    velocity  = E[x_1 - x_0 | x_t = x]
Derive each from the other. The data distribution does not appear.

    x, score, velocity    (N,)    score and velocity belong to two separate questions
    t                     number
    return                velocity_from_score (N,),  score_from_velocity (N,)

Show first that score = -E[x_0 | x_t = x] / (1-t).

Used in demos/flow_ode.py: score
Paper first: 15 minutes
"""
import numpy as np


def score_velocity(x, t, score, velocity):
    raise NotImplementedError("e28: return velocity_from_score, score_from_velocity, shape of x")
