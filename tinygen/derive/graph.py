"""Floor 10: where the nodes of a graph stand when it is drawn (tinygen.lab.plots.draw_graph).

The loss stands at the bottom; a result stands below everything that it was made from. All lengths
are in inches.
"""
import types

import numpy as np

from .explain import trace

ROW, LETTER, GAP = 0.75, 0.075, 0.15    # between layers, a letter of a label, between two boxes
SWEEPS = 60


def layout(loss, names=None, frame=None):
    """Places for the results and leaves behind `loss`; the arguments are those of explain.trace().

    boxes   one for each node: node, text, x, y (of the middle), width
    edges   lists of points (x, y), each from a result up to an input
    rows    how many layers there are
    """
    nodes = trace(loss, names, frame)
    layer = _layers(nodes)
    text = {n.tensor: f"{n.call}\n{n.tensor.shape}   |g| {n.size:.2g}" for n in nodes}
    width = {key: LETTER * max(map(len, t.split("\n"))) + 0.2 for key, t in text.items()}
    rows = [[key for key in layer if layer[key] == i] for i in range(max(layer.values()) + 1)]
    edges = _edges(nodes, layer, rows, width)
    x = _places(rows, edges, width)
    y = {key: ROW * i for i, row in enumerate(rows) for key in row}
    boxes = [types.SimpleNamespace(node=n, text=text[n.tensor], width=width[n.tensor],
                                   x=x[n.tensor], y=y[n.tensor]) for n in nodes]
    points = [[(x[key], y[key]) for key in edge] for edge in edges]
    return types.SimpleNamespace(boxes=boxes, edges=points, rows=len(rows))


def _parents(y):
    return [y.inputs[i] for i in y.wanted]


def _layers(nodes):
    """{Tensor: the longest way from it to the loss}"""
    layer = {n.tensor: 0 for n in nodes}
    for n in nodes:  # youngest first
        for x in _parents(n.tensor):
            if x in layer:
                layer[x] = max(layer[x], layer[n.tensor] + 1)
    return layer


def _edges(nodes, layer, rows, width):
    """[result, bends, input] for each edge; a bend is an invisible box in a layer it crosses."""
    edges = []
    for n in nodes:
        for x in dict.fromkeys(x for x in _parents(n.tensor) if x in layer):
            bends = [(x, n.tensor, i) for i in range(layer[n.tensor] + 1, layer[x])]
            for bend in bends:
                rows[bend[2]].append(bend)
                width[bend] = 0.1
            edges.append([n.tensor, *bends, x])
    return edges


def _places(rows, edges, width):
    """{box: x}: each box moves to the middle of its neighbors, again and again."""
    neighbors = {key: [] for row in rows for key in row}
    for edge in edges:
        for below, above in zip(edge, edge[1:]):
            neighbors[below].append(above)
            neighbors[above].append(below)
    level = {key: i for i, row in enumerate(rows) for key in row}
    at = {key: i - len(row) / 2 for row in rows for i, key in enumerate(row)}
    for sweep in range(SWEEPS + 1):
        last = sweep == SWEEPS  # now only the boxes above count, and the order stays
        for row in rows[::1 if sweep % 2 else -1]:
            want = {}
            for key in row:
                near = [at[b] for b in neighbors[key] if not last or level[b] > level[key]]
                want[key] = float(np.mean(near or [at[key]]))
            row.sort(key=at.get if last else want.get)
            packed = [_pack(row, want, width, sign) for sign in (1, -1)]
            at.update({key: (packed[0][key] + packed[1][key]) / 2 for key in row})
    return at


def _pack(row, want, width, sign):
    """Places at `want`, or as near as the boxes to the left (sign 1) or right (-1) allow."""
    place, edge = {}, -1e9
    for key in row[::sign]:
        place[key] = sign * max(sign * want[key], edge + width[key] / 2)
        edge = sign * place[key] + width[key] / 2 + GAP
    return place
