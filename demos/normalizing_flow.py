"""Normalizing flow: an explicit density p(x) by an invertible network. Beyond the slides: the explicit relative.

A mixture of Gaussians writes p(x) down, a VAE bounds it, a GAN only samples from it. A normalizing flow computes p(x)
exactly and samples in one pass: it is an invertible map f from data to noise, and p(x) is large where f stretches the
plane, because much noise comes from little space there.

    density     ln p(x) = ln N(f(x); 0, I) + ln |det df/dx|      (the change of variables)          (1)
    layers      f = f_8 o ... o f_1,   so   ln |det df/dx| = sum_i ln |det df_i/dx_i|               (2)
    coupling    f_i(x) = x e^s + t,   (s, t) = (1 - m) network(m x)                                 (3)
    determinant ln |det df_i/dx| = sum of s, because df_i/dx is triangular with the diagonal e^s    (4)
    inverse     x = (y - t) e^-s,   with s and t from y, because m y = m x                          (5)
    training    minimise -mean ln p(x)                                                              (6)
    generation  z ~ N(0, I),   x = f^-1(z)                                                          (7)

The mask m is 1 for the coordinates that a layer keeps and 0 for those it moves, so the network sees only what stays, and
need not be invertible itself. The layers take turns.

--exact (for moons) compares with the true density. The expected loss of any density is the entropy of the data plus
KL(data || density), so the entropy is a floor that no model can go below.

Look at: samples.png (training data beside samples: a continuous invertible map cannot tear the noise apart, so a thin thread
joins the two moons); density.png (p(x), with --exact beside the true one); layers.png (noise, its colour the direction
from the centre, and what the layers make of it one after the other, with the lines of a grid); flow.gif (the same in
motion: each layer moves all points along one axis only); loss.png (with --exact, the entropy of the data).

Numbers in metrics.json: nll, the mean of -ln p(x) on 10,000 fresh data, in nats (data are standardised, so that the
unit is one standard deviation); integral, of p over the plane by a sum over a grid, which must be 1; seconds of
training; sliced_w2, the distance of 10,000 samples to as many fresh data; noise_floor, the distance of two fresh data
sets, what perfect samples would score, give or take chance; ratio of the two (root mean squares over several sets of
each). With --exact: entropy, the mean of -ln of the true density on the data of nll; kl = nll - entropy.

Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017; Papamakarios et al., "Normalizing flows for
probabilistic modeling and inference", 2021.
"""
import math

import numpy as np
from matplotlib.collections import LineCollection

import tinygen as tg
from tinygen import backend, functional as F, nn, optim
from tinygen.lab import cores, data, metrics, plots, run
from tinygen.backend import TinygenError

LOG_SCALE = 2.0  # s stays between -2 and 2, so no layer stretches by more than e^2 and training cannot explode


class Coupling(nn.Module):
    """One invertible layer, eq. (3); parity says which half of the coordinates is kept."""

    def __init__(self, dim, hidden, parity):
        self.mask = nn.Buffer((np.arange(dim) + parity) % 2.0)      # (D,) m: 1 where x is kept
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                                 nn.Linear(hidden, 2 * dim))

    def scale_and_shift(self, x):
        h = self.net(self.mask * x)                                 # (B, D) -> (B, 2 D)
        s, t = h[:, :x.shape[1]], h[:, x.shape[1]:]                 # (B, D), (B, D)
        return (1 - self.mask) * LOG_SCALE * tg.tanh(s), (1 - self.mask) * t

    def forward(self, x):
        s, t = self.scale_and_shift(x)
        return x * tg.exp(s) + t, s.sum(axis=1)                     # (B, D), (B,)   eq. (3), (4)

    def inverse(self, y):
        s, t = self.scale_and_shift(y)                              #                y and x agree where m = 1
        return (y - t) * tg.exp(-s)                                 # (B, D)         eq. (5)


class Flow(nn.Module):
    """Couplings that take turns in what they keep."""

    def __init__(self, dim=2, hidden=64, layers=8):
        self.layers = [Coupling(dim, hidden, i) for i in range(layers)]

    def forward(self, x):
        """Data to noise f(x), and ln |det df/dx|: (B, D) -> (B, D), (B,)"""
        log_det = 0.0
        for layer in self.layers:
            x, more = layer(x)
            log_det = log_det + more                                # (B,)           eq. (2): a sum over the layers
        return x, log_det

    def log_prob(self, x):
        z, log_det = self(x)
        return -0.5 * (z * z).sum(axis=1) - 0.5 * x.shape[1] * math.log(2 * math.pi) + log_det     # (B,)     eq. (1)

    @tg.no_grad()
    def inverse(self, z):
        """Noise to data: what each layer makes of it, last to first: (N, D) -> (layers + 1, N, D)"""
        path = [z]
        for layer in reversed(self.layers):
            path.append(layer.inverse(path[-1]))
        return tg.stack(path)


def moons_log_prob(x):
    """ln p(x) of the standardised moons: noise N(0, 0.05^2 I) around 1,000 evenly spaced points of the half circles."""
    mean, covariance = data.moments("moons")
    std = np.sqrt(np.diagonal(covariance))
    t = (np.arange(500) + 0.5) * np.pi / 500
    circles = np.concatenate([np.stack([np.cos(t), np.sin(t)], axis=1), np.stack([1 - np.cos(t), 0.5 - np.sin(t)], axis=1)])
    d = (x[:, None] - tg.Tensor((circles - mean) / std)) * tg.Tensor(std / 0.05)      # (B, 1000, 2)
    return F.logsumexp(-0.5 * (d * d).sum(axis=2), axis=1) - math.log(1000 * 2 * math.pi * 0.05**2 / std.prod())


def main(argv=None):
    job = run.Job("normalizing_flow", __doc__, argv, data=tuple(data.TOYS), steps=6000, batch=256, lr=5e-3, exact=True)
    args = job.args
    if args.exact and args.data != "moons":
        raise TinygenError(f"The true density of {args.data} is not built in: use --exact with --data moons.")
    x = data.toy(args.data, 100_000, standardize=True)              # (N, 2)

    flow = Flow()
    optimizer = optim.Adam(flow.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(model=flow, optimizer=optimizer, schedule=schedule):
        loss = -flow.log_prob(x[batches[step]]).mean()              #                eq. (6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        job.log(loss=loss)

    count, fresh = 500 if args.quick else 10_000, lambda n: data.toy(args.data, n, standardize=True)
    clouds = [metrics.in_blocks(lambda z: flow.inverse(z)[-1], tg.randn(count, 2)) for _ in range(10)]
    new = fresh(count)
    numbers = dict(nll=-metrics.in_blocks(flow.log_prob, new).mean(), integral=integral(flow),
                   **metrics.beside_floor(clouds, fresh))
    if args.exact:
        numbers["entropy"] = -metrics.in_blocks(moons_log_prob, new).mean()
        numbers["kl"] = numbers["nll"] - numbers["entropy"]
    pictures(job, flow, x, numbers.get("entropy"))
    job.finish(**numbers)


def integral(flow, half=4, n=401):
    """The integral of p over the square [-half, half]^2, as a sum over a grid of n x n points."""
    points = plots.grid(((-half, half), (-half, half)), n)
    return np.exp(metrics.in_blocks(flow.log_prob, points, cores=cores.CORES)).sum() * (2 * half / (n - 1))**2


def pictures(job, flow, x, entropy):
    z = tg.randn(5000, 2)
    path = flow.inverse(z)                                          # (9, 5000, 2)
    window = plots.limits(x, margin=0.25)
    fig, (left, right) = plots.figure(1, 2, 3.6)
    plots.scatter(plots.plane(left, window, "training data"), x, plots.DATA)
    plots.scatter(plots.plane(right, window, "samples"), path[-1], plots.MODEL)
    job.picture(fig, "samples.png")

    shown = [(flow.log_prob, plots.MODEL, "density of the flow"), (moons_log_prob, plots.EXACT, "true density")]
    fig, axes = plots.figure(1, 1 + job.args.exact, 4.2)
    for ax, (log_prob, colour, title) in zip(axes, shown):
        p = np.exp(metrics.in_blocks(log_prob, plots.grid(window, 200)))                      # (40000,)
        p = np.minimum(p, np.quantile(p, 0.995))                    # or one bright spot would make all others pale
        plots.density(plots.plane(ax, window, title), window, p, colour)
    job.picture(fig, "density.png")

    # lines of the plane of noise, and where the layers take them: 26 lines of 121 points
    line = np.stack(np.meshgrid(np.linspace(-3, 3, 121), np.linspace(-3, 3, 13)), axis=-1)    # (13, 121, 2)
    lines = np.concatenate([line, line[:, :, ::-1]])                                          # (26, 121, 2)
    bent = flow.inverse(tg.Tensor(lines.reshape(-1, 2))).numpy().reshape(-1, *lines.shape)    # (9, 26, 121, 2)
    path, hue, window = path[:, :2000].numpy(), np.arctan2(*z[:2000].numpy().T), plots.limits(z, margin=0.15)

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
    frames = [0, 8] if job.args.quick else [0] * 4 + [i / 5 for i in range(41)] + [8] * 10      # five for each layer
    job.animation(fig, lambda i: draw(ax, i), frames, "flow.gif")

    fig, (ax,) = plots.figure(1, 1, width=6, height=3)
    plots.curve(ax, job.history["loss"], "-ln p(x) of the minibatch", plots.MODEL)
    if entropy is not None:
        ax.axhline(entropy, color=plots.EXACT, linestyle="--", label="entropy of the data")
    ax.set(title="nats per point", ylim=np.quantile(job.history["loss"], [0, 0.99]))
    ax.legend()
    job.picture(fig, "loss.png")


if __name__ == "__main__":
    run.main(main)
