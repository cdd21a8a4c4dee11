"""BigGAN: both networks get the class, and truncated z trade variety for fidelity.

Slide "Generative adversarial networks", models. x is an image, y its label; e_y and v_y are learned
for each y:

    condition   c = [z, e_y],   z ~ N(0, I)                                                   (1)
    model       G(c), each batch norm in its blocks scaled and shifted by c:                  (2)
                (1 + A c) standardized h + B c
    projection  D(x, y) = w.f(x) + b + v_y.f(x),                                              (3)
                f(x) the sum of D's features over all places
    objective   min over D of   E max(0, 1 - D(x, y)) + E max(0, 1 + D(G(c), y)),             (4)
                the hinge loss
                min over G of   -E D(G(c), y)                                                 (5)
    truncation  each z_i ~ N(0, 1) given |z_i| <= threshold, once G is trained                (6)

The networks, and with them (1), (2) and (3), are in biggan_networks.py.

Why (3): let p(y given x) be a softmax of linear functions of f(x), both for data and for samples.
Then the difference of ln p(y given x) between them is v_y.f(x) plus a function of x alone, and
w.f(x) + b is there for that function.

Spectral norm divides each weight of D, as a matrix, by its largest singular value. This bounds how
steep D can grow (in conditional_gan.py R1 does it). Blocks are residual, and pixels at 7x7 attend
to each other. Samples come from the average of G over the training (EMA). Its batch norms first
take mean and variance from fresh z, the "standing statistics".

Look at:
    truncation.png     a dot for each threshold, a star for data: with a small threshold all samples
                       are alike and right, with none they vary and some are wrong
    samples.png        one class per column, one z per row: a row keeps its style
    interpolation.png  each row leads from one class to the next and keeps z
    loss.png           dashed: 2 and 0, the values where D can only guess
    samples_*.png      the same z at eight moments of the training

Numbers in metrics.json (the classifier is trained here with the same engine):
    accuracy       the fraction of samples that the classifier gives the label they were asked for
    test_accuracy  the ceiling of accuracy: the same fraction for test images and their labels
    frechet        the Frechet distance of samples to test images in the classifier's features;
                   distances in other features, such as Inception's, do not compare
    frechet_floor  that of training images to test images
    variety        the root mean squared distance of samples to the mean of their class, divided by
                   that of test images
    accuracy_truncated, frechet_truncated, variety_truncated
                   the same for the threshold 0.5
    seconds        of training

Brock, Donahue & Simonyan, "Large scale GAN training for high fidelity natural image synthesis",
2019; projection: Miyato & Koyama 2018; spectral norm: Miyato et al. 2018; attention: Zhang et al.
2019; hinge loss: Lim & Ye 2017.
"""
import math

import numpy as np

import tinygen as tg
from biggan_networks import LATENT, Discriminator, Generator
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run
from tinygen.lab.judge import Judge


def discriminator_loss(D, real, fake, y):
    on_real = F.relu(1 - D(real, y)).mean()
    on_fake = F.relu(1 + D(fake.detach(), y)).mean()
    return on_real + on_fake                                # slide, eq. (4)


def generator_loss(D, fake, y):
    return -D(fake, y).mean()                               # slide, eq. (5)


def truncated(n, threshold):
    """Normal numbers; those beyond the threshold are drawn again, until there are none.

    z has only 16 numbers. The longer z is, the farther from 0 it lies in training, and G need not
    make sense near 0.
    """
    z = tg.randn(n, LATENT)
    while (outside := abs(z) > threshold).any():
        z = tg.where(outside, tg.randn(n, LATENT), z)       # (n, 16)   slide, eq. (6)
    return z


@tg.no_grad()
def standing(G, passes, batch=64):
    """Give each batch norm of G the mean and variance of its input for fresh z.

    The weights of G are averages over the training, and no batch has passed them yet.
    """
    G.train()
    for n in range(passes):
        for norm in G.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 1 / (n + 1)                 # the plain mean over the passes
        z = tg.randn(batch, LATENT)                         # (64, 16)
        G(z, F.one_hot(tg.randint(0, 10, (batch,)), 10))
    return G.eval()


def sample(G, asked, threshold=math.inf):
    """Images in [0, 1] of the classes asked for, as a NumPy array."""
    def images(y):
        z = truncated(len(y), threshold)
        return (G(z, F.one_hot(y, 10)) + 1) / 2
    return metrics.in_blocks(images, asked)


def main(argv=None):
    job = run.Job("biggan", __doc__, argv, data=data.IMAGES, steps=1000, batch=32, lr=1e-3, quick=2)
    args = job.args
    images, labels = data.images(args.data, folder=args.data_dir, limit=500 if args.quick else None)
    G = Generator()
    D = Discriminator()
    optimizer_G = optim.Adam(G.parameters(), args.lr, betas=(0.0, 0.99))
    optimizer_D = optim.Adam(D.parameters(), 2 * args.lr, betas=(0.0, 0.99))    # to keep up with G
    schedule_G = optim.CosineLR(optimizer_G, args.steps)
    schedule_D = optim.CosineLR(optimizer_D, args.steps)
    ema = optim.EMA(G, 0.99)
    batches = data.Batches(len(images), args.batch, args.seed)
    z = tg.randn(8, LATENT)[tg.arange(80).data // 10]       # (80, 16)   one per row of a sheet
    column = F.one_hot(tg.arange(80).data % 10, 10)         # (80, 10)   one per column
    finished = lambda: standing(ema.model, passes=1 if args.quick else 10)
    for step in job.train(G=G, D=D, optimizer_G=optimizer_G, optimizer_D=optimizer_D,
                          schedule_G=schedule_G, schedule_D=schedule_D, average=ema,
                          show=lambda: plots.sheet(finished()(z, column))):
        real = 2 * images[batches[step]] - 1                # (B, 1, 28, 28) in [-1, 1]
        y = F.one_hot(labels[batches[step]], 10)            # (B, 10)
        fake = G(tg.randn(len(real), LATENT), y)            # (B, 1, 28, 28)   slide, eq. (2)

        loss_D = discriminator_loss(D, real, fake, y)
        optimizer_D.zero_grad()
        loss_D.backward()
        optimizer_D.step()

        loss_G = generator_loss(D, fake, y)
        optimizer_G.zero_grad()
        loss_G.backward()
        optimizer_G.step()

        schedule_D.step()
        schedule_G.step()
        ema.update()
        job.log(D=loss_D, G=loss_G)
    G = finished()
    job.picture(plots.sheet(G(z, column)), "samples.png")
    found, of_data = measure(job, G, images, labels)
    pictures(job, G, found, of_data["test_accuracy"])
    truncation = {f"{name}_truncated": number for name, number in found[TRUNCATION].items()}
    job.finish(**found[math.inf], **truncation, **of_data)


# Numbers and pictures -----------------------------------------------------------------------------

TRUNCATION = 0.5
THRESHOLDS = (0.1, TRUNCATION, 1.0, 1.5, math.inf)


def measure(job, G, images, labels):
    """The numbers of samples by their threshold, {threshold: {name: number}}, and those of data."""
    args = job.args
    test, digits = data.images(args.data, train=False, folder=args.data_dir,
                               limit=150 if args.quick else None)
    judge = Judge(images, labels, test, digits, steps=50 if args.quick else 3000)
    asked = np.arange(judge.count) % 10
    spread = metrics.spread_within_classes(test, digits)
    found = {}
    for threshold in THRESHOLDS:
        x = sample(G, tg.Tensor(asked), threshold)                      # (N, 1, 28, 28)
        variety = metrics.spread_within_classes(x, asked) / spread
        found[threshold] = judge(x, asked) | dict(variety=variety)
    return found, judge.data


@tg.no_grad()
def pictures(job, G, found, ceiling, stops=12):
    t = tg.linspace(0, 1, stops).reshape(-1, 1)                         # (12, 1)
    e = tg.eye(10)[:, None]                                             # (10, 1, 10)
    y = (1 - t) * e + t * e[tg.arange(1, 11).data % 10]                 # (10, 12, 10)
    z = truncated(10, 1.0)[tg.arange(10 * stops).data // stops]         # (120, 16)
    job.picture(plots.sheet(G(z, y.reshape(-1, 10)), stops), "interpolation.png")

    fig, (left, middle, right) = plots.figure(1, 3, 3.6)
    fours = tg.Tensor(np.full(36, 4))
    plots.pictures(left, sample(G, fours, 0.1), 6, "threshold 0.1")
    plots.pictures(right, sample(G, fours), 6, "not truncated")
    variety = [numbers["variety"] for numbers in found.values()]
    accuracy = [numbers["accuracy"] for numbers in found.values()]
    middle.plot(variety, accuracy, "o-", color=plots.MODEL)
    for threshold, *place in zip(found, variety, accuracy):
        name = r"$\infty$" if threshold == math.inf else f"{threshold:g}"
        middle.annotate(name, place, (4, 4), textcoords="offset points")
    middle.plot(1, ceiling, "*", markersize=12, color=plots.DATA)
    middle.set(xlabel="variety (data: 1)", ylabel="taken for the digit asked for")
    job.picture(fig, "truncation.png")

    # the first steps swing far beyond these limits
    job.picture(plots.losses(job.history, guesses=(2, 0), ylim=(-1, 4)), "loss.png")


if __name__ == "__main__":
    run.main(main)
