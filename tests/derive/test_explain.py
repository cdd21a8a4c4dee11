"""explain writes out what backward does, in the order in which it does it, and changes nothing."""
import importlib.util
import io
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import tinygen as tg
from table import PRIMITIVES, unlisted
from tinygen import backend, functional as F, nn
from tinygen.lab import plots
from tinygen.derive.explain import reference, trace

ROW = pathlib.Path(__file__).parent.parent.parent / "demos" / "exercises" / "vjp_row.py"


def regression():
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    x = tg.randn(8, 2)
    target = tg.randn(8, 1)
    with tg.debug():
        prediction = model(x)
        loss = ((prediction - target)**2).mean()
    return model, loss


# The page -----------------------------------------------------------------------------------------

def test_the_numbers_of_the_board():
    a, b, c = (tg.Tensor(v, requires_grad=True) for v in (2.0, -3.0, 10.0))
    with tg.debug():
        e = a * b
        L = (e + c) * e
    page = tg.explain(L, values=True)
    first = page.splitlines()[0]
    assert first == ("Backward from L = -24, youngest first: 3 results, 3 leaves.   "
                     "g = dL/d(result)")
    rows = {line.split()[0]: line.split() for line in page.splitlines() if line}
    assert " ".join(rows["L"]) == "L = v1 * e -24 1 y = a b da = g b, db = g a"
    assert " ".join(rows["v1"]) == "v1 = e + c 4 -6 y = a + b da = g, db = g"
    # the gradients of both ways into L have arrived at e: 4 + (-6)
    assert " ".join(rows["e"]) == "e = a * b -6 -2 y = a b da = g b, db = g a"
    assert rows["a"][1:] == ["2", "6"]
    assert rows["b"][1:] == ["-3", "-4"]
    assert rows["c"][1:] == ["10", "-6"]
    places = [page.index(text) for text in ("L = v1 * e", "v1 = e + c", "e = a * b", "\nc ")]
    assert sorted(set(places)) == places


def test_lengths_shapes_formulas_and_lines():
    model, loss = regression()
    page = tg.explain(loss)
    assert max(map(len, page.splitlines())) <= 110
    assert re.search(r"^test_explain.py:\d+   prediction = model\(x\)$", page, re.M)
    assert re.search(r"^test_explain.py:\d+   loss = \(\(prediction - target\)\*\*2\).mean\(\)$",
                     page, re.M)
    assert "leaves: backward() adds g to their .grad" in page
    assert "tg.debug" not in page
    loss.backward()
    for name, p in model.named_parameters():
        shape = re.escape(str(p.shape))
        length = np.linalg.norm(p.grad)
        assert re.search(rf"^model.{name} +{shape} +{length:.3g}$", page, re.M)
    assert re.search(r"tanh\(v1\) +\(8, 4\) +\S+ +y = tanh a +da = g \(1 - y\^2\)$", page, re.M)
    # db is not needed here
    assert re.search(r"v3 - array\(8,1\) .* y = a - b +da = g$", page, re.M)


def test_columns_are_aligned():
    _, loss = regression()
    lines = tg.explain(loss).splitlines()
    starts = {line.index(" y = ") for line in lines if " y = " in line}
    assert len(starts) == 1
    assert lines[2].index("formula") == starts.pop() + 1


def test_names():
    model, loss = regression()
    assert "\n0.weight " in tg.explain(loss, names=model)
    assert "\nnet.0.weight " in tg.explain(loss, names={"net": model})
    weights = [tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)]
    s = (weights[0] * weights[1] * hidden()).sum()
    page = tg.explain(s)
    assert "v1 = weights[0] * weights[1]" in page
    assert "s = sum(v2)" in page
    assert "\nx0 " in page  # the hidden one has no name here
    v1 = hidden().sum()
    L = v1 * hidden().sum() * v1
    assert "v2 = sum(x1)" in tg.explain(L)  # the name v1 is taken


def hidden():
    return tg.ones(2, requires_grad=True)


def test_what_stands_in_a_call():
    x = tg.randn(4, 5, requires_grad=True)
    y = F.softmax(-x[1:3, ::2].reshape(3, 2), axis=0)[np.array([0, 0])]
    s = (tg.where(np.array([True, False]), y @ tg.ones(2, 2), 1.0) / 2).mean()
    page = tg.explain(s)
    for call in ("x[1:3, ::2]", "reshape(v1, shape=(3, 2))", "= -v2", "softmax(v3, axis=0)",
                 "y = v4[index(2,)]", "y @ array(2,2)", "where(mask(2,), v5, 1)", "v6 / 2",
                 "sum(v7)"):
        assert call in page, call


def test_the_page_tells_how_to_get_the_lines():
    a = tg.Tensor(2.0, requires_grad=True)
    b = a * a
    assert tg.explain(b).count("tg.debug()") == 1
    assert b.line is None  # outside debug() nothing is remembered, and nothing costs time


def test_it_changes_nothing(library):
    model, loss = regression()
    tg.explain(loss)
    assert all(p.grad is None for p in model.parameters())
    loss.backward()
    kept = [backend.to_numpy(p.grad).copy() for p in model.parameters()]
    state = backend.rng_state() if library == "numpy" else None
    tg.explain(loss)
    plots.draw_graph(loss)
    for p, before in zip(model.parameters(), kept):
        assert backend.to_numpy(p.grad).tolist() == before.tolist()
    if library == "numpy":
        assert backend.rng_state() == state


def test_the_gradients_are_those_of_grad():
    model, loss = regression()
    nodes = trace(loss, model)
    gs = tg.grad(loss, [n.tensor for n in nodes])
    for node, g in zip(nodes, gs):
        np.testing.assert_array_equal(node.g, g.numpy())
    place = {n.tensor: i for i, n in enumerate(nodes)}
    for node in nodes:  # youngest first: everything comes before what it was made from
        inputs = [x for x in node.tensor.inputs if isinstance(x, tg.Tensor) and x in place]
        assert all(place[x] > place[node.tensor] for x in inputs)


def test_large_graphs():
    x = tg.Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(1000):
        y = y * 1.001
    page = tg.explain(y, results=5)
    assert "(995 older results are not shown: results=1000 shows them.)" in page
    assert len(page.splitlines()) < 20
    assert "\nx " in page
    words = "has 1001 results and leaves: try it on a smaller example"
    with pytest.raises(tg.TinygenError, match=words):
        tg.explain(y, values=True)
    with pytest.raises(tg.TinygenError, match=r"at most 12 .* has shape \(8, "):
        tg.explain(regression()[1], values=True)
    with pytest.raises(RuntimeError, match="There is nothing to differentiate"):
        tg.explain(tg.ones(1))


def test_a_result_that_is_a_leaf_and_an_undocumented_row():
    x = tg.Tensor(3.0, requires_grad=True)
    page = tg.explain(x)
    assert "Backward from x = 3" in page
    assert "0 results, 1 leaf." in page
    op = unlisted(lambda a: a * 1.0, lambda g, y, a: g)
    assert "not documented" in tg.explain(op(x))


def test_every_formula_can_be_read():
    for name, op in PRIMITIVES.items():
        assert op.formula[0] in "yY", name
        assert all(op.gradients), name
        readable = [g for g in op.gradients if re.match(r"d\w+ = ", g)]
        vjps = [vjp for vjp in op.vjps if vjp]
        assert len(readable) == len(vjps), name


def test_explain_waits_for_the_device_only_when_asked(count):
    model, loss = regression()  # made under debug(), which reads every result
    before = count.syncs
    trace(loss, model)
    assert count.syncs - before <= 20  # one length for each result and leaf


# The table ----------------------------------------------------------------------------------------

def test_the_reference_checks_every_row():
    page = []
    assert reference(page.append) == 0
    text = "\n".join(page)
    assert text.endswith(f"{len(PRIMITIVES)} of {len(PRIMITIVES)} rows are right.")
    assert max(map(len, text.splitlines())) <= 110
    for name in PRIMITIVES:
        assert re.search(rf"^{name} .* ok +ok +\d+$", text, re.M), name


def test_the_reference_finds_wrong_rows(monkeypatch):
    kept = dict(PRIMITIVES)
    detached = lambda a: a.detach() if isinstance(a, tg.Tensor) else a
    try:
        PRIMITIVES.clear()
        PRIMITIVES["exp"] = kept["exp"]
        PRIMITIVES["bad"] = unlisted(lambda a: a * 2.0, lambda g, y, a: g, elementwise=True)
        PRIMITIVES["frozen"] = unlisted(
            lambda a: a * a, lambda g, y, a: 2 * g * detached(a), elementwise=True)
        PRIMITIVES["unsampled"] = unlisted(lambda a: a * 1.0, lambda g, y, a: g)
        page = []
        assert reference(page.append) > 0
    finally:
        PRIMITIVES.clear()
        PRIMITIVES.update(kept)
    text = "\n".join(page)
    assert re.search(r"^bad .* WRONG +- ", text, re.M)
    assert re.search(r"^frozen .* ok +WRONG", text, re.M)
    assert re.search(r"^unsampled .* none +none +0$", text, re.M)
    assert "add samples=" in text
    assert "one of two equal paths" in text
    assert text.endswith("1 of 4 rows are right.")


def test_the_command():
    done = subprocess.run([sys.executable, "-m", "tinygen"], capture_output=True, text=True)
    assert done.returncode == 0
    assert not done.stderr
    assert "softmax" in done.stdout


# The picture --------------------------------------------------------------------------------------

def test_the_graph_is_drawn_with_every_node_once_and_nothing_overlaps():
    x = tg.randn(4, 3)
    enc = nn.Linear(3, 5)
    mu = nn.Linear(5, 2)
    logvar = nn.Linear(5, 2)
    dec = nn.Linear(2, 3)
    h = F.relu(enc(x))
    m = mu(h)
    s = logvar(h)
    z = m + tg.exp(s / 2) * tg.randn(4, 2)
    loss = F.mse_loss(dec(z), x) + F.kl_standard_normal(m, s).mean()
    fig = plots.draw_graph(loss)
    nodes = trace(loss, None, sys._getframe())
    texts = [t for t in fig.axes[0].texts if t.get_text()]
    assert sorted(t.get_text().split("\n")[0] for t in texts) == sorted(n.call for n in nodes)
    fig.savefig(io.BytesIO())
    page = fig.bbox
    boxes = [t.get_bbox_patch().get_window_extent() for t in texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
    height = {}
    for n in nodes:
        height[n.name] = next(
            t.get_position()[1] for t in texts if t.get_text().startswith(n.call + "\n"))
    for n in nodes:  # everything lies below what it was made from
        for parent in nodes:
            if any(x is parent.tensor for x in n.tensor.inputs):
                assert height[parent.name] > height[n.name]


# The vjp row as an exercise -----------------------------------------------------------------------

ANSWERS = {
    "softsign": "g * (1 - tg.abs(y))**2",
    "centre": "g - tg.mean(g, axis=-1, keepdims=True)",
    "rms_norm": "(g - y * tg.mean(g * y, axis=-1, keepdims=True)) / rms(x)",
}


@pytest.fixture
def exercise(tmp_path, capsys):
    """The exercise as a student hands it in: answers -> (exit code, what is printed, module)."""
    kept = dict(PRIMITIVES)

    def run(steps=8, **answers):
        text = ROW.read_text()
        for name in ANSWERS:
            answer = answers.get(name, "...")
            text = text.replace("x: ...,", f"x: {answer} ,", 1)
        path = tmp_path / "vjp_row.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("vjp_row", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        code = module.main(steps)
        return code, capsys.readouterr().out, module
    yield run
    PRIMITIVES.clear()
    PRIMITIVES.update(kept)


def test_the_row_is_not_started(exercise):
    code, out, _ = exercise()
    assert not code
    assert out.count("not started") == 3
    assert out.endswith("0 of 3 rows are right. Next: softsign.\n")


def test_right_rows_train(exercise):
    code, out, module = exercise(steps=400, **ANSWERS)
    assert not code
    assert out.endswith("3 of 3 rows are right.\n")
    rows = [line.split() for line in out.splitlines() if re.match(r" +\d+ +\d", line)]
    step, yours, negative = np.array(rows, float)[-1, :3]
    assert step == 400
    assert yours < 1.6  # the network with the right vjps learns
    assert negative > 1.75  # the one with their negatives does not


@pytest.mark.parametrize("name, answer, words", [
    ("softsign", "g * (1 - y)**2", "exactly where x < 0"),
    ("softsign", "g", "It is g itself"),
    ("softsign", "-g * (1 - tg.abs(y))**2", "exactly the negative"),
    ("softsign", "(1 - tg.abs(y))**2", "multiply by g"),
    ("centre", "g", "the term - mean(g) over axis"),
    ("centre", "g - tg.sum(g, axis=-1, keepdims=True)", "along axis"),
    ("centre", "g - g.mean(-1)", "write the shape under every factor"),
    ("rms_norm", "g / rms(x)", "such as y sum(g y)"),
    ("rms_norm", "g - y * tg.mean(g * y, axis=-1, keepdims=True)",
     "right up to a factor, another one for each slice"),
    ("rms_norm", "undefined", "your vjp raised NameError"),
])
def test_wrong_rows_are_named(exercise, name, answer, words):
    code, out, _ = exercise(**{name: answer})
    assert code
    assert words in out
    assert "Traceback" not in out
    assert out.count("not started") == 2
