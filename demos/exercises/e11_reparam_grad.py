"""e11. The reparameterization trick.

z = mu + sigma eps,  eps ~ N(0, 1),  logvar = log sigma^2.
Find the derivatives of  E f(z)  with respect to mu and logvar. Move the derivative inside the
expectation: for every eps, return the number whose mean over eps is the derivative.

    mu, logvar    numbers
    eps           (M,)
    df            the function f'; call df(z) with an array
    return        dmu (M,),  dlogvar (M,)  (one number for each eps, no mean)

Used in demos/vae.py: reparameterize
Paper first: 10 minutes
"""
import numpy as np


def reparam_grad(mu, logvar, eps, df):
    raise NotImplementedError("e11: return dmu, dlogvar, both of shape (M,)")
