"""Floor 9: the chain rule of one graph, written out; and the calculus table as a page to print.

    with tg.debug():                    # remembers your lines; explain works without it as well
        loss = F.mse_loss(model(x), t)
    print(tg.explain(loss))

The rows come in the order in which backward() walks: youngest first. The formulas are those of the
calculus table, which the tests check. `python -m tinygen` prints the whole table and checks it
again while you wait.
"""
import itertools
import sys
import textwrap
import types

import numpy as np

from .. import backend, nn, refusals
from ..backend import TinygenError
from ..engine import PRIMITIVES, Tensor, upstream, walk_back
from .gradcheck import GradcheckError, gradcheck
from .samples import as_function, samples

WIDTH = 110                 # columns of a page
VALUES = 12                 # explain(values=True) writes out arrays of at most so many numbers,
RESULTS = 40                # and at most so many results
SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "matmul": "@"}


def explain(loss, values=False, names=None, results=200):
    """The backward pass from `loss` as a page of text. Nothing is changed, no .grad is touched.

    For each result: its formula, its shape, the length of its gradient, and your line.

    loss      a Tensor of one element
    values    True writes the numbers themselves, values and gradients, for graphs of a few numbers
    names     how to call the Tensors: a Module, or a dict {name: Tensor or Module}. Else the
              caller's variables are used
    results   show at most so many results
    """
    nodes = trace(loss, names, sys._getframe(1))
    if values:
        _refuse_large(nodes)
    made = [n for n in nodes if n.op]
    shown = made[:results] + [n for n in nodes if not n.op]
    rows = [_header(values)] + [_row(n, values) for n in shown]
    header, *cells = _table(rows)
    text = [_summary(loss, nodes, values), ""] + header
    heading = None
    for node, lines in zip(shown, cells):
        line = node.line if node.op else "leaves: backward() adds g to their .grad"
        if line != heading:
            text += ["", line if len(line) <= WIDTH else line[:WIDTH - 4] + " ..."]
            heading = line
        text += lines
    if len(shown) < len(nodes):
        left = len(nodes) - len(shown)
        text += ["", f"({left} older results are not shown: results={len(made)} shows them.)"]
    if not any(n.line for n in nodes):
        text += ["", "Made inside `with tg.debug():`, the results would stand below the lines of "
                     "your code that made them."]
    page = "\n".join(line.rstrip() for line in text)
    return page.replace("\n\n\n", "\n\n")


def _header(values):
    what = ["value", "g"] if values else ["shape", "|g|"]
    return ["result", *what, "formula", "gradients of its inputs"]


def _row(node, values):
    what = [str(node.tensor.shape), f"{node.size:.3g}"]
    if values:
        what = [_numbers(node.tensor.data), _numbers(node.g)]
    return [node.call, *what, *node.formula]


def _summary(loss, nodes, values):
    made = sum(n.op is not None for n in nodes)
    leaves = len(nodes) - made
    results = "1 result" if made == 1 else f"{made} results"
    return (f"Backward from {nodes[0].name} = {float(loss):.6g}, youngest first: {results}, "
            f"{'1 leaf' if leaves == 1 else f'{leaves} leaves'}.   g = d{nodes[0].name}/d(result)"
            f"{'' if values else ', |g| its length'}")


def trace(loss, names=None, frame=None):
    """The results and leaves behind `loss` that receive a gradient, youngest first.

    Each has tensor, op (None for a leaf), name, call ("p = sigmoid(z)"), formula (its two halves),
    g (its gradient, a raw array), size (the length of g) and line (of the code that made it).
    """
    if not loss.requires_grad:
        refusals.nothing_to_differentiate()
    nodes = [_node(t, g) for t, g in walk_back(loss, upstream(loss, None))]
    known = _known_names(names, frame)
    leaf = map("x{}".format, itertools.count())
    result = map("v{}".format, itertools.count(1))
    for node in reversed(nodes):  # oldest first: x0, x1, ... are the leaves, v1, v2, ... results
        if node.tensor not in known:
            free = (n for n in (result if node.op else leaf) if n not in known.values())
            known[node.tensor] = next(free)
        node.name = known[node.tensor]
    for node in nodes:
        node.call = f"{node.name} = {_call(node.tensor, known)}" if node.op else node.name
        node.formula = _formula(node.tensor) if node.op else ("", "")
    return nodes


def _node(t, g):
    line = (t.line or "").replace(": ", "   ", 1)
    size = float(np.linalg.norm(backend.to_numpy(g)))
    return types.SimpleNamespace(tensor=t, op=t.op, g=g, line=line, size=size)


# Names --------------------------------------------------------------------------------------------

def _known_names(names, frame):
    """{Tensor: name}, from `names`, then from the caller's variables and Modules."""
    known = {}
    scopes = [{"": names} if isinstance(names, nn.Module) else names or {}]
    scopes += [frame.f_locals, frame.f_globals] if frame else []
    for scope in scopes:
        for name, value in list(scope.items()):
            if isinstance(value, Tensor):
                known.setdefault(value, name)
            elif isinstance(value, nn.Module):
                for key, p in value.named_parameters():
                    known.setdefault(p, f"{name}.{key}" if name else key)
            elif isinstance(value, (list, tuple)) and len(value) < 100:
                for i, x in enumerate(value):
                    if isinstance(x, Tensor):
                        known.setdefault(x, f"{name}[{i}]")
    return known


def _call(t, known):
    """What made t, as code: sigmoid(z), a * b, x[:, 0]."""
    name = t.op.__name__
    inputs = [_input(x, known) for x in t.inputs if x is not None]
    if name in SYMBOLS:
        return f" {SYMBOLS[name]} ".join(inputs)
    if name == "neg":
        return f"-{inputs[0]}"
    if name == "getitem":
        return f"{inputs[0]}[{_index(t.attributes['index'])}]"
    more = [f"{key}={_index(value)}" for key, value in t.attributes.items()
            if key not in t.op.defaults or value is not t.op.defaults[key]]
    return f"{name}({', '.join(inputs + more)})"


def _input(x, known):
    if isinstance(x, Tensor) and x in known:
        return known[x]
    x = x.data if isinstance(x, Tensor) else x
    if not hasattr(x, "shape"):
        return f"{x:.4g}"
    if x.shape == ():
        return f"{float(x):.4g}"
    return {"f": "array", "b": "mask"}.get(x.dtype.kind, "index") + str(x.shape).replace(" ", "")


def _index(i):
    if isinstance(i, tuple) and any(isinstance(n, slice) or hasattr(n, "shape") for n in i):
        return ", ".join(map(_index, i))
    if isinstance(i, slice):
        ends = ["" if n is None else str(n) for n in (i.start, i.stop, i.step)]
        return ":".join(ends if ends[2] else ends[:2])
    if hasattr(i, "shape"):
        return _input(i, {})
    return "..." if i is Ellipsis else str(i)


def _formula(t):
    """("y = a b", "da = g b"): the row's formula, and the gradients that are wanted here."""
    texts = dict(zip([n for n, vjp in enumerate(t.op.vjps) if vjp], t.op.gradients))
    return t.op.formula, ",  ".join(texts.get(n, "not documented") for n in t.wanted)


# The page -----------------------------------------------------------------------------------------

def _table(rows, gap="  "):
    """Rows of cells as lists of lines, in aligned columns; the widest are wrapped to fit."""
    columns = list(zip(*rows))
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    fixed = [any("\n" in cell for cell in column) for column in columns]
    while sum(widths) + len(gap) * (len(widths) - 1) > WIDTH:
        wrapped = [w if not f and w > 12 else 0 for w, f in zip(widths, fixed)]
        if not any(wrapped):
            break
        widths[wrapped.index(max(wrapped))] -= 1
    page = []
    for row in rows:
        cells = [cell.split("\n") if f else textwrap.wrap(cell, w, subsequent_indent=" ") or [""]
                 for cell, w, f in zip(row, widths, fixed)]
        height = max(map(len, cells))
        cells = [cell + [""] * (height - len(cell)) for cell in cells]
        page.append([gap.join(part.ljust(w) for part, w in zip(line, widths))
                     for line in zip(*cells)])
    return page


def _numbers(a):
    a = backend.to_numpy(a).astype(float)
    if a.shape == ():
        return f"{float(a):.4g}"
    return np.array2string(a + 0.0, precision=4, suppress_small=True, separator=" ")


def _refuse_large(nodes):
    large = next((n for n in nodes if n.tensor.size > VALUES), None)
    if large or len(nodes) > RESULTS:
        what = f"this graph has {len(nodes)} results and leaves"
        if large:
            what = f"{large.name} has shape {large.tensor.shape}"
        raise TinygenError(f"explain(values=True) writes out every number, for arrays of at most "
                           f"{VALUES} and at most {RESULTS} of them; {what}: try it on a smaller "
                           "example, or leave out values=True.")


# The calculus table, printed and checked ----------------------------------------------------------

def reference(write=print):
    """Print every row of the table with the result of its checks, run now.

    Returns the number of rows that fail.
    """
    failures = {}
    rows = [["row", "formula", "gradients, g = dL/dy", "1st", "2nd", "samples"]]
    for name, op in PRIMITIVES.items():
        status, count, failure = _checked(op)
        if failure:
            failures[name] = failure
        rows.append([name, op.formula, ",  ".join(op.gradients), *status, str(count)])
    header, *body = _table(rows)
    write(f"The calculus table of tinygen: {len(body)} rows. 1st, 2nd: the gradient, and the "
          "gradient of the gradient,\ncompared with central differences in float64, just now.\n")
    for lines in [header, ["-" * WIDTH], *body]:
        write("\n".join(line.rstrip() for line in lines))
    for name, failure in failures.items():
        write(f"\n{name}: {failure}")
    write(f"\n{len(body) - len(failures)} of {len(body)} rows are right.")
    return len(failures)


def _checked(op):
    """(status of both orders, how many samples, what is wrong or None) of one row."""
    rng = np.random.default_rng(0)
    cases = [as_function(op, *sample)
             for sample in samples(op, lambda *shape: rng.standard_normal(shape))]
    if not cases:
        return ["none", "none"], 0, "it has no samples to check it on; add samples=... to its row."
    for order in (1, 2):
        try:
            for f, xs in cases:
                gradcheck(f, *xs, order=order)
        except GradcheckError as error:
            return [["WRONG", "-"], ["ok", "WRONG"]][order - 1], len(cases), error
    return ["ok", "ok"], len(cases), None
