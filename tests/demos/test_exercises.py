"""The derivation exercises: right answers pass, wrong answers fail and get their own hint."""
import ast
import functools
import inspect
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "demos" / "exercises"
sys.path.append(str(FOLDER))

from _checks import EXERCISES  # noqa: E402
from _grading import Answer, Mistake, agreement, grade, load, outcome, probes  # noqa: E402

SOLUTIONS = FOLDER / "solutions"
SEEDS = range(20)

each = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
with_solutions = pytest.mark.skipif(not SOLUTIONS.is_dir(), reason="the solutions are not here")


def stub(exercise):
    return FOLDER / f"{exercise.__name__}.py"


def solution(exercise):
    return load(SOLUTIONS / f"{exercise.__name__}.py")


def flat(text):
    return " ".join(text.split())


# Right answers ------------------------------------------------------------------------------------

@with_solutions
@each
def test_a_solution_passes_on_every_seed(exercise):
    for seed in SEEDS:
        assert grade(exercise, solution(exercise), seed) is None


@with_solutions
def test_the_solutions_are_all_there_and_have_a_derivation():
    assert sorted(path.stem for path in SOLUTIONS.glob("*.py")) == sorted(EXERCISES)
    for path in SOLUTIONS.glob("*.py"):
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert 2 <= len(text.splitlines()) <= 6, path.name


@with_solutions
def test_all_checks_together_are_quick():
    functions = {name: solution(exercise) for name, exercise in EXERCISES.items()}
    start = time.process_time()
    for name, function in functions.items():
        assert grade(EXERCISES[name], function, 1) is None
    assert time.process_time() - start < 2  # 0.1 s when it was written


# Stubs --------------------------------------------------------------------------------------------

def test_there_are_32_exercises_in_teaching_order():
    order = ("01 02 03 08 09 04 05 06 07 10 18 32 11 12 13 14 15 16 17 "
             "19 20 22 21 31 23 24 25 26 28 27 29 30")
    assert [exercise.number for exercise in EXERCISES.values()] == order.split()
    assert sorted(path.stem for path in FOLDER.glob("e[0-9]*.py")) == sorted(EXERCISES)


@each
def test_a_stub_is_not_started(exercise):
    with pytest.raises(NotImplementedError, match=f"^e{exercise.number}: return "):
        grade(exercise, load(stub(exercise)), 0)


@each
def test_a_stub_contains_what_a_student_needs(exercise):
    text = ast.get_docstring(ast.parse(stub(exercise).read_text()))
    assert text.startswith(f"e{exercise.number}. ")
    assert "\n    return" in text
    assert re.search(r"\nUsed in (tinygen|demos)/\w+\.py: .+\nPaper first: \d+ minutes$", text)
    for name in exercise.arguments:
        assert re.search(rf"\b{name}\b", text), f"the statement does not mention {name}"


@each
def test_the_place_where_an_answer_is_used_exists(exercise):
    text = stub(exercise).read_text()
    file, name = re.search(r"^Used in (\S+): (\w+)", text, re.MULTILINE).groups()
    definition = rf"^( *def {name}\(|{name} = )"
    assert re.search(definition, (ROOT / file).read_text(), re.MULTILINE), (file, name)


@each
def test_stub_solution_and_check_agree_on_the_arguments(exercise):
    assert list(inspect.signature(load(stub(exercise))).parameters) == exercise.arguments
    if SOLUTIONS.is_dir():
        assert list(inspect.signature(solution(exercise)).parameters) == exercise.arguments


def imported(path):
    """The top-level modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def test_the_folder_needs_numpy_and_pytest_only():
    own = {path.stem for path in FOLDER.glob("*.py")}
    own |= {"numpy", "pytest"} | set(sys.stdlib_module_names)
    for path in FOLDER.rglob("*.py"):
        if path.stem == "vjp_row":  # a row of tinygen's own table, and none of the 32
            continue
        allowed = {"numpy"} if path.stem in EXERCISES else own
        assert imported(path) <= allowed, path


# Wrong answers ------------------------------------------------------------------------------------

@each
def test_every_wrong_answer_fails_and_gets_its_own_hint(exercise):
    assert len(exercise.slips) >= 3
    for hint, slip in exercise.slips.items():
        for seed in SEEDS:
            message = grade(exercise, slip, seed)
            assert message and flat(message).endswith("hint: " + flat(hint)), (seed, hint, message)


@each
def test_hints_are_sentences(exercise):
    for hint in exercise.slips:
        assert 30 < len(hint) < 260 and hint[-1] in ".?)", hint


@each
def test_wrong_answers_differ_on_the_probes(exercise):
    with np.errstate(all="ignore"):
        slips = list(probes(exercise)[1].items())
    for i, (hint, outcomes) in enumerate(slips):
        for other, others in slips[:i]:
            agree = agreement(outcomes, others, rtol=1e-3)
            assert not agree or not all(agree), (hint, other)


@with_solutions
@each
def test_recorded_answers_of_another_seed_fail(exercise):
    for seed in range(5):
        tape = []

        def record(*args):
            tape.append(solution(exercise)(*args))
            return tape[-1]

        assert grade(exercise, record, seed) is None
        replay = iter(tape)
        assert grade(exercise, lambda *args: next(replay), seed + 100)


def test_a_slip_in_one_output_is_named_whatever_the_others_are():
    exercise = EXERCISES["e01_matmul_vjp"]
    message = grade(exercise, lambda X, W, G: (G @ W.T, np.ones_like(W)), 0)
    assert "worst entry dW" in message
    message = grade(exercise, lambda X, W, G: (np.ones_like(G) @ W.T, 0 * W), 0)
    assert "does not depend on G" in message


# Clumsy answers -----------------------------------------------------------------------------------

def right(z, g):
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p * (g - (p * g).sum(1, keepdims=True))


def changes_its_input(z, g):
    z -= z.max(1, keepdims=True)
    return right(z, g)


def central_difference(z, g):
    def loss(z):
        p = np.exp(z - z.max(1, keepdims=True))
        return (g * p / p.sum(1, keepdims=True)).sum()
    steps = 1e-5 * np.eye(z.size).reshape(-1, *z.shape)
    return np.array([(loss(z + step) - loss(z - step)) / 2e-5 for step in steps]).reshape(z.shape)


NOT_REAL = "dz is not an array of real numbers"
ONE_ARRAY = "Return dz as one NumPy array"
CLUMSY = {  # name: (answer, what the message contains, what the hint contains)
    "none": (lambda z, g: None,
             "your function returned None", "End the function with: return dz"),
    "float32": (lambda z, g: right(z, g).astype(np.float32),
                "dz is float32", "remove the cast"),
    "transposed": (lambda z, g: right(z, g).T,
                   "dz has shape (3, 4), expected (4, 3)", "dz comes out transposed"),
    "extra axis": (lambda z, g: right(z, g)[None],
                   "dz has shape (1, 4, 3), expected (4, 3)", "too many axes"),
    "lost axis": (lambda z, g: right(z, g).sum(1),
                  "dz has shape (4,), expected (4, 3)", "An axis of dz is lost"),
    "two outputs": (lambda z, g: (right(z, g), g),
                    "dz has shape (2, 4, 3)", "too many axes"),
    "nan": (lambda z, g: right(z, g) * np.nan,
            "dz[0, 0] is nan, expected a finite number", "division by 0"),
    "complex": (lambda z, g: right(z, g) + 0j, NOT_REAL, ONE_ARRAY),
    "ragged": (lambda z, g: [[1, 2], [3]], NOT_REAL, ONE_ARRAY),
    "text": (lambda z, g: "p (g - m)", NOT_REAL, ONE_ARRAY),
    "arguments": (lambda z: z,
                  "your function cannot be called as softmax_vjp(z, g)",
                  "Keep the def line of the stub"),
    "ValueError": (lambda z, g: z @ g,
                   "your function raised ValueError", "inner sizes of @"),
    "ZeroDivisionError": (lambda z, g: z + 1 / 0,
                          "your function raised ZeroDivisionError: division by zero",
                          "Fix this line"),
    "changes its input": (changes_its_input,
                          "your function changed its input z", "overwrite the caller's array"),
    "finite difference": (central_difference, "checked against", "finite difference"),
    "sign": (lambda z, g: -right(z, g),
             "worst entry dz[", "The sign is wrong everywhere"),
    "factor": (lambda z, g: 3 * right(z, g),
               "worst entry dz[", "Every entry is 3 times the right one"),
    "constant": (lambda z, g: 1 + right(z, g),
                 "worst entry dz[", "Every entry is off by the same +1"),
    "zeros": (lambda z, g: 0 * z,
              "worst entry dz[", "Your answer is 0 everywhere"),
    "something else": (lambda z, g: z ** 3,
                       "worst entry dz[", "do it by hand"),
}


@pytest.mark.parametrize("answer, what, hint", CLUMSY.values(), ids=CLUMSY)
def test_a_clumsy_answer_gets_a_sentence(answer, what, hint):
    message = grade(EXERCISES["e04_softmax_vjp"], answer, 7)
    assert message.startswith("e04_softmax_vjp.softmax_vjp  (EXERCISE_SEED=7 reproduces this)\n")
    assert what in message and hint in flat(message) and "Traceback" not in message


def test_other_ways_to_write_a_right_answer_pass():
    exercise = EXERCISES["e04_softmax_vjp"]
    answers = [right, functools.partial(right),
               lambda z, g: right(z, g).tolist(),
               lambda z, g: np.asfortranarray(right(z, g)),
               lambda z, g: right(z, g).astype(np.longdouble)]
    for answer in answers:
        assert grade(exercise, answer, 0) is None


def test_the_number_of_outputs_is_checked():
    message = grade(EXERCISES["e01_matmul_vjp"], lambda X, W, G: G @ W.T, 0)
    assert "number of outputs: yours 1, expected 2" in message and "return dX, dW" in message


def test_numbers_that_break_a_check_do_not_show_its_traceback(monkeypatch):
    def check(f, *case):
        np.linalg.inv(np.zeros((2, 2)))
        yield
    monkeypatch.setattr(EXERCISES["e04_softmax_vjp"], "check", check)
    message = grade(EXERCISES["e04_softmax_vjp"], right, 0)
    assert "the check cannot work with your numbers (LinAlgError: Singular matrix)" in message


UNUSABLE = {  # name: (the file, what the message contains)
    "tinygen": ("import tinygen\n", "e04_softmax_vjp.py imports tinygen"),
    "solutions": ("def f():\n    from solutions import e04_softmax_vjp\n", "imports solutions"),
    "neighbor": ("from . import _checks\n", "imports a neighboring file"),
    "syntax": ("def softmax_vjp(z, g):\n    return (\n",
               "Python cannot read e04_softmax_vjp.py, line 2"),
    "exception": ("x = 1\ny = undefined\n", "in line 2: y = undefined"),
    "other name": ("def softmax(z, g):\n    return z\n", "has no function softmax_vjp"),
}


@pytest.mark.parametrize("source, what", UNUSABLE.values(), ids=UNUSABLE)
def test_a_file_that_cannot_be_used_gets_a_sentence(tmp_path, source, what):
    path = tmp_path / "e04_softmax_vjp.py"
    path.write_text(source)
    with pytest.raises(Mistake) as caught:
        load(path)
    assert what in "\n".join(caught.value.lines) and caught.value.hint


def test_inputs_are_described_in_a_few_words():
    exercise = EXERCISES["e25_conditional_velocity"]
    answer = Answer(exercise, lambda x, x1, t, sigma_min: x)
    answer(np.zeros((4, 2)), np.zeros((4, 2)), 0.25, 0.1)
    assert answer.described() == "x (4, 2), x1 (4, 2), t = 0.25, sigma_min = 0.1"
    assert outcome(lambda x: 1 / 0, [0]) is ZeroDivisionError


# The real runner ----------------------------------------------------------------------------------

DIAGONAL_ONLY = """import numpy as np
def softmax_vjp(z, g):
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return g * p * (1 - p)
"""


@pytest.fixture
def copy(tmp_path):
    """A student's copy of the folder, without the solutions, far from tinygen."""
    without = shutil.ignore_patterns("solutions", "__pycache__")
    shutil.copytree(FOLDER, tmp_path / "exercises", ignore=without)
    return tmp_path / "exercises"


def run(*arguments, cwd, **variables):
    """`pytest` as a student starts it: exit code and output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("EXERCISE", "PYTEST"))}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1",
                    "COLUMNS": "200"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    result = subprocess.run(command, cwd=cwd, env=environment | variables, capture_output=True,
                            text=True)
    return result.returncode, result.stdout + result.stderr


def test_a_fresh_copy_is_all_skipped(copy):
    code, output = run("exercises", cwd=copy.parent)
    assert code == 0 and "32 skipped" in output
    assert f"derivations [{'.' * 32}] 0/32 done, 0 wrong, 32 not started" in output
    output = output.replace(os.sep, "/")
    assert "next: e01_matmul_vjp   (open exercises/e01_matmul_vjp.py)" in output


def test_a_wrong_answer_shows_its_hint_and_nothing_of_the_checker(copy):
    (copy / "e04_softmax_vjp.py").write_text(DIAGONAL_ONLY)
    code, output = run(f"--junitxml={copy / 'grade.xml'}", cwd=copy, EXERCISE_SEED="blue whale")
    assert code == 1 and "1 failed, 31 skipped" in output and "Traceback" not in output
    assert "\ne04_softmax_vjp.softmax_vjp  (EXERCISE_SEED=blue whale reproduces this)\n" in output
    assert "worst entry dz[" in output and "Raising one logit also lowers every OTHER" in output
    assert "0/32 done, 1 wrong, 31 not started\nnext: e01_matmul_vjp" in output
    assert "hint: That is only the diagonal" in (copy / "grade.xml").read_text()


@with_solutions
def test_a_right_answer_passes_and_shows_where_to_continue(copy):
    shutil.copytree(SOLUTIONS, copy / "solutions")
    path = copy / "e01_matmul_vjp.py"
    answer = "return G @ W.T, X.T @ G  #"
    path.write_text(path.read_text().replace("raise NotImplementedError", answer))
    code, output = run("-k", "e01 or e02", cwd=copy)
    assert code == 0 and "1 passed, 1 skipped, 30 deselected" in output
    assert ("done: e01_matmul_vjp   used in tinygen/ops.py: matmul; "
            "compare with solutions/e01_matmul_vjp.py\n"
            "derivations [#.] 1/2 done, 0 wrong, 1 not started\n"
            "next: e02_mul_vjp_b   (open e02_mul_vjp_b.py)\n") in output.replace(os.sep, "/")


@with_solutions
def test_answers_in_another_folder_are_graded(copy):
    alice = copy.parent / "hand-ins" / "alice"
    shutil.copytree(SOLUTIONS, alice)
    (alice / "e16_generator_grads.py").unlink()
    code, output = run("exercises", "-q", "-k", "gan", cwd=copy.parent, EXERCISES="hand-ins/alice")
    assert code == 0 and "derivations [###.] 3/4 done, 0 wrong, 1 not started" in output
    code, output = run("exercises", "-q", cwd=copy.parent, EXERCISES="hand-ins/bob")
    assert code == 4
    assert "ERROR: EXERCISES needs a folder with answers, got hand-ins/bob" in output
