"""A variational auto-encoder whose best answer is known: encoder and decoder linear, everything Gaussian.

Slide "Variational auto-encoders", with x of D pixels, centred, and K latent dimensions:

    model       z ~ N(0, I),   x | z ~ N(W z, s^2 I)                                                (1)
    encoder     q(z | x) = N(V x, diag e^logvar)                                                    (2)
    distortion  d = E |x - W z|^2,      rate   r = E KL(q(z | x) || N(0, I))                        (3)
    loss        d / 2 s^2 + D/2 ln(2 pi s^2) + beta r   >=   -E ln p(x)  for beta = 1               (4)

The model is probabilistic PCA. With lambda_1 >= lambda_2 >= ... the eigenvalues of the covariance of x, the greatest
likelihood, the noise and the KL divergence of each latent dimension there are

    E ln p(x) = -1/2 (D ln 2 pi + sum_{j <= K} ln lambda_j + (D - K) ln s^2 + D),   s^2 = mean_{j > K} lambda_j      (5)
    KL_j = 1/2 ln(lambda_j / s^2)                                                                   (6)

and the bound is tight there: a diagonal q is the exact posterior if the latent axes are those of PCA. With s^2 fixed, beta
plays the part of a water level tau = beta s^2: what varies less than tau is not coded at all, the rest down to tau,

    r = sum_j max(0, 1/2 ln(lambda_j / tau)),   d = sum_j min(tau, lambda_j)                        (7)

which is Shannon's rate-distortion curve of a Gaussian (reverse water-filling): no code of any kind is below it. So
"posterior collapse" is no accident here: dimension j is off exactly where lambda_j <= tau.

Everything is trained as in vae.py, by draws of z, knowing none of this; the comparison is always made. One model learns
s^2 with beta = 1; the others have s^2 = lambda_(K+1) and beta = 1, 1.5, 2, 3, ... All stand side by side in arrays with a
leading axis, and share nothing. Data: images of 14 x 14 pixels, each the mean of four.

Look at: rate_distortion.png (the trained models as dots on the curve (7)); spectrum.png (the eigenvalues with the water
levels; KL_j of the trained models as dots, (6) as lines: each meets 0 where its level meets the eigenvalues);
components.png (eigenvectors, and columns of the learned W below: the same images, up to the sign, and mixed with their
neighbours where two eigenvalues are so close that the loss hardly minds);
loss.png (the loss of the first model falls onto the dashed line (5), which its mean over all data cannot cross).

Numbers in metrics.json. First model, in nats per image: exact_log_likelihood, (5); elbo, minus its loss, with the means
over z taken in closed form; gap, the difference; kl_gap, the largest error in (6); noise and exact_noise, its s^2 and
that of (5). The others: rate_distortion_gap, the largest excess of r + d / 2 tau over its minimum (7), in nats;
collapse_errors, how many dimensions of all models are on (more than 0.02 nats) though lambda_j <= tau, or off though
lambda_j > 1.1 tau (just above tau, hardly anything pulls a dimension on). And seconds of training.

Tipping & Bishop, "Probabilistic principal component analysis", 1999; Lucas et al., "Don't blame the ELBO! A linear VAE
perspective on posterior collapse", 2019; Cover & Thomas, "Elements of information theory", section 10.3.
"""

import numpy as np

import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, plots, run


class LinearVAE(nn.Module):
    """M models side by side."""

    def __init__(self, models, dim, latent):
        self.v = nn.Parameter(tg.randn(models, dim, latent) * dim**-0.5)
        self.w = nn.Parameter(tg.randn(models, latent, dim) * dim**-0.5)
        self.logvar = nn.Parameter(tg.zeros(models, 1, latent))
        self.log_s2 = nn.Parameter(tg.zeros(1))                     # of the first model


def distortion_and_rate(vae, x, eps):
    """Eq. (3) for each model, at the z that eps (M, B, K) makes."""
    mean = x @ vae.v                                                # (B, D) -> (M, B, K)        eq. (2)
    z = mean + tg.exp(vae.logvar / 2) * eps                         # (M, B, K)
    error = x - z @ vae.w                                           # (M, B, D)                  eq. (1)
    distortion = (error * error).sum(axis=2).mean(axis=1)           # (M,)                       eq. (3)
    rate = F.kl_standard_normal(mean, vae.logvar).mean(axis=1)      # (M,)                       eq. (3)
    return distortion, rate


def bound(distortion, rate, log_s2, beta, dim):
    return distortion / (2 * tg.exp(log_s2)) + dim / 2 * (log_s2 + float(np.log(2 * np.pi))) + beta * rate   # eq. (4)


def exact_means(v, w, logvar, covariance):
    """Eq. (3) of one model, the means over x and z taken in closed form: distortion, and the rate of each dimension (K,)."""
    residual = np.eye(len(covariance)) - v @ w                      # x - x V W
    distortion = np.trace(residual.T @ covariance @ residual) + (np.exp(logvar) * (w * w).sum(axis=1)).sum()
    return distortion, 0.5 * (np.sum(v * (covariance @ v), axis=0) + np.exp(logvar) - 1 - logvar)


def probabilistic_pca(eigenvalues, latent):
    """The greatest mean log-likelihood and its s^2, eq. (5)."""
    dim, s2 = len(eigenvalues), eigenvalues[latent:].mean()
    return -0.5 * (dim * np.log(2 * np.pi) + np.log(eigenvalues[:latent]).sum() + (dim - latent) * np.log(s2) + dim), s2


def water_filling(eigenvalues, tau):
    """The distortion and the rate of each dimension at water level tau, eq. (7)."""
    return np.minimum(tau, eigenvalues).sum(), np.maximum(0, 0.5 * np.log(np.maximum(eigenvalues, 1e-30) / tau))


def small_images(args):
    """Centred images of 14 x 14 pixels, as (N, 196)."""
    x, _ = data.images(args.data, folder=args.data_dir, limit=1000 if args.quick else None)
    x = x.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).flatten(1)    # (N, 1, 28, 28) -> (N, 196)
    return x - x.mean(axis=0)


def main(argv=None):
    job = run.Job("linear_vae", __doc__, argv, data=data.IMAGES, steps=15_000, batch=128, lr=1e-2,
                  flags={"--latent": dict(type=run.number(int, 1), default=16, help="latent dimensions")})
    args = job.args
    if args.latent >= 196:
        raise tg.TinygenError(f"--latent must be less than the 196 pixels, not {args.latent}.")
    x = small_images(args)
    dim, host = x.shape[1], x.numpy().astype(np.float64)
    covariance = host.T @ host / len(host)                          # (D, D)
    eigenvalues, u = [a[..., ::-1] for a in np.linalg.eigh(covariance)]               # (D,), (D, D): largest first
    betas = [1, 1, 1.5, 2, 3, 4.5, 8]                               # of the M models; the first also learns s^2
    fixed_s2 = eigenvalues[args.latent]

    vae = LinearVAE(len(betas), dim, args.latent)
    beta, fixed = tg.Tensor(betas), tg.full((len(betas) - 1,), float(np.log(fixed_s2)))
    optimizer = optim.Adam(vae.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(vae=vae, optimizer=optimizer, schedule=schedule):
        batch = x[batches[step]]                                    # (B, D)
        distortion, rate = distortion_and_rate(vae, batch, tg.randn(len(betas), len(batch), args.latent))
        losses = bound(distortion, rate, tg.cat([vae.log_s2, fixed]), beta, dim)      # (M,)
        optimizer.zero_grad()
        losses.sum().backward()                                     # no weight is in two of them
        optimizer.step()
        schedule.step()
        job.log(loss=losses[0])

    v, w, logvar = [p.numpy().astype(np.float64) for p in (vae.v, vae.w, vae.logvar[:, 0])]
    trained = [exact_means(v[m], w[m], logvar[m], covariance) for m in range(len(betas))]
    learned_s2 = np.exp(vae.log_s2.item())
    numbers = compare(trained, eigenvalues, betas, learned_s2, fixed_s2)
    pictures(job, trained, w[0], eigenvalues, u, betas, learned_s2, fixed_s2, numbers)
    job.finish(**numbers)


def compare(trained, eigenvalues, betas, learned_s2, fixed_s2):
    latent = len(trained[0][1])
    best, exact_s2 = probabilistic_pca(eigenvalues, latent)
    (distortion, rates), *others = trained
    elbo = -bound(distortion, rates.sum(), tg.Tensor(np.log(learned_s2)), 1, len(eigenvalues)).item()
    excess, wrong = [], 0
    for (d, r), tau in zip(others, np.array(betas[1:]) * fixed_s2):
        exact_d, exact_r = water_filling(eigenvalues, tau)
        excess.append(r.sum() + d / (2 * tau) - exact_r.sum() - exact_d / (2 * tau))
        on = np.sort(r)[::-1] > 0.02
        wrong += (on & (eigenvalues[:latent] <= tau)).sum() + (~on & (eigenvalues[:latent] > 1.1 * tau)).sum()
    kl_gap = np.abs(np.sort(rates)[::-1] - 0.5 * np.log(eigenvalues[:latent] / exact_s2)).max()       # eq. (6)
    return dict(exact_log_likelihood=best, elbo=elbo, gap=best - elbo, kl_gap=kl_gap, noise=learned_s2, exact_noise=exact_s2,
                rate_distortion_gap=max(excess), collapse_errors=wrong)


def pictures(job, trained, w, eigenvalues, u, betas, learned_s2, fixed_s2, numbers):
    latent, levels = len(w), np.array(betas[1:]) * fixed_s2
    fig, (ax,) = plots.figure(1, 1, width=6, height=4)
    curve = [water_filling(eigenvalues, tau) for tau in np.geomspace(fixed_s2 / 2, 1.5 * eigenvalues[0], 300)]
    ax.plot([d for d, _ in curve], [r.sum() for _, r in curve], color=plots.EXACT, label="best possible, eq. (7)")
    ax.plot([d for d, _ in trained[1:]], [r.sum() for _, r in trained[1:]], "o", color=plots.MODEL, label="trained")
    for beta, (d, r) in zip(betas[1:], trained[1:]):
        ax.annotate(f"$\\beta$ = {beta:g}", (d, r.sum()), (4, 6), textcoords="offset points", rotation=45)
    ax.set(xlabel="distortion: squared error per image", ylabel="rate in nats per image")
    ax.legend()
    job.picture(fig, "rate_distortion.png")

    fig, (left, right) = plots.figure(1, 2, width=4.5, height=3.5)
    index, shown = np.arange(1, len(eigenvalues) + 1), latent + 8
    left.semilogy(index[:shown], eigenvalues[:shown], ".-", color=plots.EXACT)
    left.set(title="eigenvalues, and the levels $\\beta s^2$", xlabel="j", xticks=range(4, shown + 1, 4), ylabel="$\\lambda_j$")
    right.set(title="KL of latent dimension j, in nats", xlabel="j", xticks=range(4, latent + 1, 4))
    for i, (tau, (_, rates)) in enumerate(zip([learned_s2, *levels], trained)):
        color = plots.MODEL if i == 0 else f"C{i + 3}"
        left.axhline(tau, color=color, linewidth=0.8, linestyle="--" if i else "-")
        right.plot(index[:latent], water_filling(eigenvalues, tau)[1][:latent], color=color, linewidth=0.8)
        right.plot(index[:latent], np.sort(rates)[::-1], ".", color=color,
                   label=f"$\\beta$ = {betas[i]:g}" if i else "$s^2$ learned")
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    job.picture(fig, "spectrum.png")

    fig, (ax,) = plots.figure(1, 1, width=9, height=1.8)
    order = np.argsort(-(w * w).sum(axis=1))[:12]                   # the decoder columns, longest first
    learned = w[order] / np.linalg.norm(w[order], axis=1, keepdims=True)              # (12, D)
    exact = u[:, :len(learned)].T
    signs = np.sign((learned * exact).sum(axis=1, keepdims=True))   # z and -z are alike
    plots.pictures(ax, np.concatenate([exact, signs * learned]), len(exact), "eigenvectors, and columns of the learned W",
                   low=-0.25, high=0.25)
    job.picture(fig, "components.png")

    fig, (ax,) = plots.figure(1, 1, width=6, height=3)
    best = -numbers["exact_log_likelihood"]
    plots.curve(ax, job.history["loss"], "loss", plots.MODEL)
    ax.axhline(best, color=plots.EXACT, linestyle="--", label="minus the greatest log-likelihood, eq. (5)")
    ax.set(title="nats per image", ylim=(best - 20, best + 150))
    ax.legend()
    job.picture(fig, "loss.png")


if __name__ == "__main__":
    run.main(main)
