"""DCGAN: the game of gan.py between two convolutional networks, stable enough for images.

Slide "Generative adversarial networks", models:

    model          x = G(z),   z ~ N(0, I)                                                    (1)
    objective      min over G, max over D of   E ln D(x) + E ln(1 - D(G(z))),                 (2)
                   D = sigmoid(score)
    interpolation  z(t) = cos(pi t / 2) z_a + sin(pi t / 2) z_b,   0 <= t <= 1:               (3)
                   z(t) ~ N(0, I) at every t

G maximizes E ln D(G(z)) instead, the non-saturating form of (2).

Why convolutions: what a stroke looks like does not depend on where it is. The layer from 128x7x7 to
64x14x14 has 4 * 4 * 128 * 64 = 131,072 weights, and all places of the image share and train them. A
linear layer between the same sizes would have 78,675,968.

The paper's rules, all kept here:

    no pooling but strides: D learns how to shrink an image, and G how to enlarge it          (a)
    batch norm in both networks, but not where an image enters D or leaves G                  (b)
    no fully connected layer except the one that takes z and the one that makes the score     (c)
    ReLU in G, and tanh where the image leaves it                                             (d)
    leaky ReLU in D, so that a gradient reaches G through every unit                          (e)

Adam has the paper's beta1 = 0.5 and, for D, its rate 2e-4. G has the harder task and learns five
times as fast. The run is short, so beta2 is 0.99 instead of 0.999.

Look at:
    samples.png        training images and samples
    interpolation.png  each row leads from one z to another by (3): shape turns into shape without a
                       jump, so G has not learned images by heart
    loss.png           dashed: 2 ln 2 and ln 2, the values where D can only guess
    samples_*.png      the same z at eight moments of the training

Numbers in metrics.json (the classifier is trained here with the same engine):
    frechet            the Frechet distance of samples to test images in the classifier's features;
                       distances in other features, such as Inception's, do not compare
    frechet_floor      that of training images to test images
    classes            e to the entropy of the digits that the classifier finds in the samples: 10
                       if all are equally frequent, 1 if G makes only one digit (mode collapse)
    test_accuracy      the fraction of test images that the classifier gives their label
    seconds            of training

Radford, Metz & Chintala, "Unsupervised representation learning with deep convolutional generative
adversarial networks", 2016. Why the kernel's size is a multiple of the stride: Odena et al.,
"Deconvolution and checkerboard artifacts", 2016.
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

    The kernel's size 4 is a multiple of the stride 2, so it covers all inner pixels equally often:
    no checkerboard pattern. A layer before batch norm has no bias, because batch norm has its own.
    (a) to (d) are the rules above.
    """

    def __init__(self, latent=LATENT, channels=64):
        self.net = nn.Sequential(
            nn.Linear(latent, 2 * channels * 7 * 7, bias=False),      #                  (c)
            nn.Unflatten(1, (2 * channels, 7, 7)),                    # (B, 128, 7, 7)
            nn.BatchNorm2d(2 * channels), nn.ReLU(),                  #                  (b), (d)
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels), nn.ReLU(),                      # (B, 64, 14, 14)
            nn.ConvTranspose2d(channels, 1, 4, stride=2, padding=1),  # (B, 1, 28, 28)   (a)
            nn.Tanh())                                                #                  (d)

    def forward(self, z):
        return self.net(z)                                  # (B, 1, 28, 28)   slide, eq. (1)


class Discriminator(nn.Module):
    """The mirror image of G, by the rules (a), (b), (c), (e)."""

    def __init__(self, channels=64):
        self.net = nn.Sequential(
            nn.Conv2d(1, channels, 4, stride=2, padding=1),           # (B, 64, 14, 14)  (a)
            nn.LeakyReLU(0.2),                                        #                  (e)
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * channels), nn.LeakyReLU(0.2),          # (B, 128, 7, 7)   (b), (e)
            nn.Flatten(), nn.Linear(2 * channels * 7 * 7, 1))         # (B, 1)           (c)

    def forward(self, x):
        return self.net(x)                                  # (B, 1, 28, 28) -> (B, 1)


def discriminator_loss(D, real, fake):
    """-ln D = softplus(-score), -ln(1 - D) = softplus(score).

    Real and fake images pass D separately, so that batch norm sees one kind at a time.
    """
    return F.softplus(-D(real)).mean() + F.softplus(D(fake.detach())).mean()    # slide, eq. (2)


def generator_loss(D, fake):
    return F.softplus(-D(fake)).mean()                      # -E ln D(G(z))


@tg.no_grad()
def interpolate(G, start, end, stops=14):
    """Images on the way from each z of start (N, 64) to the one of end: (N * stops, 1, 28, 28)."""
    angle = math.pi / 2 * tg.linspace(0, 1, stops).reshape(-1, 1)  # (stops, 1)
    start, end = start[:, None], end[:, None]                      # (N, 1, 64)
    z = tg.cos(angle) * start + tg.sin(angle) * end                # (N, stops, 64)   slide, eq. (3)
    return G(z.reshape(-1, z.shape[-1]))


def main(argv=None):
    job = run.Job("dcgan", __doc__, argv, data=data.IMAGES, steps=1000, batch=64, lr=2e-4, quick=2)
    args = job.args
    images, labels = data.images(args.data, folder=args.data_dir, limit=500 if args.quick else None)
    x = 2 * images - 1                                      # (N, 1, 28, 28) in [-1, 1]
    G = Generator()
    D = Discriminator()
    optimizer_G = optim.Adam(G.parameters(), 5 * args.lr, betas=(0.5, 0.99))
    optimizer_D = optim.Adam(D.parameters(), args.lr, betas=(0.5, 0.99))
    schedule_G = optim.CosineLR(optimizer_G, args.steps)
    schedule_D = optim.CosineLR(optimizer_D, args.steps)
    ema = optim.EMA(G, 0.99)
    batches = data.Batches(len(x), args.batch, args.seed)
    z = tg.randn(80, LATENT)                                # of samples_*.png
    for step in job.train(G=G, D=D, optimizer_G=optimizer_G, optimizer_D=optimizer_D,
                          schedule_G=schedule_G, schedule_D=schedule_D, average=ema,
                          show=lambda: plots.sheet(ema.model(z))):
        real = x[batches[step]]                             # (B, 1, 28, 28)
        fake = G(tg.randn(len(real), LATENT))               # (B, 1, 28, 28)   slide, eq. (1)

        loss_D = discriminator_loss(D, real, fake)
        optimizer_D.zero_grad()
        loss_D.backward()
        optimizer_D.step()

        loss_G = generator_loss(D, fake)
        optimizer_G.zero_grad()
        loss_G.backward()
        optimizer_G.step()

        schedule_D.step()
        schedule_G.step()
        ema.update()
        job.log(D=loss_D, G=loss_G)
    numbers = measure(job, ema.model, images, labels)
    pictures(job, ema.model, images)
    job.finish(**numbers)


# Numbers and pictures -----------------------------------------------------------------------------

def measure(job, G, images, labels):
    """What a classifier finds in samples."""
    args = job.args
    test, digits = data.images(args.data, train=False, folder=args.data_dir,
                               limit=150 if args.quick else None)
    judge = Judge(images, labels, test, digits, steps=100 if args.quick else 3000)
    z = tg.randn(judge.count, LATENT)
    samples = metrics.in_blocks(lambda z: (G(z) + 1) / 2, z)            # (N, 1, 28, 28)
    found = metrics.in_blocks(judge.classifier, samples).argmax(axis=1)     # (N,)
    fractions = np.bincount(found, minlength=10) / len(found)           # (10,)
    entropy = -sum(p * math.log(p) for p in fractions if p)
    return dict(**judge(samples), **judge.data, classes=math.exp(entropy))


@tg.no_grad()
def pictures(job, G, images):
    fig, (left, right) = plots.figure(1, 2, 5)
    plots.pictures(left, images[:100], 10, "training images")
    plots.pictures(right, G(tg.randn(100, LATENT)), 10, "samples", low=-1)
    job.picture(fig, "samples.png")

    start, end = tg.randn(2, 10, LATENT)
    labels = ["$z_a$"] + 12 * [""] + ["$z_b$"]
    job.picture(plots.sheet(interpolate(G, start, end), 14, labels), "interpolation.png")
    job.picture(plots.losses(job.history), "loss.png")


if __name__ == "__main__":
    run.main(main)
