"""Denoising diffusion: learn to predict the noise in data, then remove it in many small steps.

Slide "Denoising diffusion probabilistic models". x_0 is data, x_T is noise, t = 1, ..., T;
alpha_t = 1 - beta_t and alpha_bar_t = alpha_1 ... alpha_t, so that alpha_bar_0 = 1 and alpha_bar_T
is almost 0. The forward process is in forward_process.py:

    one step    q(x_t | x_{t-1}) = N(sqrt(alpha_t) x_{t-1}, beta_t I)                         (1)
    t steps     x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps,   eps ~ N(0, I)      (2)
    back        q(x_s | x_t, x_0) = N(a x_0 + b x_t, beta_tilde I)   for s < t                (3)
                a = sqrt(alpha_bar_s) beta / (1 - alpha_bar_t)
                b = sqrt(1 - beta) (1 - alpha_bar_s) / (1 - alpha_bar_t)
                beta_tilde = beta (1 - alpha_bar_s) / (1 - alpha_bar_t)
                beta = 1 - alpha_bar_t / alpha_bar_s

    Algorithm 1, training                         Algorithm 2, sampling
    1  repeat                                     1  x_T ~ N(0, I)
    2    x_0 ~ data                               2  for t = T, ..., 1
    3    t ~ Uniform{1, ..., T}                   3    z ~ N(0, I) if t > 1, else z = 0
    4    eps ~ N(0, I)                            4    x_{t-1} = (x_t - beta_t eps(x_t, t)
    5    step along the gradient of                                  / sqrt(1 - alpha_bar_t))
         |eps - eps(sqrt(alpha_bar_t) x_0                   / sqrt(alpha_t) + sigma_t z
               + sqrt(1 - alpha_bar_t) eps, t)|^2 5  end for
    6  until converged                            6  return x_0

The betas 1e-4, ..., 0.02 of the paper belong to T = 1000. With T = 200 they are scaled by 1000 / T:
otherwise x_T would still contain data, while line 1 of Algorithm 2 starts from none.

With --predict the network predicts eps, or x_0, or

    v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0                                     (4)

Each of them gives eps by (2), and the loss compares what is predicted. For images the network
predicts x_0, because their noise does not fit through 512 hidden units.

sigma_t^2 in line 4 is beta_tilde of (3). ddim.py compares it with others, and takes fewer steps,
from t to any earlier s.

--exact compares with the best possible answer for training data x^1, ..., x^N:

    eps* = (x - sqrt(alpha_bar_t) E[x_0 | x_t = x]) / sqrt(1 - alpha_bar_t),                  (5)
    E[x_0 | x] = sum_i w_i x^i,   w = softmax(-|x - sqrt(alpha_bar_t) x^i|^2 / 2 (1 - alpha_bar_t))

Look at:
    samples.png   training data and samples
    strips.png    above, data become noise; below, noise becomes data: in each column both are the
                  same distribution
    reverse.gif   the lower row as a film

The loss at each t, the score, and other samplers for the same network are in ddim.py.

Numbers in metrics.json (in the plane, where data are standardized, the unit is one standard
deviation):
    loss          the mean of the last tenth
    seconds       of training
    sliced_w2     in the plane: the distance of 10,000 samples to as many fresh data
    noise_floor   in the plane: the distance of two fresh data sets of that size, what perfect
                  samples would score, up to chance
    ratio         of the two (root mean squares over several sets of each)
    irreducible   with --exact: the loss |eps - eps*|^2 of the exact solution (5), a mean over t
    eps_gap       with --exact: the mean of |eps(x_t, t) - eps*|^2 over t, by which the network's
                  loss is higher (up to sampling)

Ho et al., "Denoising diffusion probabilistic models", 2020; Nichol & Dhariwal, "Improved DDPM",
2021 (cosine schedule); Salimans & Ho, "Progressive distillation for fast sampling of diffusion
models", 2022 (v).
"""
import math

import numpy as np

import tinygen as tg
from forward_process import Diffusion, posterior, target, to_eps
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run


class Denoiser(nn.Module):
    """A multi-layer perceptron on the point and the time."""

    def __init__(self, dim, hidden, features=32, max_period=1000.0):
        self.time = nn.SinusoidalEmbedding(features, max_period)
        self.net = nn.Sequential(
            nn.Linear(dim + features, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, dim))

    def forward(self, x, t):
        return self.net(tg.cat([x, self.time(t)], axis=1))      # (N, D), (N,) -> (N, D)


def random_times(n, T):
    return tg.randint(1, T + 1, (n,))                           # (N,)     Alg. 1, line 3


def ddpm_loss(model, diffusion, x0, t, eps, predict="eps"):
    prediction = model(diffusion.q_sample(x0, t, eps), t)       # (N, D)
    error = target(x0, eps, diffusion.alpha_bar_at(t), predict) - prediction
    return (error * error).sum(axis=1).mean()                   #          Alg. 1, line 5


def ddpm_step(x, eps, z, alpha_bar_t, alpha_bar_s, sigma="posterior"):
    alpha = alpha_bar_t / alpha_bar_s
    _, _, beta_tilde = posterior(alpha_bar_t, alpha_bar_s)
    variance = 1 - alpha if sigma == "beta" else beta_tilde
    mean = (x - (1 - alpha) / math.sqrt(1 - alpha_bar_t) * eps) / math.sqrt(alpha)
    return mean + math.sqrt(variance) * z                       # (N, D)   Alg. 2, line 4


@tg.no_grad()
def sample(eps, x, diffusion, step=ddpm_step, steps=None):
    """From x = x_T to data in `steps` steps (default T): the times, and the path (steps + 1, N, D).

    eps    a function (x, t) -> the noise in x
    step   goes from t to an earlier s; with T steps, s = t - 1
    """
    times = np.linspace(diffusion.T, 0, (steps or diffusion.T) + 1).round().astype(int)
    path = [x]                                                  #          Alg. 2, line 1
    for t, s in zip(times, times[1:]):                          #          Alg. 2, line 2
        z = tg.randn(*x.shape) if s > 0 else tg.zeros(*x.shape)     # (N, D)   Alg. 2, line 3
        noise = eps(x, tg.full((len(x),), int(t)))              # (N, D)
        x = step(x, noise, z, diffusion.alpha_bar[t], diffusion.alpha_bar[s])
        path.append(x)
    return times, tg.stack(path)                                #          Alg. 2, line 6


def exact_eps(x, t, diffusion, data):
    """The minimizer of the loss for a finite training set, eq. (5)."""
    alpha_bar = diffusion.alpha_bar_at(t)                       # (N, 1)
    squares = (data * data).sum(axis=1)                         # (M,)
    near = tg.sqrt(alpha_bar) * (x @ data.T) - alpha_bar / 2 * squares  # (N, M) up to |x|^2 / 2
    x0 = F.softmax(near / (1 - alpha_bar), axis=1) @ data       # (N, D)
    return (x - tg.sqrt(alpha_bar) * x0) / tg.sqrt(1 - alpha_bar)


def main(argv=None):
    job = run.Job("ddpm", __doc__, argv, data=(*data.TOYS, *data.IMAGES), exact=True,
                  steps={"toys": 8000, "images": 4000}, batch={"toys": 512, "images": 128},
                  lr={"toys": 4e-3, "images": 1e-3}, flags=FLAGS)
    args = job.args
    if args.kind == "toys":
        x = data.toy(args.data, 50_000, standardize=True)       # (N, 2)
        model = Denoiser(2, hidden=128)
    else:
        images, _ = data.images(args.data, folder=args.data_dir)
        x = 2 * images.flatten(1) - 1                           # (N, 784) in [-1, 1]
        model = Denoiser(784, hidden=512)
    predict = args.predict or ("eps" if args.kind == "toys" else "x0")
    diffusion = Diffusion(args.T, args.schedule)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    ema = optim.EMA(model, 0.999)
    batches = data.Batches(len(x), args.batch, args.seed)
    parts = dict(model=model, optimizer=optimizer, schedule=schedule, average=ema)
    for step in job.train(**parts):                             #          Alg. 1, line 1
        x0 = x[batches[step]]                                   # (B, D)   Alg. 1, line 2
        t = random_times(len(x0), args.T)                       # (B,)     Alg. 1, line 3
        eps = tg.randn(*x0.shape)                               # (B, D)   Alg. 1, line 4
        loss = ddpm_loss(model, diffusion, x0, t, eps, predict)
        optimizer.zero_grad()
        loss.backward()                                         #          Alg. 1, line 5
        optimizer.step()
        schedule.step()
        ema.update()
        job.log(loss=loss)
    eps = lambda x, t: to_eps(ema.model(x, t), x, diffusion.alpha_bar_at(t), predict)
    numbers = pictures(job, eps, x, diffusion)
    if args.exact:
        numbers |= compare_with_exact(eps, x, diffusion, 100 if args.quick else 10_000)
    job.finish(loss=job.last("loss"), **numbers)


# Numbers and pictures -----------------------------------------------------------------------------

FLAGS = {"--T": dict(type=run.number(int, 1), default=200, help="noise levels"),
         "--schedule": dict(choices=("linear", "cosine"), default="linear",
                            help="how the betas grow"),
         "--predict": dict(choices=("eps", "x0", "v"),
                           help="what is learned (default: eps; x0 for images)")}
WINDOW = (-3.2, 3.2), (-3.2, 3.2)


def show(ax, x, title, color=plots.MODEL, columns=5):
    """Points of the plane, or images."""
    if x.shape[1] == 2:
        plots.scatter(plots.plane(ax, WINDOW, title), x, color, limit=3000)
    else:
        plots.pictures(ax, x[:columns**2], columns, title, low=-1)


@tg.no_grad()
def pictures(job, eps, x, diffusion):
    """Samples, and how they come about. Returns how far those of the plane are from fresh data."""
    T = diffusion.T
    count = 64 if x.shape[1] > 2 else 200 if job.args.quick else 10_000
    _, path = sample(eps, tg.randn(count, x.shape[1]), diffusion)   # (T + 1, N, D)
    fig, (left, right) = plots.figure(1, 2, 3.6)
    show(left, x, "training data", plots.DATA, 8)
    show(right, path[-1], "samples", columns=8)
    job.picture(fig, "samples.png")

    fig, axes = plots.figure(2, 6, 2.2)
    x0 = x[:count]                                              # (N, D)
    times = [round(fraction * T) for fraction in (0, 0.05, 0.12, 0.25, 0.5, 1)]
    for above, below, t in zip(axes[:6], axes[6:], times):
        alpha_bar = diffusion.alpha_bar[t]
        noise = tg.randn(*x0.shape)                             # (N, D)
        xt = math.sqrt(alpha_bar) * x0 + math.sqrt(1 - alpha_bar) * noise   # (N, D)   eq. (2)
        show(above, xt, rf"data $\rightarrow$ t = {t}", plots.DATA)
        show(below, path[T - t], rf"t = {t} $\leftarrow$ noise")
    job.picture(fig, "strips.png")

    fig, (ax,) = plots.figure(1, 1, 4)

    def draw(t):
        ax.clear()
        show(ax, path[T - t], f"t = {t}")
    frames = [T, 0] if job.args.quick else [*range(T, 0, -max(1, T // 40))] + [0] * 12
    job.animation(fig, draw, frames, "reverse.gif")
    if job.args.kind == "images":
        return {}
    more = [sample(eps, tg.randn(count, 2), diffusion)[1][-1] for _ in range(2)]
    fresh = lambda n: data.toy(job.args.data, n, standardize=True)
    return metrics.beside_floor([path[-1], *more], fresh)


@tg.no_grad()
def compare_with_exact(eps, x, diffusion, count):
    """The loss of the exact solution (5), and how much higher that of the network is."""
    t = tg.Tensor(np.arange(count) * diffusion.T // count + 1)  # (M,)     evenly spread
    noise = tg.randn(count, x.shape[1])                         # (M, D)
    x0 = x[tg.randint(0, len(x), (count,))]                     # (M, D)
    xt = diffusion.q_sample(x0, t, noise)                       # (M, D)
    best = exact_in_blocks(xt, t, diffusion, x)                 # (M, D)
    gap = squared_error(best, eps(xt, t))
    return dict(irreducible=squared_error(best, noise), eps_gap=gap)


def exact_in_blocks(x, t, diffusion, data):
    """exact_eps(x, t, ...), 100 rows at a time, so that the distances to all data fit."""
    rows = range(0, len(x), 100)
    return tg.cat([exact_eps(x[i:i + 100], t[i:i + 100], diffusion, data) for i in rows])


def squared_error(a, b):
    """The mean of |a - b|^2 over the rows."""
    return ((a - b)**2).sum(axis=1).mean().item()


if __name__ == "__main__":
    run.main(main)
