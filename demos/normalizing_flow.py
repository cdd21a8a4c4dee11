"""Normalizing flow: an explicit density p(x) by an invertible network (beyond the slides).

A mixture of Gaussians has an explicit p(x), a VAE bounds it, a GAN only samples from it. A
normalizing flow computes p(x) exactly and samples in one pass. It is an invertible map f from data
to noise; p(x) is large where f stretches the plane, because much noise comes from little space
there.

    density     ln p(x) = ln N(f(x); 0, I) + ln |det df/dx|      (the change of variables)    (1)
    layers      f = f_8 o ... o f_1,   so   ln |det df/dx| = sum_i ln |det df_i/dx_i|         (2)
    coupling    f_i(x) = x e^s + t,   (s, t) = (1 - m) network(m x)                           (3)
    determinant ln |det df_i/dx| = sum of s, because df_i/dx is triangular, its diagonal e^s  (4)
    inverse     x = (y - t) e^-s,   with s and t from y, because m y = m x                    (5)
    training    minimize -mean ln p(x)                                                        (6)
    generation  z ~ N(0, I),   x = f^-1(z)                                                    (7)

The mask m is 1 for the coordinates that a layer keeps and 0 for those it moves. The network depends
only on what stays, so it need not be invertible itself. The layers take turns.

--exact (for moons) compares with the true density. The expected loss of any density is the entropy
of the data plus KL(data || density), so the entropy is a floor that no model can go below.

Look at:
    samples.png   training data and samples: a continuous invertible map cannot tear the noise
                  apart, so a thin thread joins the two moons
    density.png   p(x), with --exact next to the true one
    layers.png    noise, its color the direction from the center, and what the layers make of it one
                  after the other, with the lines of a grid
    flow.gif      the same in motion: each layer moves all points along one axis only
    loss.png      with --exact, the entropy of the data

Numbers in metrics.json (data are standardized, so that the unit is one standard deviation):
    nll           the mean of -ln p(x) on 10,000 fresh data, in nats
    integral      of p over the plane, by a sum over a grid; it must be 1
    seconds       of training
    sliced_w2     the distance of 10,000 samples to as many fresh data
    noise_floor   the distance of two fresh data sets of that size, what perfect samples would score
    ratio         of the two (root mean squares over several sets of each)
    entropy       with --exact: the mean of -ln of the true density on the data of nll
    kl            with --exact: nll - entropy

Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017; Papamakarios et al.,
"Normalizing flows for probabilistic modeling and inference", 2021.
"""
import math

import numpy as np
from matplotlib.collections import LineCollection

import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import cores, data, metrics, plots, run

LOG_SCALE = 2.0  # |s| stays below it: no layer stretches by more than e^2, training cannot explode


class Coupling(nn.Module):
    """One invertible layer, eq. (3); parity chooses which coordinates it keeps."""

    def __init__(self, dim, hidden, parity):
        self.mask = nn.Buffer((np.arange(dim) + parity) % 2.0)  # (D,) m: 1 where x is kept
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden),
                                 nn.ReLU(), nn.Linear(hidden, 2 * dim))

    def scale_and_shift(self, x):
        h = self.net(self.mask * x)                             # (B, D) -> (B, 2 D)
        s, t = h[:, :x.shape[1]], h[:, x.shape[1]:]             # (B, D), (B, D)
        return (1 - self.mask) * LOG_SCALE * tg.tanh(s), (1 - self.mask) * t

    def forward(self, x):
        s, t = self.scale_and_shift(x)
        return x * tg.exp(s) + t, s.sum(axis=1)                 # (B, D), (B,)   eq. (3), (4)

    def inverse(self, y):
        s, t = self.scale_and_shift(y)                          # y and x agree where m = 1
        return (y - t) * tg.exp(-s)                             # (B, D)         eq. (5)


class Flow(nn.Module):
    """Couplings that take turns in what they keep."""

    def __init__(self, dim=2, hidden=64, layers=8):
        self.layers = [Coupling(dim, hidden, i) for i in range(layers)]

    def forward(self, x):
        """Data to noise f(x), and ln |det df/dx|: (B, D) -> (B, D), (B,)"""
        log_det = 0.0
        for layer in self.layers:
            x, more = layer(x)
            log_det = log_det + more                            # (B,)           eq. (2)
        return x, log_det

    def log_prob(self, x):
        z, log_det = self(x)
        log_normal = -0.5 * (z * z).sum(axis=1) - 0.5 * x.shape[1] * math.log(2 * math.pi)
        return log_normal + log_det                             # (B,)           eq. (1)

    @tg.no_grad()
    def inverse(self, z):
        """Noise to data, eq. (7): the state after each layer, last to first.

        (N, D) -> (layers + 1, N, D)
        """
        path = [z]
        for layer in reversed(self.layers):
            path.append(layer.inverse(path[-1]))
        return tg.stack(path)


def moons_log_prob(x):
    """ln p(x) of the standardized moons, N(0, 0.05^2 I) around 1,000 points of the half circles."""
    mean, covariance = data.moments("moons")
    std = np.sqrt(np.diagonal(covariance))
    t = (np.arange(500) + 0.5) * np.pi / 500                    # (500,) evenly spaced
    circles = np.concatenate([np.stack([np.cos(t), np.sin(t)], axis=1),
                              np.stack([1 - np.cos(t), 0.5 - np.sin(t)], axis=1)])
    centers = tg.Tensor((circles - mean) / std)                 # (1000, 2)
    d = (x[:, None] - centers) * tg.Tensor(std / 0.05)          # (B, 1000, 2)
    log_constant = math.log(1000 * 2 * math.pi * 0.05**2 / std.prod())
    return F.logsumexp(-0.5 * (d * d).sum(axis=2), axis=1) - log_constant       # (B,)


def main(argv=None):
    job = run.Job("normalizing_flow", __doc__, argv, data=tuple(data.TOYS), steps=6000, batch=256,
                  lr=5e-3, exact=True)
    args = job.args
    if args.exact and args.data != "moons":
        raise tg.TinygenError("--exact needs --data moons, whose true density is built in, and got "
                              f"--data {args.data}.")
    x = data.toy(args.data, 100_000, standardize=True)          # (N, 2)
    flow = Flow()
    optimizer = optim.Adam(flow.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(model=flow, optimizer=optimizer, schedule=schedule):
        loss = -flow.log_prob(x[batches[step]]).mean()          #                eq. (6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        job.log(loss=loss)
    numbers = measure(job, flow)
    z = tg.randn(5000, 2)
    path = flow.inverse(z)                                      # (9, 5000, 2)
    samples_and_density(job, flow, x, path[-1])
    layers_and_film(job, flow, z, path)
    loss_curve(job, numbers.get("entropy"))
    job.finish(**numbers)


# Numbers and pictures -----------------------------------------------------------------------------

def measure(job, flow):
    """The loss on fresh data, and the distance of samples to fresh data."""
    count = 500 if job.args.quick else 10_000
    fresh = lambda n: data.toy(job.args.data, n, standardize=True)              # (n, 2)
    clouds = [metrics.in_blocks(lambda z: flow.inverse(z)[-1], tg.randn(count, 2))
              for _ in range(10)]
    new = fresh(count)
    numbers = dict(nll=-metrics.in_blocks(flow.log_prob, new).mean(), integral=integral(flow))
    numbers |= metrics.beside_floor(clouds, fresh)
    if job.args.exact:
        numbers["entropy"] = -metrics.in_blocks(moons_log_prob, new).mean()
        numbers["kl"] = numbers["nll"] - numbers["entropy"]
    return numbers


def integral(flow, half=4, n=401):
    """The integral of p over the square [-half, half]^2, as a sum over a grid of n x n points."""
    points = plots.grid(((-half, half), (-half, half)), n)
    p = np.exp(metrics.in_blocks(flow.log_prob, points, cores=cores.CORES))     # (n * n,)
    return p.sum() * (2 * half / (n - 1))**2


def samples_and_density(job, flow, x, samples):
    window = plots.limits(x, margin=0.25)
    fig, (left, right) = plots.figure(1, 2, 3.6)
    plots.scatter(plots.plane(left, window, "training data"), x, plots.DATA)
    plots.scatter(plots.plane(right, window, "samples"), samples, plots.MODEL)
    job.picture(fig, "samples.png")

    shown = [(flow.log_prob, plots.MODEL, "density of the flow")]
    if job.args.exact:
        shown.append((moons_log_prob, plots.EXACT, "true density"))
    fig, axes = plots.figure(1, len(shown), 4.2)
    for ax, (log_prob, color, title) in zip(axes, shown):
        p = np.exp(metrics.in_blocks(log_prob, plots.grid(window, 200)))        # (40000,)
        p = np.minimum(p, np.quantile(p, 0.995))    # one bright spot would make all others pale
        plots.density(plots.plane(ax, window, title), window, p, color)
    job.picture(fig, "density.png")


def layers_and_film(job, flow, z, path):
    """Points and lines of the plane of noise, and where the layers take them."""
    level = np.stack(np.meshgrid(np.linspace(-3, 3, 121), np.linspace(-3, 3, 13)), axis=-1)
    lines = np.concatenate([level, level[:, :, ::-1]])          # (26, 121, 2)
    bent = flow.inverse(tg.Tensor(lines.reshape(-1, 2)))        # (9, 26 * 121, 2)
    bent = bent.numpy().reshape(-1, *lines.shape)               # (9, 26, 121, 2)
    path = path[:, :2000].numpy()                               # (9, 2000, 2)
    hue = np.arctan2(*z[:2000].numpy().T)                       # (2000,)
    window = plots.limits(z, margin=0.15)

    def draw(ax, i):
        """The state after i layers; within a layer every point moves straight."""
        k = max(math.ceil(i) - 1, 0)
        now = lambda states: states[k] + (i - k) * (states[k + 1] - states[k])
        ax.clear()
        plots.plane(ax, window, f"layer {math.ceil(i)} of {len(path) - 1}" if i else "noise")
        ax.add_collection(LineCollection(now(bent), colors="#b5a642", linewidths=0.5))
        ax.scatter(*now(path).T, c=hue, cmap="hsv", s=3, linewidths=0, zorder=3)

    fig, axes = plots.figure(1, 5, 3)
    for i, ax in zip(range(0, 9, 2), axes):
        draw(ax, i)
    job.picture(fig, "layers.png")
    fig, (ax,) = plots.figure(1, 1, 4)
    # five frames for each layer
    frames = [0, 8] if job.args.quick else [0] * 4 + [i / 5 for i in range(41)] + [8] * 10
    job.animation(fig, lambda i: draw(ax, i), frames, "flow.gif")


def loss_curve(job, entropy):
    fig, (ax,) = plots.figure(1, 1, width=6, height=3)
    plots.curve(ax, job.history["loss"], "-ln p(x) of the minibatch", plots.MODEL)
    if entropy is not None:
        ax.axhline(entropy, color=plots.EXACT, linestyle="--", label="entropy of the data")
    ax.set(title="nats per point", ylim=np.quantile(job.history["loss"], [0, 0.99]))
    ax.legend()
    job.picture(fig, "loss.png")


if __name__ == "__main__":
    run.main(main)
