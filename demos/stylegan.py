"""StyleGAN: z no longer enters the image network; it becomes a style, which tells every layer what to do, coarse to fine.

Slide "Generative adversarial networks", models. A network f turns z into w, the style. G starts from one 7x7 image that
it has learnt and that is the same for all samples; in each of its six layers an affine map A of its own makes w into a
scale s and a shift b for every channel:

    mapping     w = f(z / rms(z)),   z ~ N(0, I)                                                            (1)
    a layer     y = leaky(convolution of x + strength * noise),   noise ~ N(0, I), one number per pixel     (2)
    AdaIN       x_c <- (1 + s_c) (y_c - mean(y_c)) / std(y_c) + b_c   for each channel c,   (s, b) = A w    (3)
    mixing      layers 1, ..., k listen to w_1, the others to w_2; in training k ~ Uniform{1, ..., 6}       (4)
    truncation  w' = wbar + psi (w - wbar),   wbar = E w                                                    (5)

(3) wipes out the size and level that the layers before had set, so each style holds until the next one replaces it: those of 7x7 and
14x14 say which digit and how it leans, those of 28x28 how thick the pen is. (4) keeps layers from relying on the style
of others, and the noise in (2) frees w from what is mere chance. The losses are those of dcgan.py; in place of batch
norm the penalty R1 keeps D from growing steep at the data (see dirac_gan.py). f learns a hundred times as slowly as the
rest, as in the paper: at full speed it soon maps all z to a few digits, and some are never made.

Look at: mixing.png (coarse layers listen to the digit on the left, fine ones to the one above); truncation.png (one z a
row; psi = 0: the mean digit, to the right the digits differ more and more, until they fall apart); noise.png (one style
a row, several noises, and the standard deviation of each pixel: chance moves only the outline); samples.png; loss.png
(dashed: 2 ln 2 and ln 2, the values where D can only guess); samples_*.png (the same z at eight moments).

Numbers in metrics.json: frechet, the Frechet distance of samples to test images in the features of a classifier, which
is trained here with the same engine; frechet_truncated, that of samples with psi = 0.7, each more typical and all
together less varied; noise_floor, that of training images to test images; classifier_accuracy, the part of test images
which the classifier gives their label; seconds of training. Frechet distances in other features do not compare.

Karras, Laine & Aila, "A style-based generator architecture for generative adversarial networks", 2019; AdaIN: Huang &
Belongie 2017; R1: Mescheder et al. 2018; batches seen as a whole: Karras et al., "Progressive growing of GANs", 2018.
"""
import numpy as np

import tinygen as tg
from dcgan import discriminator_loss, generator_loss
from gan import r1_penalty
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run
from tinygen.lab.judge import Judge

LATENT = 64
SIDES, CHANNELS = (7, 7, 14, 14, 28, 28), (64, 64, 32, 32, 16, 16)      # of what the six layers of G make


def adain(y, style):
    """Adaptive instance normalisation: each channel of each image gets the size and level that the style asks for."""
    style = style.reshape(len(style), 2, -1, 1, 1)                      # (B, 2 C) -> (B, 2, C, 1, 1)
    return (1 + style[:, 0]) * F.standardize(y, axis=(2, 3)) + style[:, 1]              # slide, eq. (3)


class Layer(nn.Module):
    def __init__(self, inputs, outputs, latent, double):
        self.double = double
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.strength = nn.Parameter(tg.zeros(outputs, 1, 1).data)      # of the noise in each channel: at first none
        self.affine = nn.Linear(latent, 2 * outputs)                    # A

    def forward(self, x, w, noise):
        x = F.interpolate(x, scale_factor=2) if self.double else x      # (B, C, 7, 7) -> (B, C, 14, 14)
        y = F.leaky_relu(self.conv(x) + self.strength * noise, negative_slope=0.2)      # slide, eq. (2)
        return adain(y, self.affine(w))


class Generator(nn.Module):
    def __init__(self, latent=LATENT, channels=CHANNELS):
        self.f = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(latent, latent), nn.LeakyReLU(0.2))])
        for p in self.f.parameters():
            p.data *= 6**0.5                                            # He's initial weights: w is as large as z
        self.w_mean = nn.Buffer(tg.zeros(latent).data)                  # follows E w in training
        self.constant = nn.Parameter(tg.randn(1, channels[0], SIDES[0], SIDES[0]).data)
        self.layers = [Layer(inputs, outputs, latent, double=i in (2, 4))
                       for i, (inputs, outputs) in enumerate(zip(channels[:1] + channels, channels))]
        self.to_image = nn.Conv2d(channels[-1], 1, 1)

    def mapping(self, z, psi=1.0):
        w = self.f(z / tg.sqrt((z * z).mean(axis=1, keepdims=True)))    # (B, 64)   slide, eq. (1)
        if self.training:
            self.w_mean.data += 0.01 * (w.data.mean(axis=0) - self.w_mean.data)
        return self.w_mean + psi * (w - self.w_mean)                    # slide, eq. (5)

    def noise(self, n):
        return [tg.randn(n, 1, side, side) for side in SIDES]

    def synthesis(self, styles, noise):
        """Images for styles (B, 6, 64), one for each layer."""
        x = self.constant                                               # (1, 64, 7, 7), the same for all
        for i, layer in enumerate(self.layers):
            x = layer(x, styles[:, i], noise[i])                        # (B, C, side, side)
        return tg.tanh(self.to_image(x))                                # (B, 1, 28, 28)

    def forward(self, z, psi=1.0):
        w = self.mapping(z, psi)                                        # (B, 64)
        return self.synthesis(mix(w, w, 0), self.noise(len(z)))


def mix(w1, w2, k):
    """Layers 1, ..., k listen to w1, the others to w2. k is a number, or a column (B, 1): one for each image."""
    number = tg.arange(1, len(SIDES) + 1).data                          # (6,)
    return tg.where((number <= k)[..., None], w1[:, None], w2[:, None])  # (B, 6, 64)   slide, eq. (4)


class Discriminator(nn.Module):
    """D also sees how different the images of a batch are: a G that makes one digit only is found out by that."""

    def __init__(self, channels=32, hidden=128):
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2),              # (B, 32, 14, 14)
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2))   # (B, 64, 7, 7)
        self.score = nn.Sequential(nn.Flatten(), nn.Linear((2 * channels + 1) * 7 * 7, hidden), nn.LeakyReLU(0.2),
                                   nn.Linear(hidden, 1))

    def forward(self, x):
        h = self.features(x)                                            # (B, 1, 28, 28) -> (B, 64, 7, 7)
        spread = tg.sqrt(tg.var(h, axis=0) + 1e-8).mean(axis=0)         # (7, 7)    a root has no derivative at 0
        spread = tg.broadcast_to(spread, shape=(len(h), 1, 7, 7))
        return self.score(tg.cat([h, spread], axis=1))                  # (B, 65, 7, 7) -> (B, 1)


def main(argv=None):
    job = run.Job("stylegan", __doc__, argv, data=data.IMAGES, steps=1750, batch=32, lr=2e-3, quick=2, flags={
        "--r1": dict(type=run.number(float, 0), default=0.3, help="weight of the penalty R1")})
    args = job.args
    images, labels = data.images(args.data, folder=args.data_dir, limit=500 if args.quick else None)
    x = 2 * images - 1                                                  # (N, 1, 28, 28) in [-1, 1]

    G, D = Generator(), Discriminator()
    layers = [p for name, p in G.named_parameters() if not name.startswith("f.")]
    optimizer_f, optimizer_G, optimizer_D = [optim.Adam(parameters, lr, betas=(0.0, 0.99)) for parameters, lr in
                                             ((G.f.parameters(), args.lr / 100), (layers, args.lr), (D.parameters(), args.lr))]
    schedule_f, schedule_G, schedule_D = [optim.CosineLR(optimizer, args.steps) for optimizer in (optimizer_f, optimizer_G, optimizer_D)]
    average, batches = optim.EMA(G, 0.995), data.Batches(len(x), args.batch, args.seed)
    z = tg.randn(60, LATENT)                                            # which the sheets show
    for step in job.train(G=G, D=D, optimizer_f=optimizer_f, optimizer_G=optimizer_G, optimizer_D=optimizer_D, schedule_f=schedule_f,
                          schedule_G=schedule_G, schedule_D=schedule_D, average=average, show=lambda: plots.sheet(average.model(z))):
        real = x[batches[step]]                                         # (B, 1, 28, 28)
        w1, w2 = G.mapping(tg.randn(len(real), LATENT)), G.mapping(tg.randn(len(real), LATENT))    # (B, 64), twice
        k = tg.randint(1, len(SIDES) + 1, (len(real), 1)).data          # (B, 1)   slide, eq. (4)
        fake = G.synthesis(mix(w1, w2, k), G.noise(len(real)))          # (B, 1, 28, 28)

        loss_D, penalty = discriminator_loss(D, real, fake), 0.0
        if step % 8 == 0:                                               # seldom, but eight times as strong: as good
            penalty = 8 * args.r1 / 2 * r1_penalty(D, real)
        optimizer_D.zero_grad()
        (loss_D + penalty).backward()
        optimizer_D.step()

        loss_G = generator_loss(D, fake)
        optimizer_f.zero_grad(), optimizer_G.zero_grad()
        loss_G.backward()
        optimizer_f.step(), optimizer_G.step()

        schedule_f.step(), schedule_G.step(), schedule_D.step(), average.update()
        job.log(D=loss_D, G=loss_G)

    judge = Judge(images, labels, *data.images(args.data, train=False, folder=args.data_dir,
                          limit=150 if args.quick else None), steps=100 if args.quick else 3000)
    z = tg.randn(judge.count, LATENT)
    full, truncated = [judge(metrics.in_blocks(lambda z: (average.model(z, psi) + 1) / 2, z)) for psi in (1, 0.7)]
    pictures(job, average.model)
    job.finish(**full, frechet_truncated=truncated["frechet"], **judge.data)


def crossing(ax, G, w, m, k, noise, title):
    """A table of mixed styles: the first m of w are those of the rows, the others those of the columns."""
    n = len(w) - m
    i, j = np.divmod(np.arange((m + 1) * (n + 1)), n + 1)               # 0: the margin, a source alone
    coarse, fine = np.where(i > 0, i - 1, m + j - 1), np.where(j > 0, m + j - 1, i - 1)
    images = G.synthesis(mix(w[tg.Tensor(coarse)], w[tg.Tensor(fine)], k), noise).numpy()
    images[0] = -1                                                      # the corner belongs to nobody
    plots.pictures(ax, images, n + 1, title, low=-1)
    ax.axhline(27.5, color=plots.MODEL), ax.axvline(27.5, color=plots.MODEL)


@tg.no_grad()
def pictures(job, G):
    job.picture(plots.sheet(G(tg.randn(100, LATENT))), "samples.png")

    w, noise = G.mapping(tg.randn(14, LATENT)), G.noise(1)              # the same noise for all
    fig, (left, right) = plots.figure(1, 2, width=5.5, height=4.6)
    crossing(left, G, w, 6, 2, noise, "7x7 from the left, 14x14 and 28x28 from above")
    crossing(right, G, w, 6, 4, noise, "7x7 and 14x14 from the left, 28x28 from above")
    job.picture(fig, "mixing.png")

    psi, z = np.linspace(0, 1.2, 7).tolist(), tg.randn(6, LATENT)
    swept = tg.stack([G.synthesis(mix(w, w, 0), noise) for w in (G.mapping(z, p) for p in psi)], axis=1).flatten(0, 1)
    job.picture(plots.sheet(swept, len(psi), [rf"$\psi$ = {p:.1f}" for p in psi]), "truncation.png")   # (42, 1, 28, 28)

    w = G.mapping(tg.randn(4, LATENT))[tg.arange(80).data // 20]         # (80, 64)
    noisy = G.synthesis(mix(w, w, 0), G.noise(80)).reshape(4, 20, 1, 28, 28)
    spread = tg.std(noisy, axis=1, keepdims=True)                       # (4, 1, 1, 28, 28)
    strip = tg.cat([noisy[:, :6], 2 * spread / spread.max() - 1], axis=1).flatten(0, 1)         # (28, 1, 28, 28)
    job.picture(plots.sheet(strip, 7, [f"noise {i}" for i in range(1, 7)] + ["std"]), "noise.png")

    job.picture(plots.losses(job.history), "loss.png")


if __name__ == "__main__":
    run.main(main)
