"""Conditional variational auto-encoder: draw a digit of the class you ask for.

Slide "Conditional generation", for the variational auto-encoder; y is the class, as ten numbers of which one is 1:

    model       z ~ N(0, I),   x | z, y ~ Bernoulli(sigmoid(decoder(z, y)))                         (1)
    encoder     q(z | x, y) = N(mean(x, y), diag e^logvar(x, y))                                    (2)
    sampling    z = mean + e^(logvar / 2) * eps,   eps ~ N(0, I)                                    (3)
    loss        E_q[-ln p(x | z, y)] + KL(q(z | x, y) || N(0, I))   >=   -ln p(x | y)               (4)

It is vae.py with y fed to both networks. The prior of z is the same for every class, and what z says is paid for in nats,
so it does not pay to say in z what y says already: z is left with the style (slant, pen, font). A second hidden layer
lets class and style act together (a slant does not move a 1 and a 0 in the same way), and z is short, eight numbers:
the more there are, the more places without any training image the prior has, and there the class gets lost.

Look at: styles.png (left, each row one random style z, each column a class; right, the style is read from the test image
in the first column, of whatever class, and all ten digits are written in it); loss.png (the two terms).

Numbers in metrics.json: test_loss = test_reconstruction + test_kl, in nats per test image (below those of vae.py, which
also has to code the class); accuracy_samples, how often a classifier trained on the training images sees the class that
was asked for (as many samples as test images; a sample is the mean grey value sigmoid(decoder(z, y))), and
accuracy_test, how often it is right on test images. One good image per class would do for that, so also frechet, the
distance of mean and covariance of the classifier's features between samples and test images, and noise_floor, the same
between training and test images, what perfect samples would score, give or take chance. And seconds of training.

Sohn et al., "Learning structured output representation using deep conditional generative models", 2015; Kingma et al.,
"Semi-supervised learning with deep generative models", 2014.
"""
import numpy as np

import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run
from tinygen.lab.judge import Judge

LATENT = 8  # numbers of the style


class ConditionalVAE(nn.Module):
    """784+10 - 400 - 400 - 8 and 8+10 - 400 - 400 - 784 with ReLU."""

    def __init__(self, pixels=784, classes=10, hidden=400, latent=LATENT):
        self.encoder = nn.Sequential(nn.Linear(pixels + classes, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.mean, self.logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(nn.Linear(latent + classes, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                                     nn.Linear(hidden, pixels))

    def encode(self, x, y):
        h = self.encoder(tg.cat([x, y], axis=1))                    # (B, 784), (B, 10) -> (B, 400)
        return self.mean(h), self.logvar(h)                         # (B, 8), (B, 8)        slide, eq. (2)

    def decode(self, z, y):
        return self.decoder(tg.cat([z, y], axis=1))                 # (B, 8), (B, 10) -> (B, 784)    slide, eq. (1)


def conditional_vae_loss(cvae, x, y, eps):
    """The two terms of the bound, each in nats per image."""
    mean, logvar = cvae.encode(x, y)
    z = mean + tg.exp(logvar / 2) * eps                             # (B, 8)                slide, eq. (3)
    reconstruction = F.binary_cross_entropy_with_logits(cvae.decode(z, y), x, reduction="sum") / len(x)
    kl = F.kl_standard_normal(mean, logvar).mean()
    return reconstruction, kl                                       # their sum:            slide, eq. (4)


@tg.no_grad()
def sample(cvae, y):
    """One image of each class in y (N, 10), as mean grey values: (N, 784)."""
    return F.sigmoid(cvae.decode(tg.randn(len(y), LATENT), y))


@tg.no_grad()
def evaluate(cvae, x, y):
    """The mean of both terms over a data set, a thousand images at a time."""
    terms = [[term.item() * len(x[i:i + 1000]) for term in
              conditional_vae_loss(cvae, x[i:i + 1000], y[i:i + 1000], tg.randn(len(x[i:i + 1000]), LATENT))]
             for i in range(0, len(x), 1000)]
    return np.sum(terms, axis=0) / len(x)


def main(argv=None):
    job = run.Job("conditional_vae", __doc__, argv, data=data.IMAGES, steps=4000, batch=128, lr=2e-3)
    args = job.args
    limit = 1000 if args.quick else None
    images, labels = data.images(args.data, folder=args.data_dir, limit=limit)
    test_images, test_labels = data.images(args.data, train=False, folder=args.data_dir, limit=limit)
    x, y = images.flatten(1), F.one_hot(labels, 10)                 # (N, 784) in [0, 1], (N, 10)

    cvae = ConditionalVAE()
    optimizer = optim.Adam(cvae.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(cvae=cvae, optimizer=optimizer, schedule=schedule):
        batch = batches[step]
        reconstruction, kl = conditional_vae_loss(cvae, x[batch], y[batch], tg.randn(len(batch), LATENT))
        loss = reconstruction + kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        job.log(reconstruction=reconstruction, kl=kl)

    test_x, test_y = test_images.flatten(1), F.one_hot(test_labels, 10)
    test_reconstruction, test_kl = evaluate(cvae, test_x, test_y)
    pictures(job, cvae, test_x, test_y)
    judge = Judge(images, labels, test_images, test_labels, steps=100 if args.quick else 3000)
    found = judge(sample(cvae, test_y), test_labels)
    job.finish(test_loss=test_reconstruction + test_kl, test_reconstruction=test_reconstruction, test_kl=test_kl,
               accuracy_samples=found["accuracy"], accuracy_test=judge.data["test_accuracy"],
               frechet=found["frechet"], noise_floor=judge.data["frechet_floor"])


@tg.no_grad()
def pictures(job, cvae, test_x, test_y, rows=8):
    every_class = tg.cat([tg.eye(10)] * rows)                       # (80, 10): 0, ..., 9, 0, ...

    def in_all_classes(z):                                          # (8, 8) -> (80, 784), row by row
        z = z.reshape(rows, 1, LATENT).broadcast_to(rows, 10, LATENT).reshape(-1, LATENT)
        return F.sigmoid(cvae.decode(z, every_class))

    fig, (left, right) = plots.figure(1, 2, width=5, height=4.6)
    plots.pictures(left, in_all_classes(tg.randn(rows, LATENT)), 10, "a random style in each row, a class in each column")
    style, _ = cvae.encode(test_x[:rows], test_y[:rows])            # (8, 8)
    written = in_all_classes(style).reshape(rows, 10, -1)           # (8, 10, 784)
    beside = tg.cat([test_x[:rows].reshape(rows, 1, -1), written], axis=1)            # (8, 11, 784)
    plots.pictures(right, beside.reshape(rows * 11, -1), 11, "test image | all digits in its style")
    right.axvline(27.5, color="white", linewidth=3)
    job.picture(fig, "styles.png")

    fig, (left, right) = plots.figure(1, 2, width=4, height=3)
    plots.curve(left, job.history["reconstruction"], "reconstruction", plots.MODEL)
    left.set(ylabel="nats per image", title="reconstruction error", ylim=(0, None))
    plots.curve(right, job.history["kl"], "KL", plots.DATA)
    right.set(title="KL divergence to the prior", ylim=(0, None))
    job.picture(fig, "loss.png")


if __name__ == "__main__":
    run.main(main)
