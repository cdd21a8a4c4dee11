"""Numerical derivatives for the checks: exact to rounding, and never a formula from an answer."""
import numpy as np

STEP = 1e-30j  # f(x + ih) = f(x) + ih f'(x) + ...: Im f / h is the derivative, without cancellation


def slope(f, x):
    """The derivative of a function that works entry by entry."""
    return f(x + STEP).imag / STEP.imag


def gradient(f, x):
    """The derivatives of f, a number, with respect to every entry of x."""
    return jacobian(f, x).reshape(np.shape(x))


def jacobian(f, x):
    """J[..., i] = df[...] / dx_i, where i counts the entries of x."""
    def column(i):
        z = np.array(x, complex)
        z[i] += STEP
        return np.imag(f(z)) / STEP.imag
    return np.stack([column(i) for i in np.ndindex(np.shape(x))], axis=-1)


def taylor(f, width, order=8):
    """The Taylor coefficients of f at 0, from the polynomial through equally spaced real points."""
    nodes = np.linspace(-1, 1, order + 1)
    values = np.array([f(width * node) for node in nodes])
    powers = np.vander(nodes, increasing=True)
    coefficients = np.linalg.solve(powers, values.reshape(len(nodes), -1))
    return (coefficients / width ** np.arange(order + 1.)[:, None]).reshape(values.shape)


# Stable building blocks that accept complex steps (np.logaddexp and np.maximum do not).

def logsumexp(z, axis=-1):
    top = z.real.max(axis, keepdims=True)
    return np.log(np.exp(z - top).sum(axis, keepdims=True)) + top


def log_sigmoid(a):
    """log s(a) = -log(1 + e^-a), and = a - log(1 + e^a) where a < 0."""
    negative = a.real < 0
    return np.where(negative, a, 0) - np.log1p(np.exp(np.where(negative, a, -a)))


def sigmoid(a):
    return 0.5 * (1 + np.tanh(0.5 * a))
