"""Conditional flow matching: learn the velocity that carries noise to data along straight lines.

Slide "Conditional flow matching", with noise at t = 0 and data at t = 1:

    path        x_t = (1 - t) x_0 + t x_1,   x_0 ~ N(0, I),   x_1 ~ data,   t ~ U(0, 1)             (1)
    loss        E || u(x_t, t) - (x_1 - x_0) ||^2                                                   (2)
    generation  x <- x + dt u(x, t)   from x ~ N(0, I) at t = 0 to t = 1 (Euler's method)           (3)

Many straight lines cross at one point (x, t); the network cannot follow them all and learns their mean, which is the
velocity that moves the whole cloud of noise onto the data. So the loss does not go to 0, and the paths it makes are
curved although every line it was taught is straight.

Look at: samples.png (training data beside samples); trajectories.png (grey noise to orange data); velocity.png (the
field at four times: at t = 0 it points to the mean of the data, later to the nearest part of them); steps.png (how
many Euler steps are enough).

Numbers in metrics.json, for data in the plane (standardised, so that the unit is one standard deviation): sliced_w2,
the distance of 10,000 samples to as many fresh data (Euler, 100 steps); noise_floor, the distance of two fresh data
sets of that size, below which nobody can come; ratio of the two (each distance the median of three). And for all data:
loss, the mean of the last tenth; seconds of training.

Lipman et al., "Flow matching for generative modeling", 2023; Liu et al., "Flow straight and fast", 2023.
"""
import time

import numpy as np

import tinygen as tg
from tinygen import data, functional as F, metrics, nn, optim, plots, run


class Velocity(nn.Module):
    """u(x, t): a multi-layer perceptron on the point and the time."""

    def __init__(self, dim, hidden):
        self.net = nn.Sequential(nn.Linear(dim + 1, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                                 nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, dim))

    def forward(self, x, t):
        return self.net(tg.cat([x, t], axis=1))                     # (B, D), (B, 1) -> (B, D)


def flow_matching_loss(u, x1, x0, t):
    xt = (1 - t) * x0 + t * x1                                      # (B, D)   slide, eq. (1)
    return F.mse_loss(u(xt, t), x1 - x0)                            #          slide, eq. (2), per coordinate


@tg.no_grad()
def euler(u, x, steps):
    """Follow the velocity from t = 0 to t = 1. Returns the whole path, (steps + 1, N, D)."""
    path = [x]
    for i in range(steps):
        t = tg.full((len(x), 1), i / steps)                         # (N, 1)
        x = x + (1 / steps) * u(x, t)                               # (N, D)   slide, eq. (3)
        path.append(x)
    return tg.stack(path)


def main(argv=None):
    job = run.Job("flow_matching", __doc__, argv, data=(*data.TOYS, *data.IMAGES), lr={"toys": 5e-3, "images": 1e-3},
                  steps={"toys": 15_000, "images": 6_000}, batch={"toys": 256, "images": 128})
    args = job.args
    if args.kind == "toys":
        x = data.toy(args.data, 100_000, standardize=True)          # (N, 2)
    else:
        images, _ = data.images(args.data, folder=args.data_dir)
        x = 2 * images.flatten(1) - 1                               # (N, 784) in [-1, 1]
    dim = x.shape[1]

    u = Velocity(dim, hidden=128 if dim == 2 else 512)
    optimizer = optim.Adam(u.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    average = optim.EMA(u, 0.999)
    batches = data.Batches(len(x), args.batch, args.seed)
    start = time.perf_counter()
    for step in job.train(model=u, optimizer=optimizer, schedule=schedule, average=average):
        x1 = x[batches[step]]                                       # (B, D)
        x0, t = tg.randn(*x1.shape), tg.rand(len(x1), 1)            # (B, D), (B, 1)
        loss = flow_matching_loss(u, x1, x0, t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update()
        job.log(loss=loss)
    seconds = time.perf_counter() - start

    draw = pictures_of_points if dim == 2 else pictures_of_images
    numbers = draw(job, average.model, x, count=500 if args.quick else 10_000)
    job.finish(loss=np.mean(job.history["loss"][-max(1, args.steps // 10):]), seconds=seconds, **numbers)


def pictures_of_points(job, u, x, count):
    noise = tg.randn(count, 2)
    path = euler(u, noise, 100)                                     # (101, N, 2)
    window = plots.limits(tg.cat([x, noise]), margin=0.05)

    fig, (left, right) = plots.figure(1, 2, 3.6)
    plots.scatter(plots.plane(left, window, "training data"), x, plots.DATA)
    plots.scatter(plots.plane(right, window, "samples, 100 Euler steps"), path[-1], plots.MODEL)
    job.picture(fig, "samples.png")

    fig, (ax,) = plots.figure(1, 1, 5)
    plots.trajectories(plots.plane(ax, window, "from noise (grey) to data (orange)"), path)
    job.picture(fig, "trajectories.png")

    fig, axes = plots.figure(1, 4)
    points = plots.grid(window, 18)                                 # (324, 2)
    for ax, i in zip(axes, (0, 33, 66, 95)):
        with tg.no_grad():
            velocity = u(tg.Tensor(points), tg.full((len(points), 1), i / 100))
        plots.scatter(plots.plane(ax, window, f"velocity at t = {i / 100:.2f}"), path[i], plots.MODEL, alpha=0.3, limit=2000)
        plots.arrows(ax, points, velocity)
    job.picture(fig, "velocity.png")

    fig, axes = plots.figure(1, 4)
    for ax, steps in zip(axes, (1, 2, 5, 100)):
        plots.scatter(plots.plane(ax, window, f"{steps} step{'s' * (steps > 1)}"), euler(u, noise, steps)[-1], plots.MODEL)
    job.picture(fig, "steps.png")

    def fresh(n):
        return data.toy(job.args.data, n, standardize=True)
    floor = metrics.noise_floor(metrics.sliced_w2, fresh, count)
    distance = np.median([metrics.sliced_w2(euler(u, tg.randn(count, 2), 100)[-1], fresh(count)) for _ in range(3)])
    return dict(sliced_w2=distance, noise_floor=floor, ratio=distance / floor)


def pictures_of_images(job, u, x, count):
    noise = tg.randn(64, x.shape[1])
    fig, (left, right) = plots.figure(1, 2, 4)
    plots.pictures(left, x[:64], 8, "training data", low=-1)
    plots.pictures(right, euler(u, noise, 100)[-1], 8, "samples, 100 Euler steps", low=-1)
    job.picture(fig, "samples.png")

    fig, (ax,) = plots.figure(1, 1, width=7, height=5)
    path = euler(u, noise[:6], 100)[::10]                           # (11, 6, 784)
    plots.pictures(ax, path.transpose(0, 1).reshape(-1, x.shape[1]), 11, "from noise (t = 0) to data (t = 1)", low=-1)
    job.picture(fig, "trajectories.png")

    fig, axes = plots.figure(1, 4)
    for ax, steps in zip(axes, (1, 2, 5, 100)):
        plots.pictures(ax, euler(u, noise[:25], steps)[-1], 5, f"{steps} step{'s' * (steps > 1)}", low=-1)
    job.picture(fig, "steps.png")
    return {}


if __name__ == "__main__":
    run.main(main)
