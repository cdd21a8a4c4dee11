"""e16. Two losses for the generator.

a is the logit of the discriminator on a generated sample, D = s(a) = 1 / (1 + exp(-a)).
    saturating:      L = log(1 - D)
    non-saturating:  L = -log D
The generator minimizes L. Derive dL/da for both, and evaluate them at a = -10, where the
discriminator is almost certain.

    a       an array of any shape; some entries are 800 or -800
    return  saturating, non_saturating, both of the shape of a

Used in demos/gan.py: generator_loss
Paper first: 10 minutes
"""
import numpy as np


def generator_grads(a):
    raise NotImplementedError("e16: return the derivatives of both losses, shape of a")
