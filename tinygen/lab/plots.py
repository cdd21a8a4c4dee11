"""Floor 11: pictures. Small helpers around matplotlib; each takes the axes to draw on and data.

Data are Tensors or arrays of either backend.
"""
import math
import sys

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from .. import backend
from ..derive.graph import ROW, layout

DATA, MODEL, NOISE, EXACT = "#1f6fb4", "#e4572e", "#8a8f98", "#2a9d5c"  # the same in every picture

matplotlib.rcParams.update({
    "figure.dpi": 110, "savefig.dpi": 110, "font.size": 10, "axes.titlesize": 11,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False,
    "legend.frameon": False, "lines.linewidth": 1.5, "image.cmap": "gray"})


def figure(rows=1, columns=1, size=3.0, width=None, height=None, title=None):
    """A figure and its axes, a list in reading order; size is the side of one panel in inches."""
    total = (width or size) * columns, (height or size) * rows + (0.35 if title else 0)
    fig = Figure(figsize=total, layout="constrained")
    axes = [fig.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    if title:
        fig.suptitle(title, fontsize=12)
    return fig, axes


def limits(points, margin=0.15):
    """A square window (low, high) that shows all but the outermost thousandth of points (N, 2)."""
    low, high = np.quantile(backend.to_numpy(points), [0.001, 0.999], axis=0)
    center = (low + high) / 2
    half = (high - low).max() / 2 * (1 + margin)
    return (center[0] - half, center[0] + half), (center[1] - half, center[1] + half)


def plane(ax, window, title=None):
    """Prepare axes for points of the plane: a square window, no ticks."""
    ax.set(xlim=window[0], ylim=window[1], aspect="equal", xticks=[], yticks=[], title=title)
    for spine in ax.spines.values():
        spine.set(visible=True, color="#cccccc")
    return ax


def scatter(ax, points, color, size=2.0, alpha=0.5, limit=5000, **style):
    """Points (N, 2), at most `limit` of them."""
    points = backend.to_numpy(points)[:limit]
    return ax.scatter(*points.T, s=size, c=color, alpha=alpha, linewidths=0, **style)


def trajectories(ax, paths, count=120):
    """Paths (steps, N, 2): gray start, thin line, colored end."""
    paths = backend.to_numpy(paths)[:, :count]
    ax.plot(paths[:, :, 0], paths[:, :, 1], color="#b5a642", alpha=0.5, linewidth=0.8)
    ax.scatter(*paths[0].T, s=8, c=NOISE, linewidths=0, zorder=3)
    ax.scatter(*paths[-1].T, s=8, c=MODEL, linewidths=0, zorder=3)


def grid(window, n=20):
    """n x n points over a window, as an array (n * n, 2)."""
    x, y = np.meshgrid(np.linspace(*window[0], n), np.linspace(*window[1], n))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def pixels(window, n):
    """The extent=... of imshow that puts the points of grid(window, n) at the pixels' middles."""
    edges = []
    for low, high in window:
        half = (high - low) / (n - 1) / 2
        edges += [low - half, high + half]
    return edges


def arrows(ax, points, vectors, color="black", exact=None, scale=None):
    """A vector (N, 2) at each of points (N, 2); below, as a rim, what it should be.

    scale   the length of a vector that is drawn with length 1, for both. None: such that nine of
            ten are shorter than the distance from point to point
    """
    points, vectors = map(backend.to_numpy, (points, vectors))
    below = vectors if exact is None else backend.to_numpy(exact)
    if scale is None:
        longest = np.quantile(np.hypot(*below.T), 0.9)
        scale = longest * len(points)**0.5 / (np.ptp(points, axis=0).max() or 1.0) or 1.0
    style = dict(angles="xy", scale_units="xy", scale=scale, width=0.004)
    if exact is not None:
        ax.quiver(*points.T, *below.T, color=EXACT, edgecolor=EXACT, linewidth=1.2, **style)
    ax.quiver(*points.T, *vectors.T, color=color, **style)


def mosaic(images, columns):
    """Images (N, 784), (N, 28, 28) or (N, 1, 28, 28) as one array (rows * 28, columns * 28)."""
    images = backend.to_numpy(images)
    side = round((images.size / len(images))**0.5)
    rows = math.ceil(len(images) / columns)
    padded = np.full((rows * columns, side, side), images.min(), images.dtype)
    padded[:len(images)] = images.reshape(-1, side, side)
    tiles = padded.reshape(rows, columns, side, side)
    return tiles.swapaxes(1, 2).reshape(rows * side, columns * side)


def pictures(ax, images, columns, title=None, low=0.0, high=1.0):
    """Images next to each other in one panel."""
    ax.imshow(mosaic(images, columns), vmin=low, vmax=high, interpolation="nearest")
    ax.set(title=title, xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def sheet(images, columns=10, labels=(), low=-1.0, high=1.0):
    """A figure of nothing but images in rows, with a label below each column."""
    height = 0.55 * len(images) / columns + (0.25 if labels else 0)
    fig, (ax,) = figure(width=0.55 * columns, height=height)
    pictures(ax, images, columns, low=low, high=high)
    ax.set_xticks(28 * np.arange(len(labels)) + 13.5, labels)
    ax.tick_params(length=0, labelsize=8)
    return fig


def curve(ax, values, label, color, window=None, **style):
    """A noisy curve over training steps: faint as it is, and the mean of the steps around each."""
    values = np.asarray(values, dtype=float)
    window = window or max(1, len(values) // 50)
    ax.plot(values, color=color, alpha=0.15, linewidth=0.5)
    mean = np.convolve(values, np.ones(window) / window, mode="valid")
    ax.plot(np.arange(len(mean)) + (window - 1) / 2, mean, color=color, label=label, **style)
    ax.set(xlabel="training step")


def losses(history, guesses=(2 * np.log(2), np.log(2)), **axes):
    """A figure of the loss of D and G at each step; dashed the values where D can only guess."""
    fig, (ax,) = figure(width=7, height=3.5)
    for player, color, guess in zip("DG", (DATA, MODEL), guesses):
        curve(ax, history[player], player, color)
        ax.axhline(guess, color=color, linestyle="--", linewidth=1)
    ax.set(title="loss of each player (dashed: D can only guess)", **axes)
    ax.legend()
    return fig


def density(ax, window, values, color, contours=False):
    """Values >= 0 (n * n,) at grid(window, n), from white at 0 to color at the largest."""
    values = backend.to_numpy(values)
    n = round(values.size**0.5)
    values = values.reshape(n, n)                                       # row: y
    ax.imshow(values, origin="lower", extent=pixels(window, n), aspect="equal", vmin=0,
              cmap=LinearSegmentedColormap.from_list("density", ["white", color]),
              interpolation="bilinear", zorder=0)
    if contours:
        ax.contour(values, values.max() * np.array([0.02, 0.1, 0.25, 0.5, 0.8]),
                   extent=(*window[0], *window[1]), colors=[color], linewidths=1)
    ax.set(xlim=window[0], ylim=window[1])


def _apart(points, least):
    """Points (N, 2), pushed away from each other until hardly two are nearer than `least`."""
    angle = np.arange(len(points))
    nudge = 1e-9 * least * np.stack([np.cos(angle), np.sin(angle)], axis=1)  # so no two coincide
    points = points + nudge
    for _ in range(50):
        way = points[:, None] - points                                  # (N, N, 2)
        distance = np.hypot(*way.T) + 1e-12 * least
        push = np.maximum(least - distance, 0) / distance / 2
        points = points + (way * push[..., None]).sum(axis=1)
    return points


def classes(ax, points, labels, title=None, window=None, limit=4000):
    """Points (N, 2), at most `limit`, colored by their labels (N,).

    Each label stands at, or near, the median of its class.
    """
    points = backend.to_numpy(points)[:limit]
    labels = backend.to_numpy(labels)[:limit]
    window = window or limits(points, margin=0.05)
    names = np.unique(labels)
    plane(ax, window, title)
    medians = np.array([np.median(points[labels == label], axis=0) for label in names])
    places = _apart(medians, 0.05 * (window[0][1] - window[0][0]))
    for label, place in zip(names, places):
        color = f"C{int(label) % 10}"
        scatter(ax, points[labels == label], color, size=4, alpha=0.6)
        ax.text(*place, int(label), color=color, fontsize=13, fontweight="bold", ha="center",
                va="center", zorder=3, path_effects=[withStroke(linewidth=3, foreground="white")])


def draw_graph(loss, names=None):
    """The graph behind `loss` as a figure: leaves blue, results below their inputs, loss orange.

    names   how to call the Tensors, as in tg.explain. |g| is the length of the gradient that
            arrives in backward()
    """
    graph = layout(loss, names, sys._getframe(1))
    boxes = graph.boxes
    low = min(b.x - b.width / 2 for b in boxes) - 0.1
    high = max(b.x + b.width / 2 for b in boxes) + 0.1
    fig = Figure(figsize=(high - low, ROW * graph.rows + 0.1))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(low, high), ylim=(-0.42, ROW * graph.rows - 0.32))
    ax.axis("off")
    width = {(b.x, b.y): b.width for b in boxes}
    for points in graph.edges:
        ax.plot(*zip(*points), color=NOISE, linewidth=1, zorder=0, solid_joinstyle="round")
        (x0, y0), (x1, y1) = points[:2]
        rise = 0.23 / (y1 - y0)                         # where the line meets the box: its top,
        run = (width[x0, y0] / 2 - 0.08) / max(abs(x1 - x0), 1e-9)      # or its side
        tip = min(rise, run)
        ax.annotate("", (x0 + tip * (x1 - x0), y0 + tip * (y1 - y0)), (x1, y1), zorder=0,
                    arrowprops=dict(arrowstyle="-|>", color=NOISE, linewidth=1, shrinkA=0,
                                    shrinkB=0))
    for b in boxes:
        line, fill = ("#555555", "white") if b.node.op else (DATA, "#e0ebf5")
        if b.node.tensor is loss:
            line, fill = MODEL, "#fdeae5"
        ax.text(b.x, b.y, b.text, ha="center", va="center", fontsize=8.5, linespacing=1.3,
                bbox=dict(boxstyle="round,pad=0.35", facecolor=fill, edgecolor=line))
    return fig
