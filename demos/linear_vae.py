"""A variational auto-encoder whose optimum is known: encoder and decoder linear, all Gaussian.

Slide "Variational auto-encoders", with x of D pixels, centered, and K latent dimensions:

    model       z ~ N(0, I),   x | z ~ N(W z, s^2 I)                                          (1)
    encoder     q(z | x) = N(V x, diag e^logvar)                                              (2)
    distortion  d = E |x - W z|^2,      rate   r = E KL(q(z | x) || N(0, I))                  (3)
    loss        d / 2 s^2 + D/2 ln(2 pi s^2) + beta r   >=   -E ln p(x)  for beta = 1         (4)

The model is probabilistic PCA. Let lambda_1 >= lambda_2 >= ... be the eigenvalues of the covariance
of x. The greatest likelihood, the noise there and the KL divergence of each latent dimension are

    E ln p(x) = -1/2 (D ln 2 pi + sum_{j <= K} ln lambda_j + (D - K) ln s^2 + D),             (5)
    s^2 = mean_{j > K} lambda_j
    KL_j = 1/2 ln(lambda_j / s^2)                                                             (6)

The bound is tight there: a diagonal q is the exact posterior if the latent axes are those of PCA.
With s^2 fixed, beta acts as a water level tau = beta s^2. What varies less than tau is not coded at
all, the rest is coded down to tau:

    r = sum_j max(0, 1/2 ln(lambda_j / tau)),   d = sum_j min(tau, lambda_j)                  (7)

This is Shannon's rate-distortion curve of a Gaussian (reverse water-filling): no code of any kind
is below it. So "posterior collapse" is no accident here: dimension j is off exactly where
lambda_j <= tau.

Everything is trained as in vae.py, by draws of z and without any of these formulas. The comparison
is always made, it needs no flag. One model learns s^2 with beta = 1; the others have s^2 =
lambda_(K+1) and beta = 1, 1.5, 2, 3, ... All are kept in arrays with a leading axis, one entry for
each model, and share no weights. Data: images of 14 x 14 pixels, each the mean of four.

Look at:
    rate_distortion.png  the trained models as dots on the curve (7)
    spectrum.png         the eigenvalues with the water levels; KL_j of the trained models as dots,
                         (6) as lines: each meets 0 where its level meets the eigenvalues
    components.png       eigenvectors, and below them columns of the learned W: the same images, up
                         to the sign, and mixed with their neighbors where two eigenvalues are so
                         close that the loss hardly changes
    loss.png             the loss of the first model falls onto the dashed line (5), which its mean
                         over all data cannot cross

Numbers in metrics.json. Of the first model, in nats per image:
    exact_log_likelihood  the likelihood (5)
    elbo                  minus its loss, with the means over z taken in closed form
    gap                   the difference of the two
    kl_gap                the largest error in (6)
    noise                 its s^2
    exact_noise           s^2 of (5)
Of the others:
    rate_distortion_gap   the largest excess of r + d / 2 tau over its minimum (7), in nats
    collapse_errors       how many dimensions of all models are on (more than 0.02 nats) although
                          lambda_j <= tau, or off although lambda_j > 1.1 tau (just above tau
                          hardly anything pulls a dimension on)
    seconds               of training all models

Tipping & Bishop, "Probabilistic principal component analysis", 1999; Lucas et al., "Don't blame the
ELBO! A linear VAE perspective on posterior collapse", 2019; Cover & Thomas, "Elements of
information theory", section 10.3.
"""
import numpy as np

import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, plots, run

BETAS = 1, 1, 1.5, 2, 3, 4.5, 8  # of the models; the first also learns s^2


class LinearVAE(nn.Module):
    """M models at once."""

    def __init__(self, models, dim, latent):
        self.v = nn.Parameter(tg.randn(models, dim, latent) * dim**-0.5)
        self.w = nn.Parameter(tg.randn(models, latent, dim) * dim**-0.5)
        self.logvar = nn.Parameter(tg.zeros(models, 1, latent))
        self.log_s2 = nn.Parameter(tg.zeros(1))             # of the first model


def distortion_and_rate(vae, x, eps):
    """Eq. (3) for each model, at the z that eps (M, B, K) makes."""
    mean = x @ vae.v                                            # (B, D) -> (M, B, K)   eq. (2)
    z = mean + tg.exp(vae.logvar / 2) * eps                     # (M, B, K)
    error = x - z @ vae.w                                       # (M, B, D)             eq. (1)
    distortion = (error * error).sum(axis=2).mean(axis=1)       # (M,)                  eq. (3)
    rate = F.kl_standard_normal(mean, vae.logvar).mean(axis=1)  # (M,)                  eq. (3)
    return distortion, rate


def bound(distortion, rate, log_s2, beta, dim):
    """The loss, eq. (4)."""
    log_2pi = float(np.log(2 * np.pi))
    return distortion / (2 * tg.exp(log_s2)) + dim / 2 * (log_s2 + log_2pi) + beta * rate


def exact_means(v, w, logvar, covariance):
    """Eq. (3) of one model, the means over x and z taken in closed form.

    Returns the distortion and the rate of each dimension, (K,).
    """
    residual = np.eye(len(covariance)) - v @ w              # (D, D)   x - x V W
    variance = np.exp(logvar)                               # (K,)     of q(z | x)
    distortion = np.trace(residual.T @ covariance @ residual) + variance @ (w * w).sum(axis=1)
    return distortion, 0.5 * (np.sum(v * (covariance @ v), axis=0) + variance - 1 - logvar)


def probabilistic_pca(eigenvalues, latent):
    """The greatest mean log-likelihood and its s^2, eq. (5)."""
    dim = len(eigenvalues)
    s2 = eigenvalues[latent:].mean()
    log_det = np.log(eigenvalues[:latent]).sum() + (dim - latent) * np.log(s2)
    return -0.5 * (dim * np.log(2 * np.pi) + log_det + dim), s2


def water_filling(eigenvalues, tau):
    """The distortion and the rate of each dimension at water level tau, eq. (7)."""
    rates = np.maximum(0, 0.5 * np.log(np.maximum(eigenvalues, 1e-30) / tau))  # (D,)
    return np.minimum(tau, eigenvalues).sum(), rates


def main(argv=None):
    job = run.Job("linear_vae", __doc__, argv, data=data.IMAGES, steps=15_000, batch=128, lr=1e-2,
                  flags=FLAGS)
    args = job.args
    if args.latent >= 196:
        raise tg.TinygenError("--latent needs fewer dimensions than the 196 pixels of an image, "
                              f"but got {args.latent}.")
    x = small_images(args)                                       # (N, D), D = 196
    dim = x.shape[1]
    pixels = x.numpy().astype(np.float64)
    covariance = pixels.T @ pixels / len(pixels)                 # (D, D)
    eigenvalues, u = np.linalg.eigh(covariance)                  # (D,), (D, D)
    eigenvalues, u = eigenvalues[::-1], u[:, ::-1]               # the largest first
    fixed_s2 = eigenvalues[args.latent]
    vae = LinearVAE(len(BETAS), dim, args.latent)
    beta = tg.Tensor(BETAS)                                      # (M,)
    fixed = tg.full((len(BETAS) - 1,), float(np.log(fixed_s2)))
    optimizer = optim.Adam(vae.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(vae=vae, optimizer=optimizer, schedule=schedule):
        batch = x[batches[step]]                                 # (B, D)
        eps = tg.randn(len(BETAS), len(batch), args.latent)      # (M, B, K)
        distortion, rate = distortion_and_rate(vae, batch, eps)  # (M,), (M,)
        log_s2 = tg.cat([vae.log_s2, fixed])                     # (M,)
        losses = bound(distortion, rate, log_s2, beta, dim)      # (M,)
        optimizer.zero_grad()
        losses.sum().backward()                                  # no weight is in two of them
        optimizer.step()
        schedule.step()
        job.log(loss=losses[0])
    s2 = np.array([np.exp(vae.log_s2.item())] + [fixed_s2] * (len(BETAS) - 1))
    v, w, logvar = [p.numpy().astype(np.float64) for p in (vae.v, vae.w, vae.logvar[:, 0])]
    trained = [exact_means(v[m], w[m], logvar[m], covariance) for m in range(len(BETAS))]
    pictures(job, w[0], trained, eigenvalues, u, s2 * BETAS)
    job.finish(**compare(trained, eigenvalues, s2 * BETAS))


# Numbers and pictures -----------------------------------------------------------------------------

FLAGS = {"--latent": dict(type=run.number(int, 1), default=16, help="latent dimensions")}


def small_images(args):
    """Centered images of 14 x 14 pixels, as (N, 196)."""
    x, _ = data.images(args.data, folder=args.data_dir, limit=1000 if args.quick else None)
    x = x.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).flatten(1)  # (N, 1, 28, 28) -> (N, 196)
    return x - x.mean(axis=0)


def compare(trained, eigenvalues, levels):
    """All numbers but the seconds. levels holds tau = beta s^2 of each model."""
    (distortion, rates), *others = trained
    latent = len(rates)
    optimum, exact_s2 = probabilistic_pca(eigenvalues, latent)
    log_s2 = tg.Tensor(np.log(levels[0]))
    elbo = -bound(distortion, rates.sum(), log_s2, 1, len(eigenvalues)).item()
    first = eigenvalues[:latent]
    exact_rates = 0.5 * np.log(first / exact_s2)                 # (K,)   eq. (6)
    excess, wrong = [], 0
    for (d, r), tau in zip(others, levels[1:]):
        least_d, least_r = water_filling(eigenvalues, tau)
        excess.append(r.sum() + d / (2 * tau) - least_r.sum() - least_d / (2 * tau))
        on = np.sort(r)[::-1] > 0.02                             # (K,)
        wrong += (on & (first <= tau)).sum() + (~on & (first > 1.1 * tau)).sum()
    return dict(exact_log_likelihood=optimum, elbo=elbo, gap=optimum - elbo,
                kl_gap=np.abs(np.sort(rates)[::-1] - exact_rates).max(), noise=levels[0],
                exact_noise=exact_s2, rate_distortion_gap=max(excess), collapse_errors=wrong)


def pictures(job, w, trained, eigenvalues, u, levels):
    latent = len(trained[0][1])
    fig, (ax,) = plots.figure(1, 1, width=6, height=4)
    taus = np.geomspace(levels[1] / 2, 1.5 * eigenvalues[0], 300)
    curve = [water_filling(eigenvalues, tau) for tau in taus]
    ax.plot([d for d, _ in curve], [rates.sum() for _, rates in curve], color=plots.EXACT,
            label="best possible, eq. (7)")
    for beta, (d, rates) in zip(BETAS[1:], trained[1:]):
        ax.plot(d, rates.sum(), "o", color=plots.MODEL, label="trained" if beta == 1 else None)
        ax.annotate(f"$\\beta$ = {beta:g}", (d, rates.sum()), (4, 6), textcoords="offset points",
                    rotation=45)
    ax.set(xlabel="distortion: squared error per image", ylabel="rate in nats per image")
    ax.legend()
    job.picture(fig, "rate_distortion.png")

    fig, (left, right) = plots.figure(1, 2, width=4.5, height=3.5)
    j = np.arange(1, len(eigenvalues) + 1)
    shown = latent + 8
    left.semilogy(j[:shown], eigenvalues[:shown], ".-", color=plots.EXACT)
    left.set(title="eigenvalues, and the levels $\\beta s^2$", xlabel="j", ylabel="$\\lambda_j$",
             xticks=range(4, shown + 1, 4))
    right.set(title="KL of latent dimension j, in nats", xlabel="j", xticks=range(4, latent + 1, 4))
    for i, (tau, (_, rates)) in enumerate(zip(levels, trained)):
        color = plots.MODEL if i == 0 else f"C{i + 3}"
        label = "$s^2$ learned" if i == 0 else f"$\\beta$ = {BETAS[i]:g}"
        left.axhline(tau, color=color, linewidth=0.8, linestyle="-" if i == 0 else "--")
        exact = water_filling(eigenvalues, tau)[1][:latent]        # (K,)
        right.plot(j[:latent], exact, color=color, linewidth=0.8)
        right.plot(j[:latent], np.sort(rates)[::-1], ".", color=color, label=label)
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    job.picture(fig, "spectrum.png")

    fig, (ax,) = plots.figure(1, 1, width=9, height=1.8)
    longest = np.argsort(-np.linalg.norm(w, axis=1))[:12]
    learned = w[longest] / np.linalg.norm(w[longest], axis=1, keepdims=True)  # (12, D)
    exact = u[:, :len(learned)].T                                             # (12, D)
    # A column of W is as good with the other sign, because z and -z are equally likely
    signs = np.sign((learned * exact).sum(axis=1, keepdims=True))             # (12, 1)
    plots.pictures(ax, np.concatenate([exact, signs * learned]), len(exact),
                   "eigenvectors, and columns of the learned W", low=-0.25, high=0.25)
    job.picture(fig, "components.png")

    fig, (ax,) = plots.figure(1, 1, width=6, height=3)
    least = -probabilistic_pca(eigenvalues, latent)[0]
    plots.curve(ax, job.history["loss"], "loss", plots.MODEL)
    ax.axhline(least, color=plots.EXACT, linestyle="--",
               label="minus the greatest log-likelihood, eq. (5)")
    ax.set(title="nats per image", ylim=(least - 20, least + 150))
    ax.legend()
    job.picture(fig, "loss.png")


if __name__ == "__main__":
    run.main(main)
