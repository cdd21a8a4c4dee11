"""explain tells what backward does, in the order in which it does it, and disturbs nothing."""
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
from tinygen.derive.explain import formula, reference, trace

ROW = pathlib.Path(__file__).parent.parent.parent / "demos" / "exercises" / "vjp_row.py"


def regression():
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    x, target = tg.randn(8, 2), tg.randn(8, 1)
    with tg.debug():
        prediction = model(x)
        loss = ((prediction - target)**2).mean()
    return model, loss


# The page -------------------------------------------------------------------------------------------------------------

def test_the_numbers_of_the_board():
    a, b, c = (tg.Tensor(v, requires_grad=True) for v in (2.0, -3.0, 10.0))
    with tg.debug():
        e = a * b
        L = (e + c) * e
    page = tg.explain(L, values=True)
    assert page.splitlines()[0] == "Backward from L = -24, youngest first: 3 results, 3 leaves.   g = dL/d(result)"
    rows = {line.split()[0]: line.split() for line in page.splitlines() if line}
    assert " ".join(rows["L"]) == "L = v1 * e -24 1 y = a b da = g b, db = g a"
    assert " ".join(rows["v1"]) == "v1 = e + c 4 -6 y = a + b da = g, db = g"
    assert " ".join(rows["e"]) == "e = a * b -6 -2 y = a b da = g b, db = g a"  # both ways into L have arrived: 4 + (-6)
    assert (rows["a"][1:], rows["b"][1:], rows["c"][1:]) == (["2", "6"], ["-3", "-4"], ["10", "-6"])
    assert page.index("L = v1 * e") < page.index("v1 = e + c") < page.index("e = a * b") < page.index("\nc ")


def test_lengths_shapes_formulas_and_lines():
    model, loss = regression()
    page = tg.explain(loss)
    assert max(map(len, page.splitlines())) <= 110
    assert re.search(r"^test_explain.py:\d+   prediction = model\(x\)$", page, re.M)
    assert re.search(r"^test_explain.py:\d+   loss = \(\(prediction - target\)\*\*2\).mean\(\)$", page, re.M)
    assert "leaves: backward() adds g to their .grad" in page and "tg.debug" not in page
    loss.backward()
    for name, p in model.named_parameters():
        size = np.linalg.norm(p.grad)
        assert re.search(rf"^model.{name} +{re.escape(str(p.shape))} +{size:.3g}$", page, re.M)
    assert re.search(r"tanh\(v1\) +\(8, 4\) +\S+ +y = tanh a +da = g \(1 - y\^2\)$", page, re.M)
    assert re.search(r"v3 - array\(8,1\) .* y = a - b +da = g$", page, re.M)  # db is not wanted here


def test_columns_are_aligned():
    _, loss = regression()
    lines = tg.explain(loss).splitlines()
    starts = {line.index(" y = ") for line in lines if " y = " in line}
    assert len(starts) == 1 and lines[2].index("formula") == starts.pop() + 1


def test_names():
    model, loss = regression()
    assert "\n0.weight " in tg.explain(loss, names=model)
    assert "\nnet.0.weight " in tg.explain(loss, names={"net": model})
    weights = [tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)]
    s = (weights[0] * weights[1] * hidden()).sum()
    page = tg.explain(s)
    assert "v1 = weights[0] * weights[1]" in page and "s = sum(v2)" in page
    assert "\nx0 " in page  # nobody knows the hidden one
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
    for call in ("x[1:3, ::2]", "reshape(v1, shape=(3, 2))", "= -v2", "softmax(v3, axis=0)", "y = v4[index(2,)]",
                 "y @ array(2,2)", "where(mask(2,), v5, 1)", "v6 / 2", "sum(v7)"):
        assert call in page, call


def test_it_says_how_to_get_the_lines():
    a = tg.Tensor(2.0, requires_grad=True)
    b = a * a
    assert tg.explain(b).count("tg.debug()") == 1
    assert b.line == ""  # nothing is remembered, and nothing costs time, outside debug()


def test_it_disturbs_nothing(library):
    model, loss = regression()
    tg.explain(loss)
    assert all(p.grad is None for p in model.parameters())
    loss.backward()
    kept = [backend.to_numpy(p.grad).copy() for p in model.parameters()]
    state = backend.rng_state() if library != "cupy" else None
    tg.explain(loss)
    plots.draw_graph(loss)
    assert [backend.to_numpy(p.grad).tolist() for p in model.parameters()] == [k.tolist() for k in kept]
    assert library == "cupy" or library == "strict" or backend.rng_state() == state


def test_the_gradients_are_those_of_grad():
    model, loss = regression()
    nodes = trace(loss, model)
    gs = tg.grad(loss, [n.tensor for n in nodes])
    for node, g in zip(nodes, gs):
        np.testing.assert_array_equal(node.g, g.numpy())
    place = {n.tensor: i for i, n in enumerate(nodes)}
    for node in nodes:  # youngest first: everything comes before what it was made from
        assert all(place[x] > place[node.tensor] for x in node.tensor.inputs if isinstance(x, tg.Tensor) and x in place)


def test_large_graphs():
    x = tg.Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(1000):
        y = y * 1.001
    page = tg.explain(y, results=5)
    assert "(995 older results are not shown: results=1000 shows them.)" in page and len(page.splitlines()) < 20
    assert "\nx " in page
    with pytest.raises(tg.TinygenError, match="has 1001 results and leaves: try it on a smaller example"):
        tg.explain(y, values=True)
    with pytest.raises(tg.TinygenError, match=r"at most 12 .* has shape \(8, "):
        tg.explain(regression()[1], values=True)
    with pytest.raises(RuntimeError, match="There is nothing to differentiate"):
        tg.explain(tg.ones(1))


def test_a_result_that_is_a_leaf_and_an_undocumented_row():
    x = tg.Tensor(3.0, requires_grad=True)
    assert "Backward from x = 3" in tg.explain(x) and "0 results, 1 leaf." in tg.explain(x)
    op = unlisted(lambda a: a * 1.0, lambda g, y, a: g)
    assert "not documented" in tg.explain(op(x))


def test_every_formula_can_be_read():
    for name, op in PRIMITIVES.items():
        assert formula(op)[0] in "yY" and all(op.gradients), name
        assert len([g for g in op.gradients if re.match(r"d\w+ = ", g)]) == len([v for v in op.vjps if v]), name


def test_explain_waits_for_the_device_only_when_asked(count):
    model, loss = regression()  # made under debug(), which looks at every result
    before = count.syncs
    trace(loss, model)
    assert count.syncs - before <= 20  # one length for each result and leaf


# The table ------------------------------------------------------------------------------------------------------------

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
    try:
        PRIMITIVES.clear()
        PRIMITIVES["exp"] = kept["exp"]
        PRIMITIVES["bad"] = unlisted(lambda a: a * 2.0, lambda g, y, a: g, elementwise=True)
        PRIMITIVES["frozen"] = unlisted(lambda a: a * a, lambda g, y, a: 2 * g * getattr(a, "detach", lambda: a)(),
                                        elementwise=True)
        PRIMITIVES["unsampled"] = unlisted(lambda a: a * 1.0, lambda g, y, a: g)
        page = []
        assert reference(page.append) > 0
    finally:
        PRIMITIVES.clear()
        PRIMITIVES.update(kept)
    text = "\n".join(page)
    assert re.search(r"^bad .* WRONG +- ", text, re.M) and re.search(r"^frozen .* ok +WRONG", text, re.M)
    assert re.search(r"^unsampled .* none +none +0$", text, re.M) and "add samples=" in text
    assert text.endswith("1 of 4 rows are right.") and "one of two equal paths" in text


def test_the_command():
    done = subprocess.run([sys.executable, "-m", "tinygen"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr and "softmax" in done.stdout


# The picture ----------------------------------------------------------------------------------------------------------

def test_the_graph_is_drawn_with_every_node_once_and_nothing_overlaps():
    x = tg.randn(4, 3)
    enc, mu, logvar, dec = nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(5, 2), nn.Linear(2, 3)
    h = F.relu(enc(x))
    m, s = mu(h), logvar(h)
    z = m + tg.exp(s / 2) * tg.randn(4, 2)
    loss = F.mse_loss(dec(z), x) + F.kl_standard_normal(m, s).mean()
    fig = plots.draw_graph(loss)
    nodes = trace(loss, None, sys._getframe())
    texts = [t for t in fig.axes[0].texts if t.get_text()]
    assert sorted(t.get_text().split("\n")[0] for t in texts) == sorted(n.call for n in nodes)
    fig.savefig(io.BytesIO())
    boxes = [t.get_bbox_patch().get_window_extent() for t in texts]
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[:i])
        assert fig.bbox.x0 <= a.x0 and a.x1 <= fig.bbox.x1 and fig.bbox.y0 <= a.y0 and a.y1 <= fig.bbox.y1
    place = {n.name: next(t.get_position() for t in texts if t.get_text().startswith(n.call + "\n")) for n in nodes}
    for n in nodes:  # everything lies below what it was made from
        for parent in nodes:
            if any(x is parent.tensor for x in n.tensor.inputs):
                assert place[parent.name][1] > place[n.name][1]


# The vjp row as an exercise -------------------------------------------------------------------------------------------

ANSWERS = {"softsign": "g * (1 - tg.abs(y))**2", "centre": "g - tg.mean(g, axis=-1, keepdims=True)",
           "rms_norm": "(g - y * tg.mean(g * y, axis=-1, keepdims=True)) / rms(x)"}


@pytest.fixture
def exercise(tmp_path, capsys):
    """The exercise as a student leaves it: answers -> (exit code, what is printed, module)."""
    kept = dict(PRIMITIVES)

    def run(steps=8, **answers):
        text = ROW.read_text()
        for name in ANSWERS:
            text = text.replace("x: ...,", f"x: {answers.get(name, '...')} ,", 1)
        path = tmp_path / "vjp_row.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("vjp_row", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.main(steps), capsys.readouterr().out, module
    yield run
    PRIMITIVES.clear()
    PRIMITIVES.update(kept)


def test_the_row_is_not_started(exercise):
    code, out, _ = exercise()
    assert not code and out.count("not started") == 3 and out.endswith("0 of 3 rows are right. Next: softsign.\n")


def test_right_rows_train(exercise):
    code, out, module = exercise(steps=400, **ANSWERS)
    assert not code and out.endswith("3 of 3 rows are right.\n")
    columns = np.array([line.split() for line in out.splitlines() if re.match(r" +\d+ +\d", line)], float)
    assert columns[-1, 0] == 400 and columns[-1, 1] < 1.6 < 1.75 < columns[-1, 2]  # yours learns, its negative does not


@pytest.mark.parametrize("name, answer, words", [
    ("softsign", "g * (1 - y)**2", "exactly where x < 0"),
    ("softsign", "g", "It is g itself"),
    ("softsign", "-g * (1 - tg.abs(y))**2", "exactly the negative"),
    ("softsign", "(1 - tg.abs(y))**2", "multiply by g"),
    ("centre", "g", "the term - mean(g) over axis"),
    ("centre", "g - tg.sum(g, axis=-1, keepdims=True)", "along axis"),
    ("centre", "g - g.mean(-1)", "write the shape under every factor"),
    ("rms_norm", "g / rms(x)", "such as y sum(g y)"),
    ("rms_norm", "g - y * tg.mean(g * y, axis=-1, keepdims=True)", "right up to a factor, another one for each slice"),
    ("rms_norm", "undefined", "your vjp raised NameError"),
])
def test_wrong_rows_are_named(exercise, name, answer, words):
    code, out, _ = exercise(**{name: answer})
    assert code and words in out and "Traceback" not in out and out.count("not started") == 2
