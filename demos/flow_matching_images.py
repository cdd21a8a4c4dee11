"""Flow matching of images: the method of flow_matching.py with a U-Net that is given the class.

Slides "Conditional flow matching" and "Different structures". Nothing in the mathematics changes
with the data: the loss, the guidance, the sampler and the prediction of the end of a path come from
conditional_flow_matching.py, the network from unet.py. Here x_0 ~ N(0, I), x_1 is an image, y its
class (one time in ten replaced by "no class"), and x_t = (1 - t) x_0 + t x_1:

    network    end(x_t, t, y), an estimate of E[x_1 | x_t, y]                                 (1)
               velocity u = (end - x_t) / max(1 - t, 0.05)
    loss       E (1 - t)^2 |u(x_t, t, y) - (x_1 - x_0)|^2                                     (2)
    guidance   u_w(x, t, y) = (1 + w) u(x, t, y) - w u(x, t, no class)                        (3)
    Euler      x <- x + h u_w(x, t)                                                           (4)
    Heun       k = u_w(x, t),   x <- x + h (k + u_w(x + h k, t + h)) / 2                      (5)

The last step of Heun is Euler's, which by (1) goes straight to the end that the network predicts.
Heun needs two velocities in each step but the last and is of order 2. With as many velocities as
Euler it takes half the steps. The bound 0.05 keeps (1) finite; up to 20 steps no sampler comes so
near to t = 1. The logged loss is (2) per pixel.

Look at:
    samples.png     a class in each column
    path.png        noise becomes digits: above x_t, below the end that the network predicts at that
                    time, blurred as long as much is still possible
    guidance.png    the same noise with growing w
    steps.png       the same noise with few velocities and with many, Euler left, Heun right
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

Lipman et al., "Flow matching for generative modeling", 2023; Ho & Salimans, "Classifier-free
diffusion guidance", 2022; Karras et al., "Elucidating the design space of diffusion-based
generative models", 2022 (Heun, and Euler at the end).
"""
import numpy as np

import tinygen as tg
from conditional_ddpm import compare
from conditional_flow_matching import NO_CLASS, conditional_loss, draw
from tinygen import nn, optim
from tinygen.lab import data, plots, run
from tinygen.lab.judge import Judge
from unet import UNet


class ImageVelocity(nn.Module):
    """A U-Net for images as rows of 784 numbers, as in conditional_flow_matching.py."""

    def __init__(self, width):
        self.unet = UNet(width)

    def end(self, x, t, y):
        """E[x_1 | x_t = x] for x (N, 784), times t (N, 1) and classes y (N,)."""
        images = x.reshape(-1, 1, 28, 28)                       # (N, 1, 28, 28)
        return self.unet(images, t.reshape(-1), y).flatten(1)   # (N, 784)

    def forward(self, x, t, y):
        return (self.end(x, t, y) - x) / (1 - t).clip(min=0.05)     # slide, eq. (1)


def main(argv=None):
    job = run.Job("flow_matching_images", __doc__, argv, data=data.IMAGES, steps=1800, batch=32,
                  lr=2e-3, quick=2, flags=FLAGS)
    args = job.args
    limit = 200 if args.quick else None
    images, labels = data.images(args.data, folder=args.data_dir, limit=limit)
    x = 2 * images.flatten(1) - 1                               # (N, 784) in [-1, 1]
    u = ImageVelocity(8 if args.quick else args.width)
    optimizer = optim.Adam(u.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    ema = optim.EMA(u, 0.998)
    batches = data.Batches(len(x), args.batch, args.seed)
    digits = tg.Tensor(np.arange(80) % 10)                      # (80,): a row holds each class once
    noise = tg.randn(80, 784)                                   # (80, 784)

    def sheet():
        return plots.sheet(draw(ema.model, digits, 1, noise, 2 if args.quick else 8, "euler")[-1])

    for step in job.train(show=sheet, u=u, optimizer=optimizer, schedule=schedule, average=ema):
        x1 = x[batches[step]]                                   # (B, 784)
        y = labels[batches[step]]                               # (B,)
        x0 = tg.randn(*x1.shape)                                # (B, 784)
        t = tg.rand(len(x1), 1)                                 # (B, 1)
        drop = tg.rand(len(y)) < 0.1                            # (B,)
        loss = conditional_loss(u, x1, y, x0, t, drop) / 784    #          slide, eq. (2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.update()
        job.log(loss=loss)
    pictures(job, ema.model, digits, noise, steps=2 if args.quick else 12)
    numbers = sweep(job, ema.model, images, labels, limit)
    job.finish(loss=job.last("loss"), **numbers)


# Numbers and pictures -----------------------------------------------------------------------------

FLAGS = {"--width": dict(type=run.number(int, 8), default=32, help="channels at 14 x 14"),
         "--count": dict(type=run.number(int, 150), default=500, help="samples that are judged")}
WEIGHTS = (0, 1, 3)  # w


def sweep(job, u, images, labels, limit):
    """Fidelity and variety for growing guidance, from the same noise."""
    args = job.args
    test, test_labels = data.images(args.data, train=False, folder=args.data_dir, limit=limit)
    judge = Judge(images, labels, test, test_labels, steps=50 if args.quick else 3000,
                  count=150 if args.quick else args.count)
    classify = lambda x: judge.classifier((x + 1) / 2)          # (N, 784) in [-1, 1] -> (N, 10)
    y = np.arange(judge.count) % 10                             # (N,)
    noise = tg.randn(judge.count, 784)                          # (N, 784)
    steps = 1 if args.quick else 10
    samples = [draw(u, tg.Tensor(y), w, noise, steps)[-1].clip(-1, 1) for w in WEIGHTS]
    numbers = compare(job, classify, samples, y, 2 * test.flatten(1) - 1, test_labels.numpy(),
                      WEIGHTS)
    for w, x in zip(WEIGHTS, samples):
        numbers[f"frechet_w{w}"] = judge((x + 1) / 2)["frechet"]
    numbers["frechet_floor"] = judge.data["frechet_floor"]
    return numbers


@tg.no_grad()
def pictures(job, u, digits, noise, steps):
    path = draw(u, digits, 1, noise, steps)                     # (steps + 1, 80, 784)
    job.picture(plots.sheet(path[-1]), "samples.png")
    predicted_ends(job, u, path[:, :5], digits[:5])

    fig, axes = plots.figure(2, 2, width=4.4, height=2.0)
    for ax, w in zip(axes, (0, 1, 3, 6)):
        samples = draw(u, digits[:40], w, noise[:40], steps)[-1]            # (40, 784)
        plots.pictures(ax, samples, 10, f"w = {w}", low=-1)
    job.picture(fig, "guidance.png")

    fig, axes = plots.figure(4, 2, width=4.4, height=1.15)
    for i, count in enumerate((1, 3, 7, 15)[:steps]):
        few_velocities(axes[2 * i], u, digits[:20], noise[:20], "euler", count, count)
        few_velocities(axes[2 * i + 1], u, digits[:20], noise[:20], "heun", (count + 1) // 2, count)
    job.picture(fig, "steps.png")


def predicted_ends(job, u, path, y):
    """Above x_t, below the guided prediction of its end, for a path (steps + 1, N, 784)."""
    steps = len(path) - 1
    none = tg.full((len(y),), NO_CLASS)                         # (N,)
    fig, axes = plots.figure(2, 7, width=1.0, height=4)
    for above, below, k in zip(axes[:7], axes[7:], np.linspace(0, steps, 7).round().astype(int)):
        x = path[int(k)]                                        # (N, 784)
        t = tg.full((len(y), 1), k / steps)                     # (N, 1)
        end = 2 * u.end(x, t, y) - u.end(x, t, none) if k < steps else x    # as eq. (3) with w = 1
        plots.pictures(above, x, 1, f"t = {k / steps:.2g}", low=-1)
        plots.pictures(below, end, 1, low=-1)
    axes[0].set(ylabel="x_t")
    axes[7].set(ylabel="predicted end")
    job.picture(fig, "path.png")


def few_velocities(ax, u, y, noise, method, steps, velocities):
    words = "1 step" if steps == 1 else f"{steps} steps"
    words += ", 1 velocity" if velocities == 1 else f", {velocities} velocities"
    samples = draw(u, y, 1, noise, steps, method)[-1]           # (20, 784)
    plots.pictures(ax, samples, 10, f"{method.capitalize()}, {words}", low=-1)


if __name__ == "__main__":
    run.main(main)
