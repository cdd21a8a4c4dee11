"""Flow matching: velocities, score, Heun's method, likelihood (e25 to e30)."""
import itertools
import math

import numpy as np

from _grading import Exercise
from _numerics import jacobian, logsumexp, slope, taylor

erf = np.vectorize(math.erf)


def mixture(rng, k=3):
    """Weights, means and standard deviations in 1-D, unequal and far apart, so that slips show."""
    w = rng.permutation(2. ** np.arange(k))
    m = rng.permutation(np.linspace(-2.5, 2.5, k))
    return w / w.sum(), m + 0.3 * rng.random(k), 0.4 + 0.6 * rng.random(k)


def at_time(t, m, s):
    """Means and standard deviations of the components of x_t = (1-t) x_0 + t x_1."""
    return t * m, np.sqrt((t * s) ** 2 + (1 - t) ** 2)


def log_density(x, t, w, m, s):
    mean, std = at_time(t, m, s)
    z = (x[:, None] - mean) / std
    return logsumexp(np.log(w / std) - 0.5 * z ** 2 - 0.5 * np.log(2 * np.pi))[:, 0]


def mass_to_the_left(x, t, w, m, s):
    mean, std = at_time(t, m, s)
    return 0.5 * (1 + erf((x[:, None] - mean) / (std * np.sqrt(2)))) @ w


def velocity_by_continuity(x, t, w, m, s):
    """dp/dt + d(p u)/dx = 0, integrated from -infinity to x: p u = -d(mass to the left of x)/dt."""
    change = taylor(lambda h: mass_to_the_left(x, t + h, w, m, s), 0.02)[1]
    return -change / np.exp(log_density(x, t, w, m, s))


def score(x, t, w, m, s):
    return slope(lambda x: log_density(x, t, w, m, s), x)


class e25_conditional_velocity(Exercise):
    against = "numerical derivative in t of the path psi_t = (1 - (1 - sigma_min) t) x_0 + t x_1"

    def returns(x, x1, t, sigma_min):
        return {"u": x.shape}

    def draw(rng):
        for t in (rng.random(), 0., 1.):
            yield *rng.normal(size=(2, 4, 2)), t, 0.05 + 0.2 * rng.random()

    def check(f, x, x1, t, sigma_min):
        x0 = x  # any start will do: the velocity is checked where the path has arrived at time t

        def psi(t):
            return (1 - (1 - sigma_min) * t) * x0 + t * x1

        yield "u", f(psi(t), x1, t, sigma_min), slope(psi, t)

    slips = {
        "Divide the remaining distance by the remaining time, 1 - (1 - sigma_min) t.":
            lambda x, x1, t, s: x1 - x,
        "sigma_min is missing: the path ends in a small cloud around "
        "x_1, not in x_1 itself (and at t = 1 yours divides by 0).":
            lambda x, x1, t, s: (x1 - x) / (1 - t),
        "The sign is wrong: the path runs from the noise (t = 0) to the data (t = 1).":
            lambda x, x1, t, s: -(x1 - (1 - s) * x) / (1 - (1 - s) * t),
        "Time runs the other way here: t = 0 is noise, t = 1 is data.":
            lambda x, x1, t, s: (x1 - (1 - s) * x) / (1 - (1 - s) * (1 - t)),
        "x_1 - x_0 is right, but x_0 is not given: solve x = psi_t(x_0) for it and put it in.":
            lambda x, x1, t, s: x1 - (1 - s) * x,
        "In the numerator, the remaining distance starts at (1 - sigma_min) x.":
            lambda x, x1, t, s: (x1 - x) / (1 - (1 - s) * t),
    }


def component_weights(x, w, mean, std):
    """The probability of each component, given each x."""
    r = np.exp(np.log(w / std) - 0.5 * ((x[:, None] - mean) / std) ** 2)
    return r / r.sum(1, keepdims=True)


def marginal_velocity(x, t, w, m, s, weights=None, spread=1, x0=1):
    """Weighted mean of E[x_1 - x_0 | x, component], with room for slips."""
    mean, std = at_time(t, m, s)
    weights = component_weights(x, w, mean, std) if weights is None else weights
    offset = (x[:, None] - mean) / at_time(t, m, spread * s)[1] ** 2
    return (weights * (m + t * (spread * s) ** 2 * offset - x0 * (1 - t) * offset)).sum(1)


class e26_marginal_velocity(Exercise):
    against = ("the continuity equation: "
               "p u at x is minus the rate at which the mass to the left of x grows")
    tolerance = 1e-8

    def returns(x, t, w, m, s):
        return {"u": x.shape}

    def draw(rng):
        for t in (0., *rng.uniform(0.2, 0.9, 2)):
            w, m, s = mixture(rng)
            mean, std = at_time(t, m, s)
            x = mean[:, None] + std[:, None] * np.array([-1.2, 0.1, 1.])
            yield x.ravel(), t, w, m, s

    def check(f, x, t, w, m, s):
        yield "u", f(x, t, w, m, s), velocity_by_continuity(x, t, w, m, s)

    slips = {
        "You weight the components by their prior w. "
        "Weight them by their probability given THIS x.":
            lambda x, t, w, m, s: marginal_velocity(x, t, w, m, s, weights=w),
        "These are the responsibilities under the data density. At time t the "
        "components have the means t m and the variances t^2 s^2 + (1-t)^2.":
            lambda x, t, w, m, s: marginal_velocity(
                x, t, w, m, s, weights=component_weights(x, w, m, s)),
        "That is E[x_1 | x] only. The velocity is u = E[x_1 - x_0 | x].":
            lambda x, t, w, m, s: marginal_velocity(x, t, w, m, s, x0=0),
        "E[x_1 | x] - x is the remaining distance: divide it by the remaining time, 1 - t.":
            lambda x, t, w, m, s: marginal_velocity(x, t, w, m, s, x0=0) - x,
        "Each component is a cloud, not a point: given x and the "
        "component, the mean of x_1 is not m but depends on x.":
            lambda x, t, w, m, s: marginal_velocity(
                x, t, w, m, s, weights=component_weights(x, w, *at_time(t, m, s)), spread=0),
        "The responsibilities lack w: a rare component made this x less often than a frequent one.":
            lambda x, t, w, m, s: marginal_velocity(x, t, np.ones_like(w), m, s),
    }


# Two mixtures: a row of weights, one of means, one of standard deviations
ONE = np.array([[.5, .3, .2], [-1., .4, 2.], [.5, .9, .4]])
OTHER = np.array([[.4, .6], [1.5, -.5], [.6, .8]])


class e28_score_velocity(Exercise):
    against = ("score: numerical derivative of log p_t; velocity: continuity equation; "
               "both of a 1-D mixture")
    tolerance = 1e-8

    def returns(x, t, score, velocity):
        return {"velocity_from_score": x.shape, "score_from_velocity": x.shape}

    def draw(rng):
        for t in rng.uniform(0.2, 0.8, 2):
            x = rng.uniform(-1, 1.6, 5)
            # Two mixtures, so that neither output can be read off the inputs
            yield x, t, score(x, t, *ONE), velocity_by_continuity(x, t, *OTHER)

    def check(f, x, t, s, u):
        velocity_from_score, score_from_velocity = f(x, t, s, u)
        yield "velocity_from_score", velocity_from_score, velocity_by_continuity(x, t, *ONE)
        yield "score_from_velocity", score_from_velocity, score(x, t, *OTHER)

    slips = {
        "The sign in front of the score is wrong: "
        "E[x_0 | x] = -(1-t) score, and u contains MINUS x_0.":
            lambda x, t, s, u: ((x - (1 - t) * s) / t, (x - t * u) / (1 - t)),
        "t and 1 - t are swapped: t = 0 is noise, t = 1 is data.":
            lambda x, t, s, u: ((x + t * s) / (1 - t), ((1 - t) * u - x) / t),
        "Score and velocity are two different vectors: the score "
        "points uphill in log p_t, and the velocity depends on x as well.":
            lambda x, t, s, u: (s, u),
        "The power of 1 - t is wrong. Two terms contain the score, "
        "with the factors (1-t)^2 / t and (1-t): add them up.":
            lambda x, t, s, u: ((x + (1 - t) ** 2 * s) / t, (t * u - x) / (1 - t) ** 2),
        "The term x / t is missing: even where the score is 0 the points move, with u = x / t.":
            lambda x, t, s, u: ((1 - t) * s / t, t * u / (1 - t)),
        "You forgot to divide by t in one direction and to multiply by "
        "t in the other: E[x_1 | x] = (x - (1-t) x_0) / t.":
            lambda x, t, s, u: (x + (1 - t) * s, (u - x) / (1 - t)),
    }


def field(A, b):
    def f(x, t):
        return np.sin(A @ x + b * t) + 0.5 * b * t * x
    f.__qualname__ = "f"  # the name that a student reads in the message after f(x)
    return f


class e27_heun_step(Exercise):
    against = "the Taylor coefficients in h of one step"
    tolerance = 1e-6

    def returns(f, x, t, h):
        return {"x_new": x.shape}

    def draw(rng):
        for d in (1, 3):
            f = field(rng.normal(size=(d, d)), 1 + rng.random(d))
            yield f, rng.normal(size=d), rng.random(), 0.3

    def check(step, f, x, t, h):  # h is used for the hints only, where slips must differ clearly
        ours = taylor(lambda h: step(f, x, t, h), 0.03)
        ahead = taylor(lambda h: f(x + h * f(x, t), t + h), 0.03)  # the slope at the predicted end
        yield "step with h = 0", ours[0], x, "a step of length 0 does not move"
        yield "h^1 of the step", ours[1], f(x, t), "to first order in h a step follows f(x, t)"
        yield "h^2 of the step", ours[2], ahead[1] / 2, (
            "second order: the exact path has x'' = f_t + f_x f")
        yield "h^3 of the step", ours[3], ahead[2] / 2, (
            "the slopes at t and at t + h have the weight 1/2 each")

    slips = {
        "That is Euler's step: right to first order only. Use the slope at its end as well.":
            lambda f, x, t, h: x + h * f(x, t),
        "The second slope is taken at the old time: the predicted point belongs to t + h.":
            lambda f, x, t, h: x + h / 2 * (f(x, t) + f(x + h * f(x, t), t)),
        "The second slope is taken at the old point: predict "
        "x + h k1 first, then evaluate the slope there.":
            lambda f, x, t, h: x + h / 2 * (f(x, t) + f(x, t + h)),
        "The 1/2 is missing: your step follows the sum of the two slopes, not their mean.":
            lambda f, x, t, h: x + h * (f(x, t) + f(x + h * f(x, t), t + h)),
        "You use only the slope at the end. Average it with the slope at the start.":
            lambda f, x, t, h: x + h * f(x + h * f(x, t), t + h),
        "That is the midpoint rule, of second order as well. "
        "Heun averages the slopes at both ENDS of the step.":
            lambda f, x, t, h: x + h * f(x + h / 2 * f(x, t), t + h / 2),
        "h is missing in the prediction: the second slope belongs to the point x + h k1.":
            lambda f, x, t, h: x + h / 2 * (f(x, t) + f(x + f(x, t), t + h)),
    }


def tanh_slope(x, A, b):
    """tanh' at the activations of each row."""
    return 1 - np.tanh(x @ A.T + b) ** 2


class e29_dlogp_dt(Exercise):
    against = ("how fast space stretches: "
               "minus the slope at h = 0 of log |det| of the Jacobian of x + h u(x)")
    tolerance = 1e-8

    def returns(x, A, b):
        return {"dlogp": (len(x),)}

    def draw(rng):
        for n, d in [(4, 3), (3, 3), (2, 1)]:
            A = rng.normal(size=(d, d)) + np.diag(rng.permutation(np.linspace(1, 2.5, d)))
            yield 0.5 * rng.normal(size=(n, d)), A, 0.5 * rng.normal(size=d)

    def check(f, x, A, b):
        def log_volume(x, h):
            return np.linalg.slogdet(jacobian(lambda x: x + h * np.tanh(A @ x + b), x))[1]

        growth = [taylor(lambda h: log_volume(row, h), 0.01)[1] for row in x]
        yield "dlogp", f(x, A, b), -np.array(growth)

    slips = {
        "The sign is wrong: where the flow spreads points out (positive divergence) "
        "the density falls.":
            lambda x, A, b: tanh_slope(x, A, b) @ np.diag(A),
        "That is the trace of A only: the chain rule goes through "
        "tanh, so use 1 - tanh^2 of each row's own activation.":
            lambda x, A, b: -np.trace(A) + 0 * x[:, 0],
        "The log-determinant belongs to the Jacobian of the whole "
        "flow. Its rate of change is the TRACE of du/dx.":
            lambda x, A, b: -np.linalg.slogdet(tanh_slope(x, A, b)[:, :, None] * A)[1],
        "You add up all entries of the Jacobian. The divergence "
        "is the sum of its diagonal, du_i/dx_i.":
            lambda x, A, b: -(tanh_slope(x, A, b) @ A).sum(1),
        "The derivative of tanh is 1 - tanh^2, not 1 - tanh.":
            lambda x, A, b: -(1 - np.tanh(x @ A.T + b)) @ np.diag(A),
        "You average the diagonal of du/dx over the dimensions: the divergence is its sum.":
            lambda x, A, b: -tanh_slope(x, A, b) @ np.diag(A) / len(A),
    }


class e30_hutchinson(Exercise):
    against = "the trace of J; the mean over all sign vectors is taken exactly"

    def returns(v, Jv):
        return {"estimate": (len(v),)}

    def draw(rng):
        for d in (4, 6):
            J = rng.normal(size=(d, d)) + np.diag(1 + 3 * rng.random(d))
            v = np.array(list(itertools.product([-1., 1.], repeat=d)))
            yield v, v @ J.T

    def check(f, v, Jv):
        J = np.linalg.lstsq(v, Jv)[0].T
        estimate = f(v, Jv)
        yield "mean estimate", estimate.mean(), np.trace(J)
        yield "estimate", f(v[:3], Jv[:3]), estimate[:3], "every estimate uses its own vector only"

    slips = {
        "The sum of J v has mean 0 over the signs. "
        "Multiply by v once more: v^T J v keeps the diagonal.":
            lambda v, Jv: Jv.sum(1),
        "|J v|^2 estimates the sum of all squared entries of J. The trace needs v^T J v.":
            lambda v, Jv: (Jv ** 2).sum(1),
        "You average over the dimensions: the trace is a sum.":
            lambda v, Jv: (v * Jv).mean(1),
        "v^T J v is one number for each vector: sum the products over the dimensions (axis 1).":
            lambda v, Jv: v * Jv,
        "These are products between ALL pairs of vectors. Pair each v with its own J v.":
            lambda v, Jv: v @ Jv.T,
    }
