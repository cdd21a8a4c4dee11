"""DCGAN: the game of gan.py between two convolutional networks, and what made it stable enough for images.

Slide "Generative adversarial networks", models:

    model       x = G(z),   z ~ N(0, I)                                                                     (1)
    objective   min over G, max over D of   E ln D(x) + E ln(1 - D(G(z))),   D = sigmoid(score)             (2)
    walk        z(t) = cos(pi t / 2) z_a + sin(pi t / 2) z_b,   0 <= t <= 1:   z(t) ~ N(0, I) at every t    (3)

G maximises E ln D(G(z)) instead, the non-saturating form of (2). Why convolutions: what a stroke looks like does not
depend on where it is. The layer from 128x7x7 to 64x14x14 has 4 * 4 * 128 * 64 = 131,072 weights, which every place of
the image shares and trains; a linear layer of that size would have 78,675,968. The paper's rules, all kept here:

    no pooling: strides, so that D learns how to shrink an image, and G how to enlarge it                   (a)
    batch norm in both networks, but not where an image enters D or leaves G                                (b)
    no fully connected layer but the one which z enters and the one which makes the score                   (c)
    ReLU in G, and tanh where the image leaves it                                                           (d)
    leaky ReLU in D, so that a gradient reaches G through every unit                                        (e)

Adam has the paper's beta1 = 0.5 and, for D, its rate 2e-4. G, which has the harder task, learns five times as fast, and
beta2 = 0.99 in place of 0.999 suits so short a run.

Look at: samples.png (beside training images); walk.png (each row is a walk (3) from one z to another: shape turns into
shape without a jump, so G has not learnt images by heart); loss.png (dashed: 2 ln 2 and ln 2, the values where D can
only guess); samples_*.png (the same z at eight moments of the training).

Numbers in metrics.json: frechet, the Frechet distance of samples to test images in the features of a classifier, which
is trained here with the same engine, and noise_floor, that of training images to test images; classes, e to the entropy
of the digits which the classifier sees in the samples: 10 if all are equally frequent, 1 if G makes only one digit
(mode collapse); classifier_accuracy, the part of test images which the classifier gives their label; seconds of
training. Frechet distances in other features (Inception) do not compare.

Radford, Metz & Chintala, "Unsupervised representation learning with deep convolutional generative adversarial
networks", 2016; why the kernel's size is a multiple of the stride: Odena et al., "Deconvolution and checkerboard
artifacts", 2016.
"""
import math

import numpy as np

import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run
from tinygen.lab.judge import Judge

LATENT = 64


class Generator(nn.Module):
    """Each transposed convolution doubles the side: 2 (n - 1) - 2 padding + 4 = 2 n.

    4 is a multiple of the stride 2, so every pixel inside is stamped equally often: no checkerboard pattern.
    """

    def __init__(self, latent=LATENT, channels=64):                     # no bias before batch norm, which has its own
        self.net = nn.Sequential(
            nn.Linear(latent, 2 * channels * 7 * 7, bias=False),
            nn.Unflatten(1, (2 * channels, 7, 7)), nn.BatchNorm2d(2 * channels), nn.ReLU(),     # (B, 128, 7, 7)
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1, bias=False),     #          rule (a)
            nn.BatchNorm2d(channels), nn.ReLU(),                        # (B, 64, 14, 14)                 rules (b), (d)
            nn.ConvTranspose2d(channels, 1, 4, stride=2, padding=1), nn.Tanh())                 # (B, 1, 28, 28)

    def forward(self, z):
        return self.net(z)                                              # (B, 64) -> (B, 1, 28, 28)   slide, eq. (1)


class Discriminator(nn.Module):
    """The mirror image of G."""

    def __init__(self, channels=64):
        self.net = nn.Sequential(
            nn.Conv2d(1, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2),                  # (B, 64, 14, 14)  (e)
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1, bias=False),              # (B, 128, 7, 7)   (a)
            nn.BatchNorm2d(2 * channels), nn.LeakyReLU(0.2),            #                                 rules (b), (e)
            nn.Flatten(), nn.Linear(2 * channels * 7 * 7, 1))           # the score                       rule (c)

    def forward(self, x):
        return self.net(x)                                              # (B, 1, 28, 28) -> (B, 1)


def discriminator_loss(D, real, fake):
    """-ln D = softplus(-score), -ln(1 - D) = softplus(score). Real and fake pass D apart: batch norm sees one kind."""
    return F.softplus(-D(real)).mean() + F.softplus(D(fake.detach())).mean()            # slide, eq. (2)


def generator_loss(D, fake):
    return F.softplus(-D(fake)).mean()                                  # -E ln D(G(z))


@tg.no_grad()
def walk(G, start, end, stops=14):
    """From each z of start (N, 64) to the one of end in equal steps: (N * stops, 1, 28, 28), one walk after another."""
    angle = math.pi / 2 * tg.linspace(0, 1, stops).reshape(1, -1, 1)
    z = tg.cos(angle) * start[:, None] + tg.sin(angle) * end[:, None]   # (N, stops, 64)   slide, eq. (3)
    return G(z.reshape(-1, z.shape[-1]))


def main(argv=None):
    job = run.Job("dcgan", __doc__, argv, data=data.IMAGES, steps=1000, batch=64, lr=2e-4, quick=2)
    args = job.args
    images, labels = data.images(args.data, folder=args.data_dir, limit=500 if args.quick else None)
    x = 2 * images - 1                                                  # (N, 1, 28, 28) in [-1, 1]

    G, D = Generator(), Discriminator()
    optimizer_G = optim.Adam(G.parameters(), 5 * args.lr, betas=(0.5, 0.99))
    optimizer_D = optim.Adam(D.parameters(), args.lr, betas=(0.5, 0.99))
    schedule_G, schedule_D = [optim.CosineLR(optimizer, args.steps) for optimizer in (optimizer_G, optimizer_D)]
    average, batches = optim.EMA(G, 0.99), data.Batches(len(x), args.batch, args.seed)
    z = tg.randn(80, LATENT)                                            # which the sheets show
    for step in job.train(G=G, D=D, optimizer_G=optimizer_G, optimizer_D=optimizer_D, schedule_G=schedule_G,
                          schedule_D=schedule_D, average=average, show=lambda: plots.sheet(average.model(z))):
        real = x[batches[step]]                                         # (B, 1, 28, 28)
        fake = G(tg.randn(len(real), LATENT))                           # (B, 1, 28, 28)   slide, eq. (1)

        loss_D = discriminator_loss(D, real, fake)
        optimizer_D.zero_grad()
        loss_D.backward()
        optimizer_D.step()

        loss_G = generator_loss(D, fake)
        optimizer_G.zero_grad()
        loss_G.backward()
        optimizer_G.step()

        schedule_D.step(), schedule_G.step(), average.update()
        job.log(D=loss_D, G=loss_G)

    job.finish(**numbers(job, average.model, images, labels))


def numbers(job, G, images, labels):
    """Samples as a classifier sees them; and the pictures."""
    args, size = job.args, 150 if job.args.quick else None
    judge = Judge(images, labels, *data.images(args.data, train=False, folder=args.data_dir, limit=size),
                          steps=100 if args.quick else 3000)
    samples = metrics.in_blocks(lambda z: (G(z) + 1) / 2, tg.randn(judge.count, LATENT))    # (N, 1, 28, 28)
    digits = metrics.in_blocks(judge.classifier, samples).argmax(axis=1)                        # (N,)
    part = np.bincount(digits, minlength=10) / len(digits)                                      # (10,)
    pictures(job, G, images)
    return dict(**judge(samples), **judge.data, classes=math.exp(-sum(p * math.log(p) for p in part if p)))


@tg.no_grad()
def pictures(job, G, images):
    fig, (left, right) = plots.figure(1, 2, 5)
    plots.pictures(left, images[:100], 10, "training images")
    plots.pictures(right, G(tg.randn(100, LATENT)), 10, "samples", low=-1)
    job.picture(fig, "samples.png")

    start, end = tg.randn(2, 10, LATENT)
    job.picture(plots.sheet(walk(G, start, end, stops=14), 14, ["$z_a$"] + 12 * [""] + ["$z_b$"]), "walk.png")
    job.picture(plots.losses(job.history), "loss.png")


if __name__ == "__main__":
    run.main(main)
