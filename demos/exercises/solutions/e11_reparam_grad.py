"""eps does not depend on mu and logvar, so the derivative moves inside the expectation.
d/dmu E f(mu + sigma eps) = E[f'(z) dz/dmu], and the same for logvar.
dz/dmu = 1.   sigma = exp(logvar / 2), so dz/dlogvar = eps sigma / 2.
"""
import numpy as np


def reparam_grad(mu, logvar, eps, df):
    sigma = np.exp(logvar / 2)
    slope = df(mu + sigma * eps)
    return slope, slope * eps * sigma / 2
