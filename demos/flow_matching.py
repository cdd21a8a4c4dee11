"""Conditional flow matching: learn the velocity that carries noise to data along straight lines.

Slide "Conditional flow matching", with noise at t = 0 and data at t = 1:

    path        x_t = (1 - t) x_0 + t x_1,   x_0 ~ N(0, I),   x_1 ~ data,   t ~ U(0, 1)       (1)
    loss        E || u(x_t, t) - (x_1 - x_0) ||^2                                             (2)
    generation  x <- x + dt u(x, t)   from x ~ N(0, I) at t = 0 to t = 1 (Euler's method)     (3)

Many straight lines cross at one point (x, t); the network cannot follow them all and learns their
mean, which is the velocity that moves the whole cloud of noise onto the data. So the loss does not
go to 0, and the paths it makes are curved although every line it was taught is straight.

With --coupling ot the noise is not paired with data at random: within small groups each x_0 goes to
the x_1 that makes the total squared distance least. The lines hardly cross any more, so the loss is
small and few steps are enough.

--exact compares with the best possible answer: for training data x^1, ..., x^N the velocity that
minimizes (2) is

    u*(x, t) = (E[x_1 | x_t = x] - x) / (1 - t),                                              (4)
    E[x_1 | x] = sum_i w_i x^i,   w = softmax(-|x - t x^i|^2 / 2 (1 - t)^2)

Look at:
    samples.png        training data and samples
    trajectories.png   gray noise to orange data
    velocity.png       the field at four times: at t = 0 it points to the mean of the data, later to
                       the nearest part of them; with --exact the best field in green
    steps.png          how many Euler steps are enough
    loss.png           with --exact, the floor that no network can go below
    flow.gif           the whole cloud moving

Numbers in metrics.json (in the plane, where data are standardized, the unit is one standard
deviation):
    loss          the mean of the last tenth
    seconds       of training
    sliced_w2     the distance of 10,000 samples to as many fresh data (Euler, 100 steps)
    noise_floor   the distance of two fresh data sets of that size, what perfect samples would score
    ratio         of the two (root mean squares over several sets of each)
    irreducible   with --exact: the loss of u*
    velocity_gap  with --exact: the mean of |u - u*|^2, so that loss = irreducible + velocity_gap up
                  to sampling; both from 10,000 points and t <= 0.99, because later u* only
                  remembers the points

Lipman et al., "Flow matching for generative modeling", 2023; Liu et al., "Flow straight and fast",
2023; Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
transport", 2024.
"""
import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run


class Velocity(nn.Module):
    """u(x, t): a multi-layer perceptron on the point and the time."""

    def __init__(self, dim, hidden):
        self.net = nn.Sequential(
            nn.Linear(dim + 1, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, dim))

    def forward(self, x, t):
        return self.net(tg.cat([x, t], axis=1))                 # (B, D), (B, 1) -> (B, D)


class ImageVelocity(Velocity):
    """For images the network predicts where the path will end; the velocity leads there in time.

    To predict the velocity it would have to pass the noise, which fills all 784 dimensions, through
    512 hidden units.
    """

    def forward(self, x, t):
        return (super().forward(x, t) - x) / (1 - t).clip(min=0.05)


def flow_matching_loss(u, x1, x0, t):
    xt = (1 - t) * x0 + t * x1                                  # (B, D)   slide, eq. (1)
    error = u(xt, t) - (x1 - x0)                                # (B, D)
    return (error * error).sum(axis=1).mean()                   #          slide, eq. (2)


def exact_velocity(x, t, data):
    """The minimizer of the loss for a finite training set, eq. (4)."""
    to_data = ((x[:, None] - t[:, None] * data)**2).sum(axis=2)     # (B, N)
    weights = F.softmax(-to_data / (2 * (1 - t)**2), axis=1)        # (B, N)
    return (weights @ data - x) / (1 - t)                           # (B, D)


@tg.no_grad()
def euler(u, x, steps):
    """Follow the velocity from t = 0 to t = 1. Returns the whole path, (steps + 1, N, D)."""
    path = [x]
    for i in range(steps):
        t = tg.full((len(x), 1), i / steps)                     # (N, 1)
        x = x + (1 / steps) * u(x, t)                           # (N, D)   slide, eq. (3)
        path.append(x)
    return tg.stack(path)


def main(argv=None):
    job = run.Job("flow_matching", __doc__, argv, data=(*data.TOYS, *data.IMAGES), exact=True,
                  steps={"toys": 15_000, "images": 6_000}, batch={"toys": 256, "images": 128},
                  lr={"toys": 5e-3, "images": 1e-3}, flags=FLAGS)
    args = job.args
    if args.exact and args.coupling == "ot":
        raise tg.TinygenError("--exact needs independent pairs, and got --coupling ot: use one.")
    if args.kind == "toys":
        x = data.toy(args.data, 100_000, standardize=True)      # (N, 2)
        u = Velocity(2, hidden=128)
    else:
        images, _ = data.images(args.data, folder=args.data_dir)
        x = 2 * images.flatten(1) - 1                           # (N, 784) in [-1, 1]
        u = ImageVelocity(784, hidden=512)
    optimizer = optim.Adam(u.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    ema = optim.EMA(u, 0.999)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(model=u, optimizer=optimizer, schedule=schedule, average=ema):
        x1 = x[batches[step]]                                   # (B, D)
        x0 = tg.randn(*x1.shape)                                # (B, D)
        t = tg.rand(len(x1), 1)                                 # (B, 1)
        if args.kind == "images":
            t = 1 - t**(1 / 3)              # more early times; the best u is the same
        if args.coupling == "ot":
            x0 = x0[metrics.optimal_pairs(x0, x1)]
        loss = flow_matching_loss(u, x1, x0, t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.update()
        job.log(loss=loss)
    path = pictures(job, ema.model, x)
    numbers = in_the_plane(job, ema.model, x, path) if args.kind == "toys" else {}
    job.finish(loss=job.last("loss"), **numbers)


# Numbers and pictures -----------------------------------------------------------------------------

FLAGS = {"--coupling": dict(choices=("independent", "ot"), default="independent",
                            help="how noise meets data")}
WINDOW = (-3.0, 3.0), (-3.0, 3.0)


def show(ax, x, title, color=plots.MODEL):
    """Points of the plane, or images."""
    if x.shape[1] > 2:
        return plots.pictures(ax, x[:64], 8, title, low=-1)
    plots.scatter(plots.plane(ax, WINDOW, title), x, color)


def pictures(job, u, x):
    count = 64 if x.shape[1] > 2 else 500 if job.args.quick else 5000
    noise = tg.randn(count, x.shape[1])
    path = euler(u, noise, 100)                                 # (101, N, D)
    fig, (left, right) = plots.figure(1, 2, 3.6)
    show(left, x, "training data", plots.DATA)
    show(right, path[-1], "samples, 100 Euler steps")
    job.picture(fig, "samples.png")

    fig, axes = plots.figure(1, 4)
    for ax, steps in zip(axes, (1, 2, 5, 100)):
        show(ax, euler(u, noise, steps)[-1], "1 step" if steps == 1 else f"{steps} steps")
    job.picture(fig, "steps.png")

    fig, (ax,) = plots.figure(1, 1, 5)
    if x.shape[1] == 2:
        plots.plane(ax, WINDOW, "from noise (gray) to data (orange)")
        plots.trajectories(ax, path)
    else:
        rows = path[::10, :8].transpose(0, 1).reshape(-1, 784)  # (8 * 11, 784)
        plots.pictures(ax, rows, 11, "from noise (t = 0) to data (t = 1)", low=-1)
    job.picture(fig, "trajectories.png")
    return path


def in_the_plane(job, u, x, path):
    """The velocity field, the loss above its floor, and the distance of samples to fresh data."""
    fig, axes = plots.figure(1, 4)
    grid = plots.grid(WINDOW, 18)                               # (324, 2)
    for ax, i in zip(axes, (0, 33, 66, 95)):
        cloud = path[i].numpy()
        near = [((cloud - point)**2).sum(axis=1).min() < 0.3**2 for point in grid]
        points = tg.Tensor(grid[near] if any(near) else grid)   # where the network was trained
        t = tg.full((len(points), 1), i / 100)
        exact = exact_velocity(points, t, x[:2000]) if job.args.exact else None
        plots.plane(ax, WINDOW, f"velocity at t = {i / 100:.2f}")
        plots.scatter(ax, cloud, plots.MODEL, alpha=0.3, limit=2000)
        plots.arrows(ax, points, u(points, t).detach(), exact=exact)
    job.picture(fig, "velocity.png")

    fig, (ax,) = plots.figure(1, 1, 4)
    dots = plots.scatter(plots.plane(ax, WINDOW), path[0], plots.MODEL)
    shown = path.numpy()

    def draw(i):
        dots.set_offsets(shown[i])
        ax.set_title(f"t = {i / 100:.2f}")
    frames = [0, 100] if job.args.quick else [*range(0, 101, 4)] + [100] * 12
    job.animation(fig, draw, frames, "flow.gif")

    fig, (ax,) = plots.figure(1, 1, width=6, height=3)
    plots.curve(ax, job.history["loss"], "loss", plots.MODEL)
    gap = compare_with_exact(job, u, x, ax) if job.args.exact else {}
    ax.set(title="flow matching loss", ylim=(0, None))
    ax.legend()
    job.picture(fig, "loss.png")

    count, sets = (500, 1) if job.args.quick else (10_000, 5)
    clouds = [euler(u, tg.randn(count, 2), 100)[-1] for _ in range(sets)]
    fresh = lambda n: data.toy(job.args.data, n, standardize=True)
    return metrics.beside_floor(clouds, fresh) | gap


@tg.no_grad()
def compare_with_exact(job, u, x, ax):
    """Draw the loss of u* as a floor under the loss curve, and measure how far u is from u*."""
    count = 500 if job.args.quick else 10_000
    x = x[:count]
    x1 = x[tg.randperm(count)]
    x0 = tg.randn(count, 2)
    t = (tg.arange(count).reshape(-1, 1) + tg.rand(count, 1)) * (0.99 / count)  # evenly spread
    xt = (1 - t) * x0 + t * x1
    best = tg.cat([exact_velocity(xt[i:i + 100], t[i:i + 100], x) for i in range(0, count, 100)])
    # E |x_1 - x_0|^2 = E |u*|^2 + E |x_1 - x_0 - u*|^2, and the left side is 4: two variances of 1
    # for each coordinate
    irreducible = 4 - (best * best).sum(axis=1).mean().item()
    ax.axhline(irreducible, color=plots.EXACT, linestyle="--",
               label="irreducible: the loss of the exact velocity")
    gap = ((u(xt, t) - best)**2).sum(axis=1).mean().item()
    return dict(irreducible=irreducible, velocity_gap=gap)


if __name__ == "__main__":
    run.main(main)
