"""Class-conditional flow matching: p(x | y), with guidance.

Slide "Conditional flow matching", for labeled data (x_1, y): the velocity depends on the class,

    loss        E || u(x_t, t, y) - (x_1 - x_0) ||^2                                          (1)
    training    y becomes "no class" with probability 0.1: one network learns both fields     (2)
    guidance    u_w(x, t, y) = (1 + w) u(x, t, y) - w u(x, t, no class)                       (3)
    sampling    x <- x + h k,   k the mean of u_w at x, t and at x + h u_w, t + h (Heun)      (4)

With w = 0 the samples follow p(x | y). A larger w pushes away from what all images have in common,
toward what makes this class different. The digits become clearer but less varied; if w is too
large, they become too black and white. (They are not exactly samples of p(x | y)^(1+w) p(x)^-w.)

Look at:
    samples.png    a column for each class, w = 1
    guidance.png   the same noise with growing w: doubtful digits become clear, then strokes break
    accuracy.png   how often a classifier finds the class that was asked for, against w, and its
                   accuracy on real test images

Numbers in metrics.json, for w = 0, 1 and 3; the classifier is trained on the training images:
    loss           the mean of the last tenth
    seconds        of training
    accuracy_w0, accuracy_w1, accuracy_w3
                   the fraction of 1,000 samples that the classifier takes for the class asked for
    test_accuracy  of the classifier on real test images
    frechet_w0, frechet_w1, frechet_w3
                   the Frechet distance of the samples to as many test images, in the classifier's
                   features
    frechet_floor  the Frechet distance of as many training images to the same test images

Ho & Salimans, "Classifier-free diffusion guidance", 2022; Lipman et al., "Flow matching", 2023.
"""
import numpy as np

import tinygen as tg
from tinygen import functional as F, nn, optim
from tinygen.lab import data, plots, run
from tinygen.lab.judge import Judge

CLASSES, NO_CLASS = 10, 10


class ConditionalVelocity(nn.Module):
    """u(x, t, y): a residual multi-layer perceptron; time and class enter every block.

    The network predicts where the path will end, x_1; the velocity leads there in the time that is
    left. To predict the velocity it would have to pass the noise, which fills all 784 dimensions,
    through its 512 hidden units.
    """

    def __init__(self, dim=784, hidden=512, blocks=3):
        self.time = nn.SinusoidalEmbedding(64, max_period=1000.0)
        self.label = nn.Embedding(CLASSES + 1, hidden)
        self.time_in = nn.Linear(64, hidden)
        self.image_in = nn.Linear(dim, hidden)
        self.blocks = [nn.Linear(hidden, hidden) for _ in range(blocks)]
        self.image_out = nn.Linear(hidden, dim)

    def forward(self, x, t, y):
        condition = self.time_in(self.time(1000 * t)) + self.label(y)   # (B, H)
        h = self.image_in(x)                                            # (B, H)
        for block in self.blocks:
            h = h + block(F.silu(h + condition))
        end = self.image_out(F.silu(h))                                 # (B, 784): E[x_1 | x_t]
        return (end - x) / (1 - t).clip(min=0.05)                       # (B, 784)


def conditional_loss(u, x1, y, x0, t, drop):
    y = tg.where(drop, NO_CLASS, y)                             # (B,)      slide, eq. (2)
    xt = (1 - t) * x0 + t * x1                                  # (B, 784)
    error = u(xt, t, y) - (x1 - x0)                             #           slide, eq. (1)
    # A weight that depends on t only does not move the minimizer. With (1 - t)^2 the loss is the
    # squared error of the predicted end
    return ((1 - t)**2 * error**2).sum(axis=1).mean()


def guided(u, x, t, y, w):
    """The guided velocity; w = 0 is the conditional one, w = -1 the one without class."""
    if w == 0:
        return u(x, t, y)
    nothing = tg.full((len(y),), NO_CLASS)
    return (1 + w) * u(x, t, y) - w * u(x, t, nothing)          # (N, 784)  slide, eq. (3)


@tg.no_grad()
def draw(u, y, w, x, steps, method="heun"):
    """The path of digits y (N,) from noise x (N, 784) at t = 0 to t = 1: (steps + 1, N, 784).

    The last step of Heun's method is Euler's. With up to 20 steps it leads to the predicted end of
    the path; nearer to t = 1 than 0.05 the velocity is held back.
    """
    path = [x]
    h = 1 / steps
    for i in range(steps):
        t = tg.full((len(x), 1), i / steps)                     # (N, 1)
        k = guided(u, x, t, y, w)                               # (N, 784)
        if method == "heun" and i < steps - 1:
            t = tg.full((len(x), 1), (i + 1) / steps)           # (N, 1)
            k = (k + guided(u, x + h * k, t, y, w)) / 2
        x = x + h * k                                           #           slide, eq. (4)
        path.append(x)
    return tg.stack(path)


def main(argv=None):
    job = run.Job("conditional_flow_matching", __doc__, argv, data=data.IMAGES, steps=4000,
                  batch=128, lr=1e-3)
    args = job.args
    limit = 1000 if args.quick else None
    images, labels = data.images(args.data, folder=args.data_dir, limit=limit)
    x = 2 * images.flatten(1) - 1                               # (N, 784) in [-1, 1]
    u = ConditionalVelocity()
    optimizer = optim.Adam(u.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    ema = optim.EMA(u, 0.999)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(model=u, optimizer=optimizer, schedule=schedule, average=ema):
        x1 = x[batches[step]]                                   # (B, 784)
        y = labels[batches[step]]                               # (B,)
        x0 = tg.randn(*x1.shape)                                # (B, 784)
        t = tg.rand(len(x1), 1)                                 # (B, 1)
        drop = tg.rand(len(y)) < 0.1                            # (B,)
        loss = conditional_loss(u, x1, y, x0, t, drop)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.update()
        job.log(loss=loss)
    numbers = evaluate(job, ema.model, images, labels, limit)
    pictures(job, ema.model, steps=3 if args.quick else 20)
    job.finish(loss=job.last("loss"), **numbers)


# Numbers and pictures -----------------------------------------------------------------------------

def evaluate(job, u, images, labels, limit):
    """Accuracy and Frechet distance of samples, for growing guidance."""
    quick = job.args.quick
    test, test_labels = data.images(job.args.data, train=False, folder=job.args.data_dir,
                                    limit=limit)
    judge = Judge(images, labels, test, test_labels, steps=50 if quick else 3000,
                  count=200 if quick else 1000)
    numbers = dict(judge.data)
    y = tg.Tensor(np.arange(judge.count) % 10)                  # (N,)
    noise = tg.randn(judge.count, 784)                          # (N, 784)
    for w in (0, 1, 3):
        samples = draw(u, y, w, noise, 3 if quick else 20)[-1]  # (N, 784)
        found = judge((samples.clip(-1, 1) + 1) / 2, y)
        numbers[f"accuracy_w{w}"] = found["accuracy"]
        numbers[f"frechet_w{w}"] = found["frechet"]

    fig, (ax,) = plots.figure(1, 1, width=4.5, height=3)
    percent = [100 * numbers[f"accuracy_w{w}"] for w in (0, 1, 3)]
    ax.plot((0, 1, 3), percent, "o-", color=plots.MODEL, label="samples")
    ax.axhline(100 * numbers["test_accuracy"], color=plots.DATA, linestyle="--",
               label="real test images")
    ax.set(xlabel="guidance w", ylabel="% classified as asked")
    ax.legend(loc="lower right")
    job.picture(fig, "accuracy.png")
    return numbers


def pictures(job, u, steps):
    y = tg.Tensor(np.tile(np.arange(10), 8))                    # (80,): a row holds each class once
    fig, (ax,) = plots.figure(1, 1, width=5, height=4.2)
    samples = draw(u, y, 1, tg.randn(80, 784), steps)[-1]       # (80, 784)
    plots.pictures(ax, samples, 10, "asked for 0, 1, ..., 9 (w = 1)", low=-1)
    job.picture(fig, "samples.png")

    noise = tg.randn(60, 784)
    fig, axes = plots.figure(1, 3, width=4, height=2.9)
    for ax, w in zip(axes, (0, 1, 5)):
        samples = draw(u, y[:60], w, noise, steps)[-1]          # (60, 784)
        plots.pictures(ax, samples, 10, f"w = {w}", low=-1)
    job.picture(fig, "guidance.png")


if __name__ == "__main__":
    run.main(main)
