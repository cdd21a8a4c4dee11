"""Latent variables: linear auto-encoder, Gaussian mixture, VAE (e10 to e13, e18, e32)."""
import numpy as np

from _grading import Exercise
from _numerics import gradient, logsumexp, slope

# Gauss-Hermite quadrature: WEIGHTS @ f(NODES) = E f(eps), eps ~ N(0, 1), without sampling
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def projector(X, k, center=True, keep=np.s_[::-1]):
    """The projector on k eigenvectors of the covariance, with room for slips."""
    mu = X.mean(0) if center else 0 * X.mean(0)
    U = np.linalg.eigh((X - mu).T @ (X - mu))[1][:, keep][:, :k]
    return U @ U.T, mu


def right_singular_vectors(X):
    """The directions of principal component analysis, as rows."""
    return np.linalg.svd(X - X.mean(0))[2]


def columns_of_vt(X, k):
    U = right_singular_vectors(X)[:, :k]
    return U @ U.T, X.mean(0)


def all_directions(X, k):
    return np.eye(X.shape[1]), X.mean(0)


class e10_optimal_projector(Exercise):
    against = ("the smallest possible loss: "
               "the sum of the D - k smallest eigenvalues of the covariance")
    tolerance = 1e-10

    def returns(X, k):
        return {"P": (X.shape[1], X.shape[1]), "mu": (X.shape[1],)}

    def draw(rng):
        for n, d, k in [(12, 5, 2), (9, 4, 1)]:
            turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
            X = rng.normal(size=(n, d)) * 1.6 ** np.arange(d) @ turn
            yield X + 3 + rng.random(d), k

    def check(f, X, k):
        P, mu = f(X, k)
        yield "P", P, P.T, "an orthogonal projector is symmetric: P = P^T"
        yield "P", P @ P, P, "to apply a projector again changes nothing: P @ P = P"
        yield "trace(P)", np.trace(P), k, "a projector on k dimensions has trace k"
        missed = (X - mu) - (X - mu) @ P
        eigenvalues = np.linalg.svd(X - X.mean(0), compute_uv=False) ** 2 / len(X)
        loss = (missed ** 2).sum() / len(X)
        yield "mean of |x - reconstruction|^2", loss, eigenvalues[k:].sum()

    slips = {
        "Your data are not centered: your subspace passes through the origin, "
        "but the best one passes through the mean of the data. Subtract mu first.":
            lambda X, k: projector(X, k, center=False),
        "You return the mean, but your directions come from data "
        "that are not centered: use X - mu there as well.":
            lambda X, k: (projector(X, k, center=False)[0], X.mean(0)),
        "You kept the k SMALLEST eigenvalues: eigh sorts in ascending order.":
            lambda X, k: projector(X, k, keep=np.s_[:]),
        "You took entries along the wrong axis: the directions are the "
        "columns of eigh's matrix, but the rows of Vt from svd.":
            columns_of_vt,
        "You return the k directions. P is encoder and decoder in one, the (D, D) matrix U U^T.":
            lambda X, k: (right_singular_vectors(X)[:k].T, X.mean(0)),
        "You return the encoder alone, k directions as rows. "
        "P is the decoder as well: the (D, D) matrix U U^T.":
            lambda X, k: (right_singular_vectors(X)[:k], X.mean(0)),
        "Nothing is compressed: with all D directions P is the identity. Keep k of them.":
            all_directions,
    }


def log_joint(x, pi, mu, var, use_pi=True, dims=None):
    """log pi_k N(x_n; mu_k, var_k I), (N, K); the keywords make room for slips."""
    distance = ((x[:, None] - mu) ** 2).sum(-1)
    dims = x.shape[1] if dims is None else dims
    log_normal = -0.5 * dims * np.log(2 * np.pi * var) - 0.5 * distance / var
    return np.log(pi) + log_normal if use_pi else log_normal


def normalized(logs, axis=1):
    return np.exp(logs - logsumexp(logs, axis))


def naive_responsibilities(x, pi, mu, var):
    p = np.exp(log_joint(x, pi, mu, var))
    return p / p.sum(1, keepdims=True)


class e18_responsibilities(Exercise):
    against = "numerical derivative of log p(x_n) with respect to log pi_k, which is r[n, k]"

    def returns(x, pi, mu, var):
        return {"R": (len(x), len(pi))}

    def draw(rng):
        for n, k in [(5, 3), (4, 4)]:
            pi = rng.permutation(2. ** np.arange(k))
            x = rng.normal(size=(n, 3))
            mu = rng.normal(size=(k, 3))
            yield x, pi / pi.sum(), mu, 0.5 + 2 * rng.random(k)
        far = np.array([[500., -400.], [0., 90.]])
        yield far, np.array([.3, .7]), np.array([[1., 0.], [0., 1.]]), np.array([1., .9])

    def check(f, x, pi, mu, var):
        R = f(x, pi, mu, var)
        yield "sum over k of R", R.sum(1), np.ones(len(x)), (
            "each sample is shared among the components: rows sum to 1")

        def log_density(x, log_pi):
            return logsumexp(log_pi + log_joint(x[None], 1, mu, var)).sum()

        yield "R", R, [gradient(lambda a: log_density(row, a), np.log(pi)) for row in x]

    slips = {
        "pi is missing: a frequent component explains a point "
        "better than a rare one at the same distance.":
            lambda x, pi, mu, var: normalized(log_joint(x, pi, mu, var, use_pi=False)),
        "You normalize over the samples. Each SAMPLE is shared among the components: "
        "rows sum to 1.":
            lambda x, pi, mu, var: normalized(log_joint(x, pi, mu, var), axis=0),
        "The normalizer -D/2 log var_k of the density is missing: "
        "it differs from component to component.":
            lambda x, pi, mu, var: normalized(log_joint(x, pi, mu, var, dims=0)),
        "In D dimensions the normalizer is var_k^(-D/2): yours is that of a single dimension.":
            lambda x, pi, mu, var: normalized(log_joint(x, pi, mu, var, dims=1)),
        "Far from all components every exp underflows and 0/0 is nan: stay in "
        "logarithms and subtract the largest of the row before exp (log-sum-exp).":
            naive_responsibilities,
        "You used var_k as a standard deviation: it is already sigma_k^2, do not square it.":
            lambda x, pi, mu, var: normalized(log_joint(x, pi, mu, var ** 2)),
        "These are the densities pi_k N(x_n; mu_k, var_k). Divide each row by its sum.":
            lambda x, pi, mu, var: np.exp(log_joint(x, pi, mu, var)),
    }


def weighted_moments(x, R, n_mean=None, n_var=None, center=None, dims=None):
    """Weights, means and variances, with room for slips."""
    n = R.sum(0)
    n_mean = n if n_mean is None else n_mean
    n_var = n if n_var is None else n_var
    mu = R.T @ x / n_mean[:, None]
    square = ((x[:, None] - (mu if center is None else center)) ** 2).sum(-1)
    return n / len(x), mu, (R * square).sum(0) / n_var / (dims or x.shape[1])


def same_for_all(R, number):
    return np.full(R.shape[1], float(number))


def with_standard_deviations(x, R):
    pi, mu, var = weighted_moments(x, R)
    return pi, mu, np.sqrt(var)


class e32_m_step(Exercise):
    against = "the slope of Q at your parameters: at a maximum it is 0"
    tolerance = 1e-9

    def returns(x, R):
        k = R.shape[1]
        return {"pi": (k,), "mu": (k, x.shape[1]), "var": (k,)}

    def draw(rng):
        for n, d, k in [(9, 2, 3), (7, 3, 2)]:
            R = rng.random((n, k)) + 0.1
            yield rng.normal(size=(n, d)) + 1, R / R.sum(1, keepdims=True)

    def check(f, x, R):
        def Q(pi, mu, var):
            return (R * log_joint(x, pi, mu, var)).sum()

        pi, mu, var = f(x, R)
        yield "pi", pi, np.clip(pi, 1e-6, 1), "probabilities lie between 0 and 1"
        yield "sum of pi", pi.sum(), 1, "probabilities sum to 1"
        yield "var", var, np.clip(var, 1e-6, None), "variances are positive"
        in_pi = gradient(lambda a: Q(np.exp(a - logsumexp(a)), mu, var), np.log(pi))
        yield "dQ/dlog pi", in_pi, 0 * pi
        yield "dQ/dmu", gradient(lambda mu: Q(pi, mu, var), mu), 0 * mu
        yield "dQ/dlog var", gradient(lambda s: Q(pi, mu, np.exp(s)), np.log(var)), 0 * var

    slips = {
        "The weights of component k sum to N_k = sum_n r_nk, not to N: divide mu and var by N_k.":
            lambda x, R: weighted_moments(
                x, R, n_mean=same_for_all(R, len(x)), n_var=same_for_all(R, len(x))),
        "You only sum. The weights of component k sum to N_k: "
        "divide by it to get a weighted mean.":
            lambda x, R: weighted_moments(
                x, R, n_mean=same_for_all(R, 1), n_var=same_for_all(R, 1)),
        "mu is right. In var as well, the weights of component k sum to N_k, not to N.":
            lambda x, R: weighted_moments(x, R, n_var=same_for_all(R, len(x))),
        "You measure the spread around the mean of all data: "
        "measure it around mu_k, the new mean of component k.":
            lambda x, R: weighted_moments(x, R, center=x.mean(0)),
        "The maximum of the likelihood divides by N_k. The N_k - 1 belongs to another estimator.":
            lambda x, R: weighted_moments(x, R, n_var=R.sum(0) - 1),
        "var_k is the variance of ONE coordinate: |x - mu_k|^2 adds up D of them, so divide by D.":
            lambda x, R: weighted_moments(x, R, dims=1),
        "pi_k = N_k must still be divided by N, so that the pi sum to 1.":
            lambda x, R: (R.sum(0), *weighted_moments(x, R)[1:]),
        "You return the standard deviation, but the exercise asks for the variance.":
            with_standard_deviations,
    }


def pathwise(mu, sigma, eps, df, dz):
    """f'(z) at the samples, times dz/dmu = 1 and times a dz/dlogvar, right or wrong."""
    slope = df(mu + sigma * eps)
    return slope, slope * dz


class e11_reparam_grad(Exercise):
    against = "derivative of E f(z), z ~ N(mu, sigma^2), with the mean over eps taken exactly"

    def returns(mu, logvar, eps, df):
        return {"dmu": eps.shape, "dlogvar": eps.shape}

    def draw(rng):
        for df in (np.cos, lambda z: 2 * z):
            yield 0.5 + rng.random(), -0.5 - rng.random(), NODES, df

    def check(f, mu, logvar, eps, df):
        def mean_sine(mu, logvar):  # E sin(z)
            return np.exp(-np.exp(logvar) / 2) * np.sin(mu)

        def mean_square(mu, logvar):  # E z^2
            return mu ** 2 + np.exp(logvar)

        expectation = mean_sine if df is np.cos else mean_square
        name = "sin(z)" if df is np.cos else "z^2"
        against = f"{e11_reparam_grad.against}, f(z) = {name}"
        dmu, dlogvar = f(mu, logvar, eps, df)
        yield "mean of dmu", WEIGHTS @ dmu, slope(lambda m: expectation(m, logvar), mu), against
        yield "mean of dlogvar", WEIGHTS @ dlogvar, (
            slope(lambda s: expectation(mu, s), logvar)), against

    slips = {
        "A factor 1/2 is missing: sigma = exp(logvar / 2). What you "
        "have is the derivative with respect to log sigma.":
            lambda mu, s, eps, df: pathwise(mu, np.exp(s / 2), eps, df, np.exp(s / 2) * eps),
        "sigma = exp(logvar / 2), because exp(logvar) is the variance.":
            lambda mu, s, eps, df: pathwise(mu, np.exp(s), eps, df, np.exp(s) * eps),
        "sigma = exp(logvar / 2), because exp(logvar) is the variance. "
        "(The factor 1/2 in dlogvar comes from there.)":
            lambda mu, s, eps, df: pathwise(mu, np.exp(s), eps, df, np.exp(s) * eps / 2),
        "eps is missing: z = mu + sigma eps, so dz/dsigma = eps.":
            lambda mu, s, eps, df: pathwise(mu, np.exp(s / 2), eps, df, np.exp(s / 2) / 2),
        "sigma is missing: d sigma / d logvar = sigma / 2.":
            lambda mu, s, eps, df: pathwise(mu, np.exp(s / 2), eps, df, eps / 2),
        "f' must be taken at the sample z = mu + sigma eps, not at the mean.":
            lambda mu, s, eps, df: pathwise(mu, 0, eps, df, np.exp(s / 2) * eps / 2),
    }


class e12_kl_standard_normal(Exercise):
    against = ("E_q[log q(z) - log p(z)] with the expectation taken exactly, "
               "summed over the dimensions")

    def returns(mean, logvar):
        return {"kl": (len(mean),)}

    def draw(rng):
        for n, d in [(4, 3), (3, 3)]:
            yield 2 * rng.normal(size=(n, d)), rng.normal(size=(n, d))
        yield np.zeros((2, 3)), np.zeros((2, 3))  # q = p

    def check(f, mean, logvar):
        z = mean[..., None] + np.exp(logvar / 2)[..., None] * NODES
        log_q = -0.5 * logvar[..., None] - 0.5 * NODES ** 2     # without -log(2 pi)/2, ...
        log_p = -0.5 * z ** 2                                   # ... which cancels
        yield "kl", f(mean, logvar), ((log_q - log_p) @ WEIGHTS).sum(1)

    slips = {
        "The factor 1/2 is missing: it comes from the exponent of "
        "the Gaussian and from log sigma = logvar / 2.":
            lambda m, s: (m ** 2 + np.exp(s) - 1 - s).sum(1),
        "The sign of the log is wrong: a narrow q (logvar below 0) "
        "must have a larger KL, not a smaller one.":
            lambda m, s: 0.5 * (m ** 2 + np.exp(s) - 1 + s).sum(1),
        "You read logvar as log sigma. Here logvar = log sigma^2, so sigma^2 = exp(logvar).":
            lambda m, s: 0.5 * (m ** 2 + np.exp(2 * s) - 1 - 2 * s).sum(1),
        "You average over the dimensions. The KL of a product of densities is the SUM of the KLs.":
            lambda m, s: 0.5 * (m ** 2 + np.exp(s) - 1 - s).mean(1),
        "That is the KL in the other direction, from N(0, 1) to q. The expectation is over q.":
            lambda m, s: 0.5 * ((1 + m ** 2) * np.exp(-s) - 1 + s).sum(1),
        "A KL is never negative: the sign is wrong.":
            lambda m, s: -0.5 * (m ** 2 + np.exp(s) - 1 - s).sum(1),
        "The KL of q = N(0, 1) to itself must be 0: a constant is missing, "
        "one -1 for each dimension.":
            lambda m, s: 0.5 * (m ** 2 + np.exp(s) - s).sum(1),
        "Return one number for each sample: sum over the dimensions (axis 1), not over the rows.":
            lambda m, s: 0.5 * (m ** 2 + np.exp(s) - 1 - s).sum(),
    }


def gaussian_log_density(x, mean, cov):
    r = x - mean
    log_det = np.linalg.slogdet(cov)[1]
    return -0.5 * (len(x) * np.log(2 * np.pi) + log_det + r @ np.linalg.solve(cov, r))


def gaussian_kl(m0, S0, m1, S1):
    ratio = np.linalg.solve(S1, S0)
    r = m1 - m0
    log_det = np.linalg.slogdet(ratio)[1]
    return 0.5 * (np.trace(ratio) - len(r) - log_det + r @ np.linalg.solve(S1, r))


def elbo_with(x, W, b, s2, m, S, spread=1, kl_sign=-1, constant=1, noise=1, entropy=1):
    """The bound term by term; the keywords switch terms off."""
    r = x - W @ m - b
    d = len(x)
    square = r @ r + spread * np.trace(W @ S @ W.T)
    normalizer = constant * d * np.log(2 * np.pi) + noise * d * np.log(s2)
    kl = 0.5 * (np.trace(S) + m @ m - len(m) - entropy * np.linalg.slogdet(S)[1])
    return -0.5 * (normalizer + square / s2) + kl_sign * kl


def posterior(x, W, b, s2):
    """Condition the joint Gaussian of (z, x) on x."""
    gain = np.linalg.solve(W @ W.T + s2 * np.eye(len(x)), W).T
    return gain @ (x - b), np.eye(W.shape[1]) - gain @ W


class e13_elbo(Exercise):
    against = "log p(x) - KL(q || p(z | x)): this identity holds for every q"

    def returns(x, W, b, s2, m, S):
        return {"elbo": ()}

    def draw(rng):
        for d, k in [(3, 2), (2, 2)]:
            x, W, b, m, A = [rng.normal(size=size) for size in (d, (d, k), d, k, (k, k))]
            s2 = 0.5 + rng.random()
            yield x, W, b, s2, m, A @ A.T + 0.2 * np.eye(k)
            yield x, W, b, s2, *posterior(x, W, b, s2)  # here the bound is an equality

    def check(f, x, W, b, s2, m, S):
        evidence = gaussian_log_density(x, b, W @ W.T + s2 * np.eye(len(x)))
        yield "elbo", f(x, W, b, s2, m, S), evidence - gaussian_kl(m, S, *posterior(x, W, b, s2))

    slips = {
        "You reconstruct at the mean of q only. The expectation "
        "over z adds the spread: tr(W S W^T) / (2 s2).":
            lambda *a: elbo_with(*a, spread=0),
        "The KL is added. The ELBO is the expected log-likelihood MINUS KL(q || p(z)).":
            lambda *a: elbo_with(*a, kl_sign=1),
        "The constant D/2 log(2 pi) of the likelihood is missing: "
        "it does not change the gradients, but it changes the value.":
            lambda *a: elbo_with(*a, constant=0),
        "The term D/2 log(s2) of the likelihood is missing: without it s2 grows without limit.":
            lambda *a: elbo_with(*a, noise=0),
        "The KL lacks -log det S / 2: without it q collapses to a point.":
            lambda *a: elbo_with(*a, entropy=0),
        "The KL to the prior is missing altogether.":
            lambda *a: elbo_with(*a, kl_sign=0),
    }
