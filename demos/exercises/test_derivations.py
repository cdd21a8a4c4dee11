"""The runner: one test for each derivation, in teaching order. Skipped means not started.

    pytest demos/exercises                          all of them
    pytest demos/exercises -k e04                   one of them; or a chapter, such as -k gan
    EXERCISE_SEED=3 pytest demos/exercises          the same inputs again; any word can be a seed
    EXERCISES=solutions pytest demos/exercises      the answers in another folder
"""
import os
import secrets

import pytest

from _checks import ANSWERS, EXERCISES, HERE
from _grading import Mistake, grade, load, report

SEED = os.environ.get("EXERCISE_SEED") or secrets.randbelow(10_000)  # new inputs in every run


@pytest.mark.parametrize("name", EXERCISES)
def test_derivation(name, record_property):
    path = ANSWERS / f"{name}.py"
    exercise = EXERCISES[name]
    if not path.exists():
        pytest.skip("not started")
    try:
        message = grade(exercise, load(path), SEED)
    except NotImplementedError:
        pytest.skip("not started")
    except Mistake as mistake:  # the file could not even be loaded
        message = report(exercise, SEED, *mistake.lines, hint=mistake.hint)
    if message:
        pytest.fail(message, pytrace=False)
    record_property("look", "; ".join(where_to_look(name)))


def where_to_look(name):
    """After a pass: where the result is used, and the solution to compare with, if it is here."""
    stub = HERE / f"{name}.py"
    solution = HERE / "solutions" / f"{name}.py"
    lines = stub.read_text("utf-8", "replace").splitlines() if stub.exists() else []
    yield from ("u" + line[1:] for line in lines if line.startswith("Used in "))
    if solution.exists() and ANSWERS == HERE:
        yield f"compare with {os.path.relpath(solution)}"
