"""StyleGAN: z becomes a style that controls every layer of the image network, coarse to fine.

Slide "Generative adversarial networks", models. A network f turns z into w, the style. G starts
from a 7x7 image that it has learned and that is the same for all samples. Each of its six layers
has its own affine map A, which turns w into a scale s and a shift b for every channel:

    mapping     w = f(z / rms(z)),   z ~ N(0, I)                                              (1)
    a layer     y = leaky(convolution of x + strength * noise),                               (2)
                noise ~ N(0, I), one number per pixel
    AdaIN       x_c <- (1 + s_c) (y_c - mean(y_c)) / std(y_c) + b_c   for each channel c,     (3)
                (s, b) = A w
    mixing      layers 1, ..., k use w_1, the others w_2; in training k ~ Uniform{1, ..., 6}  (4)
    truncation  w' = w_mean + psi (w - w_mean),   w_mean = E w                                (5)

The networks, and with them (1), (2), (3) and (5), are in stylegan_networks.py.

AdaIN removes the size and level that the layers before have set, so each style holds until the next
one replaces it. The styles of 7x7 and 14x14 decide which digit it is and how it leans, those of
28x28 how thick the pen is. Mixing keeps layers from relying on the style of others. The noise
supplies what is mere chance, so that w need not.

The losses are those of dcgan.py. Instead of batch norm, the penalty R1 keeps D from growing steep
at the data (see dirac_gan.py). f learns a hundred times as slowly as the rest, as in the paper: at
full speed it soon maps all z to a few digits, and G never makes the others.

Look at:
    mixing.png      coarse layers use the style of the digit on the left, fine ones that of the
                    digit above
    truncation.png  one z per row; psi = 0 makes the mean digit; to the right the digits differ more
                    and more, until they fall apart
    noise.png       one style per row with several noises, and the standard deviation of each pixel:
                    chance moves only the outline
    samples.png     samples of the trained G
    loss.png        dashed: 2 ln 2 and ln 2, the values where D can only guess
    samples_*.png   the same z at eight moments of the training

Numbers in metrics.json (the classifier is trained here with the same engine):
    frechet            the Frechet distance of samples to test images in the classifier's features;
                       distances in other features do not compare
    frechet_truncated  that of samples with psi = 0.7, each more typical and all less varied
    frechet_floor      that of training images to test images
    test_accuracy      the fraction of test images that the classifier gives their label
    seconds            of training

Karras, Laine & Aila, "A style-based generator architecture for generative adversarial networks",
2019; AdaIN: Huang & Belongie 2017; R1: Mescheder et al. 2018; a D that compares the images of a
batch: Karras et al., "Progressive growing of GANs", 2018.
"""
import numpy as np

import tinygen as tg
from dcgan import discriminator_loss, generator_loss
from gan import r1_penalty
from stylegan_networks import LATENT, SIDES, Discriminator, Generator
from tinygen import optim
from tinygen.lab import data, metrics, plots, run
from tinygen.lab.judge import Judge


def mix(w1, w2, k):
    """Layers 1, ..., k get the style w1, the others w2. k is a number, or a column (B, 1)."""
    number = tg.arange(1, len(SIDES) + 1).data              # (6,)
    first = (number <= k)[..., None]                        # (6, 1) or (B, 6, 1)
    return tg.where(first, w1[:, None], w2[:, None])        # (B, 6, 64)   slide, eq. (4)


def main(argv=None):
    job = run.Job("stylegan", __doc__, argv, data=data.IMAGES, steps=1750, batch=32, lr=2e-3,
                  quick=2, flags=FLAGS)
    args = job.args
    images, labels = data.images(args.data, folder=args.data_dir, limit=500 if args.quick else None)
    x = 2 * images - 1                                      # (N, 1, 28, 28) in [-1, 1]
    G = Generator()
    D = Discriminator()
    others = [p for name, p in G.named_parameters() if not name.startswith("f.")]
    optimizer_f = optim.Adam(G.f.parameters(), args.lr / 100, betas=(0.0, 0.99))
    optimizer_G = optim.Adam(others, args.lr, betas=(0.0, 0.99))
    optimizer_D = optim.Adam(D.parameters(), args.lr, betas=(0.0, 0.99))
    schedule_f = optim.CosineLR(optimizer_f, args.steps)
    schedule_G = optim.CosineLR(optimizer_G, args.steps)
    schedule_D = optim.CosineLR(optimizer_D, args.steps)
    ema = optim.EMA(G, 0.995)
    batches = data.Batches(len(x), args.batch, args.seed)
    z = tg.randn(60, LATENT)                                # of samples_*.png
    for step in job.train(G=G, D=D, optimizer_f=optimizer_f, optimizer_G=optimizer_G,
                          optimizer_D=optimizer_D, schedule_f=schedule_f, schedule_G=schedule_G,
                          schedule_D=schedule_D, average=ema,
                          show=lambda: plots.sheet(ema.model(z))):
        real = x[batches[step]]                             # (B, 1, 28, 28)
        w1 = G.mapping(tg.randn(len(real), LATENT))         # (B, 64)
        w2 = G.mapping(tg.randn(len(real), LATENT))         # (B, 64)
        k = tg.randint(1, len(SIDES) + 1, (len(real), 1)).data          # (B, 1)   slide, eq. (4)
        fake = G.synthesis(mix(w1, w2, k), G.noise(len(real)))          # (B, 1, 28, 28)

        loss_D = discriminator_loss(D, real, fake)
        penalty = 0.0
        if step % 8 == 0:               # rarely, but eight times as strong: as good, and cheaper
            penalty = 8 * args.r1 / 2 * r1_penalty(D, real)
        optimizer_D.zero_grad()
        (loss_D + penalty).backward()
        optimizer_D.step()

        loss_G = generator_loss(D, fake)
        optimizer_f.zero_grad()
        optimizer_G.zero_grad()
        loss_G.backward()
        optimizer_f.step()
        optimizer_G.step()

        schedule_f.step()
        schedule_G.step()
        schedule_D.step()
        ema.update()
        job.log(D=loss_D, G=loss_G)
    numbers = measure(job, ema.model, images, labels)
    pictures(job, ema.model)
    job.finish(**numbers)


# Numbers and pictures -----------------------------------------------------------------------------

FLAGS = {"--r1": dict(type=run.number(float, 0), default=0.3, help="weight of the penalty R1")}


def measure(job, G, images, labels):
    """How far samples are from test images, with and without truncation."""
    args = job.args
    test, digits = data.images(args.data, train=False, folder=args.data_dir,
                               limit=150 if args.quick else None)
    judge = Judge(images, labels, test, digits, steps=100 if args.quick else 3000)
    z = tg.randn(judge.count, LATENT)
    full = judge(metrics.in_blocks(lambda z: (G(z) + 1) / 2, z))
    truncated = judge(metrics.in_blocks(lambda z: (G(z, psi=0.7) + 1) / 2, z))
    return dict(**full, frechet_truncated=truncated["frechet"], **judge.data)


def crossing(ax, G, w, m, k, noise, title):
    """A table of mixed styles: rows by the first m of w, columns by the others."""
    columns = len(w) - m + 1
    i, j = np.divmod(np.arange((m + 1) * columns), columns)             # 0: the margin, one source
    coarse = np.where(i > 0, i - 1, m + j - 1)
    fine = np.where(j > 0, m + j - 1, i - 1)
    images = G.synthesis(mix(w[tg.Tensor(coarse)], w[tg.Tensor(fine)], k), noise).numpy()
    black = np.full_like(images[:1], -1)                                # the corner has no source
    plots.pictures(ax, np.concatenate([black, images[1:]]), columns, title, low=-1)
    ax.axhline(27.5, color=plots.MODEL)
    ax.axvline(27.5, color=plots.MODEL)


@tg.no_grad()
def pictures(job, G):
    job.picture(plots.sheet(G(tg.randn(100, LATENT))), "samples.png")

    w = G.mapping(tg.randn(14, LATENT))                                 # (14, 64)
    noise = G.noise(1)                                                  # the same for all images
    fig, (left, right) = plots.figure(1, 2, width=5.5, height=4.6)
    crossing(left, G, w, 6, 2, noise, "7x7 from the left, 14x14 and 28x28 from above")
    crossing(right, G, w, 6, 4, noise, "7x7 and 14x14 from the left, 28x28 from above")
    job.picture(fig, "mixing.png")

    psis = np.linspace(0, 1.2, 7).tolist()
    z = tg.randn(6, LATENT)
    columns = []
    for psi in psis:
        w = G.mapping(z, psi)                                           # (6, 64)
        columns.append(G.synthesis(mix(w, w, 0), noise))                # (6, 1, 28, 28)
    swept = tg.stack(columns, axis=1).flatten(0, 1)                     # (42, 1, 28, 28)
    names = [rf"$\psi$ = {psi:.1f}" for psi in psis]
    job.picture(plots.sheet(swept, len(psis), names), "truncation.png")

    w = G.mapping(tg.randn(4, LATENT))[tg.arange(80).data // 20]        # (80, 64)
    noisy = G.synthesis(mix(w, w, 0), G.noise(80)).reshape(4, 20, 1, 28, 28)
    spread = tg.std(noisy, axis=1, keepdims=True)                       # (4, 1, 1, 28, 28)
    rows = tg.cat([noisy[:, :6], 2 * spread / spread.max() - 1], axis=1)    # (4, 7, 1, 28, 28)
    names = [f"noise {i}" for i in range(1, 7)] + ["std"]
    job.picture(plots.sheet(rows.flatten(0, 1), 7, names), "noise.png")

    job.picture(plots.losses(job.history), "loss.png")


if __name__ == "__main__":
    run.main(main)
