"""Class-conditional GAN: digits on demand. Both players are told the label.

Slide "Class-conditional generation", with y a label and e_y its row of zeros with a one:

    model       x = G(z, e_y),   z ~ N(0, I)                                                                    (1)
    objective   min over G, max over D of   E ln D(x, e_y) + E ln(1 - D(G(z, e_y), e_y)),   D = sigmoid(score)  (2)

G maximises E ln D instead, the non-saturating form of (2). D has to see the label, too: a D that is told only the image
accepts any digit for any label, and G then ignores y.

Look at: samples.png (one class per column, one z per row: a row keeps its style); real.png (training images in the same
order); loss.png (dashed: 2 ln 2 and ln 2, the values where D can only guess).

Numbers in metrics.json: agreement, the part of samples which a classifier gives the label they were asked for; its
ceiling classifier_accuracy, the part of test images which it gives theirs; frechet, the Frechet distance of samples to
test images in the classifier's features, and noise_floor, that of training images to test images; seconds of training.
The classifier is trained here with the same engine. Frechet distances in other features (Inception) do not compare.

Mirza & Osindero, "Conditional generative adversarial nets", 2014; R1: Mescheder et al. 2018.
"""
import numpy as np

import gan
import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run
from tinygen.lab.judge import Judge

LATENT = 64


class Generator(nn.Module):
    def __init__(self, pixels=784, hidden=256, latent=LATENT, classes=10):
        self.loudness = latent**0.5                                     # the length of z: e_y shall be heard beside it
        self.net = nn.Sequential(nn.Linear(latent + classes, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                                 nn.Linear(hidden, pixels), nn.Tanh())

    def forward(self, z, y):
        return self.net(tg.cat([z, self.loudness * y], axis=1))         # (B, 64), (B, 10) -> (B, 784)   slide, eq. (1)


class Discriminator(nn.Module):
    """One score for each class, "is this a real 0?", "a real 1?", ...; the label picks the one that counts.

    Ten more inputs beside 784 pixels would hardly be heard, and G would learn to ignore the label.
    """

    def __init__(self, pixels=784, hidden=256, classes=10):
        self.net = nn.Sequential(nn.Linear(pixels, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden),
                                 nn.LeakyReLU(0.2), nn.Linear(hidden, classes))

    def forward(self, x, y):
        return (self.net(x) * y).sum(axis=1, keepdims=True)             # (B, 784), (B, 10) -> (B, 1)


def discriminator_loss(D, real, fake, y):
    """-ln D = softplus(-score), -ln(1 - D) = softplus(score)."""
    return F.softplus(-D(real, y)).mean() + F.softplus(D(fake.detach(), y)).mean()                     # slide, eq. (2)


def generator_loss(D, fake, y):
    return F.softplus(-D(fake, y)).mean()                               # -E ln D(G(z, e_y), e_y)


def r1_penalty(D, real, y):
    """E |dD/dx|^2 at the data: keeps D from growing steep where G should come to rest (see dirac_gan.py)."""
    return gan.r1_penalty(lambda x: D(x, y), real)


@tg.no_grad()
def sample(G, labels):
    return G(tg.randn(len(labels), LATENT), F.one_hot(labels, 10))      # (N,) -> (N, 784)


def main(argv=None):
    job = run.Job("conditional_gan", __doc__, argv, data=data.IMAGES, steps=8000, batch=64, lr=2e-3, flags={
        "--r1": dict(type=run.number(float, 0), default=3.0, help="weight of the penalty R1")})
    args = job.args
    images, labels = data.images(args.data, folder=args.data_dir)
    x = 2 * images.flatten(1) - 1                                       # (N, 784) in [-1, 1]

    G, D = Generator(), Discriminator()
    optimizer_G, optimizer_D = [optim.Adam(player.parameters(), args.lr, betas=(0.0, 0.99)) for player in (G, D)]
    schedule_G, schedule_D = [optim.CosineLR(optimizer, args.steps) for optimizer in (optimizer_G, optimizer_D)]
    average, batches = optim.EMA(G, 0.999), data.Batches(len(x), args.batch, args.seed)
    for step in job.train(G=G, D=D, optimizer_G=optimizer_G, optimizer_D=optimizer_D, schedule_G=schedule_G,
                          schedule_D=schedule_D, average=average):
        real, y = x[batches[step]], F.one_hot(labels[batches[step]], 10)                # (B, 784), (B, 10)
        fake = G(tg.randn(len(real), LATENT), y)                        # (B, 784)       slide, eq. (1)

        loss_D, penalty = discriminator_loss(D, real, fake, y), 0.0
        if step % 4 == 0:                                               # seldom, and four times as strong: as good, faster
            penalty = 4 * args.r1 / 2 * r1_penalty(D, real, y)
        optimizer_D.zero_grad()
        (loss_D + penalty).backward()
        optimizer_D.step()

        loss_G = generator_loss(D, fake, y)
        optimizer_G.zero_grad()
        loss_G.backward()
        optimizer_G.step()

        schedule_D.step(), schedule_G.step(), average.update()
        job.log(D=loss_D, G=loss_G)

    judge = Judge(images, labels, *data.images(args.data, train=False, folder=args.data_dir),
                          steps=100 if args.quick else 3000)
    asked = tg.arange(judge.count).data % 10                        # (N,)   as many of each class
    samples = (sample(average.model, asked) + 1) / 2                    # (N, 784) in [0, 1]
    pictures(job, average.model, x, labels)
    job.finish(**judge(samples, asked), **judge.data)


@tg.no_grad()
def pictures(job, G, x, labels, rows=8):
    z = tg.randn(rows, LATENT)[tg.arange(rows * 10).data // 10]         # (80, 64)   one z per row
    asked = tg.arange(rows * 10).data % 10                              # (80,)      one class per column
    fig, (ax,) = plots.figure(1, 1, width=6, height=5)
    plots.pictures(ax, G(z, F.one_hot(asked, 10)), 10, "samples: one class per column, one z per row", low=-1)
    job.picture(fig, "samples.png")

    fig, (ax,) = plots.figure(1, 1, width=6, height=5)
    images, digits = x.numpy(), labels.numpy()
    columns = np.stack([images[digits == digit][:rows] for digit in range(10)], axis=1)     # (8, 10, 784)
    plots.pictures(ax, columns.reshape(rows * 10, -1), 10, "training images", low=-1)
    job.picture(fig, "real.png")

    job.picture(plots.losses(job.history), "loss.png")


if __name__ == "__main__":
    run.main(main)
