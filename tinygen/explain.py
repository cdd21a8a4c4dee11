"""Floor 5: the chain rule of one graph, written out; and the calculus table as a page to print.

    with tg.debug():                    # remembers your lines; explain works without it, too
        loss = F.mse_loss(model(x), t)
    print(tg.explain(loss))

The rows come in the order in which backward() walks: youngest first. Formulas are read from the first line of each
primitive's docstring, so they are those that the table states and the tests check. `python -m tinygen` prints the
whole table and checks it again while you wait.
"""
import itertools
import sys
import textwrap
import types

import numpy as np

from . import backend, nn
from .backend import TinygenError
from .gradcheck import GradcheckError, as_function, gradcheck, samples
from .tensor import PRIMITIVES, Tensor, _pull_back, _upstream

WIDTH = 110                 # columns of a page
VALUES, RESULTS = 12, 40    # the most numbers in one array, and the most results, that explain(values=True) writes out
SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "matmul": "@"}


def explain(loss, values=False, names=None, results=200):
    """The backward pass from `loss` as a page of text: each result's formula, shape, length of its gradient, and line.

    loss      a Tensor of one element; nothing is changed, and no .grad is touched
    values    True writes the numbers themselves, values and gradients: for graphs of a few numbers, as on the board
    names     how to call the Tensors: a Module, or a dict {name: Tensor or Module}. Else the caller's variables are used
    results   show at most so many results
    """
    nodes = trace(loss, names, sys._getframe(1))
    if values:
        _refuse_large(nodes)
    kept = {id(n) for n in [n for n in nodes if n.op][:results]}
    shown = [n for n in nodes if not n.op or id(n) in kept]
    cells = [[n.call] + ([_numbers(n.tensor.data), _numbers(n.g)] if values else [str(n.tensor.shape), f"{n.size:.3g}"])
             + list(n.formula) for n in shown]
    head = ["result"] + (["value", "g"] if values else ["shape", "|g|"]) + ["formula", "gradients of its inputs"]
    rows = _table([head] + cells)
    made = sum(n.op is not None for n in nodes)
    text = [f"Backward from {nodes[0].name} = {float(loss):.6g}, youngest first: {made} result{'s' * (made != 1)}, "
            f"{len(nodes) - made} {'leaf' if len(nodes) - made == 1 else 'leaves'}.   "
            f"g = d{nodes[0].name}/d(result)" + (", |g| its length" if not values else ""), ""] + rows[0]
    heading = None
    for node, lines in zip(shown, rows[1:]):
        line = node.line if node.op else "leaves: backward() adds g to their .grad"
        if line != heading:
            text += ["", line if len(line) <= WIDTH else line[:WIDTH - 4] + " ..."] if line else [""]
            heading = line
        text += lines
    if len(shown) < len(nodes):
        text += ["", f"({len(nodes) - len(shown)} older results are not shown: results={made} shows them.)"]
    if not any(n.line for n in nodes):
        text += ["", "Made inside `with tg.debug():`, the results would stand below the lines of your code that made them."]
    return "\n".join(line.rstrip() for line in text)


def trace(loss, names=None, frame=None):
    """The results and leaves behind `loss` that receive a gradient, youngest first.

    Each has tensor, op (None for a leaf), name, call ("p = sigmoid(z)"), formula (its two halves), g (its gradient, a
    raw array), size (the length of g) and line (of the code that made it, or "").
    """
    nodes = [types.SimpleNamespace(tensor=t, op=t._op, g=g, size=float(np.linalg.norm(backend.to_numpy(g))),
                                   line=getattr(t, "_line", "").replace(": ", "   ", 1))
             for t, g in _pull_back(loss, _upstream(loss, None))]
    known = _known_names(names, frame)
    leaf, result = map("x{}".format, itertools.count()), map("v{}".format, itertools.count(1))
    for node in reversed(nodes):  # oldest first: x0, x1, ... are the leaves, v1, v2, ... the results, in order of birth
        if id(node.tensor) not in known:
            known[id(node.tensor)] = next(n for n in (result if node.op else leaf) if n not in known.values())
        node.name = known[id(node.tensor)]
    for node in nodes:
        node.call = f"{node.name} = {_call(node.tensor, known)}" if node.op else node.name
        node.formula = _formula(node.tensor) if node.op else ("", "")
    return nodes


# Names ----------------------------------------------------------------------------------------------------------------

def _known_names(names, frame):
    """{id of a Tensor: name}, from `names` and then from the variables of the caller, Modules by their parameters."""
    known = {}
    scopes = [{"": names} if isinstance(names, nn.Module) else names or {}]
    scopes += [frame.f_locals, frame.f_globals] if frame else []
    for scope in scopes:
        for name, value in list(scope.items()):
            if isinstance(value, Tensor):
                known.setdefault(id(value), name)
            elif isinstance(value, nn.Module):
                for key, p in value.named_parameters():
                    known.setdefault(id(p), f"{name}.{key}" if name else key)
            elif isinstance(value, (list, tuple)) and len(value) < 100:
                for i, x in enumerate(value):
                    if isinstance(x, Tensor):
                        known.setdefault(id(x), f"{name}[{i}]")
    return known


def _call(t, known):
    """What made t, as code: sigmoid(z), a * b, x[:, 0]."""
    op, inputs = t._op.__name__, [_input(x, known) for x in t._inputs if x is not None]
    if op in SYMBOLS:
        return f" {SYMBOLS[op]} ".join(inputs)
    if op == "neg":
        return "-" + inputs[0]
    if op == "getitem":
        return f"{inputs[0]}[{_index(t._attributes['index'])}]"
    more = [f"{key}={_index(value)}" for key, value in t._attributes.items() if value is not None and value is not False]
    return f"{op}({', '.join(inputs + more)})"


def _input(x, known):
    if id(x) in known:
        return known[id(x)]
    if isinstance(x, Tensor):
        x = x.data
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
    return _input(i, {}) if hasattr(i, "shape") else "..." if i is Ellipsis else str(i)


def _formula(t):
    """("y = a b", "da = g b"): the docstring's first line, without the gradients that nobody wants here."""
    forward, gradients = formula(t._op)
    wanted = [isinstance(x, Tensor) and x.requires_grad for x, vjp in zip(t._inputs, t._op.vjps) if vjp]
    kept = [text for text, wants in zip(gradients, wanted) if wants] if len(gradients) >= len(wanted) else gradients
    return forward, ",  ".join((kept if not t._op.variadic else gradients) + gradients[len(wanted):])


def formula(op):
    """"y = a b;   da = g b,   db = g a" as ("y = a b", ["da = g b", "db = g a"])."""
    forward, _, gradients = (op.__doc__ or "y = ?;   not documented").splitlines()[0].partition(";   ")
    return forward, [" ".join(part.split()) for part in gradients.split(",   ")]


# The page -------------------------------------------------------------------------------------------------------------

def _table(rows, gap="  "):
    """Rows of cells as lists of lines, in aligned columns; the widest columns are wrapped until all fit on the page."""
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in zip(*rows)]
    numbers = [any("\n" in cell for cell in column) for column in zip(*rows)]
    while sum(widths) + len(gap) * (len(widths) - 1) > WIDTH:
        wrapped = [w if not fixed and w > 12 else 0 for w, fixed in zip(widths, numbers)]
        if not any(wrapped):
            break
        widths[wrapped.index(max(wrapped))] -= 1
    page = []
    for row in rows:
        cells = [cell.split("\n") if fixed else textwrap.wrap(cell, w, subsequent_indent=" ") or [""]
                 for cell, w, fixed in zip(row, widths, numbers)]
        height = max(map(len, cells))
        cells = [cell + [""] * (height - len(cell)) for cell in cells]
        page.append([gap.join(part.ljust(w) for part, w in zip(line, widths)) for line in zip(*cells)])
    return page


def _numbers(a):
    a = backend.to_numpy(a).astype(float)
    return f"{float(a):.4g}" if a.shape == () else np.array2string(a + 0.0, precision=4, suppress_small=True, separator=" ")


def _refuse_large(nodes):
    large = next((n for n in nodes if n.tensor.size > VALUES), None)
    if large or len(nodes) > RESULTS:
        what = f"{large.name} has shape {large.tensor.shape}" if large else f"this graph has {len(nodes)} results and leaves"
        raise TinygenError(f"explain(values=True) writes out every number, for arrays of at most {VALUES} and at most "
                           f"{RESULTS} of them; {what}: try it on a smaller example, or leave out values=True.")


# The calculus table, printed and checked ------------------------------------------------------------------------------

def reference(write=print):
    """Print every row of the table with the result of its checks, run now; the number of rows that fail."""
    rng, failures = np.random.default_rng(0), []
    rows = [["row", "formula", "gradients, g = dL/dy", "1st", "2nd", "samples"]]
    for name, op in PRIMITIVES.items():
        cases = [as_function(op, *sample) for sample in samples(op, lambda *shape: rng.standard_normal(shape))]
        forward, gradients = formula(op)
        status = []
        for order in (1, 2):
            try:
                ok = cases and all(gradcheck(f, *xs, order=order) for f, xs in cases)
                status.append("ok" if ok else "none")
            except GradcheckError as error:
                failures.append(f"{name}: {error}")
                status.append("WRONG")
                break
        if not cases:
            failures.append(f"{name}: it has no samples to check it on; add samples=... to its row.")
        rows.append([name, forward, ",  ".join(gradients), *(status + ["-"])[:2], str(len(cases))])
    header, *body = _table(rows)
    write(f"The calculus table of tinygen: {len(body)} rows. 1st, 2nd: the gradient, and the gradient of the gradient,\n"
          "compared with central differences in float64, just now.\n")
    for lines in [header, ["-" * WIDTH], *body]:
        write("\n".join(line.rstrip() for line in lines))
    for text in failures:
        write(f"\n{text}")
    write(f"\n{len(body) - len({text.split(':')[0] for text in failures})} of {len(body)} rows are right.")
    return len(failures)
