"""Variational auto-encoder: a latent variable model trained by a lower bound of its likelihood.

Slide "Variational auto-encoders":

    model       z ~ N(0, I),   x | z ~ Bernoulli(sigmoid(decoder(z)))                         (1)
    encoder     q(z | x) = N(mean(x), diag e^logvar(x))                                       (2)
    sampling    z = mean + std * eps,   std = e^(logvar / 2),   eps ~ N(0, I)                 (3)
    loss        E_q[-ln p(x | z)] + beta KL(q(z | x) || N(0, I))                              (4)
                >= -ln p(x)   for beta = 1

Both terms are sums over pixels or dimensions, in nats per image. With the sample written as in (3),
the gradient passes through it to mean and logvar ("reparameterization"). --beta above 1 makes the
code shorter and the pictures coarser.

The gap in (4) is KL(q(z | x) || p(z | x)). The average of K draws inside the logarithm makes it
smaller, and each further draw helps (importance weighting):

    L_K = E ln (1/K) sum_k w_k,   w_k = p(x, z_k) / q(z_k | x),                               (5)
    L_1 <= L_5 <= L_50 <= ln p(x),   and L_1 is minus the loss with beta = 1

With --latent 2 the latent space can be drawn, and --exact computes ln p(x) without any sampling: it
sums p(x | z) p(z) over a fine grid of z. (If encoder and decoder are linear, everything is known in
closed form, see linear_vae.py.)

Look at:
    reconstructions.png  test images above their reconstructions
    samples.png          decoded draws from the prior: the decoder was never trained at these z, yet
                         many are digits, because the KL term fills the latent space; with the same
                         draws autoencoder.py makes none
    loss.png             the two terms: the KL grows while the reconstruction error falls, so the
                         code is used
    code.png             left the KL of each latent dimension, largest first: with --beta 4 many are
                         switched off, mean = 0 and std = 1 whatever x; right the bound (5), which
                         tightens with K, and with --exact -ln p(x) as a dashed line
    manifold.png         with --latent 2: the plane of z, shrunk to a square of equal probabilities;
                         left the codes of test images, right what every place decodes to
    posterior.png        with --exact: the true posterior of six images in green over q in orange;
                         contours at 1, 2 and 3 standard deviations, in units of those of q

Numbers in metrics.json (in nats per test image):
    test_loss            test_reconstruction + test_kl
    test_reconstruction  the first term of (4)
    test_kl              the second one, with beta = 1 whatever --beta
    train_loss           the same sum on training images, mean of the last epoch
    active_units         how many latent dimensions have a mean(x) whose variance over the test
                         images is above 0.01
    nll_1, nll_5, nll_50 minus the bounds (5) of the first 1000 test images; 50 is the default of
                         --k, and nll_5 is there if 5 divides --k
    exact_nll            with --exact: the mean of -ln p(x) of the same images
    gap                  with --exact: nll_1 - exact_nll
    seconds              of training

With --data mnist (784-400-20, 10 epochs of 128) the widely reproduced test loss is 105.6. Gray
images are not Bernoulli draws, so this is a score and not a log-likelihood.

Kingma & Welling, "Auto-encoding variational Bayes", 2014; Higgins et al., "beta-VAE", 2017; Burda
et al., "Importance weighted autoencoders", 2016.
"""
import statistics

import numpy as np

import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, plots, run


class VAE(nn.Module):
    """784-400-20-400-784 with ReLU."""

    def __init__(self, pixels=784, hidden=400, latent=20):
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU())
        self.mean = nn.Linear(hidden, latent)
        self.logvar = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels))

    def encode(self, x):
        h = self.encoder(x)                                 # (B, 784) -> (B, 400)
        return self.mean(h), self.logvar(h)                 # (B, 20), (B, 20)     slide, eq. (2)

    def decode(self, z):
        return self.decoder(z)                              # (B, 20) -> (B, 784)   logits, eq. (1)


def reparameterize(mean, logvar, eps):
    return mean + tg.exp(logvar / 2) * eps                  # (B, 20)   slide, eq. (3)


def vae_loss(vae, x, eps):
    """The two terms of the bound, each in nats per image."""
    mean, logvar = vae.encode(x)
    logits = vae.decode(reparameterize(mean, logvar, eps))  # (B, 784)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
    kl = F.kl_standard_normal(mean, logvar).mean()
    return reconstruction, kl                               # their sum: slide, eq. (4)


def log_weights(vae, x, eps):
    """ln w = ln p(x | z) + ln p(z) - ln q(z | x) at the z that eps makes: (B,)

    The constants 2 pi of the two normal densities cancel.
    """
    mean, logvar = vae.encode(x)
    z = reparameterize(mean, logvar, eps)                      # (B, 20)
    prior_over_q = 0.5 * (eps**2 + logvar - z**2).sum(axis=1)  # (B,)
    return prior_over_q - F.bce_with_logits(vae.decode(z), x).sum(axis=1)


def importance_bound(log_w, m):
    """L_m of eq. (5) for each row of log_w (B, K), averaged over the K / m groups of m draws."""
    groups = log_w.reshape(len(log_w), -1, m)                             # (B, K / m, m)
    return (F.logsumexp(groups, axis=2) - float(np.log(m))).mean(axis=1)  # (B,)  eq. (5)


@tg.no_grad()
def exact_log_likelihood(vae, x, reach=4.5, n=301):
    """ln p(x) = ln sum p(x | z) p(z) dz^2 over an n x n grid of two-dimensional z: (B,)"""
    def one_row(z):
        logits = vae.decode(z)                                               # (n, 784)
        log_p_x = x @ logits.T - F.softplus(logits).sum(axis=1)              # (B, n)
        return F.logsumexp(log_p_x - 0.5 * (z * z).sum(axis=1), axis=1)      # (B,)
    grid = plots.grid(((-reach, reach), (-reach, reach)), n)                 # (n * n, 2)
    rows = tg.stack([one_row(z) for z in tg.Tensor(grid).reshape(n, n, 2)])  # (n, B)
    dz = 2 * reach / (n - 1)
    return F.logsumexp(rows, axis=0) + float(np.log(dz**2 / (2 * np.pi)))


def main(argv=None):
    job = run.Job("vae", __doc__, argv, data=data.IMAGES, steps=4690, batch=128, lr=1e-3,
                  exact=True, flags=FLAGS)
    args = job.args
    if args.exact and args.latent != 2:
        raise tg.TinygenError("--exact draws the posterior in the plane: it needs --latent 2, but "
                              f"got {args.latent}.")
    limit = 1000 if args.quick else None
    train, _ = data.images(args.data, folder=args.data_dir, limit=limit)
    test, labels = data.images(args.data, train=False, folder=args.data_dir, limit=limit)
    train = train.flatten(1)                                # (N, 784) in [0, 1]
    test = test.flatten(1)                                  # (N, 784)
    vae = VAE(latent=args.latent)
    optimizer = optim.Adam(vae.parameters(), lr=args.lr)
    batches = data.Batches(len(train), args.batch, args.seed)
    for step in job.train(vae=vae, optimizer=optimizer):
        x = train[batches[step]]                            # (B, 784)
        reconstruction, kl = vae_loss(vae, x, tg.randn(len(x), args.latent))
        loss = reconstruction + args.beta * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        job.log(reconstruction=reconstruction, kl=kl)
    last_epoch = [np.mean(terms[-batches.per_epoch:]) for terms in job.history.values()]
    with tg.no_grad():
        test_terms = vae_loss(vae, test, tg.randn(len(test), args.latent))
    pictures(job, vae, test, labels)
    job.finish(test_loss=sum(test_terms), test_reconstruction=test_terms[0], test_kl=test_terms[1],
               train_loss=sum(last_epoch), **measure_code(job, vae, test))


# Numbers and pictures -----------------------------------------------------------------------------

FLAGS = {"--latent": dict(type=run.number(int, 1), default=20, help="latent dimensions"),
         "--beta": dict(type=run.number(float, 0), default=1.0, help="weight of the KL term"),
         "--k": dict(type=run.number(int, 1), default=50, help="draws in the bound (5)")}


@tg.no_grad()
def pictures(job, vae, test, labels):
    codes, _ = vae.encode(test)                                      # (N, 20)
    fig, (ax,) = plots.figure(1, 1, width=9, height=1.5)
    rebuilt = F.sigmoid(vae.decode(codes[:16]))                      # (16, 784)
    plots.pictures(ax, tg.cat([test[:16], rebuilt]), 16, "test images, and their reconstructions")
    job.picture(fig, "reconstructions.png")

    fig, (ax,) = plots.figure(1, 1, 5)
    samples = F.sigmoid(vae.decode(tg.randn(100, job.args.latent)))  # (100, 784)
    plots.pictures(ax, samples, 10, "samples: decoded draws z ~ N(0, I)")
    job.picture(fig, "samples.png")

    fig, (left, right) = plots.figure(1, 2, width=4, height=3)
    for ax, name, color in ((left, "reconstruction", plots.MODEL), (right, "kl", plots.DATA)):
        plots.curve(ax, job.history[name], name, color)
        ax.set(title=name, ylabel="nats per image", ylim=(0, None))
    job.picture(fig, "loss.png")
    if job.args.latent == 2:
        manifold(job, vae, codes, labels)


@tg.no_grad()
def measure_code(job, vae, test):
    """Which latent dimensions are in use, and how tight the bounds (5) are."""
    latent, k = job.args.latent, job.args.k
    mean, logvar = vae.encode(test)                                  # (N, 20), (N, 20)
    active = (mean.var(axis=0) > 0.01).sum().item()
    fig, (left, right) = plots.figure(1, 2, width=4, height=3)
    kl = 0.5 * (mean**2 + tg.exp(logvar) - 1 - logvar).mean(axis=0)  # (20,)   the sum is test_kl
    left.bar(range(1, latent + 1), np.sort(kl.numpy())[::-1], color=plots.DATA)
    left.set(title=f"KL in nats: {active} of {latent} dimensions in use",
             xlabel="latent dimension, largest first",
             xticks=range(1, latent + 1, 1 + latent // 10))

    x = test[:50 if job.args.quick else 1000]                        # (B, 784)
    log_w = tg.stack([log_weights(vae, x, tg.randn(len(x), latent)) for _ in range(k)], axis=1)
    nll = {m: -importance_bound(log_w, m).mean().item() for m in range(1, k + 1) if k % m == 0}
    numbers = {f"nll_{m}": nll[m] for m in (1, 5, k) if m in nll}
    right.plot([str(m) for m in nll], list(nll.values()), "o-", color=plots.MODEL)
    right.set(xlabel="draws K", ylabel="nats per image", title="more draws, a tighter bound")
    if job.args.exact:
        exact = -exact_log_likelihood(vae, x).mean().item()
        numbers.update(exact_nll=exact, gap=nll[1] - exact)
        right.axhline(exact, color=plots.EXACT, linestyle="--")
        posteriors(job, vae, x[:6])
    job.picture(fig, "code.png")
    return dict(active_units=active, **numbers)


def manifold(job, vae, codes, labels, n=20):
    """The plane of z, shrunk to a square by the normal distribution function.

    Equal areas of the square are equally likely.
    """
    fig, (left, right) = plots.figure(1, 2, 5)
    places = (1 + tg.erf(codes / 2**0.5)) / 2                      # (N, 2)
    plots.classes(left, places, labels, "codes of test images", ((0, 1), (0, 1)))
    line = [statistics.NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)]
    z = tg.Tensor([(a, b) for b in reversed(line) for a in line])  # (400, 2)   from the top left
    plots.pictures(right, F.sigmoid(vae.decode(z)), n, "the same square, decoded")
    job.picture(fig, "manifold.png")


def posteriors(job, vae, x, n=121):
    """q and the true posterior of each image, in the coordinates eps of q.

    Contours at 1, 2 and 3 standard deviations.
    """
    eps = tg.Tensor(plots.grid(((-6, 6), (-6, 6)), n))              # (n * n, 2)
    log_q = -0.5 * (eps**2).sum(axis=1)                             # (n * n,)   up to a constant
    fig, axes = plots.figure(2, len(x), 1.6)
    for image, top, ax in zip(x, axes, axes[len(x):]):
        plots.pictures(top, image[None], 1)
        log_posterior = log_q + log_weights(vae, image[None], eps)  # (n * n,)
        for log_p, color in ((log_q, plots.MODEL), (log_posterior, plots.EXACT)):
            values = (log_p - log_p.max()).numpy().reshape(n, n)
            ax.contour(values, [-4.5, -2, -0.5], colors=color, linestyles="solid")
        ax.set(xticks=[], yticks=[], aspect="equal")
    job.picture(fig, "posterior.png")


if __name__ == "__main__":
    run.main(main)
