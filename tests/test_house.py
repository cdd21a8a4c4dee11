"""The house rules: floors, sizes, one idea a line, and a README that is true about the rooms."""
import ast
import importlib
import io
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = [path for folder in ("tinygen", "demos", "tests")
         for path in sorted((ROOT / folder).rglob("*.py"))]
DEMOS = [path for path in sorted((ROOT / "demos").glob("*.py"))]
RULE = "# Numbers and pictures "

# In reading order: room -> (floor, its one job, whether it belongs to the core)
ROOMS = {
    "backend.py": (0, "owns `xp`, which is NumPy or CuPy; precision, random numbers", True),
    "refusals.py": (1, "what the engine refuses, in sentences", False),
    "speed.py": (1, "what only makes things faster", False),
    "engine.py": (2, "records what was computed, walks back; contains no calculus", True),
    "ops.py": (3, "the calculus table: each operation next to its derivative", True),
    "create.py": (3, "Tensors from nothing: constants, ranges, random numbers", False),
    "methods.py": (4, "the operators and methods of Tensor, and what is refused", False),
    "conv.py": (4, "convolution and its two adjoints, as rows of the table", True),
    "functional.py": (5, "activations, normalizations, losses", True),
    "nn.py": (6, "layers, sorted by increasing complexity", True),
    "optim.py": (6, "SGD, Adam, moving averages, learning rates over time", True),
    "derive/samples.py": (7, "inputs for every row of the table", False),
    "derive/mistakes.py": (7, "the usual mistakes in a derivative, and their traces", False),
    "derive/gradcheck.py": (8, "is this gradient right, and which mistake is it", False),
    "derive/explain.py": (9, "the chain rule of this graph, written out", False),
    "derive/graph.py": (10, "the same graph, laid out to be drawn", False),
    "lab/files.py": (7, "files that are written whole or not at all", False),
    "lab/cores.py": (7, "several cores", False),
    "lab/data.py": (8, "toys of the plane, rendered digits, MNIST", False),
    "lab/metrics.py": (8, "how good are the samples", False),
    "lab/judge.py": (9, "a classifier that reads digits, and what it measures", False),
    "lab/run.py": (9, "the demo runner: flags, progress, checkpoints, numbers", False),
    "lab/plots.py": (11, "pictures", False),
}
LIMITS = {"engine.py": 190, "conv.py": 90, "optim.py": 140, "backend.py": 120}


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def code_lines(path):
    """The numbers of the lines that are not blank, comment or docstring."""
    documented = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                documented |= set(range(first.lineno, first.end_lineno + 1))
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return [n for n, line in lines
            if line.strip() and not line.strip().startswith("#") and n not in documented]


def count(*paths):
    return sum(len(code_lines(path)) for path in paths)


def room(path):
    return str(path.relative_to(ROOT / "tinygen"))


# One idea a line ----------------------------------------------------------------------------------

def calls(node):
    """How many of the values on the right of an assignment are calls."""
    if isinstance(node, ast.IfExp):
        return max(calls(node.body), calls(node.orelse))
    return sum(isinstance(e, ast.Call) for e in node.elts) if isinstance(node, ast.Tuple) else 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_idea_a_line(path):
    text = path.read_text(encoding="utf-8")
    wide = [n for n, line in enumerate(text.splitlines(), 1) if len(line) > 100]
    semicolons = [token.start[0] for token in tokenize.generate_tokens(io.StringIO(text).readline)
                  if token.type == tokenize.OP and token.string == ";"]
    nodes = list(ast.walk(parsed(path)))
    tuples = [n.lineno for n in nodes if isinstance(n, ast.Expr) and isinstance(n.value, ast.Tuple)]
    several = [n.lineno for n in nodes if isinstance(n, ast.Assign) and calls(n.value) > 1]
    assert not wide, f"lines of more than 100 columns: {wide}"
    assert not semicolons, f"semicolons in lines {semicolons}"
    assert not tuples, f"tuples as statements in lines {tuples}"
    assert not several, f"assignments of several calls at once in lines {several}"


# Floors -------------------------------------------------------------------------------------------

def imports(path):
    """The rooms that a room imports, also inside its functions, with the names it takes."""
    here = path.parent
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = here if node.level == 1 else here.parent
        target = folder.joinpath(*node.module.split(".")) if node.module else folder
        for alias in node.names:
            if target.with_suffix(".py").exists():
                yield room(target.with_suffix(".py")), alias.name
            elif (target / f"{alias.name}.py").exists():
                yield room(target / f"{alias.name}.py"), None


def test_every_room_has_a_floor():
    found = {room(path) for path in FILES
             if ROOT / "tinygen" in path.parents and not path.stem.startswith("__")}
    assert found == set(ROOMS)


@pytest.mark.parametrize("name", ROOMS)
def test_nothing_imports_upward_and_nothing_private_crosses_a_file(name):
    path = ROOT / "tinygen" / name
    floor = ROOMS[name][0]
    for other, taken in imports(path):
        assert ROOMS[other][0] < floor, f"{name} imports {other}, which is not below it"
        assert not (taken or "").startswith("_"), f"{name} takes the private {taken} of {other}"
        if "/" not in name:
            assert "/" not in other, f"the engine knows {other}"
    rooms = {pathlib.Path(other).stem for other, taken in imports(path) if taken is None}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            used = f"{node.value.id}.{node.attr}"
            assert not (node.value.id in rooms and private), f"{name} uses {used}"


@pytest.mark.parametrize("name", ROOMS)
def test_the_first_line_names_the_floor(name):
    text = ast.get_docstring(parsed(ROOT / "tinygen" / name))
    assert text.startswith(f"Floor {ROOMS[name][0]}: "), text.splitlines()[0]


def test_importing_a_room_gives_the_room():
    """A function of the same name would hide it."""
    for name in ROOMS:
        dotted = "tinygen." + name.removesuffix(".py").replace("/", ".")
        module = importlib.import_module(dotted)
        parent = importlib.import_module(dotted.rpartition(".")[0])
        assert getattr(parent, dotted.rpartition(".")[2]) is module


# Sizes --------------------------------------------------------------------------------------------

def test_rooms_stay_small():
    engine = sorted((ROOT / "tinygen").glob("*.py"))
    core = [ROOT / "tinygen" / name for name, (_, _, core) in ROOMS.items() if core]
    assert count(*core) <= 1350 and count(*engine) <= 1650
    for name in ROOMS:
        assert count(ROOT / "tinygen" / name) <= LIMITS.get(name, 300), name


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.name)
def test_a_demo_begins_with_the_lecture(path):
    """At most 80 lines of it, then the numbers and pictures: at most 140 together."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rules = [n for n, line in enumerate(lines, 1) if line.startswith(RULE)]
    if "def main(" not in path.read_text(encoding="utf-8"):  # a part that demos share
        assert count(path) <= 80
        return
    assert len(rules) == 1, f"{path.name} needs one rule: {RULE}---"
    lecture = [n for n in code_lines(path) if n < rules[0]]
    assert len(lecture) <= 80 and count(path) <= 140


# README -------------------------------------------------------------------------------------------

def table():
    """The rows of README's table of rooms, as they should be."""
    rows = ["| | room | its one job | code lines |", "|---|---|---|---|"]
    core = 0
    for name, (_, job, in_core) in ROOMS.items():
        n = count(ROOT / "tinygen" / name)
        core += n if in_core else 0
        rows.append(f"| {'**core**' if in_core else ''} | `tinygen/{name}` | {job} | {n} |")
    return "\n".join([*rows, f"| | *the core, together* | | **{core}** |"])


def test_readme_lists_every_room_with_its_lines():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert table() in text, f"README.md should hold this table:\n\n{table()}"
    titles = ["Run it", "The slides", "Read it", "Numbers"]
    places = [text.index(f"\n## {title}") for title in titles]
    assert places == sorted(places)


def test_readme_names_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    paths = re.findall(r"`(?:python )?((?:demos|tests|tinygen)/[\w/]+\.\w+)", text)
    assert len(paths) > 40 and all((ROOT / path).exists() for path in paths)
