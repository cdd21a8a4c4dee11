"""Diffusion: forward process, posterior, conversions, weights, DDIM (e19 to e24, and e31)."""
import numpy as np

from _grading import Exercise
from _numerics import slope


def schedule(rng, steps=6):
    return np.sort(0.05 + 0.4 * rng.random(steps))


def alpha_bar(beta, t):
    """alpha_bar_t, the product of 1 - beta up to t; it is empty for t = -1."""
    return np.prod(1 - beta[:t + 1])


def marginal(x0, beta, t):
    """Mean and variance of x_t, one noising step after the other, from q(x_s | x_{s-1}) alone."""
    mean = x0
    variance = 0.
    for b in beta[:t + 1]:
        mean = np.sqrt(1 - b) * mean
        variance = (1 - b) * variance + b
    return mean, variance


def conditioned(x_t, x0, beta, t):
    """Mean and variance of x_{t-1} given x_t: the rule for two jointly Gaussian numbers."""
    prior, variance = marginal(x0, beta, t - 1)
    a = np.sqrt(1 - beta[t])
    gain = variance * a / (a * variance * a + beta[t])
    return prior + gain * (x_t - a * prior), variance - gain * a * variance


def mean_and_std(x0, alpha_bar):
    return np.sqrt(alpha_bar) * x0, np.sqrt(1 - alpha_bar)


class e19_q_xt(Exercise):
    against = ("mean and variance followed step by step, "
               "x_s = sqrt(1 - beta_s) x_{s-1} + sqrt(beta_s) eps")

    def returns(x0, beta, t):
        return {"mean": x0.shape, "std": ()}

    def draw(rng):
        beta = schedule(rng)
        x0 = rng.normal(size=(3, 2))
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
        "The mean shrinks by a factor sqrt(1 - beta) in every step, so by sqrt(alpha_bar) in all.":
            lambda x0, beta, t: (alpha_bar(beta, t) * x0, np.sqrt(1 - alpha_bar(beta, t))),
        "You multiply the betas. alpha_bar is the product of all alpha = 1 - beta.":
            lambda x0, beta, t: mean_and_std(x0, np.prod(beta[:t + 1])),
        "That is one step only. From x_0 to x_t the factors "
        "alpha_0 ... alpha_t all multiply: use alpha_bar_t.":
            lambda x0, beta, t: (np.sqrt(1 - beta[t]) * x0, np.sqrt(beta[t])),
        "Off by one: index t is a noising step already done, so alpha_bar_t includes alpha_t.":
            lambda x0, beta, t: mean_and_std(x0, alpha_bar(beta, t - 1)),
        "Off by one, and at t = 0 Python takes alpha_bar[-1], "
        "the LAST entry: x_t has the noise of alpha_bar[t].":
            lambda x0, beta, t: mean_and_std(x0, np.cumprod(1 - beta)[t - 1]),
        "Adding up the betas is right to first order only: "
        "the later steps shrink the earlier noise as well.":
            lambda x0, beta, t: (np.sqrt(1 - beta[:t + 1].sum()) * x0,
                                 np.sqrt(beta[:t + 1].sum())),
    }


def posterior(x_t, x0, beta, t, swap=False, previous=-1, root=True):
    """Mean and variance, with room for slips."""
    now = alpha_bar(beta, t)
    before = alpha_bar(beta, t + previous)
    c0 = (np.sqrt(before) if root else before) * beta[t] / (1 - now)
    ct = (np.sqrt(1 - beta[t]) if root else 1 - beta[t]) * (1 - before) / (1 - now)
    mean = ct * x0 + c0 * x_t if swap else c0 * x0 + ct * x_t
    return mean, beta[t] * (1 - before) / (1 - now)


class e20_q_posterior(Exercise):
    against = "the conditioning rule for the two jointly Gaussian variables x_{t-1} and x_t"

    def returns(x_t, x0, beta, t):
        return {"mean": x_t.shape, "variance": ()}

    def draw(rng):
        beta = schedule(rng)
        x_t, x0 = rng.normal(size=(2, 3, 2))
        for t in range(len(beta)):
            yield x_t, x0, beta, t

    def check(f, x_t, x0, beta, t):
        mean, variance = f(x_t, x0, beta, t)
        true_mean, true_variance = conditioned(x_t, x0, beta, t)
        yield "mean", mean, true_mean
        yield "variance", variance, true_variance

    slips = {
        "beta_t is only an upper bound. Given x_0 as well, the variance of x_{t-1} is "
        "smaller, by the factor (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t).":
            lambda x_t, x0, beta, t: (posterior(x_t, x0, beta, t)[0], beta[t]),
        "The two coefficients are swapped: at t = 0 the mean must be x_0 itself.":
            lambda x_t, x0, beta, t: posterior(x_t, x0, beta, t, swap=True),
        "You use alpha_bar_t instead of alpha_bar_{t-1}: x_{t-1} has "
        "gone through the steps up to t - 1 only.":
            lambda x_t, x0, beta, t: posterior(x_t, x0, beta, t, previous=0),
        "Square roots are missing in the mean: x_0 enters with "
        "sqrt(alpha_bar_{t-1}), and x_t with sqrt(alpha_t).":
            lambda x_t, x0, beta, t: posterior(x_t, x0, beta, t, root=False),
        "You return the standard deviation, but the exercise asks for the variance.":
            lambda *a: (posterior(*a)[0], np.sqrt(posterior(*a)[1])),
        "At t = 0, alpha_bar[t - 1] is alpha_bar[-1], in Python the LAST "
        "entry. Before the first step, alpha_bar is 1.":
            lambda x_t, x0, beta, t: posterior(x_t, x0, beta, t,
                                               previous=-1 if t else len(beta) - 1),
    }


def one_step_back(x_t, eps, beta, t, outer=lambda alpha, bar: np.sqrt(alpha),
                  inner=lambda b, bar: b / np.sqrt(1 - bar)):
    """The mean, with room for slips."""
    bar = alpha_bar(beta, t)
    return (x_t - inner(beta[t], bar) * eps) / outer(1 - beta[t], bar)


class e22_reverse_mean(Exercise):
    against = ("the mean of x_{t-1} given x_t and the x_0 that eps implies, "
               "by the Gaussian conditioning rule")

    def returns(x_t, eps, beta, t):
        return {"mu": x_t.shape}

    def draw(rng):
        beta = schedule(rng)
        x_t, eps = rng.normal(size=(2, 3, 2))
        for t in range(len(beta)):
            yield x_t, eps, beta, t

    def check(f, x_t, eps, beta, t):
        scale, variance = marginal(1., beta, t)
        x0 = (x_t - np.sqrt(variance) * eps) / scale
        yield "mu", f(x_t, eps, beta, t), conditioned(x_t, x0, beta, t)[0]

    slips = {
        "1/sqrt(alpha_bar) goes all the way back to x_0. One step back is 1/sqrt(alpha_t).":
            lambda *a: one_step_back(*a, outer=lambda alpha, bar: np.sqrt(bar)),
        "The noise in x_t has standard deviation sqrt(1 - alpha_bar_t): "
        "divide beta_t by that, not by its square.":
            lambda *a: one_step_back(*a, inner=lambda b, bar: b / (1 - bar)),
        "You stopped at the estimate of x_0. Put it into the posterior mean of e20.":
            lambda *a: one_step_back(*a, outer=lambda alpha, bar: np.sqrt(bar),
                                     inner=lambda b, bar: np.sqrt(1 - bar)),
        "You subtract sqrt(beta_t) eps. But eps is the noise of ALL steps so far, and "
        "only beta_t / sqrt(1 - alpha_bar_t) of it belongs to this step.":
            lambda *a: one_step_back(*a, inner=lambda b, bar: np.sqrt(b)),
        "The sign is wrong: a step back removes noise.":
            lambda *a: one_step_back(*a, inner=lambda b, bar: -b / np.sqrt(1 - bar)),
        "The factor 1/sqrt(alpha_t) is missing: the forward step "
        "multiplied x_{t-1} by sqrt(alpha_t), so divide by it.":
            lambda *a: one_step_back(*a, outer=lambda alpha, bar: 1),
    }


def conversions(x_t, eps, v, alpha_bar, v_sign=1, root=np.sqrt, plain=False, x0_sign=-1,
                eps_sign=1):
    """All four, with room for slips."""
    c = root(alpha_bar)
    s = root(1 - alpha_bar)
    x0 = (x_t - s * eps) / c
    v_from_eps = eps - x0 if plain else v_sign * (c * eps - s * x0)
    return x0, v_from_eps, c * x_t + x0_sign * s * v, s * x_t + eps_sign * c * v


class e21_convert(Exercise):
    against = ("x_t = cos(th) x_0 + sin(th) eps and v = dx_t/dth (numerical), "
               "with cos(th)^2 = alpha_bar")

    def returns(x_t, eps, v, alpha_bar):
        return dict.fromkeys(["x0_from_eps", "v_from_eps", "x0_from_v", "eps_from_v"], x_t.shape)

    def draw(rng):
        for alpha_bar in 0.1 + 0.8 * rng.random(2):
            yield *rng.normal(size=(3, 4, 2)), alpha_bar  # eps and v belong to different questions

    def check(f, x_t, eps, v, alpha_bar):
        def path(theta):
            return np.array([np.cos(theta), np.sin(theta)])  # the weights of x_0 and eps

        theta = np.arccos(np.sqrt(alpha_bar))
        c, s = path(theta)
        dc, ds = slope(path, theta)
        x0_from_eps, v_from_eps, x0_from_v, eps_from_v = f(x_t, eps, v, alpha_bar)
        x0 = (x_t - s * eps) / c
        yield "x0_from_eps", x0_from_eps, x0, (
            "x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps must come out again")
        yield "v_from_eps", v_from_eps, dc * x0 + ds * eps
        both = np.linalg.solve([[c, s], [dc, ds]], [x_t.ravel(), v.ravel()])
        x0, eps = both.reshape(2, *x_t.shape)
        against = "the two equations for x_t and v, solved for x_0 and eps"
        yield "x0_from_v", x0_from_v, x0, against
        yield "eps_from_v", eps_from_v, eps, against

    slips = {
        "The sign of v is wrong: at alpha_bar = 1 (no noise yet) "
        "x_t moves toward the noise, v = +eps.":
            lambda *a: conversions(*a, v_sign=-1),
        "The square roots are missing: x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps.":
            lambda *a: conversions(*a, root=lambda z: z),
        "eps - x_0 is the velocity of a straight path. This "
        "path runs on a circle: differentiate cos and sin.":
            lambda *a: conversions(*a, plain=True),
        "The sign in x_0(v) is wrong: multiply the equation for "
        "x_t by cos, the one for v by sin, and subtract.":
            lambda *a: conversions(*a, x0_sign=1),
        "The sign in eps(v) is wrong: multiply the equation for "
        "x_t by sin, the one for v by cos, and add.":
            lambda *a: conversions(*a, eps_sign=-1),
        "The last two are swapped: return x_0 from v first, then eps from v.":
            lambda *a: [conversions(*a)[i] for i in (0, 1, 3, 2)],
    }


def factors_of_errors(alpha_bar):
    of_eps = np.sqrt(alpha_bar / (1 - alpha_bar))
    of_v = np.sqrt(1 / (1 - alpha_bar))
    return of_eps, of_v


class e31_loss_weights(Exercise):
    against = ("the squared errors of eps and v that follow from a wrong x_0, "
               "over the squared error of that x_0")

    def returns(alpha_bar):
        return {"eps_weight": alpha_bar.shape, "v_weight": alpha_bar.shape}

    def draw(rng):
        yield 0.05 + 0.9 * rng.random(5),
        yield np.array([0.02, 0.5, 0.98]),

    def check(f, alpha_bar):
        x0, eps, guess = 0.7, -1.3, 0.2  # any three numbers: the ratios do not depend on them
        c = np.sqrt(alpha_bar)
        s = np.sqrt(1 - alpha_bar)
        eps_hat = (c * x0 + s * eps - c * guess) / s
        v = c * eps - s * x0
        v_hat = c * eps_hat - s * guess
        eps_weight, v_weight = f(alpha_bar)
        yield "eps_weight", eps_weight, (eps - eps_hat) ** 2 / (x0 - guess) ** 2
        yield "v_weight", v_weight, (v - v_hat) ** 2 / (x0 - guess) ** 2

    slips = {
        "The ratio is inverted: close to the data (alpha_bar near "
        "1) a tiny error in x_0 is a large error in eps.":
            lambda alpha_bar: ((1 - alpha_bar) / alpha_bar, 1 / alpha_bar),
        "The losses are squares: square the factor between the errors.":
            factors_of_errors,
        "The v-loss is not the x_0-loss. With x_t fixed, an "
        "error in x_0 changes eps as well: put both into v.":
            lambda alpha_bar: (alpha_bar / (1 - alpha_bar), 1 + 0 * alpha_bar),
        "v contains x_0 with the weight sqrt(1 - alpha_bar), but with x_t "
        "fixed eps depends on x_0 as well: two terms add up.":
            lambda alpha_bar: (alpha_bar / (1 - alpha_bar), 1 - alpha_bar),
        "v is not eps: in v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0, "
        "both terms depend on x_0.":
            lambda alpha_bar: (alpha_bar / (1 - alpha_bar), alpha_bar / (1 - alpha_bar)),
    }


class e23_elbo_weight(Exercise):
    against = ("KL of two Gaussians with variance sigma2 and the two posterior means, "
               "over |eps - eps_hat|^2")

    def returns(beta, sigma2, t):
        return {"w": ()}

    def draw(rng):
        beta = schedule(rng)
        for t in range(1, len(beta)):
            yield beta, 0.1 + rng.random(), t

    def check(f, beta, sigma2, t):
        x_t, eps, eps_hat = 0.4, -0.6, 0.9  # any three numbers: the ratio does not depend on them
        scale, variance = marginal(1., beta, t)

        def posterior_mean(eps):
            return conditioned(x_t, (x_t - np.sqrt(variance) * eps) / scale, beta, t)[0]

        kl = (posterior_mean(eps) - posterior_mean(eps_hat)) ** 2 / (2 * sigma2)
        yield "w", f(beta, sigma2, t), kl / (eps - eps_hat) ** 2

    slips = {
        "The 2 is missing: the KL of two Gaussians of equal "
        "variance is |difference of means|^2 / (2 sigma2).":
            lambda b, sigma2, t: b[t] ** 2 / (sigma2 * (1 - b[t]) * (1 - alpha_bar(b, t))),
        "One step back divides by sqrt(alpha_t), not by sqrt(alpha_bar_t).":
            lambda b, sigma2, t: b[t] ** 2 / (2 * sigma2 * alpha_bar(b, t) * (1 - alpha_bar(b, t))),
        "beta_t stands in front of eps in the mean, so its square stands in the weight.":
            lambda b, sigma2, t: b[t] / (2 * sigma2 * (1 - b[t]) * (1 - alpha_bar(b, t))),
        "That is L_simple, the loss without the weight. Which w_t is left out there?":
            lambda b, sigma2, t: 1.,
        "The factor 1/alpha_t is missing: the mean as a whole is divided by sqrt(alpha_t).":
            lambda b, sigma2, t: b[t] ** 2 / (2 * sigma2 * (1 - alpha_bar(b, t))),
        "The KL contains the squared difference of the means: "
        "square the whole factor in front of eps.":
            lambda b, sigma2, t: b[t] / (2 * sigma2 * np.sqrt((1 - b[t]) * (1 - alpha_bar(b, t)))),
    }


def ddim(x_t, eps, alpha_bar_t, alpha_bar_s, sigma, noise, fresh=1, x0=None,
         left=lambda bar_t, bar_s, v: 1 - bar_s - v):
    """The step, with room for slips."""
    x0 = (x_t - np.sqrt(1 - alpha_bar_t) * eps) / np.sqrt(alpha_bar_t) if x0 is None else x0
    weight = np.sqrt(left(alpha_bar_t, alpha_bar_s, sigma ** 2))
    return np.sqrt(alpha_bar_s) * x0 + weight * eps + fresh * sigma * noise


class e24_ddim_step(Exercise):
    against = ("the step must end in q(x_s | x_0): "
               "mean sqrt(alpha_bar_s) x_0, variance 1 - alpha_bar_s, for all sigma")

    def returns(x_t, eps, alpha_bar_t, alpha_bar_s, sigma, noise):
        return {"x_s": x_t.shape}

    def draw(rng):
        for fraction in (0., 0.5, 1.):  # of the standard deviation that makes this a DDPM step
            alpha_bar_t = 0.1 + 0.5 * rng.random()
            alpha_bar_s = alpha_bar_t + (0.95 - alpha_bar_t) * (0.2 + 0.6 * rng.random())
            beta = 1 - alpha_bar_t / alpha_bar_s
            full = np.sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t) * beta)
            x_t, eps, noise = rng.normal(size=(3, 4, 2))
            yield x_t, eps, alpha_bar_t, alpha_bar_s, fraction * full, noise

    def check(f, x_t, eps, alpha_bar_t, alpha_bar_s, sigma, noise):
        def step(x0, eps, noise):
            x_t = np.sqrt(alpha_bar_t) * x0 + np.sqrt(1 - alpha_bar_t) * eps
            return f(x_t, eps, alpha_bar_t, alpha_bar_s, sigma, noise)

        from_x0, from_eps, from_noise = step(*np.eye(3))  # three unit vectors give all the weights
        yield "weight of x_0", from_x0, np.sqrt(alpha_bar_s)
        yield "variance", from_eps ** 2 + from_noise ** 2, 1 - alpha_bar_s
        yield "weight of the fresh noise", from_noise, sigma
        yield "weight of eps", from_eps, abs(from_eps), (
            "the weight of the predicted noise is not negative")
        yield "x_s", step(x_t, eps, noise), from_x0 * x_t + from_eps * eps + from_noise * noise, (
            "the step is linear in x_0, eps and noise, with the same weights for every entry")

    slips = {
        "The total variance is sigma^2 too large: the fresh noise adds sigma^2, so "
        "leave 1 - alpha_bar_s - sigma^2 to the predicted noise.":
            lambda *a: ddim(*a, left=lambda bar_t, bar_s, v: 1 - bar_s),
        "Your step ends at the noise level of t: the new variance is 1 - alpha_bar_s.":
            lambda *a: ddim(*a, left=lambda bar_t, bar_s, v: 1 - bar_t - v),
        "Predict x_0 first: sqrt(alpha_bar_s) multiplies the estimate of x_0, not x_t.":
            lambda *a: ddim(*a, x0=a[0]),
        "The fresh noise is missing: add sigma * noise.":
            lambda *a: ddim(*a, fresh=0),
        "sigma is a standard deviation: add sigma * noise, and subtract sigma^2 from the variance.":
            lambda *a: ddim(*a, fresh=a[4]),
        "The square of sigma is missing under the root: variances add, standard deviations do not.":
            lambda *a: ddim(*a, left=lambda bar_t, bar_s, v: 1 - bar_s - np.sqrt(v)),
    }
