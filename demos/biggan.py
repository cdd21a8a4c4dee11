"""BigGAN: every block of G hears the class, D asks how well the image fits it, and a dial trades variety for fidelity.

Slide "Generative adversarial networks", models. With x an image, y its label, e_y and v_y learnt for each y:

    condition    c = [z, e_y],   z ~ N(0, I)                                                                (1)
    model        G(c), its blocks' batch norms scaled and shifted by c:   (1 + A c) standardised h + B c     (2)
    projection   D(x, y) = w.f(x) + b + v_y.f(x),   f(x) the sum over all places of what D has found        (3)
    objective    min over D of   E max(0, 1 - D(x, y)) + E max(0, 1 + D(G(c), y)),   the hinge loss         (4)
                 min over G of   -E D(G(c), y)                                                              (5)
    truncation   each z_i ~ N(0, 1) given |z_i| <= threshold, once G is trained                             (6)

Why (3): if p(y given x) is a softmax of linear functions of f(x), both for data and for samples, then the difference of
ln p(y given x) between them is v_y.f(x) plus a function of x alone, for which w.f(x) + b is there. Spectral norm divides
each weight of D, as a matrix, by its largest singular value, which bounds how steep D can grow (R1 does this in
conditional_gan.py). Blocks are residual, and pixels at 7x7 attend to each other. Samples come from the average of G over
the training (EMA), whose batch norms first take mean and variance from fresh z, the "standing statistics".

Look at: truncation.png (with a small threshold all samples are alike and right, with none they vary and some are wrong;
a dot for each threshold, the star for data); samples.png (one class per column, one z per row: a row keeps its style);
interpolation.png (each row walks from a class to the next and keeps z); loss.png (dashed: 2 and 0, where D can only
guess); samples_*.png (the same z at eight moments of the training).

Numbers in metrics.json: agreement, the part of samples which a classifier gives the label they were asked for; its
ceiling classifier_accuracy, the part of test images which it gives theirs; frechet, the Frechet distance of samples to
test images in the classifier's features, and noise_floor, that of training images to test images; variety, the root
mean squared distance of samples to the mean of their class, divided by that of test images; agreement_truncated,
frechet_truncated and variety_truncated, the same for the threshold 0.5; seconds of training. The classifier is trained
here with the same engine. Frechet distances in other features (Inception) do not compare.

Brock, Donahue & Simonyan, "Large scale GAN training for high fidelity natural image synthesis", 2019; projection:
Miyato & Koyama 2018; spectral norm: Miyato et al. 2018; attention: Zhang et al. 2019; hinge loss: Lim & Ye 2017.
"""
import math

import numpy as np

import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run
from tinygen.lab.judge import Judge

LATENT, TRUNCATION, THRESHOLDS = 16, 0.5, (0.1, 0.5, 1.0, 1.5, math.inf)


def conv(inputs, outputs, kernel=3):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)      # the side stays as it is


class Up(nn.Module):
    """A residual block of G: doubles the side, and both its normalisations listen to c."""

    def __init__(self, inputs, outputs, conditions):
        self.norm1, self.norm2 = [nn.ConditionalBatchNorm2d(channels, conditions) for channels in (inputs, outputs)]
        self.conv1, self.conv2, self.skip = conv(inputs, outputs), conv(outputs, outputs), conv(inputs, outputs, 1)

    def forward(self, x, c):
        h = self.conv1(F.interpolate(F.relu(self.norm1(x, c)), scale_factor=2))   # (B, C, H, W) -> (B, C', 2 H, 2 W)
        h = self.conv2(F.relu(self.norm2(h, c)))                        #                  slide, eq. (2): norm1, norm2
        return F.interpolate(self.skip(x), scale_factor=2) + h      # 1x1, so it may go first: a quarter of the work


class Generator(nn.Module):
    """Attention at 7x7, where it compares 49^2 pairs of pixels; at 14x14 there are 16 times as many."""

    def __init__(self, latent=LATENT, embedding=16, channels=(64, 32, 16)):
        conditions, self.first = latent + embedding, (channels[0], 7, 7)
        self.embed = nn.Parameter(tg.randn(10, embedding).data)         # as loud as z
        self.start, self.attention = nn.Linear(conditions, math.prod(self.first)), nn.SelfAttention(channels[0])
        self.blocks = [Up(inputs, outputs, conditions) for inputs, outputs in zip(channels, channels[1:])]
        self.end = nn.Sequential(nn.BatchNorm2d(channels[-1]), nn.ReLU(), conv(channels[-1], 1), nn.Tanh())

    def forward(self, z, y):
        c = tg.cat([z, y @ self.embed], axis=1)                         # (B, 16), (B, 10) -> (B, 32)   slide, eq. (1)
        x = self.attention(self.start(c).reshape(-1, *self.first))      # (B, 64, 7, 7)
        for block in self.blocks:
            x = block(x, c)                                             # (B, 32, 14, 14), then (B, 16, 28, 28)
        return self.end(x)                                              # (B, 1, 28, 28)


def normed(layer):
    """Spectral norm, on weights whose singular values all begin as 1: dividing by the largest then makes none small."""
    left, _, right = np.linalg.svd(layer.weight.numpy().reshape(len(layer.weight), -1), full_matrices=False)
    layer.weight.data[...] = tg.Tensor(left @ right).data.reshape(layer.weight.shape)
    return nn.spectral_norm(layer)


class Down(nn.Module):
    """A residual block of D: divides the side by `pool`."""

    def __init__(self, inputs, outputs, pool):
        self.conv1, self.conv2 = normed(conv(inputs, inputs)), normed(conv(inputs, outputs))
        self.skip, self.pool = normed(conv(inputs, outputs, 1)), pool

    def forward(self, x):
        h = self.conv2(F.relu(self.conv1(F.relu(x))))                   # (B, C, H, W) -> (B, C', H, W)
        return self.skip(F.avg_pool2d(x, self.pool)) + F.avg_pool2d(h, self.pool)       # (B, C', H / pool, W / pool)


class Discriminator(nn.Module):
    """The first layer makes 32 numbers of every 4x4 pixels, in steps of 2, and so spares all blocks the costly 28x28."""

    def __init__(self, first=32, last=64):
        self.net = nn.Sequential(normed(nn.Conv2d(1, first, 4, stride=2, padding=1)),   # (B, 32, 14, 14)
                                 Down(first, last, 2), Down(last, last, 1), nn.ReLU())  # (B, 64, 7, 7)
        self.score, self.embed = normed(nn.Linear(last, 1)), normed(nn.Linear(10, last, bias=False))

    def forward(self, x, y):
        f = self.net(x).sum(axis=(2, 3))                                # (B, 64)
        return self.score(f) + (self.embed(y) * f).sum(axis=1, keepdims=True)           # (B, 1)        slide, eq. (3)


def discriminator_loss(D, real, fake, y):
    return F.relu(1 - D(real, y)).mean() + F.relu(1 + D(fake.detach(), y)).mean()       # slide, eq. (4)


def generator_loss(D, fake, y):
    return -D(fake, y).mean()                                           # slide, eq. (5)


def truncated(n, threshold):
    """Numbers that fall outside are drawn again, until none does.

    z has only 16 of them: the longer z, the farther from 0 it lies in training, and G need not make sense near 0.
    """
    z = tg.randn(n, LATENT)
    while (outside := abs(z) > threshold).any():
        z = tg.where(outside, tg.randn(n, LATENT), z)                   # (n, 16)          slide, eq. (6)
    return z


@tg.no_grad()
def standing(G, passes, batch=64):
    """Averaged weights have never met a batch: give each batch norm mean and variance of what they make of fresh z."""
    G.train()
    for n in range(passes):
        for norm in G.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 1 / (n + 1)                             # the plain mean over the passes
        G(tg.randn(batch, LATENT), F.one_hot(tg.randint(0, 10, (batch,)), 10))
    return G.eval()


def sample(G, asked, threshold=math.inf):
    """Images in [0, 1] of the classes asked for, as a NumPy array."""
    return metrics.in_blocks(lambda y: (G(truncated(len(y), threshold), F.one_hot(y, 10)) + 1) / 2, asked)


def main(argv=None):
    job = run.Job("biggan", __doc__, argv, data=data.IMAGES, steps=1000, batch=32, lr=1e-3, quick=2)
    args = job.args
    images, labels = data.images(args.data, folder=args.data_dir, limit=500 if args.quick else None)

    G, D = Generator(), Discriminator()
    optimizer_G, optimizer_D = [optim.Adam(player.parameters(), lr, betas=(0.0, 0.99))
                                for player, lr in ((G, args.lr), (D, 2 * args.lr))]     # D has to keep up with G
    schedule_G, schedule_D = [optim.CosineLR(optimizer, args.steps) for optimizer in (optimizer_G, optimizer_D)]
    average, batches = optim.EMA(G, 0.99), data.Batches(len(images), args.batch, args.seed)
    z, column = tg.randn(8, LATENT)[tg.arange(80).data // 10], F.one_hot(tg.arange(80).data % 10, 10)    # of the sheets
    finished = lambda: standing(average.model, passes=1 if args.quick else 10)
    for step in job.train(G=G, D=D, optimizer_G=optimizer_G, optimizer_D=optimizer_D, schedule_G=schedule_G,
                          schedule_D=schedule_D, average=average, show=lambda: plots.sheet(finished()(z, column))):
        real, y = 2 * images[batches[step]] - 1, F.one_hot(labels[batches[step]], 10)   # (B, 1, 28, 28), (B, 10)
        fake = G(tg.randn(len(real), LATENT), y)                        # (B, 1, 28, 28)   slide, eq. (2)

        loss_D = discriminator_loss(D, real, fake, y)
        optimizer_D.zero_grad()
        loss_D.backward()
        optimizer_D.step()

        loss_G = generator_loss(D, fake, y)
        optimizer_G.zero_grad()
        loss_G.backward()
        optimizer_G.step()

        schedule_D.step(), schedule_G.step(), average.update()
        job.log(D=loss_D, G=loss_G)

    G = finished()
    job.picture(plots.sheet(G(z, column)), "samples.png")
    test, digits = data.images(args.data, train=False, folder=args.data_dir, limit=150 if args.quick else None)
    judge = Judge(images, labels, test, digits, steps=50 if args.quick else 3000)
    asked = np.arange(judge.count) % 10
    samples = {threshold: sample(G, tg.Tensor(asked), threshold) for threshold in THRESHOLDS}
    spread = metrics.spread_within_classes
    found = {threshold: judge(x, asked) | dict(variety=spread(x, asked) / spread(test, digits)) for threshold, x in samples.items()}
    pictures(job, G, found, judge.data["test_accuracy"])
    job.finish(**found[math.inf], **{f"{key}_truncated": n for key, n in found[TRUNCATION].items()}, **judge.data)


@tg.no_grad()
def pictures(job, G, found, ceiling, stops=12):
    t, e = tg.linspace(0, 1, stops).reshape(-1, 1), tg.eye(10)[:, None]                 # (12, 1), (10, 1, 10)
    y = (1 - t) * e + t * e[tg.arange(1, 11).data % 10]                 # (10, 12, 10)
    z = truncated(10, 1.0)[tg.arange(10 * stops).data // stops]         # (120, 16)
    job.picture(plots.sheet(G(z, y.reshape(-1, 10)), stops), "interpolation.png")

    fig, (left, middle, right) = plots.figure(1, 3, 3.6)
    for ax, threshold, title in ((left, 0.1, "threshold 0.1"), (right, math.inf, "not truncated")):
        plots.pictures(ax, sample(G, tg.Tensor(np.full(36, 4)), threshold), 6, title)
    variety, fidelity = [[numbers[name] for numbers in found.values()] for name in ("variety", "accuracy")]
    middle.plot(variety, fidelity, "o-", color=plots.MODEL)
    for threshold, *place in zip(found, variety, fidelity):
        middle.annotate(f"{threshold:g}".replace("inf", r"$\infty$"), place, (4, 4), textcoords="offset points")
    middle.plot(1, ceiling, "*", markersize=12, color=plots.DATA)
    middle.set(xlabel="variety (data: 1)", ylabel="taken for the digit asked for")
    job.picture(fig, "truncation.png")

    job.picture(plots.losses(job.history, guesses=(2, 0), ylim=(-1, 4)), "loss.png")    # the first steps swing far beyond


if __name__ == "__main__":
    run.main(main)
