"""Flow matching of images: the method of flow_matching.py with a U-Net, told which digit to draw.

Slides "Conditional flow matching" and "Different structures". Nothing in the mathematics changes with the data: the loss,
the guidance, the sampler and the idea to predict where a path ends come from conditional_flow_matching.py, the network
from unet.py. With x_0 ~ N(0, I), x_1 an image, y its class (replaced by "no class" one time in ten) and x_t = (1 - t) x_0 + t x_1:

    network      end(x_t, t, y), an estimate of E[x_1 | x_t, y];   velocity u = (end - x_t) / max(1 - t, 0.05)     (1)
    loss         E (1 - t)^2 |u(x_t, t, y) - (x_1 - x_0)|^2                                                        (2)
    guidance     u_w(x, t, y) = (1 + w) u(x, t, y) - w u(x, t, no class)                                           (3)
    Euler        x <- x + h u_w(x, t)                                                                              (4)
    Heun         k = u_w(x, t),   x <- x + h (k + u_w(x + h k, t + h)) / 2;   the last step is Euler's,            (5)
                 which by (1) goes straight to the end that the network sees

Heun wants two velocities in a step (one in the last) and is of order 2: for as many velocities it takes half the steps. The
bound 0.05 keeps (1) finite; up to 20 steps no sampler comes so near to t = 1. The logged loss is (2) per pixel.

Look at: samples.png (a class in each column); path.png (noise becomes digits: above x_t, below the end that the network sees
at that time, blurred as long as much is still possible); guidance.png (the same noise with growing w); steps.png (the same
noise with few velocities and with many, Euler left, Heun right); accuracy.png (fidelity and variety against
w); samples_*.png, written while it trains (the same noise each time).

Numbers in metrics.json: accuracy_w0, accuracy_w1, accuracy_w3, the part of --count samples with guidance w to which a
classifier gives the class that was asked for; frechet_w0, frechet_w1, frechet_w3, their Frechet distance to as many test
images in its features; data_accuracy, the part of test images to which it gives their label; noise_floor, the Frechet
distance of as many training images to test images; loss, the mean of the last tenth; seconds of training.

Lipman et al., "Flow matching for generative modeling", 2023; Ho & Salimans, "Classifier-free diffusion guidance", 2022;
Karras et al., "Elucidating the design space of diffusion-based generative models", 2022 (Heun, and Euler at the end).
"""
import numpy as np

import tinygen as tg
from conditional_ddpm import compare
from conditional_flow_matching import NO_CLASS, conditional_loss, draw
from tinygen import nn, optim
from tinygen.lab import data, metrics, plots, run
from tinygen.lab.judge import Judge
from unet import UNet

WEIGHTS = (0, 1, 3)                                                 # w


class ImageVelocity(nn.Module):
    """Images are rows of 784 numbers, as in conditional_flow_matching.py; the U-Net sees them as 28 x 28."""

    def __init__(self, width):
        self.unet = UNet(width)

    def end(self, x, t, y):
        """E[x_1 | x_t = x], for times t (N, 1)."""
        return self.unet(x.reshape(-1, 1, 28, 28), t.reshape(-1), y).flatten(1)     # (N, 784), (N, 1), (N,) -> (N, 784)

    def forward(self, x, t, y):
        return (self.end(x, t, y) - x) / (1 - t).clip(min=0.05)     # (N, 784)     slide, eq. (1)


def main(argv=None):
    job = run.Job("flow_matching_images", __doc__, argv, data=data.IMAGES, steps=1800, batch=32, lr=2e-3, quick=2, flags={
        "--width": dict(type=run.number(int, 8), default=32, help="channels at 14 x 14"),
        "--count": dict(type=run.number(int, 150), default=500, help="samples that are judged")})
    args, limit = job.args, 200 if job.args.quick else None
    train, labels = data.images(args.data, folder=args.data_dir, limit=limit)
    x = 2 * train.flatten(1) - 1                                    # (N, 784) in [-1, 1]
    u = ImageVelocity(8 if args.quick else args.width)
    optimizer = optim.Adam(u.parameters(), lr=args.lr)
    schedule, average = optim.CosineLR(optimizer, args.steps), optim.EMA(u, 0.998)
    batches = data.Batches(len(x), args.batch, args.seed)
    columns, noise = tg.Tensor(np.arange(80) % 10), tg.randn(80, 784)       # (80,): a row holds each class once
    sheet = lambda: plots.sheet(draw(average.model, columns, 1, noise, 2 if args.quick else 8, "euler")[-1])
    for step in job.train(show=sheet, u=u, optimizer=optimizer, schedule=schedule, average=average):
        x1, y = x[batches[step]], labels[batches[step]]             # (B, 784), (B,)
        x0, t = tg.randn(*x1.shape), tg.rand(len(x1), 1)            # (B, 784), (B, 1)
        loss = conditional_loss(u, x1, y, x0, t, drop=tg.rand(len(y)) < 0.1) / 784          # slide, eq. (2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update()
        job.log(loss=loss)

    pictures(job, average.model, columns, noise, steps=2 if args.quick else 12)
    test, test_labels = data.images(args.data, train=False, folder=args.data_dir, limit=limit)
    judge = Judge(train, labels, test, test_labels, steps=50 if args.quick else 3000, count=150 if args.quick else args.count)
    numbers = sweep(job, average.model, judge, test, test_labels, steps=1 if args.quick else 10)
    job.finish(**numbers, noise_floor=judge.data["frechet_floor"], loss=job.last("loss"))


def sweep(job, u, judge, test, labels, steps):
    """Fidelity and variety for growing guidance, from the same noise."""
    y, noise = np.arange(judge.count) % 10, tg.randn(judge.count, 784)  # (N,), (N, 784)
    samples = [draw(u, tg.Tensor(y), w, noise, steps)[-1].clip(-1, 1) for w in WEIGHTS]     # (N, 784) each
    numbers = compare(job, lambda x: judge.classifier((x + 1) / 2), samples, y, 2 * test.flatten(1) - 1, labels.numpy(), WEIGHTS)
    return numbers | {f"frechet_w{w}": judge((x + 1) / 2)["frechet"] for w, x in zip(WEIGHTS, samples)}


@tg.no_grad()
def pictures(job, u, columns, noise, steps):
    path = draw(u, columns, 1, noise, steps)                        # (steps + 1, 80, 784)
    job.picture(plots.sheet(path[-1]), "samples.png")

    fig, axes = plots.figure(2, 7, width=1.0, height=4)
    for i, k in enumerate(np.linspace(0, steps, 7).round().astype(int).tolist()):
        x, t, w = path[k, :5], tg.full((5, 1), k / steps), 1        # (5, 784)
        end = (1 + w) * u.end(x, t, columns[:5]) - w * u.end(x, t, 0 * columns[:5] + NO_CLASS) if k < steps else x
        plots.pictures(axes[i], x, 1, f"t = {k / steps:.2g}", low=-1)
        plots.pictures(axes[7 + i], end, 1, low=-1)
    axes[0].set(ylabel="x_t"), axes[7].set(ylabel="where it will end")
    job.picture(fig, "path.png")

    fig, axes = plots.figure(2, 2, width=4.4, height=2.0)
    for ax, w in zip(axes, (0, 1, 3, 6)):
        plots.pictures(ax, draw(u, columns[:40], w, noise[:40], steps)[-1], 10, f"w = {w}", low=-1)
    job.picture(fig, "guidance.png")

    fig, axes = plots.figure(4, 2, width=4.4, height=1.15)
    for i, wanted in enumerate((1, 3, 7, 15)[:steps]):              # Heun wants two in each step but the last
        for ax, method, n in ((axes[2 * i], "euler", wanted), (axes[2 * i + 1], "heun", (wanted + 1) // 2)):
            plots.pictures(ax, draw(u, columns[:20], 1, noise[:20], n, method)[-1], 10,
                           f"{method.capitalize()}, {n} step{'s' * (n > 1)}, {wanted} velocit{'ies' if wanted > 1 else 'y'}", low=-1)
    job.picture(fig, "steps.png")


if __name__ == "__main__":
    run.main(main)
