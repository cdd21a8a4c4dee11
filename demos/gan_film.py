"""The course of training in gan.py: its losses, and a film of samples and discriminator.

A part of gan.py, without any mathematics of its own.
"""
import numpy as np

import tinygen as tg
from tinygen import backend
from tinygen.lab import plots


# Numbers and pictures -----------------------------------------------------------------------------

FRAMES = 50


class Film:
    """Log samples and scores at FRAMES steps of a run; draw loss.png and training.gif."""

    def __init__(self, job, x):
        self.job = job
        self.x = x
        self.window = plots.limits(x)
        self.every = -(-job.args.steps // FRAMES)               # steps per frame, rounded up
        self.z = tg.randn(5000, 2)
        self.points = tg.Tensor(plots.grid(self.window, 60))    # (3600, 2)

    @tg.no_grad()
    def record(self, step, G, D):
        if (step + 1) % self.every == 0:
            self.job.log(samples=G(self.z), scores=D(self.points))      # (5000, 2), (3600, 1)

    def draw(self, losses):
        """losses: the three functions of the score, as in gan.LOSSES."""
        history = self.job.history
        on_real, on_fake, for_G = [loss(tg.zeros(1)).item() for loss in losses]
        fig = plots.losses(history, guesses=(on_real + on_fake, for_G))
        if "D*" in history:
            ax, = fig.axes
            steps = self.every * np.arange(1, len(history["D*"]) + 1)
            ax.plot(steps, history["D*"], ".-", color=plots.EXACT, label="D*")
            ax.legend()
        self.job.picture(fig, "loss.png")

        fig, (ax,) = plots.figure(1, 1, 4)

        def draw_frame(frame):
            ax.clear()
            title = f"step {self.every * (frame + 1)}"
            plot_discriminator(ax, self.window, history["scores"][frame], title)
            plots.scatter(ax, self.x, "black", size=4, alpha=1, limit=400)
            samples = history["samples"][frame]
            plots.scatter(ax, samples, plots.MODEL, size=4, alpha=0.8, limit=800)
        frames = range(len(history["samples"]))
        self.job.animation(fig, draw_frame, frames, "training.gif", rate=8)


def plot_discriminator(ax, window, scores, title, cells=False):
    """Color the plane by D = sigmoid(score): blue 1, white 1/2, red 0.

    scores   at the n * n points of plots.grid(window, n); with cells=True, in n x n cells
    """
    scores = backend.to_numpy(scores)
    n = round(scores.size**0.5)
    D = 0.5 + 0.5 * np.tanh(scores.reshape(n, n) / 2)
    extent = (*window[0], *window[1]) if cells else plots.pixels(window, n)
    plots.plane(ax, window, title)
    ax.imshow(D, "RdBu", vmin=-0.2, vmax=1.2, origin="lower", extent=extent)
