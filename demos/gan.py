"""Generative adversarial networks: a forger and a detective, two networks that train each other.

Slide "Generative adversarial networks":

    model       x = G(z),   z ~ N(0, I)                                                                     (1)
    objective   min over G, max over D of   V = E ln D(x) + E ln(1 - D(G(z))),   D = sigmoid(score)         (2)
    updates     alternately: one step of D up V, one step of G down V                                       (3)
    best D      D* = p_r / (p_r + p_g)   for data of density p_r and samples of density p_g                 (4)
    its value   V(D*) = 2 JSD(p_r, p_g) - ln 4,   so G moves p_g onto p_r                                   (5)

and the variants of --loss: minimax is (2); in non_saturating G maximises E ln D(G(z)), which still teaches when D is
sure; least_squares, hinge and wgan_gp replace the logarithms. In practice (2) alone is very unstable: see dirac_gan.py
for the reason, and for why the penalty R1 (on the slope of D at the data) cures it. See also

    python demos/gan.py --r1 0 --steps 3000     the plain objective: G hops from mode to mode, and stays on one
    python demos/gan.py --exact                 D beside D*, and the loss of D beside that of D*, ln 4 - 2 JSD
    python demos/dirac_gan.py --compare         all five losses, and the plain objective, in one table
    python demos/gan.py --data twenty_five_gaussians --r1 0.3     25 modes (four times as wide, so R1 counts for less)

Look at: samples.png (right: one mode, enlarged: inside it G copies the data poorly, for D does not see so sharply);
training.gif (D blue where it believes, red where it does not; the samples climb to the blue, and D changes its mind);
loss.png (dashed: the values 2 ln 2 and -ln 2 of a perfect G, for which D can only guess; with --exact also that of D*,
which always pays less than D); and with --exact discriminator.png.

Numbers in metrics.json, for 10,000 samples: modes found; high_quality, the part within 3 standard deviations of a mode
(at best 1 - e^(-9/2) = 98.89 %); reverse_kl, how unevenly these share the modes, 0 to ln K; noise_floor_modes,
noise_floor_high_quality and noise_floor_reverse_kl, the same of fresh data; spread, how wide the modes are, 0.97 for
data: a smaller one flatters high_quality; seconds of training. With --exact (not for wgan_gp, whose best critic has no
formula): d_loss of D and best_d_loss of D* at the end, and the gap between them.

Goodfellow et al., "Generative adversarial nets", 2014; Mao et al. 2017 (least squares), Lim & Ye 2017 (hinge),
Gulrajani et al. 2017 (WGAN-GP); R1: Mescheder et al., "Which training methods for GANs do actually converge?", 2018.
"""
import numpy as np

import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run

OPTIONS = {"eight_gaussians": dict(radius=1.0, std=0.01), "twenty_five_gaussians": dict(spacing=2.0, std=0.05)}
FRAMES, SIDE, TINY = 50, 60, 1e-30                                      # of the film; TINY: so that ln 0 is finite


def mlp(inputs, outputs, hidden=128):
    """ReLU has sharp creases, which lets G tear its one cloud of noise into separate modes."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                         nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


LOSSES = {  # what D pays for the score a of a real sample, what D pays for the score b of a fake, what G pays for b
    "minimax": (lambda a: F.softplus(-a), lambda b: F.softplus(b), lambda b: -F.softplus(b)),  # -ln D, -ln(1 - D), ln(1 - D)
    "non_saturating": (lambda a: F.softplus(-a), lambda b: F.softplus(b), lambda b: F.softplus(-b)),            # G: -ln D
    "least_squares": (lambda a: (a - 1)**2 / 2, lambda b: (b + 1)**2 / 2, lambda b: b**2 / 2),
    "hinge": (lambda a: F.relu(1 - a), lambda b: F.relu(1 + b), lambda b: -b),
    "wgan_gp": (lambda a: -a, lambda b: b, lambda b: -b)}

BEST = {  # the score of the best D where the data have density p and the samples density q
    "minimax": lambda p, q: np.log(p + TINY) - np.log(q + TINY),        #          slide, eq. (4), its logit
    "least_squares": lambda p, q: (p - q) / (p + q + TINY),
    "hinge": lambda p, q: np.sign(p - q)}
BEST["non_saturating"] = BEST["minimax"]


def discriminator_loss(name, D, real, fake):
    """fake is detached: this is the turn of D alone."""
    return LOSSES[name][0](D(real)).mean() + LOSSES[name][1](D(fake.detach())).mean()   # slide, eq. (2): -V


def generator_loss(name, D, fake):
    return LOSSES[name][2](D(fake)).mean()                              # slide, eq. (2): the term of V that G can change


def slope(D, x):
    """dD/dx at each sample, recorded, so that it can be differentiated once more by the parameters of D."""
    x = tg.Tensor(x.data, requires_grad=True)
    return tg.grad(D(x).sum(), x, create_graph=True)[0]                 # (B, 2), or images (B, 1, 28, 28)


def r1_penalty(D, real):
    return (slope(D, real)**2).flatten(1).sum(axis=1).mean()            # E |dD/dx|^2 at the data


def gradient_penalty(D, real, fake, t):
    """WGAN-GP: D shall rise by 1 per unit of length between the data and the samples."""
    squared = (slope(D, t * real + (1 - t) * fake.detach())**2).sum(axis=1)         # (B,)
    return ((tg.sqrt(squared + 1e-12) - 1)**2).mean()                   #          a root has no derivative at 0


def best_loss(name, p, q):
    """The loss of the best D, given the probabilities of cells under the data and under the samples."""
    score, p, q = [tg.Tensor(a) for a in (BEST[name](p, q), p, q)]
    return (p * LOSSES[name][0](score) + q * LOSSES[name][1](score)).sum().item()   # slide, eq. (5): ln 4 - 2 JSD


def main(argv=None):
    job = run.Job("gan", __doc__, argv, data=tuple(OPTIONS), steps=5000, batch=256, lr=3e-3, exact=True, flags={
        "--loss": dict(choices=list(LOSSES), default="minimax", help="what the players pay"),
        "--r1": dict(type=run.number(float, 0), default=0.003, help="weight of the penalty R1")})
    args = job.args
    x = data.toy(args.data, 100_000, **OPTIONS[args.data])              # (N, 2)

    G, D = mlp(2, 2), mlp(2, 1)
    optimizer_G, optimizer_D = [optim.Adam(player.parameters(), args.lr, betas=(0.0, 0.99)) for player in (G, D)]
    schedule_G, schedule_D = [optim.CosineLR(optimizer, args.steps) for optimizer in (optimizer_G, optimizer_D)]
    batches, every = data.Batches(len(x), args.batch, args.seed), -(-args.steps // FRAMES)  # steps per picture of the film
    z, points = tg.randn(5000, 2), tg.Tensor(plots.grid(plots.limits(x), SIDE))             # which the film shows
    for step in job.train(G=G, D=D, optimizer_G=optimizer_G, optimizer_D=optimizer_D, schedule_G=schedule_G,
                          schedule_D=schedule_D):
        real = x[batches[step]]                                         # (B, 2)
        fake = G(tg.randn(len(real), 2))                                # (B, 2)   slide, eq. (1)

        loss_D, penalty = discriminator_loss(args.loss, D, real, fake), 0.0
        if args.loss == "wgan_gp":
            # the paper has 10, and five steps of D for each of G, for images; in the plane this is enough
            penalty = 0.1 * gradient_penalty(D, real, fake, tg.rand(len(real), 1))
        elif args.r1:
            penalty = args.r1 / 2 * r1_penalty(D, real)
        optimizer_D.zero_grad()
        (loss_D + penalty).backward()
        optimizer_D.step()                                              #          slide, eq. (3): D up V,

        loss_G = generator_loss(args.loss, D, fake)
        optimizer_G.zero_grad()
        loss_G.backward()
        optimizer_G.step()                                              #          then G down V

        schedule_D.step(), schedule_G.step()                            # to 0: the players come to rest
        job.log(D=loss_D, G=loss_G)
        if (step + 1) % every == 0:
            with tg.no_grad():
                job.log(samples=G(z), scores=D(points))                 # (5000, 2), (3600, 1)

    with tg.no_grad():
        numbers = judge(job, G, x, 500 if args.quick else 10_000)
        if args.exact and args.loss in BEST:
            numbers |= compare_with_best(job, G, D, x)
    draw_training(job, x.numpy(), every)
    return job.finish(**numbers)


def judge(job, G, x, count):
    """Samples and their numbers, beside those of fresh data."""
    options, centres = OPTIONS[job.args.data], data.centers(job.args.data, **OPTIONS[job.args.data])
    std, samples, fresh = options["std"], G(tg.randn(count, 2)), data.toy(job.args.data, count, **options)
    numbers, floor = [metrics.mode_statistics(points, centres, std) for points in (samples, fresh)]
    distance = np.linalg.norm(samples.numpy()[:, None] - centres, axis=2)                   # (N, K)
    good = distance[distance < 3 * std]
    numbers["spread"] = np.sqrt(np.mean(good**2) / 2) / std if good.size else 0

    near = [(c - 5 * std, c + 5 * std) for c in centres[distance[0].argmin()]]
    fig, axes = plots.figure(1, 3, 3.6)
    for ax, window, title in zip(axes, (plots.limits(x), plots.limits(x), near), ("data", "samples", "one mode")):
        plots.scatter(plots.plane(ax, window, title), x, plots.DATA, limit=count if ax is not axes[1] else 0)
        plots.scatter(ax, samples, plots.MODEL, limit=count if ax is not axes[0] else 0)
    job.picture(fig, "samples.png")
    return numbers | {f"noise_floor_{key}": value for key, value in floor.items()}


def belief(ax, window, scores, title, cells=False):
    """Colour the plane by D = sigmoid(score): blue 1, white 1/2, red 0. Scores at the n * n points of plots.grid, or in cells()."""
    n = round(scores.size**0.5)
    D, extent = 0.5 + 0.5 * np.tanh(scores.reshape(n, n) / 2), (*window[0], *window[1]) if cells else plots.pixels(window, n)
    plots.plane(ax, window, title).imshow(D, "RdBu", vmin=-0.2, vmax=1.2, origin="lower", extent=extent)


def cells(name, window, n, samples):
    """The probability of n x n cells of a window under the data, and counted under the samples."""
    centres, std = data.centers(name, **OPTIONS[name]), OPTIONS[name]["std"]
    edges = [np.linspace(*side, n + 1) for side in window]
    x, y = [np.diff(tg.erf(tg.Tensor((e - c[:, None]) / (2**0.5 * std))).numpy() / 2)
            for e, c in zip(edges, centres.T)]                          # (K, n) along each axis: a product of two integrals
    return y.T @ x / len(centres), np.histogram2d(*np.transpose(samples), bins=edges)[0].T / len(samples)   # (n, n), twice


def compare_with_best(job, G, D, x, count=100_000):
    """D beside D*, and what D pays beside what D* pays: at the end, and in each picture of the film."""
    name, loss, window = job.args.data, job.args.loss, plots.limits(x)
    fake, n = G(tg.randn(count, 2)), int((window[0][1] - window[0][0]) / OPTIONS[name]["std"])  # cells as wide as std
    fig, (left, right) = plots.figure(1, 2, 4)
    belief(left, window, D(tg.Tensor(plots.grid(window, 100))).numpy(), "D")
    p, q = cells(name, window, 40, fake.numpy())
    belief(right, window, np.where(p + q > 1e-6, BEST[loss](p, q), np.nan), "D* (grey: neither data nor samples)", cells=True)
    right.set_facecolor("#d0d0d0")
    job.picture(fig, "discriminator.png")
    *job.history["D*"], best = [best_loss(loss, *cells(name, window, n, s)) for s in (*job.history["samples"], fake.numpy())]
    paid = discriminator_loss(loss, D, data.toy(name, count, **OPTIONS[name]), fake).item()
    return dict(d_loss=paid, best_d_loss=best, gap=paid - best)


def draw_training(job, x, every):
    fig, (ax,) = plots.figure(1, 1, width=7, height=3.5)
    on_real, on_fake, for_G = [term(tg.zeros(1)).item() for term in LOSSES[job.args.loss]]  # where every score is 0
    for player, color, perfect in (("D", plots.DATA, on_real + on_fake), ("G", plots.MODEL, for_G)):
        plots.curve(ax, job.history[player], f"{player} (dashed: perfect samples)", color)
        ax.axhline(perfect, color=color, linestyle="--", linewidth=1)
    if "D*" in job.history:
        ax.plot(every * np.arange(1, len(job.history["D*"]) + 1), job.history["D*"], ".-", color=plots.EXACT, label="D*")
    ax.set(title="what each player pays")
    ax.legend()
    job.picture(fig, "loss.png")

    fig, (ax,) = plots.figure(1, 1, 4)

    def draw(frame):
        ax.clear()
        belief(ax, plots.limits(x), np.array(job.history["scores"][frame]), f"step {every * (frame + 1)}")
        plots.scatter(ax, x, "black", size=4, alpha=1, limit=400)
        plots.scatter(ax, np.array(job.history["samples"][frame]), plots.MODEL, size=4, alpha=0.8, limit=800)
    job.animation(fig, draw, range(len(job.history["samples"])), "training.gif", rate=8)


if __name__ == "__main__":
    run.main(main)
