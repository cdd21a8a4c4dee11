"""Denoising diffusion of images: the method of ddpm.py with a U-Net, told which digit to draw.

Slides "Denoising diffusion probabilistic models" and "Different structures". Nothing in the mathematics changes with the
data: the schedule, the loss and the sampler come from ddpm.py, the network from unet.py. With x_0 an image, y its class,
eps ~ N(0, I), and y replaced by "no class" one time in ten:

    noise        x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,   t = 1, ..., T = 1000, cosine schedule            (1)
    loss         E |v - v(x_t, t, y)|^2,   v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0                             (2)
    noise seen   eps(x_t, t, y) = sqrt(abar_t) v(x_t, t, y) + sqrt(1 - abar_t) x_t                                 (3)
    guidance     eps_w(x, t, y) = (1 + w) eps(x, t, y) - w eps(x, t, no class)                                     (4)
    sampling     DDIM from t = T to 0 in few steps: estimate x_0 = (x_t - sqrt(1 - abar_t) eps_w) / sqrt(abar_t),
                 then go to an earlier s:  x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) eps_w                         (5)

Why v and not eps? An error in eps becomes one in x_0 that is sqrt(1 / abar_t - 1) times as large: six times at t = 900, and
20,000 times at t = T, where sampling starts (see what --predict eps does). v is mostly -x_0 where there is much noise, and
mostly eps where there is little. The logged loss is (2) per pixel.

Look at: samples.png (a class in each column); reverse.png (noise becomes digits: above x_t, below the x_0 that the
network has in mind at that time, blurred as long as much is still possible); guidance.png (the same noise with growing w);
accuracy.png (fidelity and variety against w); samples_*.png, written while it trains (the same noise each time).

Numbers in metrics.json: accuracy_w0, accuracy_w1, accuracy_w3, the part of --count samples with guidance w to which a
classifier gives the class that was asked for; frechet_w0, frechet_w1, frechet_w3, their Frechet distance to as many test
images in its features; data_accuracy, the part of test images to which it gives their label; noise_floor, the Frechet
distance of as many training images to test images; loss, the mean of the last tenth; seconds of training.

Ho et al., "Denoising diffusion probabilistic models", 2020; Song et al., "Denoising diffusion implicit models", 2021;
Ho & Salimans, "Classifier-free diffusion guidance", 2022.
"""
import numpy as np

import tinygen as tg
from conditional_ddpm import compare, drop, guided
from ddpm import Diffusion, ddim_step, ddpm_loss, random_times, sample, to_eps
from tinygen import optim
from tinygen.lab import data, metrics, plots, run
from tinygen.lab.judge import Judge
from unet import UNet

NO_CLASS = 10
WEIGHTS = (0, 1, 3)                                                 # w


def rows(unet, T):
    """The network as ddpm.py wants it: images are rows of 784 numbers, times are integers 1, ..., T."""
    return lambda x, t, y: unet(x.reshape(-1, 1, 28, 28), t / T, y).flatten(1)      # (N, 784), (N,), (N,) -> (N, 784)


def draw(eps, y, w, noise, diffusion, steps):
    """Digits y from noise (N, 784), and how they came about: the times and the whole path (steps + 1, N, 784)."""
    return sample(guided(eps, y, w, NO_CLASS), noise, diffusion, ddim_step, steps)          # slide, eqs. (4), (5)


def main(argv=None):
    job = run.Job("ddpm_images", __doc__, argv, data=data.IMAGES, steps=1800, batch=32, lr=2e-3, quick=2, flags={
        "--predict": dict(choices=("v", "eps", "x0"), default="v", help="what the network says"),
        "--width": dict(type=run.number(int, 8), default=32, help="channels at 14 x 14"),
        "--count": dict(type=run.number(int, 150), default=500, help="samples that are judged")})
    args, limit = job.args, 200 if job.args.quick else None
    train, labels = data.images(args.data, folder=args.data_dir, limit=limit)
    x = 2 * train.flatten(1) - 1                                    # (N, 784) in [-1, 1]
    diffusion, unet = Diffusion(1000, "cosine"), UNet(8 if args.quick else args.width)
    optimizer = optim.Adam(unet.parameters(), lr=args.lr)
    schedule, average = optim.CosineLR(optimizer, args.steps), optim.EMA(unet, 0.998)
    says, averaged = rows(unet, diffusion.T), rows(average.model, diffusion.T)

    def eps(x, t, y):
        return to_eps(averaged(x, t, y), x, diffusion.at(t), args.predict)          # slide, eq. (3)

    batches = data.Batches(len(x), args.batch, args.seed)
    columns, noise = tg.Tensor(np.arange(80) % 10), tg.randn(80, 784)       # (80,): a row holds each class once
    sheet = lambda: plots.sheet(draw(eps, columns, 1, noise, diffusion, 2 if args.quick else 10)[1][-1])
    for step in job.train(show=sheet, unet=unet, optimizer=optimizer, schedule=schedule, average=average):
        x0, y = x[batches[step]], drop(labels[batches[step]], NO_CLASS)             # (B, 784), (B,)
        t, noise_now = random_times(len(x0), diffusion.T), tg.randn(*x0.shape)      # (B,), (B, 784)
        loss = ddpm_loss(lambda x, t: says(x, t, y), diffusion, x0, t, noise_now, args.predict) / 784       # slide, eq. (2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update()
        job.log(loss=loss)

    steps = 2 if args.quick else 20
    pictures(job, eps, columns, noise, diffusion, steps)
    test, test_labels = data.images(args.data, train=False, folder=args.data_dir, limit=limit)
    judge = Judge(train, labels, test, test_labels, steps=50 if args.quick else 3000, count=150 if args.quick else args.count)
    job.finish(**sweep(job, eps, judge, test, test_labels, diffusion, steps), noise_floor=judge.data["frechet_floor"],
               loss=job.last("loss"))


def sweep(job, eps, judge, test, labels, diffusion, steps):
    """Fidelity and variety for growing guidance, from the same noise."""
    y, noise = np.arange(judge.count) % 10, tg.randn(judge.count, 784)          # (N,), (N, 784)
    samples = [draw(eps, tg.Tensor(y), w, noise, diffusion, steps)[1][-1].clip(-1, 1) for w in WEIGHTS]     # (N, 784) each
    numbers = compare(job, lambda x: judge.classifier((x + 1) / 2), samples, y, 2 * test.flatten(1) - 1,
                      labels.numpy(), WEIGHTS)
    return numbers | {f"frechet_w{w}": judge((x + 1) / 2)["frechet"] for w, x in zip(WEIGHTS, samples)}


@tg.no_grad()
def pictures(job, eps, columns, noise, diffusion, steps):
    times, path = draw(eps, columns, 1, noise, diffusion, steps)    # (steps + 1, 80, 784)
    job.picture(plots.sheet(path[-1]), "samples.png")

    shown = np.linspace(0, steps, 9 if steps > 8 else steps + 1).round().astype(int)
    fig, axes = plots.figure(2, len(shown), width=1.0, height=3.1)
    for i, k in enumerate(shown):
        t, x, y = int(times[k]), path[int(k), :3], columns[:3]      # (3, 784), (3,)
        abar, z = diffusion.alpha_bar[t], tg.zeros(3, 784)
        start = ddim_step(x, guided(eps, y, 1, NO_CLASS)(x, tg.full((3,), t)), z, abar, 1.0) if t else x
        plots.pictures(axes[i], x, 1, f"t = {t}", low=-1)
        plots.pictures(axes[len(shown) + i], start, 1, low=-1)      # slide, eq. (5), with s = 0
    axes[0].set(ylabel="x_t"), axes[len(shown)].set(ylabel="x_0 in mind")
    job.picture(fig, "reverse.png")

    fig, axes = plots.figure(2, 2, width=4.4, height=2.0)
    for ax, w in zip(axes, (0, 1, 3, 6)):
        plots.pictures(ax, draw(eps, columns[:40], w, noise[:40], diffusion, steps)[1][-1], 10, f"w = {w}", low=-1)
    job.picture(fig, "guidance.png")


if __name__ == "__main__":
    run.main(main)
