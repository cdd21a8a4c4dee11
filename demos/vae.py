"""Variational auto-encoder: a latent variable model trained by a lower bound of its likelihood.

Slide "Variational auto-encoders":

    model       z ~ N(0, I),   x | z ~ Bernoulli(sigmoid(decoder(z)))                               (1)
    encoder     q(z | x) = N(mean(x), diag e^logvar(x))                                             (2)
    sampling    z = mean + std * eps,   std = e^(logvar / 2),   eps ~ N(0, I)                       (3)
    loss        E_q[-ln p(x | z)] + KL(q(z | x) || N(0, I))   >=   -ln p(x)                         (4)

Both terms are sums over pixels or dimensions, in nats per image. Writing the sample as (3) lets the gradient pass
through it to mean and logvar ("reparameterisation").

Look at: reconstructions.png (test images above their reconstructions); samples.png (decoded draws from the prior: the
decoder has never seen these z, yet they are digits, because the KL term fills the latent space); loss.png (the two
terms: the KL grows while the reconstruction error falls, so the code is used).

Numbers in metrics.json, in nats per test image: test_loss = test_reconstruction + test_kl, and train_loss (mean of the
last epoch); seconds of training. With --data mnist (784-400-20, 10 epochs of 128) the widely reproduced test loss is
105.6. Grey images are not Bernoulli draws, so this is a score and not a log-likelihood.

Kingma & Welling, "Auto-encoding variational Bayes", 2014.
"""
import time

import numpy as np

import tinygen as tg
from tinygen import data, functional as F, nn, optim, plots, run


class VAE(nn.Module):
    """784-400-20-400-784 with ReLU."""

    def __init__(self, pixels=784, hidden=400, latent=20):
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU())
        self.mean, self.logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels))

    def encode(self, x):
        h = self.encoder(x)                                         # (B, 784) -> (B, 400)
        return self.mean(h), self.logvar(h)                         # (B, 20), (B, 20)      slide, eq. (2)

    def decode(self, z):
        return self.decoder(z)                                      # (B, 20) -> (B, 784)   logits of slide, eq. (1)


def reparameterize(mean, logvar, eps):
    return mean + tg.exp(logvar / 2) * eps                          # (B, 20)               slide, eq. (3)


def vae_loss(vae, x, eps):
    """The two terms of the bound, each in nats per image."""
    mean, logvar = vae.encode(x)
    logits = vae.decode(reparameterize(mean, logvar, eps))          # (B, 784)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
    kl = F.kl_standard_normal(mean, logvar).mean()
    return reconstruction, kl                                       # their sum:            slide, eq. (4)


@tg.no_grad()
def evaluate(vae, x, latent=20):
    """The mean of both terms over a data set, a thousand images at a time."""
    terms = [[term.item() * len(part) for term in vae_loss(vae, part, tg.randn(len(part), latent))]
             for part in (x[i:i + 1000] for i in range(0, len(x), 1000))]
    return np.sum(terms, axis=0) / len(x)


def main(argv=None):
    job = run.Job("vae", __doc__, argv, data=data.IMAGES, steps=4690, batch=128, lr=1e-3)
    args = job.args
    limit = 1000 if args.quick else None
    train, _ = data.images(args.data, folder=args.data_dir, limit=limit)
    test, _ = data.images(args.data, train=False, folder=args.data_dir, limit=limit)
    train, test = train.flatten(1), test.flatten(1)                 # (N, 784) in [0, 1]

    vae = VAE()
    optimizer = optim.Adam(vae.parameters(), lr=args.lr)
    batches = data.Batches(len(train), args.batch, args.seed)
    start = time.perf_counter()
    for step in job.train(vae=vae, optimizer=optimizer):
        x = train[batches[step]]                                    # (B, 784)
        reconstruction, kl = vae_loss(vae, x, tg.randn(len(x), 20))
        loss = reconstruction + kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        job.log(reconstruction=reconstruction, kl=kl)
    seconds = time.perf_counter() - start

    test_reconstruction, test_kl = evaluate(vae, test)
    pictures(job, vae, test)
    last = slice(-min(batches.per_epoch, args.steps), None)
    job.finish(test_loss=test_reconstruction + test_kl, test_reconstruction=test_reconstruction, test_kl=test_kl,
               train_loss=np.mean(job.history["reconstruction"][last]) + np.mean(job.history["kl"][last]), seconds=seconds)


@tg.no_grad()
def pictures(job, vae, test):
    x = test[:16]
    mean, _ = vae.encode(x)
    fig, (ax,) = plots.figure(1, 1, width=9, height=1.5)
    plots.pictures(ax, tg.cat([x, F.sigmoid(vae.decode(mean))]), 16, "test images, and their reconstructions below")
    job.picture(fig, "reconstructions.png")

    fig, (ax,) = plots.figure(1, 1, 5)
    plots.pictures(ax, F.sigmoid(vae.decode(tg.randn(100, 20))), 10, "samples: decoded draws z ~ N(0, I)")
    job.picture(fig, "samples.png")

    fig, (left, right) = plots.figure(1, 2, width=4, height=3)
    plots.curve(left, job.history["reconstruction"], "reconstruction", plots.MODEL)
    left.set(ylabel="nats per image", title="reconstruction error", ylim=(0, None))
    plots.curve(right, job.history["kl"], "KL", plots.DATA)
    right.set(title="KL divergence to the prior", ylim=(0, None))
    job.picture(fig, "loss.png")


if __name__ == "__main__":
    run.main(main)
