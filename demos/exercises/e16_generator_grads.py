"""e16. Two losses for the generator.

a is the logit of the discriminator on a generated sample, D = s(a) = 1 / (1 + exp(-a)).
    saturating:      L = log(1 - D)
    non-saturating:  L = -log D
The generator minimises. Derive dL/da for both, and look at a = -10: the discriminator is sure of itself.

    a       an array of any shape; some entries are 800 or -800
    return  saturating, non_saturating, both of a's shape

Used in demos/gan.py: the generator loss
Paper first: 10 minutes
"""
import numpy as np


def generator_grads(a):
    raise NotImplementedError("e16: return the derivatives of both losses, shape of a")
