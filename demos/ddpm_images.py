"""Denoising diffusion of images: the method of ddpm.py with a U-Net that is given the class.

Slides "Denoising diffusion probabilistic models" and "Different structures". Nothing in the
mathematics changes with the data: the schedule, the loss and the sampler are those of ddpm.py and
ddim.py, the network comes from unet.py. Here x_0 is an image, y its class (one time in ten replaced
by "no class"), eps ~ N(0, I), and alpha_bar_t for t = 1, ..., T = 1000 is the cosine schedule:

    noise      x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps                        (1)
    loss       E |v - v(x_t, t, y)|^2                                                         (2)
               v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0
    its eps    eps(x_t, t, y) = sqrt(alpha_bar_t) v(x_t, t, y) + sqrt(1 - alpha_bar_t) x_t    (3)
    guidance   eps_w(x, t, y) = (1 + w) eps(x, t, y) - w eps(x, t, no class)                  (4)
    sampling   DDIM from t = T to 0 in few steps, each to an earlier s:                       (5)
               x_0 = (x_t - sqrt(1 - alpha_bar_t) eps_w) / sqrt(alpha_bar_t)
               x_s = sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s) eps_w

Why v and not eps? An error in eps becomes one in x_0 that is sqrt(1 / alpha_bar_t - 1) times as
large: six times at t = 900, and 20,000 times at t = T, where sampling starts. --predict eps shows
what this does. v is mostly -x_0 where there is much noise, and mostly eps where there is little.
The logged loss is (2) per pixel.

Look at:
    samples.png     a class in each column
    reverse.png     noise becomes digits: above x_t, below the x_0 that the network predicts at that
                    time, blurred as long as much is still possible
    guidance.png    the same noise with growing w
    accuracy.png    fidelity and variety against w
    samples_*.png   written during the training (the same noise each time)

Numbers in metrics.json, for w = 0, 1 and 3:
    loss            the mean of the last tenth
    seconds         of training
    accuracy_w0, accuracy_w1, accuracy_w3
                    the fraction of --count samples with guidance w that a classifier takes for the
                    class asked for
    test_accuracy   the fraction of test images that it takes for their class
    frechet_w0, frechet_w1, frechet_w3
                    the Frechet distance of the samples to as many test images, in the classifier's
                    features
    frechet_floor   the Frechet distance of as many training images to the same test images

Ho et al., "Denoising diffusion probabilistic models", 2020; Song et al., "Denoising diffusion
implicit models", 2021; Ho & Salimans, "Classifier-free diffusion guidance", 2022.
"""
import numpy as np

import tinygen as tg
from conditional_ddpm import compare, drop, guided
from ddim import ddim_step
from ddpm import ddpm_loss, random_times, sample
from forward_process import Diffusion, to_eps
from tinygen import optim
from tinygen.lab import data, plots, run
from tinygen.lab.judge import Judge
from unet import UNet

NO_CLASS = 10


def rows(unet, T):
    """The U-Net as ddpm.py calls a network: images are rows of 784 numbers, times 1, ..., T."""
    def network(x, t, y):
        images = x.reshape(-1, 1, 28, 28)                       # (N, 1, 28, 28)
        return unet(images, t / T, y).flatten(1)                # (N, 784)
    return network


def draw(eps, y, w, noise, diffusion, steps):
    """Digits y (N,) from noise (N, 784): the times, and the whole path (steps + 1, N, 784)."""
    eps_w = guided(eps, y, w, NO_CLASS)                         #          slide, eq. (4)
    return sample(eps_w, noise, diffusion, ddim_step, steps)    #          slide, eq. (5)


def main(argv=None):
    job = run.Job("ddpm_images", __doc__, argv, data=data.IMAGES, steps=1800, batch=32, lr=2e-3,
                  quick=2, flags=FLAGS)
    args = job.args
    limit = 200 if args.quick else None
    images, labels = data.images(args.data, folder=args.data_dir, limit=limit)
    x = 2 * images.flatten(1) - 1                               # (N, 784) in [-1, 1]
    diffusion = Diffusion(1000, "cosine")
    unet = UNet(8 if args.quick else args.width)
    optimizer = optim.Adam(unet.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    ema = optim.EMA(unet, 0.998)
    network = rows(unet, diffusion.T)
    averaged = rows(ema.model, diffusion.T)
    batches = data.Batches(len(x), args.batch, args.seed)
    digits = tg.Tensor(np.arange(80) % 10)                      # (80,): a row holds each class once
    xT = tg.randn(80, 784)                                      # (80, 784)

    def eps(x, t, y):
        alpha_bar = diffusion.alpha_bar_at(t)                   # (N, 1)
        return to_eps(averaged(x, t, y), x, alpha_bar, args.predict)        # slide, eq. (3)

    def sheet():
        _, path = draw(eps, digits, 1, xT, diffusion, 2 if args.quick else 10)
        return plots.sheet(path[-1])

    for step in job.train(show=sheet, unet=unet, optimizer=optimizer, schedule=schedule,
                          average=ema):
        x0 = x[batches[step]]                                   # (B, 784)
        y = drop(labels[batches[step]], NO_CLASS)               # (B,)
        t = random_times(len(x0), diffusion.T)                  # (B,)
        noise = tg.randn(*x0.shape)                             # (B, 784)
        model = lambda x, t: network(x, t, y)
        loss = ddpm_loss(model, diffusion, x0, t, noise, args.predict) / 784    # slide, eq. (2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.update()
        job.log(loss=loss)
    steps = 2 if args.quick else 20
    pictures(job, eps, digits, xT, diffusion, steps)
    numbers = sweep(job, eps, images, labels, limit, diffusion, steps)
    job.finish(loss=job.last("loss"), **numbers)


# Numbers and pictures -----------------------------------------------------------------------------

FLAGS = {"--predict": dict(choices=("v", "eps", "x0"), default="v", help="what is learned"),
         "--width": dict(type=run.number(int, 8), default=32, help="channels at 14 x 14"),
         "--count": dict(type=run.number(int, 150), default=500, help="samples that are judged")}
WEIGHTS = (0, 1, 3)  # w


def sweep(job, eps, images, labels, limit, diffusion, steps):
    """Fidelity and variety for growing guidance, from the same noise."""
    args = job.args
    test, test_labels = data.images(args.data, train=False, folder=args.data_dir, limit=limit)
    judge = Judge(images, labels, test, test_labels, steps=50 if args.quick else 3000,
                  count=150 if args.quick else args.count)
    classify = lambda x: judge.classifier((x + 1) / 2)          # (N, 784) in [-1, 1] -> (N, 10)
    y = np.arange(judge.count) % 10                             # (N,)
    noise = tg.randn(judge.count, 784)                          # (N, 784)
    samples = [draw(eps, tg.Tensor(y), w, noise, diffusion, steps)[1][-1].clip(-1, 1)
               for w in WEIGHTS]
    numbers = compare(job, classify, samples, y, 2 * test.flatten(1) - 1, test_labels.numpy(),
                      WEIGHTS)
    for w, x in zip(WEIGHTS, samples):
        numbers[f"frechet_w{w}"] = judge((x + 1) / 2)["frechet"]
    numbers["frechet_floor"] = judge.data["frechet_floor"]
    return numbers


@tg.no_grad()
def pictures(job, eps, digits, xT, diffusion, steps):
    times, path = draw(eps, digits, 1, xT, diffusion, steps)    # (steps + 1, 80, 784)
    job.picture(plots.sheet(path[-1]), "samples.png")

    shown = np.linspace(0, steps, 9 if steps > 8 else steps + 1).round().astype(int)
    eps_w = guided(eps, digits[:3], 1, NO_CLASS)
    fig, axes = plots.figure(2, len(shown), width=1.0, height=3.1)
    for above, below, k in zip(axes, axes[len(shown):], shown):
        t = int(times[k])
        x = path[int(k), :3]                                    # (3, 784)
        x0 = x
        if t > 0:                       # a step of eq. (5) to s = 0, where alpha_bar is 1
            noise = eps_w(x, tg.full((3,), t))                  # (3, 784)
            x0 = ddim_step(x, noise, tg.zeros(3, 784), diffusion.alpha_bar[t], 1.0)
        plots.pictures(above, x, 1, f"t = {t}", low=-1)
        plots.pictures(below, x0, 1, low=-1)
    axes[0].set(ylabel="x_t")
    axes[len(shown)].set(ylabel="predicted x_0")
    job.picture(fig, "reverse.png")

    fig, axes = plots.figure(2, 2, width=4.4, height=2.0)
    for ax, w in zip(axes, (0, 1, 3, 6)):
        _, path = draw(eps, digits[:40], w, xT[:40], diffusion, steps)
        plots.pictures(ax, path[-1], 10, f"w = {w}", low=-1)
    job.picture(fig, "guidance.png")


if __name__ == "__main__":
    run.main(main)
