"""Classifier-free guidance: ask a diffusion model for a class, then for more of what makes it.

Slide "Conditional diffusion and guidance". As denoising diffusion (ddpm.py), with a label y:

    loss        |eps - eps(x_t, t, y)|^2, each label replaced by "none" with probability 0.1  (1)
    guidance    eps_w(x, t) = (1 + w) eps(x, t, y) - w eps(x, t, none)                        (2)

One network learns both, with a label and without. Because eps = -sqrt(1 - alpha_bar_t) grad ln p_t,
(2) is, up to a constant, the score of

    p_t(x | y)^(1+w) p_t(x)^-w    or, by Bayes' rule,    p_t(x) p_t(y | x)^(1+w)              (3)

w = -1 forgets the label, w = 0 draws from the class, w > 0 prefers what a classifier is sure about.
This holds at each t. The samples that come out at t = 0 are similar to those of (3) with t = 0, but
not the same.

The data in the plane are eight Gaussians N(m_y, r^2 I) that overlap. Noise keeps them Gaussian, so
--exact compares with the best possible answer

    eps*(x, t, y) = sqrt(1 - alpha_bar_t) (x - sqrt(alpha_bar_t) m) / V                       (4)
    V = alpha_bar_t r^2 + 1 - alpha_bar_t

where m = m_y. Without a label, m is the mean of all centers m_k, weighted with the probabilities of
the classes given x, softmax(-|x - sqrt(alpha_bar_t) m_k|^2 / 2 V).

Look at:
    guidance.png   samples for growing w. In the plane, a color for each class: the classes part,
                   shrink, and leave the place where the data are. With --exact the row below comes
                   from the exact eps. The network goes further out, because guidance takes it to
                   points where there were no data, and multiplies its errors by up to 1 + 2 w.
                   Digits become cleaner and more alike
    accuracy.png   how often a sample is taken for the class that was asked for, and how varied the
                   samples are

Numbers in metrics.json:
    loss            the mean of the last tenth
    seconds         of training
    accuracy_w0, accuracy_w1, accuracy_w2, accuracy_w3, accuracy_w5
                    the fraction of the samples of that w taken for the class that was asked for, in
                    the plane by the nearest center (the best possible classifier), for digits by a
                    classifier trained on the data
    test_accuracy   the same for test data
    sliced_w2       in the plane: the distance of samples with w = 0 of all classes to fresh data
    noise_floor     in the plane: the distance of two fresh data sets
    ratio           of the two (root mean squares over several sets of each)
    eps_gap         with --exact: the mean of |eps(x_t, t, y) - eps*|^2

Ho & Salimans, "Classifier-free diffusion guidance", 2022.
"""
import numpy as np

import tinygen as tg
from ddim import ddim_step
from ddpm import ddpm_loss, random_times, sample, squared_error
from forward_process import Diffusion, to_eps
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run
from tinygen.lab.judge import train_classifier


class ConditionalDenoiser(nn.Module):
    """A multi-layer perceptron on the point, the time and the label; label `classes` is none."""

    def __init__(self, dim, hidden, classes, features=32):
        self.time = nn.SinusoidalEmbedding(features)
        self.label = nn.Embedding(classes + 1, features)
        self.net = nn.Sequential(
            nn.Linear(dim + 2 * features, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, dim))

    def forward(self, x, t, y):                                 # (N, D), (N,), (N,) -> (N, D)
        return self.net(tg.cat([x, self.time(t), self.label(y)], axis=1))


def drop(y, none, p=0.1):
    """The labels, each replaced by `none` with probability p."""
    return tg.where(tg.rand(len(y)) < p, none, y)               # (N,)     slide, eq. (1)


def guided(eps, y, w, none):
    """The function eps_w(x, t) for labels y."""
    if w == 0:
        return lambda x, t: eps(x, t, y)
    return lambda x, t: (1 + w) * eps(x, t, y) - w * eps(x, t, 0 * y + none)    # slide, eq. (2)


def exact_eps(x, t, y, diffusion, centers, variance):
    """The minimizer of the loss for Gaussian classes, eq. (4)."""
    alpha_bar = diffusion.alpha_bar_at(t)                       # (N, 1)
    V = alpha_bar * variance + 1 - alpha_bar                    # (N, 1)
    to_centers = x[:, None] - tg.sqrt(alpha_bar)[:, None] * centers         # (N, K, 2)
    weights = F.softmax(-(to_centers**2).sum(axis=2) / (2 * V), axis=1)     # (N, K)
    own = F.embedding(y, tg.cat([centers, tg.zeros(1, 2)]))     # (N, 2)
    m = tg.where((y == len(centers))[:, None], weights @ centers, own)      # (N, 2)
    return tg.sqrt(1 - alpha_bar) * (x - tg.sqrt(alpha_bar) * m) / V


@tg.no_grad()
def guide(eps, y, w, none, noise, diffusion):
    """Samples for labels y with guidance w, by 50 steps of DDIM."""
    _, path = sample(guided(eps, y, w, none), noise, diffusion, ddim_step, 50)
    return path[-1]                                             # (N, D)


def main(argv=None):
    job = run.Job("conditional_ddpm", __doc__, argv, data=("eight_gaussians", *data.IMAGES),
                  steps={"toys": 6000, "images": 4000}, batch={"toys": 512, "images": 128},
                  lr={"toys": 4e-3, "images": 1e-3}, exact=True)
    args = job.args
    toys = args.kind == "toys"
    if args.exact and not toys:
        raise tg.TinygenError("--exact needs --data eight_gaussians, because the best answer for "
                              f"{args.data} has no formula: leave --exact out.")
    if toys:
        x, y = gaussians(50_000)                                # (N, 2), (N,)
        model = ConditionalDenoiser(2, hidden=128, classes=8)
    else:
        x, y = images(job)                                      # (N, 784) in [-1, 1], (N,)
        model = ConditionalDenoiser(784, hidden=512, classes=10)
    none, predict = (8, "eps") if toys else (10, "x0")
    diffusion = Diffusion(200)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    ema = optim.EMA(model, 0.999)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(model=model, optimizer=optimizer, schedule=schedule, average=ema):
        x0 = x[batches[step]]                                   # (B, D)
        label = drop(y[batches[step]], none)                    # (B,)
        t = random_times(len(x0), diffusion.T)                  # (B,)
        eps = tg.randn(*x0.shape)                               # (B, D)
        predicted = lambda x, t: model(x, t, label)
        loss = ddpm_loss(predicted, diffusion, x0, t, eps, predict)         # slide, eq. (1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.update()
        job.log(loss=loss)
    eps = lambda x, t, y: to_eps(ema.model(x, t, y), x, diffusion.alpha_bar_at(t), predict)
    numbers = in_the_plane(job, eps, diffusion) if toys else of_images(job, eps, diffusion, x, y)
    job.finish(loss=job.last("loss"), **numbers)


# Numbers and pictures -----------------------------------------------------------------------------

WEIGHTS = (0, 1, 2, 3, 5)  # w
STD = dict(std=0.5)        # of the Gaussians, on a circle of radius 2, before they are standardized


def gaussians(n):
    return data.toy("eight_gaussians", n, labels=True, standardize=True, **STD)     # (n, 2), (n,)


def images(job, train=True):
    x, y = data.images(job.args.data, train, job.args.data_dir)
    return 2 * x.flatten(1) - 1, y                              # (N, 784), (N,)


@tg.no_grad()
def in_the_plane(job, eps, diffusion):
    count = 400 if job.args.quick else 4000
    _, covariance = data.moments("eight_gaussians", **STD)
    scale = covariance[0, 0]**0.5
    centers = tg.Tensor(data.centers("eight_gaussians", **STD) / scale)     # (8, 2)
    best = lambda x, t, y: exact_eps(x, t, y, diffusion, centers, (STD["std"] / scale)**2)
    x, y = gaussians(count)                                     # (N, 2), (N,)
    noise = tg.randn(count, 2)                                  # (N, 2)
    samples = [guide(eps, y, w, 8, noise, diffusion) for w in WEIGHTS]      # (N, 2) each
    panels = [("data", x), *zip([f"w = {w}" for w in WEIGHTS], samples)]
    if job.args.exact:
        exact = [guide(best, y, w, 8, noise, diffusion) for w in WEIGHTS]
        panels += [("data", x), *zip([f"w = {w}, exact" for w in WEIGHTS], exact)]
    window = plots.limits(x, margin=0.5)
    fig, axes = plots.figure(len(panels) // 6, 6, 2.4)
    for ax, (title, cloud) in zip(axes, panels):
        plots.plane(ax, window, title)
        plots.scatter(ax, cloud, y.numpy(), size=3, limit=count, cmap="Dark2")
    job.picture(fig, "guidance.png")

    clouds = [guide(eps, gaussians(count)[1], 0, 8, tg.randn(count, 2), diffusion)
              for _ in range(5)]
    numbers = metrics.beside_floor(clouds, lambda n: gaussians(n)[0])
    if job.args.exact:
        t = random_times(count, diffusion.T)                    # (N,)
        some = drop(y, 8, 0.5)                                  # (N,)
        xt = diffusion.q_sample(x, t, noise)                    # (N, 2)
        numbers["eps_gap"] = squared_error(eps(xt, t, some), best(xt, t, some))
    nearest = lambda x: -((x[:, None] - centers)**2).sum(axis=2)            # (N, 8)
    return compare(job, nearest, samples, y.numpy(), x, y.numpy()) | numbers


def of_images(job, eps, diffusion, train, labels):
    classifier = train_classifier((train + 1) / 2, labels, steps=20 if job.args.quick else 3000)
    judge = lambda x: classifier((x + 1) / 2)
    y = tg.Tensor(np.arange(50 if job.args.quick else 500) % 10)            # (N,)
    noise = tg.randn(len(y), 784)                               # (N, 784), the same for each w
    samples = [guide(eps, y, w, 10, noise, diffusion) for w in WEIGHTS]     # (N, 784) each
    fig, axes = plots.figure(len(WEIGHTS), 1, width=6, height=1.5)
    for ax, w, x in zip(axes, WEIGHTS, samples):
        plots.pictures(ax, x[:20], 10, f"w = {w}", low=-1)
    job.picture(fig, "guidance.png")
    test, test_labels = images(job, train=False)
    clipped = [x.clip(-1, 1) for x in samples]
    return compare(job, judge, clipped, y.numpy(), test, test_labels.numpy())


def compare(job, judge, samples, asked, test, labels, weights=WEIGHTS):
    """How many samples are taken for the class asked for, and how varied they are, for each w."""
    right = [metrics.accuracy(metrics.in_blocks(judge, x), asked) for x in samples]
    ceiling = metrics.accuracy(metrics.in_blocks(judge, test), labels)
    spread = [metrics.spread_within_classes(x, asked) for x in samples]
    of_data = metrics.spread_within_classes(test, labels)
    fig, axes = plots.figure(1, 2, width=4, height=3)
    for ax, values, level in zip(axes, (right, spread), (ceiling, of_data)):
        ax.plot(weights, values, "o-", color=plots.MODEL, label="samples")
        ax.axhline(level, color=plots.DATA, linestyle="--", label="data")
        ax.set(xlabel="guidance w")
        ax.legend()
    axes[0].set(title="taken for the class asked for")
    axes[1].set(title="standard deviation within a class", ylim=(0, None))
    job.picture(fig, "accuracy.png")
    return dict(test_accuracy=ceiling) | {f"accuracy_w{w}": a for w, a in zip(weights, right)}


if __name__ == "__main__":
    run.main(main)
