"""Gaussian mixture model: an explicit density p(x), fitted by maximum likelihood in two ways.

Slide "Gaussian mixture models": first draw a component y, then x from its Gaussian.

    model       y ~ Categorical(pi),   x | y = k ~ N(mu_k, Sigma_k)
    density     p(x) = sum_k pi_k N(x; mu_k, Sigma_k)                                               (1)
    likelihood  maximise   l = sum_n ln p(x_n)                                                      (2)
    E step      r_kn = p(y = k | x_n) = pi_k N(x_n; mu_k, Sigma_k) / p(x_n),    N_k = sum_n r_kn    (3)
    M step      pi_k = N_k / N,   mu_k = sum_n r_kn x_n / N_k,                                      (4)
                Sigma_k = sum_n r_kn (x_n - mu_k) (x_n - mu_k)^T / N_k                              (5)

EM repeats the two steps. But p(x) is explicit, so the gradient of (2) can be followed as well, in parameters that may take
any value: pi = softmax(logits), and Sigma_k^-1 = L_k L_k^T, L_k lower triangular with the diagonal e^(log_diagonal). Both
climb the same hill, because the gradient of (2) is made of the same responsibilities:

    dl/dmu_k = Sigma_k^-1 sum_n r_kn (x_n - mu_k),   so that   mu_k(EM) = mu_k + Sigma_k / N_k dl/dmu_k   (6)

An EM step is a gradient step whose length each component chooses for itself: it needs no learning rate and never makes
the likelihood worse. With more components (--data pinwheel) the hill has many tops, and which one is reached depends on
the start; the arms are bent, so the best that Gaussians can do there is not good.

--exact (for the lecture's own mixture, lecture_mixture) adds the true parameters and the true density's likelihood in green.

Look at: density.png (crosses: data; the true density, where it is known, and the fitted one); samples.png (data in the
colour of the component they belong to, mixed where p(y | x) is in doubt, beside samples of p(x | y) in the colour of y:
all of them together are samples of p(x)); trajectories.png (how the means travel and the likelihood improves: a few long
steps of EM, many short ones of the gradient, to the same place); em.gif (ellipses of two standard deviations while EM
moves them).

Numbers in metrics.json, in nats per point: nll_em and nll_gradient, of the training data; nll_gap, the distance of the
two; seconds_em and seconds (the gradient's) of fitting. sliced_w2, the distance of 10,000 samples to as many fresh
data; noise_floor, the distance of two fresh data sets, what perfect samples would score, give or take chance; ratio of
the two (root mean squares over several sets of each). For lecture_mixture: kl_em and kl_gradient, KL(true || fit) by
quadrature, for which theory expects kl_expected, parameters / 2N = (1 + 2 * 2 + 2 * 3) / 2N, on average; nll_true, of
the true density on the training data: the fit is lower, by as much as it has learned them by heart. All of these
compare densities and not parameters, because the numbering of the components means nothing.

Dempster, Laird & Rubin, "Maximum likelihood from incomplete data via the EM algorithm", 1977; eq. (6): Xu & Jordan, "On
convergence properties of the EM algorithm for Gaussian mixtures", 1996.
"""
import math
import time

import numpy as np
from matplotlib.collections import LineCollection

import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run
from tinygen.backend import TinygenError, xp

COMPONENTS = {"lecture_mixture": 2, "pinwheel": 5}
DECK = data.LECTURE_WEIGHTS, data.LECTURE_MEANS, data.LECTURE_COVARIANCES  # the true parameters
COLOURS = np.array([[31, 111, 180], [228, 87, 46], [42, 157, 92], [142, 94, 162], [224, 168, 0]]) / 255  # of components


class GaussianMixture(nn.Module):
    """Made from weights (K,), means (K, D) and covariances (K, D, D), kept in numbers that may take any value."""

    def __init__(self, weights, means, covariances):
        L = np.linalg.cholesky(np.linalg.inv(covariances))                   # (K, D, D)
        self.logits = nn.Parameter(np.log(weights))                          # (K,)
        self.means = nn.Parameter(means)                                     # (K, D)
        self.log_diagonal = nn.Parameter(np.log(np.diagonal(L, axis1=1, axis2=2)))  # (K, D)
        self.below = nn.Parameter(np.tril(L, -1))                            # (K, D, D), of which the lower triangle is used

    def factor(self):
        """L with L L^T = Sigma^-1: (K, D, D)"""
        K, D = self.means.shape
        return self.below * xp.tri(D, k=-1) + tg.exp(self.log_diagonal)[:, :, None] * xp.eye(D)

    def log_joint(self, x):
        """ln p(x, y) = ln pi_y + ln N(x; mu_y, Sigma_y) for every y: (N, D) -> (K, N)"""
        z = (x - self.means[:, None]) @ self.factor()                        # (K, N, D)   rows L^T (x - mu)
        log_det = self.log_diagonal.sum(axis=1)[:, None]                     # (K, 1)      ln |L| = -1/2 ln |Sigma|
        log_normal = log_det - 0.5 * (z * z).sum(axis=2) - 0.5 * x.shape[1] * math.log(2 * math.pi)  # (K, N)
        return F.log_softmax(self.logits)[:, None] + log_normal

    def log_prob(self, x):
        return F.logsumexp(self.log_joint(x), axis=0)                        # (N,)        slide, eq. (1)

    def responsibilities(self, x):
        return F.softmax(self.log_joint(x), axis=0)                          # (K, N)      slide, eq. (3)

    def from_noise(self, z):
        """z of N(0, I) as x = mu + L^-T z of N(mu, Sigma), in every component: (..., D) -> (K, ..., D)"""
        return z @ tg.Tensor(np.linalg.inv(self.factor().numpy())) + self.means.detach()[:, None]

    def sample(self, y):
        """One x from the Gaussian of each component in y, p(x | y): (N,) -> (N, D)"""
        return self.from_noise(tg.randn(len(y), self.means.shape[1]))[y, xp.arange(len(y))]

    def draw_components(self, n):
        """n draws of y from Categorical(pi): how many of pi_0, pi_0 + pi_1, ... a uniform number exceeds."""
        return (tg.rand(n, 1).data > xp.cumsum(F.softmax(self.logits.detach()).data)[:-1]).sum(axis=1)      # (n,)


def negative_log_likelihood(model, x):
    return -model.log_prob(x).mean()                                         #             slide, eq. (2), over -N


@tg.no_grad()
def em_step(model, x):
    r = model.responsibilities(x)                                            # (K, N)      E step
    count = r.sum(axis=1)                                                    # (K,)        N_k
    means = r @ x / count[:, None]                                           # (K, D)      M step, eq. (4)
    d = x - means[:, None]                                                   # (K, N, D)
    covariances = (r[:, :, None] * d).mT @ d / count[:, None, None]          # (K, D, D)   eq. (5)
    return GaussianMixture((count / len(x)).numpy(), means.numpy(), covariances.numpy())


def start(x, K):
    """A start for both ways: equal weights, the covariance of all data, and as means K points, each far from the others."""
    means = x[:1]
    while len(means) < K:
        to_nearest = ((x[:, None] - means)**2).sum(axis=2).min(axis=1)       # (N,)
        means = np.concatenate([means, x[to_nearest.argmax()][None]])
    return GaussianMixture(np.full(K, 1 / K), means, np.stack([np.cov(x.T)] * K))


def main(argv=None):
    job = run.Job("gmm", __doc__, argv, data=tuple(COMPONENTS), steps=500, batch=5000, lr=5e-2, exact=True)
    args = job.args
    if args.exact and args.data != "lecture_mixture":
        raise TinygenError(f"The true density of {args.data} is no mixture of Gaussians: use --exact with lecture_mixture.")
    x = data.toy(args.data, args.batch)                                      # (N, 2)      a step sees all of them

    em, model = [start(x.numpy(), COMPONENTS[args.data])], start(x.numpy(), COMPONENTS[args.data])
    began = time.perf_counter()
    for _ in range(20 if args.quick else 200):
        em.append(em_step(em[-1], x))                                        #             one way
    seconds_em = time.perf_counter() - began

    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    for step in job.train(model=model, optimizer=optimizer):                 #             the other
        nll = negative_log_likelihood(model, x)
        job.log(nll=nll, means=1 * model.means)                              # a copy: the optimiser changes them in place
        optimizer.zero_grad()
        nll.backward()
        optimizer.step()

    truth = GaussianMixture(*DECK) if args.data == "lecture_mixture" else None
    pictures(job, x, em, model, truth)
    nll_em, nll_gradient = [negative_log_likelihood(fit, x).item() for fit in (em[-1], model)]
    numbers = dict(kl_em=kl(truth, em[-1]), kl_gradient=kl(truth, model), kl_expected=11 / (2 * len(x)),
                   nll_true=negative_log_likelihood(truth, x).item()) if truth else {}
    count, fresh = 500 if args.quick else 10_000, lambda n: data.toy(args.data, n)
    clouds = [model.sample(model.draw_components(count)).detach() for _ in range(10)]
    job.finish(nll_em=nll_em, nll_gradient=nll_gradient, nll_gap=abs(nll_em - nll_gradient), seconds_em=seconds_em,
               **metrics.beside_floor(clouds, fresh), **numbers)


def kl(p, q):
    """KL(p || q) = integral of p ln (p / q) over the plane, as a sum over a fine grid that leaves nothing out."""
    points, area = tg.Tensor(plots.grid(((-10, 10), (-10, 10)), 201)), (20 / 200)**2    # (40401, 2)
    log_p = p.log_prob(points)                                               # (40401,)
    return (tg.exp(log_p) * (log_p - q.log_prob(points))).sum().item() * area


def ellipses(model):
    """Two standard deviations around each mean: (K, 101, 2)"""
    angle = np.linspace(0, 2 * np.pi, 101)
    return model.from_noise(tg.Tensor(2 * np.stack([np.cos(angle), np.sin(angle)], axis=1))).numpy()


@tg.no_grad()
def pictures(job, x, em, model, truth):
    K, history, window = len(model.means), job.history, plots.limits(x)
    points = tg.Tensor(plots.grid(window, 200))                              # (40000, 2)
    shown = [(truth, plots.EXACT, "true density and data"), (model, plots.MODEL, "fitted density and data")][truth is None:]
    fig, axes = plots.figure(1, len(shown), 4.2)
    for ax, (density, colour, title) in zip(axes, shown):
        plots.density(plots.plane(ax, window, title), window, tg.exp(density.log_prob(points)), colour, contours=True)
        ax.scatter(*x[:90].numpy().T, marker="x", s=22, c="black", linewidths=0.8)
    job.picture(fig, "density.png")

    fig, (left, right) = plots.figure(1, 2, 4.2)
    y, r = model.draw_components(5000), model.responsibilities(x[:5000]).numpy()       # (5000,), (K, 5000)
    for ax, dots, colours, title in ((left, x, r.T @ COLOURS[:K], "data, coloured by p(y | x)"),
                                     (right, model.sample(y), COLOURS[y.tolist()], "samples of p(x | y), coloured by y")):
        plots.scatter(plots.plane(ax, window, title), dots, colours, size=4, alpha=0.7)
    job.picture(fig, "samples.png")

    fig, (left, right) = plots.figure(1, 2, 4.2)
    plots.scatter(plots.plane(left, window, "means: EM a dot for each step, gradient dashed"), x, plots.NOISE, alpha=0.2)
    left.set_prop_cycle(color=COLOURS[:K])
    em_nll, em_means = [negative_log_likelihood(m, x).item() for m in em], [m.means.numpy() for m in em]
    for way, line, nll, means in ("EM", "o-", em_nll, em_means), ("gradient", "--", history["nll"], history["means"]):
        left.plot(*np.transpose(means, (2, 0, 1)), line, linewidth=1.2, markersize=4)       # (steps, K, 2) -> (2, steps, K)
        right.semilogx(1 + np.arange(len(nll)), nll, line, color="black", linewidth=1.2, markersize=4, label=way)
    if job.args.exact:
        left.plot(*ellipses(truth).T, color=plots.EXACT)
        right.axhline(negative_log_likelihood(truth, x).item(), color=plots.EXACT, label="true density")
    right.set(title="-ln p(x), nats per point", xlabel="step")
    right.legend()
    job.picture(fig, "trajectories.png")

    fig, (ax,) = plots.figure(1, 1, 4)
    plots.scatter(plots.plane(ax, window), x, plots.NOISE, alpha=0.3, limit=2000)
    lines = ax.add_collection(LineCollection(ellipses(model), colors=COLOURS, linewidths=2.5))

    def draw(step):
        ax.set_title(f"EM, step {step}: {em_nll[step]:.3f} nats per point")
        lines.set_segments(ellipses(em[step]))
    job.animation(fig, draw, [*range(21), *range(22, 61, 2)][:len(em)] + [len(em) - 1] * 10, "em.gif", rate=5)


if __name__ == "__main__":
    run.main(main)
