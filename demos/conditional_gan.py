"""Class-conditional GAN: digits on demand. Both players receive the label.

Slide "Class-conditional generation", with y a label and e_y its row of zeros with a one:

    model       x = G(z, e_y),   z ~ N(0, I)                                                  (1)
    objective   min over G, max over D of   E ln D(x, e_y) + E ln(1 - D(G(z, e_y), e_y)),     (2)
                D = sigmoid(score)

G maximizes E ln D instead, the non-saturating form of (2). D needs the label as well: a D that
receives only the image accepts any digit for any label, and G then ignores y.

Look at:
    samples.png   one class per column, one z per row: a row keeps its style
    real.png      training images in the same order
    loss.png      dashed: 2 ln 2 and ln 2, the values where D can only guess

Numbers in metrics.json:
    accuracy        the fraction of samples that a classifier takes for the label they were asked
                    for; it is trained here with the same engine
    test_accuracy   the same of test images, the ceiling of accuracy
    frechet         the Frechet distance of samples to test images in the classifier's features;
                    distances in other features (Inception) do not compare
    frechet_floor   that of training images to test images
    seconds         of training

Mirza & Osindero, "Conditional generative adversarial nets", 2014; R1: Mescheder et al. 2018.
"""
import numpy as np

import gan
import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, plots, run
from tinygen.lab.judge import Judge

LATENT = 64


class Generator(nn.Module):
    def __init__(self, pixels=784, hidden=256, latent=LATENT, classes=10):
        self.scale = latent**0.5                # the typical |z|; with it e_y is as long as z
        self.net = nn.Sequential(
            nn.Linear(latent + classes, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, pixels), nn.Tanh())

    def forward(self, z, y):
        inputs = tg.cat([z, self.scale * y], axis=1)            # (B, 64), (B, 10) -> (B, 74)
        return self.net(inputs)                                 # (B, 784)    slide, eq. (1)


class Discriminator(nn.Module):
    """One score for each class, "is this a real 0?", "a real 1?", ...; the label selects one.

    Ten more inputs next to 784 pixels would have little effect, and G would learn to ignore the
    label.
    """

    def __init__(self, pixels=784, hidden=256, classes=10):
        self.net = nn.Sequential(
            nn.Linear(pixels, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2), nn.Linear(hidden, classes))

    def forward(self, x, y):
        scores = self.net(x)                                    # (B, 784) -> (B, 10)
        return (scores * y).sum(axis=1, keepdims=True)          # (B, 1)


def discriminator_loss(D, real, fake, y):
    """-ln D = softplus(-score), -ln(1 - D) = softplus(score)."""
    on_real = F.softplus(-D(real, y)).mean()
    on_fake = F.softplus(D(fake.detach(), y)).mean()
    return on_real + on_fake                                    #             slide, eq. (2)


def generator_loss(D, fake, y):
    return F.softplus(-D(fake, y)).mean()                       # -E ln D(G(z, e_y), e_y)


def r1_penalty(D, real, y):
    """E |dD/dx|^2 at the data keeps D flat where G should come to rest (see dirac_gan.py)."""
    return gan.r1_penalty(lambda x: D(x, y), real)


@tg.no_grad()
def sample(G, labels):
    z = tg.randn(len(labels), LATENT)                           # (N, 64)
    return G(z, F.one_hot(labels, 10))                          # (N, 784)


def main(argv=None):
    job = run.Job("conditional_gan", __doc__, argv, data=data.IMAGES, steps=8000, batch=64, lr=2e-3,
                  flags=FLAGS)
    args = job.args
    images, labels = data.images(args.data, folder=args.data_dir)
    x = 2 * images.flatten(1) - 1                               # (N, 784) in [-1, 1]
    G = Generator()
    D = Discriminator()
    optimizer_G = optim.Adam(G.parameters(), args.lr, betas=(0.0, 0.99))
    optimizer_D = optim.Adam(D.parameters(), args.lr, betas=(0.0, 0.99))
    schedule_G = optim.CosineLR(optimizer_G, args.steps)
    schedule_D = optim.CosineLR(optimizer_D, args.steps)
    ema = optim.EMA(G, 0.999)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(G=G, D=D, optimizer_G=optimizer_G, optimizer_D=optimizer_D,
                          schedule_G=schedule_G, schedule_D=schedule_D, average=ema):
        batch = batches[step]                                   # (B,) indices
        real = x[batch]                                         # (B, 784)
        y = F.one_hot(labels[batch], 10)                        # (B, 10)
        fake = G(tg.randn(len(real), LATENT), y)                # (B, 784)    slide, eq. (1)
        loss_D = discriminator_loss(D, real, fake, y)
        penalty = 0.0
        if step % 4 == 0:  # less often, but four times as strong: as good, and faster
            penalty = 4 * args.r1 / 2 * r1_penalty(D, real, y)
        optimizer_D.zero_grad()
        (loss_D + penalty).backward()
        optimizer_D.step()
        loss_G = generator_loss(D, fake, y)
        optimizer_G.zero_grad()
        loss_G.backward()
        optimizer_G.step()
        schedule_D.step()
        schedule_G.step()
        ema.update()
        job.log(D=loss_D, G=loss_G)
    test = data.images(args.data, train=False, folder=args.data_dir)
    judge = Judge(images, labels, *test, steps=100 if args.quick else 3000)
    asked = tg.arange(judge.count).data % 10                    # (N,)        as many of each class
    samples = (sample(ema.model, asked) + 1) / 2                # (N, 784) in [0, 1]
    pictures(job, ema.model, x, labels)
    job.finish(**judge(samples, asked), **judge.data)


# Numbers and pictures -----------------------------------------------------------------------------

FLAGS = {"--r1": dict(type=run.number(float, 0), default=3.0, help="weight of the penalty R1")}


@tg.no_grad()
def pictures(job, G, x, labels, rows=8):
    index = tg.arange(rows * 10).data                           # (80,)
    z = tg.randn(rows, LATENT)[index // 10]                     # (80, 64)    one z per row
    asked = F.one_hot(index % 10, 10)                           # (80, 10)    one class per column
    fig, (ax,) = plots.figure(1, 1, width=6, height=5)
    title = "samples: one class per column, one z per row"
    plots.pictures(ax, G(z, asked), 10, title, low=-1)
    job.picture(fig, "samples.png")

    fig, (ax,) = plots.figure(1, 1, width=6, height=5)
    x = x.numpy()
    labels = labels.numpy()
    columns = [x[labels == label][:rows] for label in range(10)]
    real = np.stack(columns, axis=1).reshape(rows * 10, -1)     # (80, 784)
    plots.pictures(ax, real, 10, "training images", low=-1)
    job.picture(fig, "real.png")

    job.picture(plots.losses(job.history), "loss.png")


if __name__ == "__main__":
    run.main(main)
