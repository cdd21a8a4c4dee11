"""Floor 5: pictures. Small helpers around matplotlib; each takes the axes to draw on and Tensors or arrays."""
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from . import backend

DATA, MODEL, NOISE, EXACT = "#1f6fb4", "#e4572e", "#8a8f98", "#2a9d5c"  # one colour each, in every picture

matplotlib.rcParams.update({
    "figure.dpi": 110, "savefig.dpi": 110, "font.size": 10, "axes.titlesize": 11, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": False, "legend.frameon": False, "lines.linewidth": 1.5, "image.cmap": "gray"})


def figure(rows=1, columns=1, size=3.0, width=None, height=None, title=None):
    """A figure and its axes, a list in reading order; size is the side of one panel in inches."""
    fig = Figure(figsize=((width or size) * columns, (height or size) * rows + (0.35 if title else 0)), layout="constrained")
    axes = [fig.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    if title:
        fig.suptitle(title, fontsize=12)
    return fig, axes


def limits(points, margin=0.15):
    """A square window (low, high) that shows all but the outermost thousandth of points (N, 2)."""
    points = backend.to_numpy(points)
    low, high = np.quantile(points, [0.001, 0.999], axis=0)
    centre, half = (low + high) / 2, (high - low).max() / 2 * (1 + margin)
    return (centre[0] - half, centre[0] + half), (centre[1] - half, centre[1] + half)


def plane(ax, window, title=None):
    """Prepare axes for points of the plane: a square window, no ticks."""
    ax.set(xlim=window[0], ylim=window[1], aspect="equal", xticks=[], yticks=[], title=title)
    for spine in ax.spines.values():
        spine.set(visible=True, color="#cccccc")
    return ax


def scatter(ax, points, color, size=2.0, alpha=0.5, limit=5000, **style):
    """Points (N, 2), at most `limit` of them."""
    points = backend.to_numpy(points)[:limit]
    return ax.scatter(points[:, 0], points[:, 1], s=size, c=color, alpha=alpha, linewidths=0, **style)


def trajectories(ax, paths, count=120):
    """Paths (steps, N, 2): grey start, thin line, coloured end."""
    paths = backend.to_numpy(paths)[:, :count]
    ax.plot(paths[:, :, 0], paths[:, :, 1], color="#b5a642", alpha=0.5, linewidth=0.8)
    ax.scatter(*paths[0].T, s=8, c=NOISE, linewidths=0, zorder=3)
    ax.scatter(*paths[-1].T, s=8, c=MODEL, linewidths=0, zorder=3)


def grid(window, n=20):
    """n x n points over a window, as an array (n * n, 2)."""
    x, y = np.meshgrid(np.linspace(*window[0], n), np.linspace(*window[1], n))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def pixels(window, n):
    """The extent=... of imshow that puts the points of grid(window, n) at the centres of the pixels."""
    return [edge for low, high in window for half in [(high - low) / (n - 1) / 2] for edge in (low - half, high + half)]


def arrows(ax, points, vectors, color="black", exact=None, scale=None):
    """A vector (N, 2) at each of points (N, 2); and below, as a green rim, what it should be, to the same scale.

    scale   the length of a vector that is drawn with length 1; None: such that nine of ten are shorter than the distance from
            point to point
    """
    points, vectors, below = [None if a is None else backend.to_numpy(a) for a in (points, vectors, exact)]
    if scale is None:
        longest = np.quantile(np.hypot(*(vectors if below is None else below).T), 0.9)
        scale = longest * len(points)**0.5 / (np.ptp(points, axis=0).max() or 1.0) or 1.0
    for arrow, style in ((below, dict(color=EXACT, edgecolor=EXACT, linewidth=1.2)), (vectors, dict(color=color))):
        if arrow is not None:
            ax.quiver(*points.T, *arrow.T, angles="xy", scale_units="xy", scale=scale, width=0.004, **style)


def mosaic(images, columns):
    """Images (N, 784), (N, 28, 28) or (N, 1, 28, 28) as one array (rows * 28, columns * 28), row by row."""
    images = backend.to_numpy(images)
    side = int(round((images.size / len(images))**0.5))
    images = images.reshape(-1, side, side)
    rows = -(-len(images) // columns)
    padded = np.full((rows * columns, side, side), images.min(), images.dtype)
    padded[:len(images)] = images
    return padded.reshape(rows, columns, side, side).swapaxes(1, 2).reshape(rows * side, columns * side)


def pictures(ax, images, columns, title=None, low=0.0, high=1.0):
    """Images side by side in one panel."""
    ax.imshow(mosaic(images, columns), vmin=low, vmax=high, interpolation="nearest")
    ax.set(title=title, xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def sheet(images, columns=10, labels=(), low=-1.0, high=1.0):
    """A figure of nothing but images in rows, with a label below each column."""
    fig, (ax,) = figure(1, 1, width=0.55 * columns, height=0.55 * len(images) / columns + (0.25 if labels else 0))
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
    """A figure of what D and G paid in each step; dashed the values where D can only guess (those of the logarithmic losses)."""
    fig, (ax,) = figure(1, 1, width=7, height=3.5)
    for player, color, guess in zip("DG", (DATA, MODEL), guesses):
        curve(ax, history[player], player, color)
        ax.axhline(guess, color=color, linestyle="--", linewidth=1)
    ax.set(title="loss of each player (dashed: D can only guess)", **axes)
    ax.legend()
    return fig


def density(ax, window, values, color, contours=False):
    """Values >= 0 (n * n,) at the points of grid(window, n), from white at 0 to color at the largest."""
    from matplotlib.colors import LinearSegmentedColormap
    values = backend.to_numpy(values)
    n = round(values.size**0.5)
    values = values.reshape(n, n)                                   # row: y
    ax.imshow(values, origin="lower", extent=pixels(window, n), aspect="equal", vmin=0,
              cmap=LinearSegmentedColormap.from_list("density", ["white", color]), interpolation="bilinear", zorder=0)
    if contours:
        ax.contour(values, values.max() * np.array([0.02, 0.1, 0.25, 0.5, 0.8]), extent=(*window[0], *window[1]),
                   colors=[color], linewidths=1)
    ax.set(xlim=window[0], ylim=window[1])


def _apart(points, least):
    """Points (N, 2), pushed away from each other until hardly two are nearer than `least`."""
    angle = np.arange(len(points))
    points = points + 1e-9 * least * np.stack([np.cos(angle), np.sin(angle)], axis=1)   # so that no two coincide
    for _ in range(50):
        way = points[:, None] - points                              # (N, N, 2)
        distance = np.hypot(*way.T) + 1e-12 * least
        points = points + (way * (np.maximum(least - distance, 0) / distance / 2)[..., None]).sum(axis=1)
    return points


def classes(ax, points, labels, title=None, window=None, limit=4000):
    """Points (N, 2), at most `limit`, coloured by their labels (N,); each label stands at, or near, the median of its class."""
    from matplotlib.patheffects import withStroke
    points, labels = backend.to_numpy(points)[:limit], backend.to_numpy(labels)[:limit]
    window, names = window or limits(points, margin=0.05), np.unique(labels)
    plane(ax, window, title)
    places = _apart(np.array([np.median(points[labels == label], axis=0) for label in names]), 0.05 * (window[0][1] - window[0][0]))
    for label, place in zip(names, places):
        color = f"C{int(label) % 10}"
        scatter(ax, points[labels == label], color, size=4, alpha=0.6)
        ax.text(*place, int(label), color=color, fontsize=13, fontweight="bold", ha="center", va="center",
                zorder=3, path_effects=[withStroke(linewidth=3, foreground="white")])


def draw_graph(loss, names=None):
    """The graph behind `loss` as a figure: leaves blue, results below what they were made from, loss orange at the bottom.

    names   how to call the Tensors, as in tg.explain. |g| is the length of the gradient that arrives in backward().
    """
    import sys
    from .explain import trace
    nodes = trace(loss, names, sys._getframe(1))
    layer = {id(n.tensor): 0 for n in nodes}
    for n in nodes:  # youngest first: a layer is the longest way to the loss
        layer.update({id(x): max(layer[id(x)], layer[id(n.tensor)] + 1) for x in n.tensor._inputs if id(x) in layer})
    text = {id(n.tensor): f"{n.call}\n{n.tensor.shape}   |g| {n.size:.2g}" for n in nodes}
    width = {key: 0.075 * max(map(len, t.split("\n"))) + 0.2 for key, t in text.items()}    # in inches, as all lengths here
    rows = [[key for key in layer if layer[key] == i] for i in range(max(layer.values()) + 1)]
    beside, edges = {key: [] for key in layer}, []
    for n in nodes:  # an edge across several layers bends at an invisible place in each of them
        for x in {id(x) for x in n.tensor._inputs} & set(layer):
            bends = [(x, id(n.tensor), i) for i in range(layer[id(n.tensor)] + 1, layer[x])]
            for i, bend in enumerate(bends, layer[id(n.tensor)] + 1):
                rows[i].append(bend)
                width[bend], beside[bend] = 0.1, []
            edge = [id(n.tensor), *bends, x]
            edges.append(edge)
            for a, b in zip(edge, edge[1:]):
                beside[a].append(b)
                beside[b].append(a)

    def pack(row, want, sign):
        """Places at `want` or as near as the boxes to the left allow (sign 1), or those to the right (-1)."""
        place, edge = {}, -1e9
        for key in row[::sign]:
            place[key] = sign * max(sign * want[key], edge + width[key] / 2)
            edge = sign * place[key] + width[key] / 2 + 0.15
        return place

    at = {key: i - len(row) / 2 for row in rows for i, key in enumerate(row)}
    level = {key: i for i, row in enumerate(rows) for key in row}
    for sweep in range(61):
        for row in rows[::1 if sweep % 2 else -1]:  # to the middle of the neighbours; at the end of those above only
            near = {key: [at[b] for b in beside[key] if sweep < 60 or level[b] > level[key]] or [at[key]] for key in row}
            want = {key: float(np.mean(near[key])) for key in row}
            row.sort(key=want.get if sweep < 60 else at.get)
            left, right = pack(row, want, 1), pack(row, want, -1)
            at.update({key: (left[key] + right[key]) / 2 for key in row})
    low = min(at[k] - width[k] / 2 for k in at) - 0.1
    high = max(at[k] + width[k] / 2 for k in at) + 0.1
    fig = Figure(figsize=(high - low, 0.75 * len(rows) + 0.1))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(low, high), ylim=(-0.42, 0.75 * len(rows) - 0.32))
    ax.axis("off")
    for edge in edges:
        ends = [(at[key], 0.75 * level[key]) for key in edge]
        ax.plot(*zip(*ends), color=NOISE, linewidth=1, zorder=0, solid_joinstyle="round")
        (x0, y0), (x1, y1) = ends[0], ends[1]
        tip = min(0.23 / (y1 - y0), (width[edge[0]] / 2 - 0.08) / max(abs(x1 - x0), 1e-9))  # where the line meets the box
        ax.annotate("", (x0 + tip * (x1 - x0), y0 + tip * (y1 - y0)), (x1, y1), zorder=0,
                    arrowprops=dict(arrowstyle="-|>", color=NOISE, linewidth=1, shrinkA=0, shrinkB=0))
    for n in nodes:
        key = id(n.tensor)
        line, fill = (MODEL, "#fdeae5") if n.tensor is loss else (DATA, "#e0ebf5") if n.op is None else ("#555555", "white")
        ax.text(at[key], 0.75 * level[key], text[key], ha="center", va="center", fontsize=8.5, linespacing=1.3,
                bbox=dict(boxstyle="round,pad=0.35", facecolor=fill, edgecolor=line))
    return fig
