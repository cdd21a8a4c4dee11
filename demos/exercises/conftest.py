"""Progress at the end of `pytest demos/exercises`, and chapters for -k."""
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # the checks lie here, wherever pytest was started

from _checks import ANSWERS, EXERCISES, HERE  # noqa: E402


def pytest_configure():
    if not ANSWERS.is_dir():
        raise pytest.UsageError(f"EXERCISES={os.environ['EXERCISES']} is not a folder with answers")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path == HERE / "test_derivations.py":
            item.extra_keyword_matches.add(EXERCISES[item.callspec.params["name"]].chapter)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # the outermost, so that the next step stands at the bottom
def pytest_terminal_summary(terminalreporter):
    yield
    outcomes, look = {}, {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            name = report.nodeid.rpartition("::test_derivation[")[2].rstrip("]")
            if name in EXERCISES:
                outcomes[name], look[name] = outcome, dict(report.user_properties).get("look")
    if outcomes:
        show_progress(terminalreporter.write_line, {n: outcomes[n] for n in EXERCISES if n in outcomes}, look)


def show_progress(write, outcomes, look):
    for name, outcome in outcomes.items():
        if outcome == "passed":
            write(f"done: {name}   {look[name]}".rstrip(), green=True)
    done, wrong, left = (list(outcomes.values()).count(o) for o in ("passed", "failed", "skipped"))
    write(f"derivations [{'#' * done}{'x' * wrong}{'.' * left}] "
          f"{done}/{len(outcomes)} done, {wrong} wrong, {left} not started")
    for name in [name for name, outcome in outcomes.items() if outcome != "passed"][:1]:
        write(f"next: {name}   (open {os.path.relpath(HERE / name)}.py)", bold=True)
