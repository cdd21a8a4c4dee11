"""The same network, other samplers: data from noise in few steps, and without chance on the way.

Slide "Denoising diffusion probabilistic models", beyond Algorithm 2. The network of ddpm.py sees the noise eps(x_t, t); by
x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps it also says where x_0 is. Go there, and put back as much noise as belongs
to an earlier time s < t, which need not be t - 1: some of it eps again, some of it fresh, z ~ N(0, I),

    x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) eps + sigma z,    sigma = eta sqrt(btilde)                     (1)
    btilde = (1 - abar_t / abar_s) (1 - abar_s) / (1 - abar_t),   the variance of q(x_s | x_t, x_0)                    (2)

For every eta this has the right distribution at s if x_0 and eps are right. eta = 1 is DDPM, step by step; eta = 0 is
DDIM: the same noise always becomes the same point, on a smooth path that few steps can follow. No new training.
Algorithm 2 may also take sigma^2 = beta_t, right for data from N(0, I), where btilde is right for a single point (--sigma).

Seeing noise is knowing the score: grad ln p_t(x) = -eps* / sqrt(1 - abar_t) for the best eps*, (5) of ddpm.py. Taking out
noise is walking uphill to where data are likely. For data of mean m and covariance S the best linear denoiser is

    eps = sqrt(1 - abar_t) (abar_t S + (1 - abar_t) I)^-1 (x - sqrt(abar_t) m),
    of loss tr[abar_t S (abar_t S + (1 - abar_t) I)^-1],   the best of all for Gaussian data                           (3)

Look at: steps.png (both samplers from the same noise with few steps and with many: DDPM walks at random, DDIM on smooth
paths); error.png (how many steps are enough); score.png (the score times 1 - abar_t: from x_t, where the network expects
the data; with --exact the best answer in green); loss.png (how well the noise is seen at each t, below the best linear
denoiser; with --exact the floor that no network can go below).

Numbers in metrics.json. loss, the mean of the last tenth; seconds of training; noise_floor, the distance (sliced W2) of
2,000 fresh data to 10,000 others; ddpm_few, ddim_few: the distance of 2,000 samples by --sample-steps steps to 10,000
fresh data, over noise_floor; ddpm_all, ddim_all: the same for T steps. With --exact, as means over t: irreducible, the
loss of the exact solution, and eps_gap, the mean of |eps(x_t, t) - eps*|^2, by which the network's loss is higher.

Song et al., "Denoising diffusion implicit models", 2021; Nichol & Dhariwal, "Improved DDPM", 2021 (fewer steps).
"""
import functools
import math

import numpy as np

import tinygen as tg
from ddpm import Denoiser, Diffusion, ddim_step, ddpm_loss, ddpm_step, exact_eps, random_times, sample, show
from tinygen import optim
from tinygen.lab import data, metrics, plots, run

WINDOW = (-3.2, 3.2), (-3.2, 3.2)


def main(argv=None):
    job = run.Job("ddim", __doc__, argv, data=tuple(data.TOYS), exact=True, lr=4e-3, steps=5000, batch=512, flags={
        "--T": dict(type=run.number(int, 1), default=200, help="noise levels"),
        "--sample-steps": dict(type=run.number(int, 1), default=10, help="few steps of a sampler"),
        "--sigma": dict(choices=("posterior", "beta"), default="posterior", help="the noise of DDPM"),
        "--eta": dict(type=run.number(float, 0), default=0.0, help="the noise of DDIM, between 0 and 1")})
    args = job.args
    if not 1 <= args.sample_steps <= args.T or not 0 <= args.eta <= 1:
        raise tg.TinygenError("Sampling takes 1 to T steps and an eta in 0..1: change --sample-steps, --T or --eta.")
    x, diffusion, model = data.toy(args.data, 50_000, standardize=True), Diffusion(args.T), Denoiser(2, hidden=128)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    schedule, average = optim.CosineLR(optimizer, args.steps), optim.EMA(model, 0.999)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(model=model, optimizer=optimizer, schedule=schedule, average=average):
        x0 = x[batches[step]]                                       # (B, 2)   as in ddpm.py
        loss = ddpm_loss(model, diffusion, x0, random_times(len(x0), args.T), tg.randn(*x0.shape))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update()
        job.log(loss=loss)

    eps = average.model
    numbers = compare_samplers(job, eps, diffusion) | loss_at_each_time(job, eps, x, diffusion, 20 if args.quick else 1000)
    score_picture(job, eps, x, diffusion)
    job.finish(loss=job.last("loss"), **numbers)


@tg.no_grad()
def compare_samplers(job, eps, diffusion):
    """From the same noise: samples, paths, and the distance to the data over the number of steps."""
    args, T, few = job.args, diffusion.T, job.args.sample_steps
    noise, many = tg.randn(200 if args.quick else 2000, 2), 1000 if args.quick else 10_000
    fresh = lambda n: data.toy(args.data, n, standardize=True)              # (n, 2)
    floor = np.median([metrics.sliced_w2(fresh(len(noise)), fresh(many)) for _ in range(15)])
    grid = sorted({few, T} | {n for n in (2, 3, 5, 10, 20, 50, 100) if n < T and not args.quick})
    steppers = {"ddpm": functools.partial(ddpm_step, sigma=args.sigma), "ddim": functools.partial(ddim_step, eta=args.eta)}
    fig, axes = plots.figure(2, 5, 2.5)
    error, (ax,) = plots.figure(1, 1, width=4.5, height=3.2)
    numbers = dict(noise_floor=floor)
    for row, color, (name, step) in zip((axes[:5], axes[5:]), (plots.MODEL, plots.DATA), steppers.items()):
        paths = {n: sample(eps, noise, diffusion, step, n)[1] for n in grid}    # (n + 1, N, 2)
        for panel, n in zip(row, (5, 10, 20, T)[-4 if len(grid) > 4 else 3:]):
            show(panel, paths[n][-1], f"{name.upper()}, {n} steps", color)
        plots.trajectories(plots.plane(row[4], WINDOW, f"{name.upper()}, the paths"), paths[T], 15)
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
    times, network, linear, exact, gap = np.unique(np.geomspace(1, diffusion.T, 25).round().astype(int)), [], [], [], []
    variances = np.linalg.eigvalsh(np.cov(x.numpy(), rowvar=False)).clip(0)     # (D,)
    for n in times.tolist():
        noise, t, abar = tg.randn(count, x.shape[1]), tg.full((count,), n), diffusion.alpha_bar[n]
        xt = diffusion.noised(x[tg.randperm(len(x))[:count]], t, noise)
        said = eps(xt, t)
        network.append(((said - noise)**2).sum(axis=1).mean().item())
        linear.append((abar * variances / (abar * variances + 1 - abar)).sum())                 # eq. (3)
        if job.args.exact:
            best = tg.cat([exact_eps(xt[i:i + 100], t[i:i + 100], diffusion, x) for i in range(0, count, 100)])
            exact.append(((best - noise)**2).sum(axis=1).mean().item())
            gap.append(((said - best)**2).sum(axis=1).mean().item())
    fig, (left, right) = plots.figure(1, 2, width=4.5, height=3.2)
    plots.curve(left, job.history["loss"], "loss", plots.MODEL)
    left.set(title="loss in training", ylim=(0, None))
    right.semilogx(times, linear, "--", color=plots.NOISE, label="best linear denoiser")
    right.semilogx(times, network, "o-", color=plots.MODEL, markersize=3, label="network")
    right.semilogx(times[:len(exact)], exact, color=plots.EXACT, label="exact: no network is lower" if exact else None)
    right.set(xlabel="t", title=r"$|\epsilon - \epsilon(x_t, t)|^2$ at each t", ylim=(0, 1.2 * x.shape[1]))
    right.legend()
    job.picture(fig, "loss.png")

    def mean(values):
        return np.interp(np.arange(1, diffusion.T + 1), times, values).mean()   # over all t, those between filled in
    return dict(irreducible=mean(exact), eps_gap=mean(gap)) if job.args.exact else {}


@tg.no_grad()
def score_picture(job, eps, x, diffusion):
    """From points x_t an arrow (1 - abar_t) grad ln p_t: it ends at sqrt(abar_t) E[x_0 | x_t], the data expected there."""
    fig, axes = plots.figure(1, 4)
    for ax, part in zip(axes, (0.35, 0.2, 0.12, 0.05)):
        n = max(1, round(part * diffusion.T))
        t, length = tg.full((3000,), n), -math.sqrt(1 - diffusion.alpha_bar[n])
        xt = diffusion.noised(x[:3000], t, tg.randn(3000, 2))       # (3000, 2)
        plots.scatter(plots.plane(ax, WINDOW, f"score at t = {n}"), xt, plots.DATA, alpha=0.15)
        xt, t = xt[:120], t[:120]
        exact = length * exact_eps(xt, t, diffusion, x) if job.args.exact else None
        plots.arrows(ax, xt, length * eps(xt, t), exact=exact, scale=1)
    job.picture(fig, "score.png")


if __name__ == "__main__":
    run.main(main)
