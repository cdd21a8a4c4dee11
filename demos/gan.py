"""Generative adversarial networks: a forger and a detective, two networks that train each other.

Slide "Generative adversarial networks":

    model       x = G(z),   z ~ N(0, I)                                                       (1)
    objective   min over G, max over D of   V = E ln D(x) + E ln(1 - D(G(z))),                (2)
                D = sigmoid(score)
    updates     alternately: one step of D up V, one step of G down V                         (3)
    optimal D   D* = p_r / (p_r + p_g)   for data of density p_r, samples of density p_g      (4)
    its value   V(D*) = 2 JSD(p_r, p_g) - ln 4,   so G moves p_g onto p_r                     (5)

The variants of --loss:
    minimax                         (2) as it is
    non_saturating                  G maximizes E ln D(G(z)), which does not lose its gradient where
                                    D is sure that a sample is fake
    least_squares, hinge, wgan_gp   other functions of the score instead of the logarithms

In practice (2) alone is very unstable. dirac_gan.py shows why, and why the penalty R1 (on the
gradient of D at the data) cures it.

    python demos/gan.py --r1 0 --steps 3000
        the plain objective: G jumps from mode to mode, and ends on one
    python demos/gan.py --exact
        D and D*, and the loss of D above that of D*, which is ln 4 - 2 JSD
    python demos/gan.py --data twenty_five_gaussians --r1 0.3
        25 modes; the data are four times as wide, so the gradient of D and the penalty are smaller
    python demos/dirac_gan.py --compare
        all five losses and the plain objective in one table

Look at:
    samples.png         data and samples; right, one mode, enlarged: inside it G copies the data
                        poorly, because D does not resolve it
    training.gif        D is blue where it takes points for real, red for fake; the samples climb to
                        the blue, and D changes with them
    loss.png            dashed, the values 2 ln 2 and -ln 2 of a perfect G, for which D can only
                        guess; with --exact also the loss of D*, always lower than that of D
    discriminator.png   with --exact: D and D*

Numbers in metrics.json, for 10,000 samples:
    modes                      how many are found
    high_quality               the fraction of samples within 3 standard deviations of a mode, at
                               best 1 - e^(-9/2) = 98.89 %
    reverse_kl                 how unevenly these share the modes, 0 to ln K
    spread                     how wide the modes are, 0.97 for data; a smaller one makes
                               high_quality look better than it is
    noise_floor_modes          modes in as many fresh data
    noise_floor_high_quality   the same for high_quality
    noise_floor_reverse_kl     the same for reverse_kl
    seconds                    of training
    d_loss                     with --exact: the loss of D at the end
    best_d_loss                with --exact: the loss of D* at the end
    gap                        with --exact: the difference of the two

wgan_gp has none of the last three, because there is no formula for its optimal critic.

Goodfellow et al., "Generative adversarial nets", 2014; Mao et al. 2017 (least squares), Lim & Ye
2017 (hinge), Gulrajani et al. 2017 (WGAN-GP); R1: Mescheder et al., "Which training methods for
GANs do actually converge?", 2018.
"""
import numpy as np

import tinygen as tg
from gan_film import Film, plot_discriminator
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run


def mlp(inputs, outputs, hidden=128):
    """ReLU makes sharp creases, so that G can tear its one cloud of noise into separate modes."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


# Of D for the score a of a real sample, of D for the score b of a fake one, and of G for b. With
# D = sigmoid(score), minimax is -ln D(x), -ln(1 - D(G(z))) and ln(1 - D(G(z))); non_saturating has
# -ln D(G(z)) for G.
LOSSES = {
    "minimax":        (lambda a: F.softplus(-a), lambda b: F.softplus(b), lambda b: -F.softplus(b)),
    "non_saturating": (lambda a: F.softplus(-a), lambda b: F.softplus(b), lambda b: F.softplus(-b)),
    "least_squares":  (lambda a: (a - 1)**2 / 2, lambda b: (b + 1)**2 / 2, lambda b: b**2 / 2),
    "hinge":          (lambda a: F.relu(1 - a), lambda b: F.relu(1 + b), lambda b: -b),
    "wgan_gp":        (lambda a: -a, lambda b: b, lambda b: -b)}

TINY = 1e-30       # so that ln 0 is finite
OPTIMAL_SCORE = {  # where the data have density p and the samples density q
    "minimax": lambda p, q: np.log(p + TINY) - np.log(q + TINY),        # the logit of eq. (4)
    "least_squares": lambda p, q: (p - q) / (p + q + TINY),
    "hinge": lambda p, q: np.sign(p - q)}
OPTIMAL_SCORE["non_saturating"] = OPTIMAL_SCORE["minimax"]


def discriminator_loss(name, D, real, fake):
    """fake is detached, because this step trains D alone."""
    on_real, on_fake, _ = LOSSES[name]
    return on_real(D(real)).mean() + on_fake(D(fake.detach())).mean()   # slide, eq. (2): -V


def generator_loss(name, D, fake):
    """The term of V that G can change."""
    return LOSSES[name][2](D(fake)).mean()                      #          slide, eq. (2)


def input_gradient(D, x):
    """dD/dx at each sample, recorded, so that it can be differentiated again by D's parameters."""
    x = tg.Tensor(x.data, requires_grad=True)
    return tg.grad(D(x).sum(), x, create_graph=True)[0]         # (B, 2), or images (B, 1, 28, 28)


def r1_penalty(D, real):
    """E |dD/dx|^2 at the data."""
    return (input_gradient(D, real)**2).flatten(1).sum(axis=1).mean()


def gradient_penalty(D, real, fake, t):
    """WGAN-GP: between the data and the samples D should rise by 1 per unit of length."""
    between = t * real + (1 - t) * fake.detach()                # (B, 2)
    squared = (input_gradient(D, between)**2).sum(axis=1)       # (B,)
    return ((tg.sqrt(squared + 1e-12) - 1)**2).mean()           #          sqrt'(0) is infinite


def optimal_loss(name, p, q):
    """The loss of D*, given the probabilities of cells under the data and under the samples."""
    on_real, on_fake, _ = LOSSES[name]
    score, p, q = [tg.Tensor(a) for a in (OPTIMAL_SCORE[name](p, q), p, q)]
    return (p * on_real(score) + q * on_fake(score)).sum().item()   #      slide, eq. (5): -V(D*)


def main(argv=None):
    job = run.Job("gan", __doc__, argv, data=tuple(OPTIONS), exact=True, steps=5000, batch=256,
                  lr=3e-3, flags=FLAGS)
    args = job.args
    x = data.toy(args.data, 100_000, **OPTIONS[args.data])      # (N, 2)
    G = mlp(2, 2)
    D = mlp(2, 1)
    optimizer_G = optim.Adam(G.parameters(), args.lr, betas=(0.0, 0.99))
    optimizer_D = optim.Adam(D.parameters(), args.lr, betas=(0.0, 0.99))
    schedule_G = optim.CosineLR(optimizer_G, args.steps)        # to 0: the players come to rest
    schedule_D = optim.CosineLR(optimizer_D, args.steps)
    batches = data.Batches(len(x), args.batch, args.seed)
    film = Film(job, x)
    for step in job.train(G=G, D=D, optimizer_G=optimizer_G, optimizer_D=optimizer_D,
                          schedule_G=schedule_G, schedule_D=schedule_D):
        real = x[batches[step]]                                 # (B, 2)
        fake = G(tg.randn(len(real), 2))                        # (B, 2)   slide, eq. (1)
        loss_D = discriminator_loss(args.loss, D, real, fake)
        penalty = 0.0
        if args.loss == "wgan_gp":
            # for images the paper has 10, and five steps of D per step of G; here this is enough
            penalty = 0.1 * gradient_penalty(D, real, fake, tg.rand(len(real), 1))
        elif args.r1:
            penalty = args.r1 / 2 * r1_penalty(D, real)
        optimizer_D.zero_grad()
        (loss_D + penalty).backward()
        optimizer_D.step()                                      #          slide, eq. (3): D up V,
        loss_G = generator_loss(args.loss, D, fake)
        optimizer_G.zero_grad()
        loss_G.backward()
        optimizer_G.step()                                      #          then G down V
        schedule_D.step()
        schedule_G.step()
        job.log(D=loss_D, G=loss_G)
        film.record(step, G, D)
    numbers = measure(job, G, x)
    if args.exact and args.loss in OPTIMAL_SCORE:
        numbers |= compare_with_optimal(job, G, D, x)
    film.draw(LOSSES[args.loss])
    return job.finish(**numbers)


# Numbers and pictures ----------------------------------------------------------------------------

FLAGS = {"--loss": dict(choices=list(LOSSES), default="minimax", help="loss of both players"),
         "--r1": dict(type=run.number(float, 0), default=0.003, help="weight of the penalty R1")}
OPTIONS = {"eight_gaussians": dict(radius=1.0, std=0.01),
           "twenty_five_gaussians": dict(spacing=2.0, std=0.05)}


@tg.no_grad()
def measure(job, G, x):
    """Draw samples and data; compute the numbers of samples and of fresh data."""
    count = 500 if job.args.quick else 10_000
    options = OPTIONS[job.args.data]
    std = options["std"]
    centers = data.centers(job.args.data, **options)            # (K, 2)
    samples = G(tg.randn(count, 2))                             # (N, 2)
    fresh = data.toy(job.args.data, count, **options)           # (N, 2)
    numbers = metrics.mode_statistics(samples, centers, std)
    distance = np.linalg.norm(samples.numpy()[:, None] - centers, axis=2)   # (N, K)
    good = distance[distance < 3 * std]
    numbers["spread"] = np.sqrt(np.mean(good**2) / 2) / std if good.size else 0
    for key, value in metrics.mode_statistics(fresh, centers, std).items():
        numbers[f"noise_floor_{key}"] = value

    wide = plots.limits(x)
    near = [(c - 5 * std, c + 5 * std) for c in centers[distance[0].argmin()]]
    fig, (left, middle, right) = plots.figure(1, 3, 3.6)
    plots.scatter(plots.plane(left, wide, "data"), x, plots.DATA, limit=count)
    plots.scatter(plots.plane(middle, wide, "samples"), samples, plots.MODEL, limit=count)
    plots.scatter(plots.plane(right, near, "one mode"), x, plots.DATA, limit=count)
    plots.scatter(right, samples, plots.MODEL, limit=count)
    job.picture(fig, "samples.png")
    return numbers


def cells(name, window, n, samples):
    """The probabilities of n x n cells of a window under the data, and as counted in samples."""
    std = OPTIONS[name]["std"]
    centers = data.centers(name, **OPTIONS[name])               # (K, 2)
    edges = [np.linspace(*side, n + 1) for side in window]
    integrals = []                                              # along each axis
    for edge, center in zip(edges, centers.T):
        distance = tg.Tensor((edge - center[:, None]) / (2**0.5 * std))     # (K, n + 1)
        integrals.append(np.diff(tg.erf(distance).numpy() / 2))             # (K, n)
    x, y = integrals
    counts = np.histogram2d(*np.transpose(samples), bins=edges)[0].T
    return y.T @ x / len(centers), counts / len(samples)        # (n, n), (n, n)


@tg.no_grad()
def compare_with_optimal(job, G, D, x, count=100_000):
    """D and D*, and the losses of both: at the end, and in each frame of the film."""
    name, loss, window = job.args.data, job.args.loss, plots.limits(x)
    fake = G(tg.randn(count, 2))                                # (count, 2)
    fig, (left, right) = plots.figure(1, 2, 4)
    plot_discriminator(left, window, D(tg.Tensor(plots.grid(window, 100))), "D")
    p, q = cells(name, window, 40, fake.numpy())
    scores = np.where(p + q > 1e-6, OPTIMAL_SCORE[loss](p, q), np.nan)
    title = "D* (gray: neither data nor samples)"
    plot_discriminator(right, window, scores, title, cells=True)
    right.set_facecolor("#d0d0d0")
    job.picture(fig, "discriminator.png")

    n = int((window[0][1] - window[0][0]) / OPTIONS[name]["std"])           # cells as wide as std
    clouds = [*job.history["samples"], fake.numpy()]
    *job.history["D*"], best = [optimal_loss(loss, *cells(name, window, n, samples))
                                for samples in clouds]
    real = data.toy(name, count, **OPTIONS[name])               # (count, 2)
    found = discriminator_loss(loss, D, real, fake).item()
    return dict(d_loss=found, best_d_loss=best, gap=found - best)


if __name__ == "__main__":
    run.main(main)
