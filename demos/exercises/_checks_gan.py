"""Generative adversarial networks: discriminator, value, losses, penalty (e14 to e17)."""
import numpy as np

from _grading import Exercise
from _numerics import gradient, log_sigmoid, sigmoid, slope


def best_response(p, q):
    """Bounds of the D at which the slope of p log D + q log(1 - D) changes sign, by bisection."""
    low = np.zeros_like(p)
    high = np.ones_like(p)
    for _ in range(50):
        D = (low + high) / 2
        rising = slope(lambda D: p * np.log(D) + q * np.log(1 - D), D) > 0
        low = np.where(rising, D, low)
        high = np.where(rising, high, D)
    return low, high


class e14_optimal_d(Exercise):
    against = ("the D at which the numerical slope of p log D + q log(1 - D) changes sign "
               "(bisection)")

    def returns(p, q):
        return {"D": p.shape}

    def draw(rng):
        yield 2 * rng.random((3, 2)), rng.random((3, 2))
        yield 3 * rng.random(4) ** 2, 3 * rng.random(4) ** 2
        yield np.array([0., 0.5, 1.]), np.array([0.7, 0., 1.])  # one of them is 0; both are equal

    def check(f, p, q):
        low, high = best_response(p, q)
        yield "D", f(p, q), (low + high) / 2

    slips = {
        "The labels are swapped: D is the probability that a "
        "sample is REAL, so it is 1 where only p has mass.":
            lambda p, q: q / (p + q),
        "The logit of D is not a difference of densities. Set the "
        "derivative of p log D + q log(1 - D) to zero.":
            lambda p, q: sigmoid(p - q),
        "That is the density ratio r = p/q, which can exceed 1. "
        "D is a probability: D = r / (1 + r).":
            lambda p, q: p / q,
        "D = 1/2 everywhere is the end of training, when q = p. Here p and q are given and differ.":
            lambda p, q: 0.5 + 0 * p,
        "log(p/q) is the LOGIT of the best D: it must still go "
        "through the sigmoid, and then the logs cancel.":
            lambda p, q: np.log(p / q),
    }


def value(p, q, log=np.log):
    """sum p log(p / (p + q)) + q log(q / (p + q)) with 0 log 0 = 0."""
    total = 0
    for a in (p, q):
        ratio = np.where(a > 0, a, 1) / np.where(a > 0, p + q, 1)
        total = total + (a * log(ratio)).sum()
    return total


class e15_value_at_optimum(Exercise):
    against = "p log D + q log(1 - D), summed, at the best D, found by bisection"

    def returns(p, q):
        return {"V": ()}

    def draw(rng):
        for p, q in [rng.random((2, 5)), rng.random((2, 4)) ** 3]:
            yield p / p.sum(), q / q.sum()
        same = rng.random(4)
        yield same / same.sum(), same / same.sum()
        yield np.array([.5, .5, 0., 0.]), np.array([0., 0., .2, .8])

    def check(f, p, q):
        low, high = best_response(p, q)
        V = (p * np.log(high) + q * np.log(1 - low)).sum()
        exact = ""
        if (p == q).all():
            exact = " (V = -log 4 where p = q)"
        elif not (p * q).any():
            exact = " (V = 0 where p and q do not overlap)"
        yield "V", f(p, q), V, e15_value_at_optimum.against + exact

    slips = {
        "V is a sum of two expectations, but JSD averages two "
        "divergences with weight 1/2: V contains 2 JSD.":
            lambda p, q: (value(p, q) + np.log(4)) / 2 - np.log(4),
        "The constant has the wrong sign: where p = q, both D and 1 - D are 1/2 "
        "and V = 2 log(1/2).":
            lambda p, q: value(p, q) + 2 * np.log(4),
        "You use logarithms to base 2. The loss is written in natural logarithms: np.log.":
            lambda p, q: value(p, q, np.log2),
        "Where p = 0 the term p log p counts as 0, but 0 * log(0) is nan: "
        "leave these entries out of the sum.":
            lambda p, q: (p * np.log(p / (p + q)) + q * np.log(q / (p + q))).sum(),
        "The constant is missing: that is 2 JSD alone. Where "
        "p = q, it is 0, but V is 2 log(1/2).":
            lambda p, q: value(p, q) + np.log(4),
        "You subtract log 4 twice: with the denominator p + q "
        "instead of (p + q)/2, it is already included.":
            lambda p, q: value(p, q) - np.log(4),
    }


def naive_sigmoid(a):
    return np.exp(a) / (1 + np.exp(a))


class e16_generator_grads(Exercise):
    against = "numerical derivative of log(1 - s(a)) (saturating) and of -log s(a) (non-saturating)"

    def returns(a):
        return {"saturating": a.shape, "non_saturating": a.shape}

    def draw(rng):
        yield 3 * rng.normal(size=(4,)),
        yield 3 * rng.normal(size=(3, 2)),
        yield np.array([-800., -10., 0., 10., 800.]),

    def check(f, a):
        saturating, non_saturating = f(a)
        yield "saturating", saturating, slope(lambda a: log_sigmoid(-a), a)
        yield "non_saturating", non_saturating, slope(lambda a: -log_sigmoid(a), a)

    slips = {
        "The two are swapped. At a = -10 the discriminator is almost certain that the "
        "sample is fake: which loss still has a gradient there?":
            lambda a: (sigmoid(a) - 1, -sigmoid(a)),
        "The sign is wrong: both losses are minimized and both "
        "fall as a grows, so both derivatives are negative.":
            lambda a: (sigmoid(a), 1 - sigmoid(a)),
        "Those are derivatives with respect to D = s(a). "
        "Continue with the chain rule to the logit: dD/da = D (1 - D).":
            lambda a: (-1 / (1 - sigmoid(a)), -1 / sigmoid(a)),
        "There is a factor D (1 - D) too many: the one from the sigmoid "
        "cancels against 1/D or 1/(1 - D) from the log.":
            lambda a: (-sigmoid(a) ** 2 * (1 - sigmoid(a)), -sigmoid(a) * (1 - sigmoid(a)) ** 2),
        "exp(a) overflows at a = 800 and inf/inf is nan: write "
        "the sigmoid with exp(-|a|), or with tanh(a/2).":
            lambda a: (-naive_sigmoid(a), naive_sigmoid(a) - 1),
        "The non-saturating loss is -log s(a): both of your results belong to log(1 - s(a)).":
            lambda a: (-sigmoid(a), -sigmoid(a)),
    }


def penalty_grads(x, W, b, v, second_order=True, power=1, mean=True, unit=True, two=2):
    """Gradients of the penalty, with room for slips."""
    h = np.tanh(x @ W.T + b)
    u = v * (1 - h ** 2)
    g = u @ W
    n = np.sqrt((g ** 2).sum(1, keepdims=True))
    if power == 2:
        dg = 4 * (n ** 2 - 1) * g
    else:
        dg = two * (n - 1) * (g / n if unit else g)
    dg = dg / len(x) if mean else dg
    du = dg @ W.T
    da = du * v * (-2 * h) * (1 - h ** 2)
    if not second_order:
        da = 0 * da
    return u.T @ dg + da.T @ x, da.sum(0), (du * (1 - h ** 2)).sum(0)


class e17_gp_grad(Exercise):
    against = "numerical derivative of the mean over n of (|df/dx_n| - 1)^2"

    def returns(x, W, b, v):
        return {"dW": W.shape, "db": b.shape, "dv": v.shape}

    def draw(rng):
        for n, d, h in [(4, 2, 3), (3, 3, 3)]:
            x = rng.normal(size=(n, d))
            yield x, rng.normal(size=(h, d)), rng.normal(size=h), rng.normal(size=h)

    def check(f, x, W, b, v):
        def penalty(W, b, v):
            slopes = (v * (1 - np.tanh(x @ W.T + b) ** 2)) @ W
            return ((np.sqrt((slopes ** 2).sum(1)) - 1) ** 2).mean()

        dW, db, dv = f(x, W, b, v)
        yield "dW", dW, gradient(lambda W: penalty(W, b, v), W)
        yield "db", db, gradient(lambda b: penalty(W, b, v), b)
        yield "dv", dv, gradient(lambda v: penalty(W, b, v), v)

    slips = {
        "The penalty depends on W also through tanh'(W x + b): this "
        "second-order path is missing, and because of it db is not 0.":
            lambda *a: penalty_grads(*a, second_order=False),
        "That is the gradient of (|g|^2 - 1)^2. The penalty is (|g| - 1)^2, with the norm itself.":
            lambda *a: penalty_grads(*a, power=2),
        "The penalty is a mean over the N samples: your answer is too large by a factor N.":
            lambda *a: penalty_grads(*a, mean=False),
        "The derivative of the norm |g| is the unit vector g / |g|: you multiply by g itself.":
            lambda *a: penalty_grads(*a, unit=False),
        "The factor 2 from the square of (|g| - 1) is missing.":
            lambda *a: penalty_grads(*a, two=1),
    }
