"""Diffusion: forward process, posterior, conversions, weights, DDIM (e19, e20, e22, e21, e31, e23, e24)."""
import numpy as np

from _grading import Exercise
from _numerics import slope


def schedule(rng, steps=6):
    return np.sort(0.05 + 0.4 * rng.random(steps))


def alpha_bar(beta, t):
    return np.prod(1 - beta[:t + 1])  # empty product for t = -1


def marginal(x0, beta, t):
    """Mean and variance of x_t, one noising step after the other, from nothing but q(x_s | x_{s-1})."""
    mean, variance = x0, 0.
    for b in beta[:t + 1]:
        mean, variance = np.sqrt(1 - b) * mean, (1 - b) * variance + b
    return mean, variance


def conditioned(x_t, x0, beta, t):
    """Mean and variance of x_{t-1} given x_t: the conditioning rule for two jointly Gaussian numbers."""
    prior, variance = marginal(x0, beta, t - 1)
    a = np.sqrt(1 - beta[t])
    gain = variance * a / (a * variance * a + beta[t])
    return prior + gain * (x_t - a * prior), variance - gain * a * variance


class e19_q_xt(Exercise):
    against = "mean and variance followed step by step, x_s = sqrt(1 - beta_s) x_{s-1} + sqrt(beta_s) eps"

    def returns(x0, beta, t):
        return {"mean": x0.shape, "std": ()}

    def draw(rng):
        beta, x0 = schedule(rng), rng.normal(size=(3, 2))
        for t in range(len(beta)):
            yield x0, beta, t

    def check(f, x0, beta, t):
        mean, std = f(x0, beta, t)
        true_mean, variance = marginal(x0, beta, t)
        yield "mean", mean, true_mean
        yield "std", std, np.sqrt(variance)

    slips = {
        "That is the variance: the standard deviation is its square root.":
            lambda x0, beta, t: (np.sqrt(alpha_bar(beta, t)) * x0, 1 - alpha_bar(beta, t)),
        "The mean shrinks by sqrt(1 - beta) in every step, so by sqrt(abar) in all.":
            lambda x0, beta, t: (alpha_bar(beta, t) * x0, np.sqrt(1 - alpha_bar(beta, t))),
        "You multiply the betas. abar is the product of all alpha = 1 - beta.":
            lambda x0, beta, t: (np.sqrt(np.prod(beta[:t + 1])) * x0, np.sqrt(1 - np.prod(beta[:t + 1]))),
        "That is one step only. From x_0 to x_t the factors alpha_0 ... alpha_t all multiply: use abar_t.":
            lambda x0, beta, t: (np.sqrt(1 - beta[t]) * x0, np.sqrt(beta[t])),
        "Off by one: index t is a noising step already done, so abar_t includes alpha_t.":
            lambda x0, beta, t: (np.sqrt(alpha_bar(beta, t - 1)) * x0, np.sqrt(1 - alpha_bar(beta, t - 1))),
        "Off by one, and at t = 0 Python takes abar[-1], the LAST entry: x_t has the noise of abar[t].":
            lambda x0, beta, t: (lambda abar: (np.sqrt(abar) * x0, np.sqrt(1 - abar)))(
                np.cumprod(1 - beta)[t - 1]),
        "Adding up the betas is right to first order only: "
        "earlier noise is shrunk by the later steps as well.":
            lambda x0, beta, t: (np.sqrt(1 - beta[:t + 1].sum()) * x0, np.sqrt(beta[:t + 1].sum())),
    }


def posterior(x_t, x0, beta, t, swap=False, previous=-1, root=True):
    """Mean and variance, with room for slips."""
    abar, before = alpha_bar(beta, t), alpha_bar(beta, t + previous)
    c0 = (np.sqrt(before) if root else before) * beta[t] / (1 - abar)
    ct = (np.sqrt(1 - beta[t]) if root else 1 - beta[t]) * (1 - before) / (1 - abar)
    return (ct * x0 + c0 * x_t if swap else c0 * x0 + ct * x_t), beta[t] * (1 - before) / (1 - abar)


class e20_q_posterior(Exercise):
    against = "the conditioning rule for the two jointly Gaussian variables x_{t-1} and x_t"

    def returns(x_t, x0, beta, t):
        return {"mean": x_t.shape, "variance": ()}

    def draw(rng):
        beta, x_t, x0 = schedule(rng), *rng.normal(size=(2, 3, 2))
        for t in range(len(beta)):
            yield x_t, x0, beta, t

    def check(f, x_t, x0, beta, t):
        mean, variance = f(x_t, x0, beta, t)
        true_mean, true_variance = conditioned(x_t, x0, beta, t)
        yield "mean", mean, true_mean
        yield "variance", variance, true_variance

    slips = {
        "beta_t is an upper bound. Knowing x_0 as well, x_{t-1} is more certain: "
        "the variance is smaller by (1 - abar_{t-1}) / (1 - abar_t).":
            lambda x_t, x0, beta, t: (posterior(x_t, x0, beta, t)[0], beta[t]),
        "The two coefficients are exchanged: at t = 0 the mean must be x_0 itself.":
            lambda x_t, x0, beta, t: posterior(x_t, x0, beta, t, swap=True),
        "You use abar_t where abar_{t-1} belongs: what is known before step t has gone through t - 1 only.":
            lambda x_t, x0, beta, t: posterior(x_t, x0, beta, t, previous=0),
        "Square roots are missing in the mean: x_0 arrives with "
        "sqrt(abar_{t-1}), and x_t with sqrt(alpha_t).":
            lambda x_t, x0, beta, t: posterior(x_t, x0, beta, t, root=False),
        "You return the standard deviation: asked for is the variance.":
            lambda *a: (posterior(*a)[0], np.sqrt(posterior(*a)[1])),
        "At t = 0, abar[t - 1] is abar[-1], the LAST entry for Python. The abar before the first step is 1.":
            lambda x_t, x0, beta, t: posterior(x_t, x0, beta, t, previous=-1 if t else len(beta) - 1),
    }


def one_step_back(x_t, eps, beta, t, outer=lambda alpha, abar: np.sqrt(alpha),
                  inner=lambda b, abar: b / np.sqrt(1 - abar)):
    """The mean, with room for slips."""
    abar = alpha_bar(beta, t)
    return (x_t - inner(beta[t], abar) * eps) / outer(1 - beta[t], abar)


class e22_reverse_mean(Exercise):
    against = "the mean of x_{t-1} given x_t and the x_0 that eps implies, by the Gaussian conditioning rule"

    def returns(x_t, eps, beta, t):
        return {"mu": x_t.shape}

    def draw(rng):
        beta, x_t, eps = schedule(rng), *rng.normal(size=(2, 3, 2))
        for t in range(len(beta)):
            yield x_t, eps, beta, t

    def check(f, x_t, eps, beta, t):
        scale, variance = marginal(1., beta, t)
        x0 = (x_t - np.sqrt(variance) * eps) / scale
        yield "mu", f(x_t, eps, beta, t), conditioned(x_t, x0, beta, t)[0]

    slips = {
        "1/sqrt(abar) goes all the way back to x_0. One step back is 1/sqrt(alpha_t).":
            lambda *a: one_step_back(*a, outer=lambda alpha, abar: np.sqrt(abar)),
        "The noise in x_t has standard deviation sqrt(1 - abar_t): the square root is missing under beta_t.":
            lambda *a: one_step_back(*a, inner=lambda b, abar: b / (1 - abar)),
        "You stopped at the estimate of x_0. Put it into the posterior mean of the exercise before.":
            lambda *a: one_step_back(*a, outer=lambda alpha, abar: np.sqrt(abar),
                                     inner=lambda b, abar: np.sqrt(1 - abar)),
        "You take away sqrt(beta_t) eps. eps is the noise of ALL steps so "
        "far, only beta_t / sqrt(1 - abar_t) of it belongs to this one.":
            lambda *a: one_step_back(*a, inner=lambda b, abar: np.sqrt(b)),
        "The sign is wrong: noise is taken away on the way back.":
            lambda *a: one_step_back(*a, inner=lambda b, abar: -b / np.sqrt(1 - abar)),
        "The factor 1/sqrt(alpha_t) is missing: the forward step shrank x_{t-1} by sqrt(alpha_t), undo it.":
            lambda *a: one_step_back(*a, outer=lambda alpha, abar: 1),
    }


def conversions(x_t, eps, v, abar, v_sign=1, root=np.sqrt, plain=False, x0_sign=-1, eps_sign=1):
    """All four, with room for slips."""
    c, s = root(abar), root(1 - abar)
    x0 = (x_t - s * eps) / c
    v_from_eps = eps - x0 if plain else v_sign * (c * eps - s * x0)
    return x0, v_from_eps, c * x_t + x0_sign * s * v, s * x_t + eps_sign * c * v


class e21_convert(Exercise):
    against = "x_t = cos(th) x_0 + sin(th) eps and v = dx_t/dth (numerical), with cos(th)^2 = abar"

    def returns(x_t, eps, v, abar):
        return dict.fromkeys(["x0_from_eps", "v_from_eps", "x0_from_v", "eps_from_v"], x_t.shape)

    def draw(rng):
        for abar in 0.1 + 0.8 * rng.random(2):
            yield *rng.normal(size=(3, 4, 2)), abar  # eps and v do not belong together: two questions

    def check(f, x_t, eps, v, abar):
        def path(theta):
            return np.array([np.cos(theta), np.sin(theta)])  # the weights of x_0 and eps

        theta = np.arccos(np.sqrt(abar))
        (c, s), (dc, ds) = path(theta), slope(path, theta)
        x0_from_eps, v_from_eps, x0_from_v, eps_from_v = f(x_t, eps, v, abar)
        x0 = (x_t - s * eps) / c
        yield "x0_from_eps", x0_from_eps, x0, "x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps must come out again"
        yield "v_from_eps", v_from_eps, dc * x0 + ds * eps
        x0, eps = np.linalg.solve([[c, s], [dc, ds]], [x_t.ravel(), v.ravel()]).reshape(2, *x_t.shape)
        yield "x0_from_v", x0_from_v, x0, "the two equations for x_t and v, solved for x_0 and eps"
        yield "eps_from_v", eps_from_v, eps, "the two equations for x_t and v, solved for x_0 and eps"

    slips = {
        "The sign of v is wrong: at abar = 1 (no noise yet) x_t moves towards the noise, v = +eps.":
            lambda *a: conversions(*a, v_sign=-1),
        "The square roots are missing: x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps.":
            lambda *a: conversions(*a, root=lambda z: z),
        "eps - x_0 is the velocity of a straight path. This "
        "path runs on a circle: differentiate cos and sin.":
            lambda *a: conversions(*a, plain=True),
        "The sign in x_0(v) is wrong: multiply the equation for "
        "x_t by cos, the one for v by sin, and subtract.":
            lambda *a: conversions(*a, x0_sign=1),
        "The sign in eps(v) is wrong: multiply the equation for x_t by sin, the one for v by cos, and add.":
            lambda *a: conversions(*a, eps_sign=-1),
        "The last two are exchanged: return x_0 from v first, then eps from v.":
            lambda *a: [conversions(*a)[i] for i in (0, 1, 3, 2)],
    }


class e31_loss_weights(Exercise):
    against = "a wrong x_0 put in: the errors of the eps and of the v that it implies, squared and divided"

    def returns(abar):
        return {"eps_weight": abar.shape, "v_weight": abar.shape}

    def draw(rng):
        yield 0.05 + 0.9 * rng.random(5),
        yield np.array([0.02, 0.5, 0.98]),

    def check(f, abar):
        x0, eps, guess = 0.7, -1.3, 0.2  # any three numbers: the ratios do not depend on them
        c, s = np.sqrt(abar), np.sqrt(1 - abar)
        eps_hat = (c * x0 + s * eps - c * guess) / s
        v, v_hat = c * eps - s * x0, c * eps_hat - s * guess
        eps_weight, v_weight = f(abar)
        yield "eps_weight", eps_weight, (eps - eps_hat) ** 2 / (x0 - guess) ** 2
        yield "v_weight", v_weight, (v - v_hat) ** 2 / (x0 - guess) ** 2

    slips = {
        "The ratio is upside down: close to the data (abar near "
        "1) a tiny error in x_0 is a large error in eps.":
            lambda abar: ((1 - abar) / abar, 1 / abar),
        "The losses are squares: square the factor between the errors.":
            lambda abar: (np.sqrt(abar / (1 - abar)), np.sqrt(1 / (1 - abar))),
        "The v-loss is not the x_0-loss. With x_t fixed, an "
        "error in x_0 moves eps as well: put both into v.":
            lambda abar: (abar / (1 - abar), 1 + 0 * abar),
        "v contains x_0 with the weight sqrt(1 - abar), but eps "
        "depends on x_0 too (x_t is fixed): two terms add up.":
            lambda abar: (abar / (1 - abar), 1 - abar),
        "v is not eps: v = sqrt(abar) eps - sqrt(1 - abar) x_0, both terms move with x_0.":
            lambda abar: (abar / (1 - abar), abar / (1 - abar)),
    }


class e23_elbo_weight(Exercise):
    against = "KL of two Gaussians with variance sigma2 and the two posterior means, over |eps - eps_hat|^2"

    def returns(beta, sigma2, t):
        return {"w": ()}

    def draw(rng):
        beta = schedule(rng)
        for t in range(1, len(beta)):
            yield beta, 0.1 + rng.random(), t

    def check(f, beta, sigma2, t):
        x_t, eps, eps_hat = 0.4, -0.6, 0.9  # any three numbers: the ratio does not depend on them
        scale, variance = marginal(1., beta, t)
        true, model = (conditioned(x_t, (x_t - np.sqrt(variance) * e) / scale, beta, t)[0]
                       for e in (eps, eps_hat))
        yield "w", f(beta, sigma2, t), (true - model) ** 2 / (2 * sigma2) / (eps - eps_hat) ** 2

    slips = {
        "The 2 is missing: the KL of two Gaussians of equal "
        "variance is |difference of means|^2 / (2 sigma2).":
            lambda b, sigma2, t: b[t] ** 2 / (sigma2 * (1 - b[t]) * (1 - alpha_bar(b, t))),
        "The step back divides by sqrt(alpha_t), one step, not by sqrt(abar_t).":
            lambda b, sigma2, t: b[t] ** 2 / (2 * sigma2 * alpha_bar(b, t) * (1 - alpha_bar(b, t))),
        "beta_t stands in front of eps in the mean, so its square stands in the weight.":
            lambda b, sigma2, t: b[t] / (2 * sigma2 * (1 - b[t]) * (1 - alpha_bar(b, t))),
        "That is L_simple, the loss without the weight. Which w_t did it drop?":
            lambda b, sigma2, t: 1.,
        "The factor 1/alpha_t is missing: the mean as a whole is divided by sqrt(alpha_t).":
            lambda b, sigma2, t: b[t] ** 2 / (2 * sigma2 * (1 - alpha_bar(b, t))),
        "Means are compared by their squared difference: square the factor in front of eps, all of it.":
            lambda b, sigma2, t: b[t] / (2 * sigma2 * np.sqrt((1 - b[t]) * (1 - alpha_bar(b, t)))),
    }


def ddim(x_t, eps, abar_t, abar_s, sigma, noise, fresh=1, x0=None,
         left=lambda abar_t, abar_s, v: 1 - abar_s - v):
    """The step, with room for slips."""
    x0 = (x_t - np.sqrt(1 - abar_t) * eps) / np.sqrt(abar_t) if x0 is None else x0
    return np.sqrt(abar_s) * x0 + np.sqrt(left(abar_t, abar_s, sigma ** 2)) * eps + fresh * sigma * noise


class e24_ddim_step(Exercise):
    against = "the step must end in q(x_s | x_0): mean sqrt(abar_s) x_0, variance 1 - abar_s, for all sigma"

    def returns(x_t, eps, abar_t, abar_s, sigma, noise):
        return {"x_s": x_t.shape}

    def draw(rng):
        for part in (0., 0.5, 1.):  # of the standard deviation that makes the step a DDPM step
            abar_t = 0.1 + 0.5 * rng.random()
            abar_s = abar_t + (0.95 - abar_t) * (0.2 + 0.6 * rng.random())
            full = np.sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
            x_t, eps, noise = rng.normal(size=(3, 4, 2))
            yield x_t, eps, abar_t, abar_s, part * full, noise

    def check(f, x_t, eps, abar_t, abar_s, sigma, noise):
        def step(x0, eps, noise):
            return f(np.sqrt(abar_t) * x0 + np.sqrt(1 - abar_t) * eps, eps, abar_t, abar_s, sigma, noise)

        from_x0, from_eps, from_noise = step(*np.eye(3))  # linear: three unit vectors tell all
        yield "weight of x_0", from_x0, np.sqrt(abar_s)
        yield "variance", from_eps ** 2 + from_noise ** 2, 1 - abar_s
        yield "weight of the fresh noise", from_noise, sigma
        yield "weight of eps", from_eps, abs(from_eps), "the weight of the predicted noise is not negative"
        yield "x_s", step(x_t, eps, noise), from_x0 * x_t + from_eps * eps + from_noise * noise, (
            "the step is linear in x_0, eps and noise, with the same weights for every entry")

    slips = {
        "The total variance is too big by sigma^2: what the fresh noise brings "
        "must be taken from the predicted noise, 1 - abar_s - sigma^2.":
            lambda *a: ddim(*a, left=lambda abar_t, abar_s, v: 1 - abar_s),
        "You land on the noise level of t: the new variance is 1 - abar_s.":
            lambda *a: ddim(*a, left=lambda abar_t, abar_s, v: 1 - abar_t - v),
        "Predict x_0 first: sqrt(abar_s) multiplies the estimate of x_0, not x_t.":
            lambda *a: ddim(*a, x0=a[0]),
        "The fresh noise is forgotten: add sigma * noise.":
            lambda *a: ddim(*a, fresh=0),
        "sigma is a standard deviation: add sigma * noise, and take sigma^2 from the variance.":
            lambda *a: ddim(*a, fresh=a[4]),
        "The square of sigma is missing under the root: variances add, standard deviations do not.":
            lambda *a: ddim(*a, left=lambda abar_t, abar_s, v: 1 - abar_s - np.sqrt(v)),
    }
