"""Latent variables: linear auto-encoder, Gaussian mixture, VAE (e10, e18, e32, e11, e12, e13)."""
import numpy as np

from _grading import Exercise
from _numerics import gradient, logsumexp, slope

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()  # Gauss-Hermite: WEIGHTS @ f(NODES) = E f(eps), eps ~ N(0, 1), no sampling


def projector(X, k, centre=True, keep=np.s_[::-1]):
    """The projector on k eigenvectors of the covariance, with room for slips."""
    mu = X.mean(0) * centre
    U = np.linalg.eigh((X - mu).T @ (X - mu))[1][:, keep][:, :k]
    return U @ U.T, mu


class e10_optimal_projector(Exercise):
    against = "the smallest loss there is: the sum of the D - k smallest eigenvalues of the covariance"
    tolerance = 1e-10

    def returns(X, k):
        return {"P": (X.shape[1], X.shape[1]), "mu": (X.shape[1],)}

    def draw(rng):
        for n, d, k in [(12, 5, 2), (9, 4, 1)]:
            turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
            yield rng.normal(size=(n, d)) * 1.6 ** np.arange(d) @ turn + 3 + rng.random(d), k

    def check(f, X, k):
        P, mu = f(X, k)
        yield "P", P, P.T, "a projector that is orthogonal is symmetric: P = P^T"
        yield "P", P @ P, P, "a projector applied twice changes nothing: P @ P = P"
        yield "trace(P)", np.trace(P), k, "a projector on k dimensions has trace k"
        missed = (X - mu) - (X - mu) @ P
        eigenvalues = np.linalg.svd(X - X.mean(0), compute_uv=False) ** 2 / len(X)
        yield "mean of |x - reconstruction|^2", (missed ** 2).sum() / len(X), eigenvalues[k:].sum()

    slips = {
        "Not centred: your subspace passes through the origin, the best one "
        "passes through the mean of the data. Subtract mu first.":
            lambda X, k: projector(X, k, centre=False),
        "You return the mean but looked for directions in data "
        "that were not centred: use X - mu there as well.":
            lambda X, k: (projector(X, k, centre=False)[0], X.mean(0)),
        "You kept the k SMALLEST eigenvalues: eigh sorts in ascending order.":
            lambda X, k: projector(X, k, keep=np.s_[:]),
        "You took entries from the wrong axis: the directions are the "
        "columns of eigh's matrix, but the rows of Vt from svd.":
            lambda X, k: (lambda U: (U @ U.T, X.mean(0)))(np.linalg.svd(X - X.mean(0))[2][:, :k]),
        "You return the k directions. P is encoder and decoder in one, the (D, D) matrix U U^T.":
            lambda X, k: (np.linalg.svd(X - X.mean(0))[2][:k].T, X.mean(0)),
        "You return the encoder alone, k directions as rows. P decodes as well: the (D, D) matrix U U^T.":
            lambda X, k: (np.linalg.svd(X - X.mean(0))[2][:k], X.mean(0)),
        "Nothing is compressed: with all D directions P is the identity. Keep k of them.":
            lambda X, k: (np.eye(X.shape[1]), X.mean(0)),
    }


def log_joint(x, pi, mu, var, use_pi=True, dims=None):
    """log pi_k N(x_n; mu_k, var_k I), (N, K); the keywords make room for slips."""
    distance = ((x[:, None] - mu) ** 2).sum(-1)
    dims = x.shape[1] if dims is None else dims
    return use_pi * np.log(pi) - 0.5 * dims * np.log(2 * np.pi * var) - 0.5 * distance / var


def normalised(logs, axis=1):
    return np.exp(logs - logsumexp(logs, axis))


class e18_responsibilities(Exercise):
    against = "numerical derivative of log p(x_n) with respect to log pi_k, which is r[n, k]"

    def returns(x, pi, mu, var):
        return {"R": (len(x), len(pi))}

    def draw(rng):
        for n, k in [(5, 3), (4, 4)]:
            pi = rng.permutation(2. ** np.arange(k))
            x, mu = rng.normal(size=(n, 3)), rng.normal(size=(k, 3))
            yield x, pi / pi.sum(), mu, 0.5 + 2 * rng.random(k)
        far = np.array([[500., -400.], [0., 90.]])
        yield far, np.array([.3, .7]), np.array([[1., 0.], [0., 1.]]), np.array([1., .9])

    def check(f, x, pi, mu, var):
        R = f(x, pi, mu, var)
        yield "sum over k of R", R.sum(1), np.ones(len(x)), "each sample is shared out: rows sum to 1"
        yield "R", R, [gradient(lambda a: logsumexp(a + log_joint(row[None], 1, mu, var)).sum(), np.log(pi))
                       for row in x]

    slips = {
        "pi is forgotten: a frequent component explains a point "
        "better than a rare one at the same distance.":
            lambda x, pi, mu, var: normalised(log_joint(x, pi, mu, var, use_pi=False)),
        "You normalise over the samples. Each SAMPLE is shared out among the components: rows sum to 1.":
            lambda x, pi, mu, var: normalised(log_joint(x, pi, mu, var), axis=0),
        "The normaliser -D/2 log var_k of the density is forgotten; it differs from component to component.":
            lambda x, pi, mu, var: normalised(log_joint(x, pi, mu, var, dims=0)),
        "In D dimensions the normaliser is var_k^(-D/2): you have the one of a single dimension.":
            lambda x, pi, mu, var: normalised(log_joint(x, pi, mu, var, dims=1)),
        "Far from all components every exp underflows and 0/0 is nan: stay in "
        "logarithms and subtract the largest of the row before exp (log-sum-exp).":
            lambda x, pi, mu, var: (lambda p: p / p.sum(1, keepdims=True))(np.exp(log_joint(x, pi, mu, var))),
        "You used var_k as a standard deviation: it is sigma_k^2 already, do not square it.":
            lambda x, pi, mu, var: normalised(log_joint(x, pi, mu, var ** 2)),
        "These are the densities pi_k N(x_n; mu_k, var_k). Divide each row by its sum.":
            lambda x, pi, mu, var: np.exp(log_joint(x, pi, mu, var)),
    }


def weighted_moments(x, R, n_mean=None, n_var=None, centre=None, dims=None):
    """Weights, means and variances, with room for slips."""
    n = R.sum(0)
    mu = R.T @ x / (n if n_mean is None else n_mean)[:, None]
    square = ((x[:, None] - (mu if centre is None else centre)) ** 2).sum(-1)
    return n / len(x), mu, (R * square).sum(0) / (n if n_var is None else n_var) / (dims or x.shape[1])


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
        yield "dQ/dlog pi", gradient(lambda a: Q(np.exp(a - logsumexp(a)), mu, var), np.log(pi)), 0 * pi
        yield "dQ/dmu", gradient(lambda mu: Q(pi, mu, var), mu), 0 * mu
        yield "dQ/dlog var", gradient(lambda s: Q(pi, mu, np.exp(s)), np.log(var)), 0 * var

    slips = {
        "The weights of component k sum to N_k = sum_n r_nk, not to N: divide mu and var by N_k.":
            lambda x, R: weighted_moments(x, R, np.full(R.shape[1], len(x)), np.full(R.shape[1], len(x))),
        "You only add up. The weights of component k sum to N_k: divide by it to get a weighted mean.":
            lambda x, R: weighted_moments(x, R, np.ones(R.shape[1]), np.ones(R.shape[1])),
        "mu is right. In var, too, the weights of component k sum to N_k, not to N.":
            lambda x, R: weighted_moments(x, R, n_var=np.full(R.shape[1], len(x))),
        "You measure the spread around the mean of all data: "
        "component k spreads around its own new mean mu_k.":
            lambda x, R: weighted_moments(x, R, centre=x.mean(0)),
        "The maximum of the likelihood divides by N_k. The N_k - 1 belongs to another estimator.":
            lambda x, R: weighted_moments(x, R, n_var=R.sum(0) - 1),
        "var_k is the variance of ONE coordinate: |x - mu_k|^2 adds up D of them, divide by D.":
            lambda x, R: weighted_moments(x, R, dims=1),
        "pi_k = N_k still has to be divided by N, so that the pi sum to 1.":
            lambda x, R: (R.sum(0), *weighted_moments(x, R)[1:]),
        "You return the standard deviation: asked for is the variance.":
            lambda x, R: (*weighted_moments(x, R)[:2], np.sqrt(weighted_moments(x, R)[2])),
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
        def expectation(mu, logvar):  # E sin(z) and E z^2, known in closed form
            return np.exp(-np.exp(logvar) / 2) * np.sin(mu) if df is np.cos else mu ** 2 + np.exp(logvar)

        dmu, dlogvar = f(mu, logvar, eps, df)
        against = f"{e11_reparam_grad.against}, f(z) = {'sin(z)' if df is np.cos else 'z^2'}"
        yield "mean of dmu", WEIGHTS @ dmu, slope(lambda m: expectation(m, logvar), mu), against
        yield "mean of dlogvar", WEIGHTS @ dlogvar, slope(lambda s: expectation(mu, s), logvar), against

    slips = {
        "A factor 1/2 is missing: sigma = exp(logvar / 2). What you "
        "have is the derivative with respect to log sigma.":
            lambda mu, s, eps, df: pathwise(mu, np.exp(s / 2), eps, df, np.exp(s / 2) * eps),
        "sigma = exp(logvar / 2); exp(logvar) is the variance.":
            lambda mu, s, eps, df: pathwise(mu, np.exp(s), eps, df, np.exp(s) * eps),
        "sigma = exp(logvar / 2); exp(logvar) is the variance. "
        "(The factor 1/2 in dlogvar comes from there.)":
            lambda mu, s, eps, df: pathwise(mu, np.exp(s), eps, df, np.exp(s) * eps / 2),
        "eps is dropped: z = mu + sigma eps, so dz/dsigma = eps.":
            lambda mu, s, eps, df: pathwise(mu, np.exp(s / 2), eps, df, np.exp(s / 2) / 2),
        "sigma is dropped: d sigma / d logvar = sigma / 2.":
            lambda mu, s, eps, df: pathwise(mu, np.exp(s / 2), eps, df, eps / 2),
        "f' has to be taken at the sample z = mu + sigma eps, not at the mean.":
            lambda mu, s, eps, df: pathwise(mu, 0, eps, df, np.exp(s / 2) * eps / 2),
    }


class e12_kl_standard_normal(Exercise):
    against = "E_q[log q(z) - log p(z)] with the expectation taken exactly, summed over the dimensions"

    def returns(mean, logvar):
        return {"kl": (len(mean),)}

    def draw(rng):
        for n, d in [(4, 3), (3, 3)]:
            yield 2 * rng.normal(size=(n, d)), rng.normal(size=(n, d))
        yield np.zeros((2, 3)), np.zeros((2, 3))  # q = p

    def check(f, mean, logvar):
        z = mean[..., None] + np.exp(logvar / 2)[..., None] * NODES
        log_q, log_p = -0.5 * logvar[..., None] - 0.5 * NODES ** 2, -0.5 * z ** 2  # both without -log(2 pi)/2
        yield "kl", f(mean, logvar), ((log_q - log_p) @ WEIGHTS).sum(1)

    slips = {
        "The factor 1/2 is missing: it comes with the exponent of "
        "the Gaussian and with log sigma = logvar / 2.":
            lambda m, s: (m ** 2 + np.exp(s) - 1 - s).sum(1),
        "The sign of the log is wrong: a narrow q (logvar below 0) must cost more, not less.":
            lambda m, s: 0.5 * (m ** 2 + np.exp(s) - 1 + s).sum(1),
        "You read logvar as log sigma. Here logvar = log sigma^2, so sigma^2 = exp(logvar).":
            lambda m, s: 0.5 * (m ** 2 + np.exp(2 * s) - 1 - 2 * s).sum(1),
        "You average over the dimensions. The KL of a product of densities is the SUM of the KLs.":
            lambda m, s: 0.5 * (m ** 2 + np.exp(s) - 1 - s).mean(1),
        "That is the KL in the other direction, from N(0, 1) to q. The expectation is over q.":
            lambda m, s: 0.5 * ((1 + m ** 2) * np.exp(-s) - 1 + s).sum(1),
        "A KL is never negative: the sign is wrong.":
            lambda m, s: -0.5 * (m ** 2 + np.exp(s) - 1 - s).sum(1),
        "The KL of q = N(0, 1) to itself must be 0: a constant is lost, one -1 for each dimension.":
            lambda m, s: 0.5 * (m ** 2 + np.exp(s) - s).sum(1),
        "One number for each sample: sum over the dimensions (axis 1), not over the rows.":
            lambda m, s: 0.5 * (m ** 2 + np.exp(s) - 1 - s).sum(),
    }


def gaussian_log_density(x, mean, cov):
    r = x - mean
    return -0.5 * (len(x) * np.log(2 * np.pi) + np.linalg.slogdet(cov)[1] + r @ np.linalg.solve(cov, r))


def gaussian_kl(m0, S0, m1, S1):
    ratio, r = np.linalg.solve(S1, S0), m1 - m0
    return 0.5 * (np.trace(ratio) - len(r) - np.linalg.slogdet(ratio)[1] + r @ np.linalg.solve(S1, r))


def elbo_with(x, W, b, s2, m, S, spread=1, kl_sign=-1, constant=1, noise=1, entropy=1):
    """The bound term by term; the keywords switch terms off."""
    r, d, k = x - W @ m - b, len(x), len(m)
    likelihood = -0.5 * (constant * d * np.log(2 * np.pi) + noise * d * np.log(s2) + (
        r @ r + spread * np.trace(W @ S @ W.T)) / s2)
    return likelihood + kl_sign * 0.5 * (np.trace(S) + m @ m - k - entropy * np.linalg.slogdet(S)[1])


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
            x, W, b, m, A = (rng.normal(size=size) for size in [d, (d, k), d, k, (k, k)])
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
        "The constant D/2 log(2 pi) of the likelihood is dropped: "
        "the gradients do not care, the identity does.":
            lambda *a: elbo_with(*a, constant=0),
        "The term D/2 log(s2) of the likelihood is dropped: without it s2 grows for ever.":
            lambda *a: elbo_with(*a, noise=0),
        "The KL lacks -log det S / 2: without it q collapses to a point.":
            lambda *a: elbo_with(*a, entropy=0),
        "The KL to the prior is missing altogether.":
            lambda *a: elbo_with(*a, kl_sign=0),
    }
