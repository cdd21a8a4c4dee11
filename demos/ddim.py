"""Other samplers for the network of ddpm.py: data from noise in few steps, and without randomness.

Slide "Denoising diffusion probabilistic models", beyond Algorithm 2. The network predicts the noise
eps(x_t, t), and with it x_0, because x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. Go to
that x_0 and add as much noise as belongs to an earlier time s < t, which need not be t - 1. Some of
this noise is eps again, some of it is fresh, z ~ N(0, I):

    x_s = sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s - sigma^2) eps + sigma z,
    sigma = eta sqrt(beta_tilde)                                                              (1)
    beta_tilde = (1 - alpha_bar_t / alpha_bar_s) (1 - alpha_bar_s) / (1 - alpha_bar_t),
                 the variance of q(x_s | x_t, x_0)                                            (2)

For every eta this has the right distribution at s if x_0 and eps are right. eta = 1 is DDPM, step
by step. eta = 0 is DDIM: the same noise always becomes the same point, on a smooth path that few
steps can follow. No new training is needed. Algorithm 2 may also take sigma^2 = beta_t (--sigma),
which is right for data from N(0, I); beta_tilde is right for a single point.

The noise gives the score: grad ln p_t(x) = -eps* / sqrt(1 - alpha_bar_t) for the best eps*, (5) of
ddpm.py. To remove noise is to walk uphill to where data are likely. For data of mean m and
covariance S the best linear denoiser and its loss are

    eps = sqrt(1 - alpha_bar_t) (alpha_bar_t S + (1 - alpha_bar_t) I)^-1 (x - sqrt(alpha_bar_t) m),
    tr[alpha_bar_t S (alpha_bar_t S + (1 - alpha_bar_t) I)^-1],                               (3)

the best of all for Gaussian data.

Look at:
    steps.png   both samplers from the same noise with few steps and with many: the paths of DDPM
                are random walks, those of DDIM are smooth
    error.png   how many steps are enough
    score.png   the score times 1 - alpha_bar_t: an arrow from x_t to the data that the network
                expects; with --exact the best answer in green
    loss.png    how well the noise is predicted at each t, below the best linear denoiser; with
                --exact the floor that no network can go below

Numbers in metrics.json:
    loss          the mean of the last tenth
    seconds       of training
    noise_floor   the distance (sliced W2) of 2,000 fresh data to 10,000 others
    ddpm_few      the distance of 2,000 samples of DDPM, in --sample-steps steps, to 10,000 fresh
                  data, over noise_floor
    ddim_few      the same for DDIM
    ddpm_all      the same for DDPM in T steps
    ddim_all      the same for DDIM in T steps
    irreducible   with --exact: the loss of the exact solution, a mean over t
    eps_gap       with --exact: the mean of |eps(x_t, t) - eps*|^2 over t, by which the network's
                  loss is higher

Song et al., "Denoising diffusion implicit models", 2021; Nichol & Dhariwal, "Improved DDPM", 2021
(fewer steps).
"""
import functools
import math

import numpy as np

import tinygen as tg
from ddpm import (WINDOW, Denoiser, ddpm_loss, ddpm_step, exact_eps, exact_in_blocks, random_times,
                  sample, show, squared_error)
from forward_process import Diffusion, posterior
from tinygen import optim
from tinygen.lab import data, metrics, plots, run


def ddim_step(x, eps, z, alpha_bar_t, alpha_bar_s, eta=0.0):
    _, _, beta_tilde = posterior(alpha_bar_t, alpha_bar_s)      #          slide, eq. (2)
    variance = eta**2 * beta_tilde
    x0 = (x - math.sqrt(1 - alpha_bar_t) * eps) / math.sqrt(alpha_bar_t)    # ddpm.py, eq. (2)
    mean = math.sqrt(alpha_bar_s) * x0 + math.sqrt(1 - alpha_bar_s - variance) * eps
    return mean + math.sqrt(variance) * z                       # (N, D)   slide, eq. (1)


def main(argv=None):
    job = run.Job("ddim", __doc__, argv, data=tuple(data.TOYS), exact=True, steps=5000, batch=512,
                  lr=4e-3, flags=FLAGS)
    args = job.args
    if not 1 <= args.sample_steps <= args.T or not 0 <= args.eta <= 1:
        raise tg.TinygenError(
            f"Sampling needs 1 to {args.T} steps and an eta in 0..1, got {args.sample_steps} steps "
            f"and an eta of {args.eta}: change --sample-steps, --T or --eta.")
    x = data.toy(args.data, 50_000, standardize=True)           # (N, 2)
    diffusion = Diffusion(args.T)
    model = Denoiser(2, hidden=128)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    ema = optim.EMA(model, 0.999)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(model=model, optimizer=optimizer, schedule=schedule, average=ema):
        x0 = x[batches[step]]                                   # (B, 2)   as in ddpm.py
        t = random_times(len(x0), args.T)                       # (B,)
        eps = tg.randn(*x0.shape)                               # (B, 2)
        loss = ddpm_loss(model, diffusion, x0, t, eps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.update()
        job.log(loss=loss)
    numbers = compare_samplers(job, ema.model, diffusion)
    numbers |= loss_at_each_time(job, ema.model, x, diffusion, 20 if args.quick else 1000)
    score_picture(job, ema.model, x, diffusion)
    job.finish(loss=job.last("loss"), **numbers)


# Numbers and pictures -----------------------------------------------------------------------------

FLAGS = {"--T": dict(type=run.number(int, 1), default=200, help="noise levels"),
         "--sample-steps": dict(type=run.number(int, 1), default=10, help="few steps of a sampler"),
         "--sigma": dict(choices=("posterior", "beta"), default="posterior",
                         help="the noise of DDPM"),
         "--eta": dict(type=run.number(float, 0), default=0.0,
                       help="the noise of DDIM, between 0 and 1")}


@tg.no_grad()
def compare_samplers(job, eps, diffusion):
    """From the same noise: samples, paths, and the distance to the data against the steps taken."""
    args, T, few = job.args, diffusion.T, job.args.sample_steps
    size, many = (200, 1000) if args.quick else (2000, 10_000)
    noise = tg.randn(size, 2)                                   # (N, 2)
    fresh = lambda n: data.toy(args.data, n, standardize=True)
    floor = np.median([metrics.sliced_w2(fresh(size), fresh(many)) for _ in range(15)])
    counts = () if args.quick else (2, 3, 5, 10, 20, 50, 100)
    grid = sorted({few, T, *(n for n in counts if n < T)})
    shown = (T,) if args.quick or T < 20 else (5, 10, 20, T)
    samplers = {"ddpm": (plots.MODEL, functools.partial(ddpm_step, sigma=args.sigma)),
                "ddim": (plots.DATA, functools.partial(ddim_step, eta=args.eta))}
    fig, axes = plots.figure(2, 5, 2.5)
    error, (ax,) = plots.figure(1, 1, width=4.5, height=3.2)
    numbers = dict(noise_floor=floor)
    for row, (name, (color, step)) in zip((axes[:5], axes[5:]), samplers.items()):
        paths = {n: sample(eps, noise, diffusion, step, n)[1] for n in grid}    # (n + 1, N, 2)
        for panel, n in zip(row, shown):
            show(panel, paths[n][-1], f"{name.upper()}, {n} steps", color)
        plots.plane(row[4], WINDOW, f"{name.upper()}, the paths")
        plots.trajectories(row[4], paths[T], 15)
        distance = {n: metrics.sliced_w2(path[-1], fresh(many)) for n, path in paths.items()}
        ax.loglog(grid, [*distance.values()], "o-", color=color, label=name.upper())
        numbers |= {f"{name}_few": distance[few] / floor, f"{name}_all": distance[T] / floor}
    job.picture(fig, "steps.png")
    ax.axhline(floor, color=plots.NOISE, linestyle="--", label="noise floor")
    ax.set(xlabel="steps", title="distance to the data (sliced W2)")
    ax.legend()
    job.picture(error, "error.png")
    return numbers


@tg.no_grad()
def loss_at_each_time(job, eps, x, diffusion, count):
    """Draw |eps - eps(x_t, t)|^2 over t with its floors."""
    times = np.unique(np.geomspace(1, diffusion.T, 25).round().astype(int))
    network, linear, exact, gap = [], [], [], []
    variances = np.linalg.eigvalsh(np.cov(x.numpy(), rowvar=False)).clip(0)     # (2,)
    for n in times.tolist():
        t = tg.full((count,), n)                                # (M,)
        noise = tg.randn(count, 2)                              # (M, 2)
        xt = diffusion.q_sample(x[tg.randperm(len(x))[:count]], t, noise)       # (M, 2)
        prediction = eps(xt, t)                                 # (M, 2)
        network.append(squared_error(prediction, noise))
        spread = diffusion.alpha_bar[n] * variances             # (2,)
        linear.append((spread / (spread + 1 - diffusion.alpha_bar[n])).sum())   # slide, eq. (3)
        if job.args.exact:
            best = exact_in_blocks(xt, t, diffusion, x)         # (M, 2)
            exact.append(squared_error(best, noise))
            gap.append(squared_error(prediction, best))
    fig, (left, right) = plots.figure(1, 2, width=4.5, height=3.2)
    plots.curve(left, job.history["loss"], "loss", plots.MODEL)
    left.set(title="loss in training", ylim=(0, None))
    right.semilogx(times, linear, "--", color=plots.NOISE, label="best linear denoiser")
    right.semilogx(times, network, "o-", color=plots.MODEL, markersize=3, label="network")
    if job.args.exact:
        right.semilogx(times, exact, color=plots.EXACT, label="exact: no network is lower")
    right.set(xlabel="t", title=r"$|\epsilon - \epsilon(x_t, t)|^2$ at each t", ylim=(0, 2.4))
    right.legend()
    job.picture(fig, "loss.png")
    if not job.args.exact:
        return {}
    every = np.arange(1, diffusion.T + 1)                       # (T,)     with those between times
    return dict(irreducible=np.interp(every, times, exact).mean(),
                eps_gap=np.interp(every, times, gap).mean())


@tg.no_grad()
def score_picture(job, eps, x, diffusion):
    """An arrow (1 - alpha_bar_t) grad ln p_t from each x_t to sqrt(alpha_bar_t) E[x_0 | x_t]."""
    fig, axes = plots.figure(1, 4)
    for ax, fraction in zip(axes, (0.35, 0.2, 0.12, 0.05)):
        n = max(1, round(fraction * diffusion.T))
        length = -math.sqrt(1 - diffusion.alpha_bar[n])
        t = tg.full((3000,), n)                                 # (3000,)
        xt = diffusion.q_sample(x[:3000], t, tg.randn(3000, 2))     # (3000, 2)
        plots.scatter(plots.plane(ax, WINDOW, f"score at t = {n}"), xt, plots.DATA, alpha=0.15)
        xt, t = xt[:120], t[:120]
        exact = length * exact_eps(xt, t, diffusion, x) if job.args.exact else None
        plots.arrows(ax, xt, length * eps(xt, t), exact=exact, scale=1)
    job.picture(fig, "score.png")


if __name__ == "__main__":
    run.main(main)
