"""Gaussian mixture model: an explicit density p(x), fitted by maximum likelihood in two ways.

Slide "Gaussian mixture models": first draw a component y, then x from its Gaussian.

    model       y ~ Categorical(pi),   x | y = k ~ N(mu_k, Sigma_k)
    density     p(x) = sum_k pi_k N(x; mu_k, Sigma_k)                                         (1)
    likelihood  maximize   l = sum_n ln p(x_n)                                                (2)
    E step      r_kn = p(y = k | x_n) = pi_k N(x_n; mu_k, Sigma_k) / p(x_n),                  (3)
                N_k = sum_n r_kn
    M step      pi_k = N_k / N,   mu_k = sum_n r_kn x_n / N_k,                                (4)
                Sigma_k = sum_n r_kn (x_n - mu_k) (x_n - mu_k)^T / N_k                        (5)

EM repeats the two steps. But p(x) is explicit, so we can follow the gradient of (2) as well, in
parameters that may take any value:

    pi = softmax(logits),   Sigma_k^-1 = L_k L_k^T,
    L_k lower triangular with the diagonal e^(log_diagonal)

Both ways climb the same hill, because the gradient of (2) is made of the same responsibilities:

    dl/dmu_k = Sigma_k^-1 sum_n r_kn (x_n - mu_k),   so that
    mu_k(EM) = mu_k + Sigma_k / N_k dl/dmu_k                                                  (6)

An EM step is a gradient step with a step size of its own for each component: it needs no learning
rate and never makes the likelihood worse. With more components (--data pinwheel) the hill has many
tops, and the start decides which one is reached. The arms of the pinwheel are bent, so even the
best Gaussians do not fit them well.

--exact (only with the lecture's own mixture, lecture_mixture) adds the true components and the
likelihood of the true density in green.

Look at:
    density.png       crosses: data; the true density, where it is known, and the fitted one
    samples.png       left data in the color of the component they belong to, mixed where p(y | x)
                      is in doubt; right samples of p(x | y) in the color of y: all of them together
                      are samples of p(x)
    trajectories.png  how the means travel and the likelihood improves: a few long steps of EM and
                      many short ones of the gradient, to the same place
    em.gif            ellipses of two standard deviations while EM moves them

Numbers in metrics.json (nll is the mean of -ln p(x) over the training data; it and the KL
divergences are in nats per point):
    nll_em        of EM's fit
    nll_gradient  of the gradient's fit
    nll_gap       the distance of the two
    seconds_em    of fitting by EM
    seconds       of fitting by the gradient
    sliced_w2     the distance of 10,000 samples to as many fresh data
    noise_floor   the distance of two fresh data sets, what perfect samples would score
    ratio         of the two (root mean squares over several sets of each)
    kl_em         KL(true || EM's fit) by quadrature
    kl_gradient   KL(true || the gradient's fit) by quadrature
    kl_expected   of both on average in theory: parameters / 2N = (1 + 2 * 2 + 2 * 3) / 2N
    nll_true      of the true density; the fit has a lower one, by as much as it overfits

The last four are for lecture_mixture only. All numbers compare densities and not parameters,
because the numbering of the components means nothing.

Dempster, Laird & Rubin, "Maximum likelihood from incomplete data via the EM algorithm", 1977;
eq. (6): Xu & Jordan, "On convergence properties of the EM algorithm for Gaussian mixtures", 1996.
"""
import time

import numpy as np
from matplotlib.collections import LineCollection

import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.backend import xp
from tinygen.lab import data, metrics, plots, run

COMPONENTS = {"lecture_mixture": 2, "pinwheel": 5}


class GaussianMixture(nn.Module):
    """Made from weights (K,), means (K, D) and covariances (K, D, D).

    It holds them as parameters that may take any value.
    """

    def __init__(self, weights, means, covariances):
        L = np.linalg.cholesky(np.linalg.inv(covariances))  # (K, D, D)
        diagonal = np.diagonal(L, axis1=1, axis2=2)         # (K, D)
        self.logits = nn.Parameter(np.log(weights))         # (K,)
        self.means = nn.Parameter(means)                    # (K, D)
        self.log_diagonal = nn.Parameter(np.log(diagonal))  # (K, D)
        self.below = nn.Parameter(np.tril(L, -1))           # (K, D, D), used below the diagonal

    def factor(self):
        """L with L L^T = Sigma^-1: (K, D, D)"""
        K, D = self.means.shape
        return self.below * xp.tri(D, k=-1) + tg.exp(self.log_diagonal)[:, :, None] * xp.eye(D)

    def log_joint(self, x):
        """ln p(x, y) = ln pi_y + ln N(x; mu_y, Sigma_y) for every y: (N, D) -> (K, N)"""
        z = (x - self.means[:, None]) @ self.factor()                # (K, N, D)   rows L^T (x - mu)
        log_det = self.log_diagonal.sum(axis=1)[:, None]             # (K, 1)      -1/2 ln |Sigma|
        constant = 0.5 * x.shape[1] * float(np.log(2 * np.pi))
        log_normal = log_det - 0.5 * (z * z).sum(axis=2) - constant  # (K, N)
        return F.log_softmax(self.logits)[:, None] + log_normal

    def log_prob(self, x):
        return F.logsumexp(self.log_joint(x), axis=0)       # (N,)    slide, eq. (1)

    def responsibilities(self, x):
        return F.softmax(self.log_joint(x), axis=0)         # (K, N)  slide, eq. (3)

    def from_noise(self, z):
        """Turn z ~ N(0, I) into x = mu + L^-T z ~ N(mu, Sigma) of every component.

        (..., D) -> (K, ..., D)
        """
        return z @ tg.Tensor(np.linalg.inv(self.factor().numpy())) + self.means.detach()[:, None]

    def sample(self, y):
        """One x from the Gaussian of each component in y, p(x | y): (N,) -> (N, D)"""
        return self.from_noise(tg.randn(len(y), self.means.shape[1]))[y, xp.arange(len(y))]

    def draw_components(self, n):
        """n draws of y from Categorical(pi): (n,)

        y is how many of the sums pi_0, pi_0 + pi_1, ... a uniform random number exceeds.
        """
        weights = F.softmax(self.logits.detach()).data      # (K,)
        return (tg.rand(n, 1).data > xp.cumsum(weights)[:-1]).sum(axis=1)


def negative_log_likelihood(model, x):
    return -model.log_prob(x).mean()                        # slide, eq. (2), over -N


@tg.no_grad()
def em_step(model, x):
    r = model.responsibilities(x)                                    # (K, N)     E step, eq. (3)
    count = r.sum(axis=1)                                            # (K,)       N_k
    means = r @ x / count[:, None]                                   # (K, D)     M step, eq. (4)
    d = x - means[:, None]                                           # (K, N, D)
    covariances = (r[:, :, None] * d).mT @ d / count[:, None, None]  # (K, D, D)  eq. (5)
    return GaussianMixture((count / len(x)).numpy(), means.numpy(), covariances.numpy())


def start(x, K):
    """A start for both ways: equal weights, the covariance of all data, K points as means.

    Each point is the one that is farthest from those chosen before it.
    """
    means = x[:1]
    while len(means) < K:
        to_nearest = ((x[:, None] - means)**2).sum(axis=2).min(axis=1)  # (N,)
        means = np.concatenate([means, x[to_nearest.argmax()][None]])
    return GaussianMixture(np.full(K, 1 / K), means, np.stack([np.cov(x.T)] * K))


def main(argv=None):
    job = run.Job("gmm", __doc__, argv, data=tuple(COMPONENTS), steps=500, batch=5000, lr=5e-2,
                  exact=True)
    args = job.args
    if args.exact and args.data != "lecture_mixture":
        raise tg.TinygenError(f"--exact needs --data lecture_mixture, but got {args.data}.")
    x = data.toy(args.data, args.batch)                     # (N, 2)  each step uses all of them

    em = [start(x.numpy(), COMPONENTS[args.data])]          # one way
    began = time.perf_counter()
    for _ in range(20 if args.quick else 200):
        em.append(em_step(em[-1], x))
    seconds_em = time.perf_counter() - began

    model = start(x.numpy(), COMPONENTS[args.data])         # the other
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    for step in job.train(model=model, optimizer=optimizer):
        nll = negative_log_likelihood(model, x)
        job.log(nll=nll, means=model.means)
        optimizer.zero_grad()
        nll.backward()
        optimizer.step()

    truth = GaussianMixture(*TRUE_PARAMETERS) if args.data == "lecture_mixture" else None
    pictures(job, x, em, model, truth)
    job.finish(seconds_em=seconds_em, **measure(job, x, em[-1], model, truth))


# Numbers and pictures -----------------------------------------------------------------------------

TRUE_PARAMETERS = data.LECTURE_WEIGHTS, data.LECTURE_MEANS, data.LECTURE_COVARIANCES
COLORS = np.array([[31, 111, 180], [228, 87, 46], [42, 157, 92], [142, 94, 162], [224, 168, 0]])


def kl(p, q):
    """KL(p || q) = integral of p ln (p / q), as a sum over a fine grid that covers all of p."""
    points = tg.Tensor(plots.grid(((-10, 10), (-10, 10)), 201))  # (40401, 2)
    log_p = p.log_prob(points)                                   # (40401,)
    return (tg.exp(log_p) * (log_p - q.log_prob(points))).sum().item() * (20 / 200)**2


def measure(job, x, em, model, truth):
    nll = lambda fit: negative_log_likelihood(fit, x).item()
    numbers = dict(nll_em=nll(em), nll_gradient=nll(model), nll_gap=abs(nll(em) - nll(model)))
    if truth is not None:
        numbers |= dict(nll_true=nll(truth), kl_em=kl(truth, em), kl_gradient=kl(truth, model),
                        kl_expected=11 / (2 * len(x)))
    count = 500 if job.args.quick else 10_000
    clouds = [model.sample(model.draw_components(count)).detach() for _ in range(10)]
    return numbers | metrics.beside_floor(clouds, lambda n: data.toy(job.args.data, n))


def ellipses(model):
    """Two standard deviations around each mean: (K, 101, 2)"""
    angle = np.linspace(0, 2 * np.pi, 101)
    circle = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (101, 2)
    return model.from_noise(tg.Tensor(circle)).numpy()


@tg.no_grad()
def pictures(job, x, em, model, truth):
    window = plots.limits(x)
    points = tg.Tensor(plots.grid(window, 200))                    # (40000, 2)
    panels = ("fitted", model, plots.MODEL), ("true", truth, plots.EXACT)
    fig, axes = plots.figure(1, 1 if truth is None else 2, 4.2)  # where it is known, the truth left
    for ax, (name, density, color) in zip(reversed(axes), panels):
        plots.plane(ax, window, f"{name} density and data")
        plots.density(ax, window, tg.exp(density.log_prob(points)), color, contours=True)
        ax.scatter(*x[:90].numpy().T, marker="x", s=22, c="black", linewidths=0.8)
    job.picture(fig, "density.png")

    fig, (left, right) = plots.figure(1, 2, 4.2)
    colors = COLORS[:len(model.means)] / 255                       # (K, 3)
    y = model.draw_components(5000)                                # (5000,)
    r = model.responsibilities(x[:5000]).numpy()                   # (K, 5000)
    plots.plane(left, window, "data, colored by p(y | x)")
    plots.scatter(left, x, r.T @ colors, size=4, alpha=0.7)
    plots.plane(right, window, "samples of p(x | y), colored by y")
    plots.scatter(right, model.sample(y), colors[y.tolist()], size=4, alpha=0.7)
    job.picture(fig, "samples.png")

    fig, (left, right) = plots.figure(1, 2, 4.2)
    plots.plane(left, window, "means: EM a dot for each step, gradient dashed")
    plots.scatter(left, x, plots.NOISE, alpha=0.2)
    left.set_prop_cycle(color=colors)
    em_nll = [negative_log_likelihood(m, x).item() for m in em]
    style = dict(linewidth=1.2, markersize=4)
    for way, line, nll, means in (("EM", "o-", em_nll, [m.means.numpy() for m in em]),
                                  ("gradient", "--", job.history["nll"], job.history["means"])):
        left.plot(*np.transpose(means, (2, 0, 1)), line, **style)  # (2, steps, K)
        right.semilogx(1 + np.arange(len(nll)), nll, line, color="black", label=way, **style)
    if job.args.exact:
        left.plot(*ellipses(truth).T, color=plots.EXACT)
        right.axhline(-truth.log_prob(x).mean().item(), color=plots.EXACT, label="true density")
    right.set(title="-ln p(x), nats per point", xlabel="step")
    right.legend()
    job.picture(fig, "trajectories.png")

    fig, (ax,) = plots.figure(1, 1, 4)
    plots.scatter(plots.plane(ax, window), x, plots.NOISE, alpha=0.3, limit=2000)
    lines = ax.add_collection(LineCollection(ellipses(model), colors=colors, linewidths=2.5))

    def draw(step):
        ax.set_title(f"EM, step {step}: {em_nll[step]:.3f} nats per point")
        lines.set_segments(ellipses(em[step]))
    frames = [*range(21), *range(22, 61, 2)][:len(em)] + [len(em) - 1] * 10
    job.animation(fig, draw, frames, "em.gif", rate=5)


if __name__ == "__main__":
    run.main(main)
