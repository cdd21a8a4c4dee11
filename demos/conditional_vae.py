"""Conditional variational auto-encoder: draw a digit of the class you ask for.

Slide "Conditional generation", for the variational auto-encoder; y is the class, ten numbers of
which one is 1:

    model       z ~ N(0, I),   x | z, y ~ Bernoulli(sigmoid(decoder(z, y)))                   (1)
    encoder     q(z | x, y) = N(mean(x, y), diag e^logvar(x, y))                              (2)
    sampling    z = mean + e^(logvar / 2) * eps,   eps ~ N(0, I)                              (3)
    loss        E_q[-ln p(x | z, y)] + KL(q(z | x, y) || N(0, I))  >=  -ln p(x | y)           (4)

It is vae.py with y as a further input of both networks. The prior of z is the same for every class,
and the KL term counts every nat of information in z. So the encoder does not repeat in z what y
already contains, and z is left with the style (slant, pen, font).

Two choices matter:
    two hidden layers   let class and style act together: a slant moves a 1 and a 0 differently
    a short z           eight numbers; with more of them the prior has more regions without any
                        training image, and there the class gets lost

Look at:
    styles.png   left, a random style z in each row, a class in each column; right, the encoder
                 reads the style from the test image in the first column, of whatever class, and the
                 decoder writes all ten digits in it
    loss.png     the two terms

Numbers in metrics.json:
    test_loss             test_reconstruction + test_kl, in nats per test image
    test_reconstruction   the first term of (4); lower than in vae.py, where z also codes the class
    test_kl               the second term of (4), for the same reason lower than in vae.py
    accuracy              the fraction of samples that a classifier, trained on the training
                          images, takes for the class they were asked for; there are as many
                          samples as test images, each the mean gray value sigmoid(decoder(z, y))
    test_accuracy         the same of test images
    frechet               the distance of mean and covariance of the classifier's features between
                          samples and test images
    frechet_floor         the same between training and test images, what perfect samples would
                          score
    seconds               of training

Accuracy alone is not enough, because one good image per class would make it high.

Sohn et al., "Learning structured output representation using deep conditional generative models",
2015; Kingma et al., "Semi-supervised learning with deep generative models", 2014.
"""
import numpy as np

import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, plots, run
from tinygen.lab.judge import Judge

LATENT = 8  # numbers in the style z


class ConditionalVAE(nn.Module):
    """784+10 - 400 - 400 - 8 and 8+10 - 400 - 400 - 784 with ReLU."""

    def __init__(self, pixels=784, classes=10, hidden=400, latent=LATENT):
        self.encoder = nn.Sequential(
            nn.Linear(pixels + classes, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.mean = nn.Linear(hidden, latent)
        self.logvar = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent + classes, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, pixels))

    def encode(self, x, y):
        h = self.encoder(tg.cat([x, y], axis=1))                # (B, 784), (B, 10) -> (B, 400)
        return self.mean(h), self.logvar(h)                     # (B, 8), (B, 8)   slide, eq. (2)

    def decode(self, z, y):
        return self.decoder(tg.cat([z, y], axis=1))             # (B, 784)         slide, eq. (1)


def conditional_vae_loss(cvae, x, y, eps):
    """The two terms of the bound, each in nats per image."""
    mean, logvar = cvae.encode(x, y)
    z = mean + tg.exp(logvar / 2) * eps                         # (B, 8)           slide, eq. (3)
    logits = cvae.decode(z, y)                                  # (B, 784)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
    kl = F.kl_standard_normal(mean, logvar).mean()
    return reconstruction, kl                                   # their sum:       slide, eq. (4)


@tg.no_grad()
def sample(cvae, y):
    """One image of each class in y (N, 10), as mean gray values: (N, 784)."""
    z = tg.randn(len(y), LATENT)                                # (N, 8)
    return F.sigmoid(cvae.decode(z, y))


def main(argv=None):
    job = run.Job("conditional_vae", __doc__, argv, data=data.IMAGES, steps=4000, batch=128,
                  lr=2e-3)
    args = job.args
    limit = 1000 if args.quick else None
    images, labels = data.images(args.data, folder=args.data_dir, limit=limit)
    test = data.images(args.data, train=False, folder=args.data_dir, limit=limit)
    x = images.flatten(1)                                       # (N, 784) in [0, 1]
    y = F.one_hot(labels, 10)                                   # (N, 10)
    cvae = ConditionalVAE()
    optimizer = optim.Adam(cvae.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(cvae=cvae, optimizer=optimizer, schedule=schedule):
        batch = batches[step]                                   # (B,) indices
        eps = tg.randn(len(batch), LATENT)                      # (B, 8)
        reconstruction, kl = conditional_vae_loss(cvae, x[batch], y[batch], eps)
        loss = reconstruction + kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        job.log(reconstruction=reconstruction, kl=kl)
    numbers = evaluate(cvae, *test)
    pictures(job, cvae, *test)
    judge = Judge(images, labels, *test, steps=100 if args.quick else 3000)
    test_images, asked = test
    samples = sample(cvae, F.one_hot(asked, 10))                # (N, 784)
    job.finish(**numbers, **judge(samples, asked), **judge.data)


# Numbers and pictures -----------------------------------------------------------------------------

@tg.no_grad()
def evaluate(cvae, images, labels):
    """The mean of both terms over a data set, a thousand images at a time."""
    total = np.zeros(2)
    for i in range(0, len(images), 1000):
        x = images[i:i + 1000].flatten(1)                       # (1000, 784)
        y = F.one_hot(labels[i:i + 1000], 10)                   # (1000, 10)
        terms = conditional_vae_loss(cvae, x, y, tg.randn(len(x), LATENT))
        total = total + len(x) * np.array([term.item() for term in terms])
    reconstruction, kl = total / len(images)
    return dict(test_loss=reconstruction + kl, test_reconstruction=reconstruction, test_kl=kl)


@tg.no_grad()
def pictures(job, cvae, images, labels, rows=8):
    x = images[:rows].flatten(1)                                # (8, 784)
    y = F.one_hot(labels[:rows], 10)                            # (8, 10)
    every_class = tg.cat([tg.eye(10)] * rows)                   # (80, 10): 0, ..., 9, 0, ...

    def in_all_classes(z):
        """Styles (8, 8) -> (80, 784), row by row."""
        z = z.reshape(rows, 1, LATENT).broadcast_to(rows, 10, LATENT)
        return F.sigmoid(cvae.decode(z.reshape(-1, LATENT), every_class))

    fig, (left, right) = plots.figure(1, 2, width=5, height=4.6)
    random = in_all_classes(tg.randn(rows, LATENT))             # (80, 784)
    plots.pictures(left, random, 10, "a random style in each row, a class in each column")
    style, _ = cvae.encode(x, y)                                # (8, 8)
    written = in_all_classes(style).reshape(rows, 10, -1)       # (8, 10, 784)
    both = tg.cat([x.reshape(rows, 1, -1), written], axis=1)    # (8, 11, 784)
    plots.pictures(right, both.reshape(rows * 11, -1), 11, "test image | all digits in its style")
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
