"""Classifier-free guidance: ask a diffusion model for a class, and then for more of what makes that class.

Slide "Conditional diffusion and guidance". As denoising diffusion (ddpm.py), with a label y:

    loss        |eps - eps(x_t, t, y)|^2, where each label is replaced by "none" with probability 0.1             (1)
    guidance    eps_w(x, t) = (1 + w) eps(x, t, y) - w eps(x, t, none)                                            (2)

One network learns both, with a label and without. As eps = -sqrt(1 - abar_t) grad ln p_t, (2) is the score of

    p_t(x | y)^(1+w) p_t(x)^-w    or, by Bayes' rule,    p_t(x) p_t(y | x)^(1+w)                                  (3)

up to a constant: w = -1 forgets the label, w = 0 draws from the class, w > 0 prefers what a classifier is sure about.
It does so at each t; the samples that come out at t = 0 are not those of (3) with t = 0, though similar in spirit.

The data in the plane are eight Gaussians N(m_y, r^2 I) that overlap, and noise keeps them Gaussian, so with --exact

    eps*(x, t, y) = sqrt(1 - abar_t) (x - sqrt(abar_t) m) / (abar_t r^2 + 1 - abar_t)                             (4)

where m = m_y; for none m is the mean of all centres, weighted with softmax(-|x - sqrt(abar_t) m_k|^2 / 2 (abar_t r^2 +
1 - abar_t)), the probabilities of the classes given x.

Look at: guidance.png (samples for growing w. In the plane a colour for each class: they part, shrink, and leave the place
where the data are; with --exact the row below is made by the exact eps: the network goes further out, for guidance takes
it where it never saw data, and multiplies its errors by up to 1 + 2 w. Digits become cleaner and more alike);
accuracy.png (how often a sample is taken for the class that was asked for, and how various the samples are).

Numbers in metrics.json. loss, the mean of the last tenth; seconds of training; accuracy_w0, accuracy_w1, accuracy_w2,
accuracy_w3, accuracy_w5: the part of the samples of that w taken for the class that was asked for, in the plane by the
nearest centre (the best possible classifier), for digits by a classifier trained on the data; data_accuracy, the same for
test data. In the plane: sliced_w2, the distance of samples with w = 0 of all classes to fresh data; noise_floor, the
distance of two fresh data sets; ratio of the two (root mean squares over several sets of each); with --exact, eps_gap,
the mean of |eps(x_t, t, y) - eps*|^2.

Ho & Salimans, "Classifier-free diffusion guidance", 2022.
"""

import numpy as np

import tinygen as tg
from ddpm import Diffusion, ddim_step, ddpm_loss, random_times, sample, to_eps
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run
from tinygen.lab.judge import train_classifier

WEIGHTS = (0, 1, 2, 3, 5)  # w
STD = dict(std=0.5)        # of the eight Gaussians, on a circle of radius 2, before they are standardised


class ConditionalDenoiser(nn.Module):
    """A multi-layer perceptron on the point, the time, and the label 0, ..., classes - 1, or `classes` for none."""

    def __init__(self, dim, hidden, classes, features=32):
        self.classes, self.time, self.label = classes, nn.SinusoidalEmbedding(features), nn.Embedding(classes + 1, features)
        sizes = [dim + 2 * features] + 4 * [hidden]
        layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.net = nn.Sequential(*layers, nn.Linear(hidden, dim))

    def forward(self, x, t, y):
        return self.net(tg.cat([x, self.time(t), self.label(y)], axis=1))       # (N, D), (N,), (N,) -> (N, D)


def drop(y, none, p=0.1):
    """The labels, each replaced by `none` with probability p."""
    return tg.where(tg.rand(len(y)) < p, none, y)                   # (N,)     slide, eq. (1)


def guided(eps, y, w, none):
    """The function eps_w(x, t) for labels y."""
    if w == 0:
        return lambda x, t: eps(x, t, y)
    return lambda x, t: (1 + w) * eps(x, t, y) - w * eps(x, t, 0 * y + none)    # slide, eq. (2)


def exact_eps(x, t, y, diffusion, centres, variance):
    """The minimiser of the loss for Gaussian classes, eq. (4)."""
    abar, none = diffusion.at(t), len(centres)                      # (N, 1)
    spread = abar * variance + 1 - abar                             # (N, 1)
    near = -((x[:, None] - tg.sqrt(abar)[:, None] * centres)**2).sum(axis=2) / (2 * spread)     # (N, K)
    own = F.embedding(y, tg.cat([centres, tg.zeros(1, 2)]))         # (N, 2)
    mean = tg.where((y == none)[:, None], F.softmax(near, axis=1) @ centres, own)
    return tg.sqrt(1 - abar) * (x - tg.sqrt(abar) * mean) / spread


def gaussians(n):
    return data.toy("eight_gaussians", n, labels=True, standardize=True, **STD)     # (n, 2), (n,)


def main(argv=None):
    job = run.Job("conditional_ddpm", __doc__, argv, data=("eight_gaussians", *data.IMAGES), exact=True,
                  lr={"toys": 4e-3, "images": 1e-3}, steps={"toys": 6000, "images": 4000},
                  batch={"toys": 512, "images": 128})
    args, toys = job.args, job.args.kind == "toys"
    if toys:
        x, y = gaussians(50_000)                                    # (N, 2), (N,)
    elif args.exact:
        raise tg.TinygenError("--exact knows the best answer for eight_gaussians only: leave it out.")
    else:
        x, y = images(job)                                          # (N, 784) in [-1, 1], (N,)

    diffusion, classes, predict = Diffusion(200), 8 if toys else 10, "eps" if toys else "x0"
    model = ConditionalDenoiser(x.shape[1], 128 if toys else 512, classes)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    average = optim.EMA(model, 0.999)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(model=model, optimizer=optimizer, schedule=schedule, average=average):
        x0, label = x[batches[step]], drop(y[batches[step]], classes)           # (B, D), (B,)
        t, eps = random_times(len(x0), diffusion.T), tg.randn(*x0.shape)        # (B,), (B, D)
        loss = ddpm_loss(lambda x, t: model(x, t, label), diffusion, x0, t, eps, predict)       # slide, eq. (1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update()
        job.log(loss=loss)

    def eps(x, t, y):
        return to_eps(average.model(x, t, y), x, diffusion.at(t), predict)
    numbers = pictures_of_points(job, eps, diffusion) if toys else pictures_of_images(job, eps, diffusion, x, y)
    job.finish(loss=job.last("loss"), **numbers)


def images(job, train=True):
    x, y = data.images(job.args.data, train, job.args.data_dir)
    return 2 * x.flatten(1) - 1, y


@tg.no_grad()
def guide(eps, y, w, none, noise, diffusion):
    """Samples for labels y with guidance w, by 50 steps of DDIM."""
    return sample(guided(eps, y, w, none), noise, diffusion, ddim_step, 50)[1][-1]              # (N, D)


@tg.no_grad()
def pictures_of_points(job, eps, diffusion):
    count, scale = 400 if job.args.quick else 4000, data.moments("eight_gaussians", **STD)[1][0, 0]**0.5
    centres = tg.Tensor(data.centers("eight_gaussians", **STD) / scale)         # (8, 2)
    best = lambda x, t, y: exact_eps(x, t, y, diffusion, centres, (STD["std"] / scale)**2)
    (x, y), noise = gaussians(count), tg.randn(count, 2)
    samples = {"network": [guide(eps, y, w, 8, noise, diffusion) for w in WEIGHTS], "data": [x]}
    if job.args.exact:
        samples["exact"] = [guide(best, y, w, 8, noise, diffusion) for w in WEIGHTS]

    window, rows = plots.limits(x, margin=0.5), ["network"] + ["exact"] * job.args.exact
    fig, axes = plots.figure(len(rows), 1 + len(WEIGHTS), 2.4)
    for i, row in enumerate(rows):
        titles = ["data"] + [f"w = {w}" + ", exact" * (row == "exact") for w in WEIGHTS]
        for ax, title, cloud in zip(axes[i * len(titles):], titles, [x] + samples[row]):
            plots.scatter(plots.plane(ax, window, title), cloud, y.numpy(), size=3, limit=count, cmap="Dark2")
    job.picture(fig, "guidance.png")

    clouds = [guide(eps, gaussians(count)[1], 0, 8, tg.randn(count, 2), diffusion) for _ in range(5)]
    numbers = metrics.beside_floor(clouds, lambda n: gaussians(n)[0])
    if job.args.exact:
        t, some = random_times(count, diffusion.T), drop(y, 8, 0.5)
        xt = diffusion.noised(x, t, noise)
        numbers["eps_gap"] = ((eps(xt, t, some) - best(xt, t, some))**2).sum(axis=1).mean().item()
    nearest = lambda x: -((x[:, None] - centres)**2).sum(axis=2)                # (N, 8)   largest for the nearest centre
    return compare(job, nearest, samples["network"], y.numpy(), x, y.numpy()) | numbers


def pictures_of_images(job, eps, diffusion, train, labels):
    classifier = train_classifier((train + 1) / 2, labels, steps=20 if job.args.quick else 3000)
    y = tg.Tensor(np.arange(50 if job.args.quick else 500) % 10)
    noise = tg.randn(len(y), train.shape[1])
    samples = [guide(eps, y, w, 10, noise, diffusion) for w in WEIGHTS]
    fig, axes = plots.figure(len(WEIGHTS), 1, width=6, height=1.5)
    for ax, w, x in zip(axes, WEIGHTS, samples):
        plots.pictures(ax, x[:20], 10, f"w = {w}", low=-1)          # from the same noise for each w
    job.picture(fig, "guidance.png")
    test, real = images(job, train=False)
    return compare(job, lambda x: classifier((x + 1) / 2), [x.clip(-1, 1) for x in samples], y.numpy(), test, real.numpy())


def compare(job, judge, samples, asked, test, labels, weights=WEIGHTS):
    """How many samples are taken for the class that was asked for, and how various they are, for each w."""
    right = [metrics.accuracy(metrics.in_blocks(judge, x), asked) for x in samples]
    real = metrics.accuracy(metrics.in_blocks(judge, test), labels)
    spread = metrics.spread_within_classes
    fig, axes = plots.figure(1, 2, width=4, height=3)
    for ax, values, level in ((axes[0], right, real), (axes[1], [spread(x, asked) for x in samples], spread(test, labels))):
        ax.plot(weights, values, "o-", color=plots.MODEL, label="samples")
        ax.axhline(level, color=plots.DATA, linestyle="--", label="data")
        ax.set(xlabel="guidance w")
        ax.legend()
    axes[0].set(title="taken for the class asked for")
    axes[1].set(title="standard deviation within a class", ylim=(0, None))
    job.picture(fig, "accuracy.png")
    return dict(data_accuracy=real) | {f"accuracy_w{w}": part for w, part in zip(weights, right)}


if __name__ == "__main__":
    run.main(main)
