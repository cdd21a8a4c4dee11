"""Progress at the end of `pytest demos/exercises`, and chapters for -k."""
import collections
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # wherever pytest was started

from _checks import ANSWERS, EXERCISES, HERE  # noqa: E402


def pytest_configure():
    if not ANSWERS.is_dir():
        raise pytest.UsageError(
            f"EXERCISES needs a folder with answers, got {os.environ['EXERCISES']}")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path == HERE / "test_derivations.py":
            item.extra_keyword_matches.add(EXERCISES[item.callspec.params["name"]].chapter)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # the outermost, so that the next step comes last
def pytest_terminal_summary(terminalreporter):
    yield
    found = {}
    look = {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            name = report.nodeid.rpartition("::test_derivation[")[2].rstrip("]")
            if name in EXERCISES:
                found[name] = outcome
                look[name] = dict(report.user_properties).get("look")
    if found:
        outcomes = {name: found[name] for name in EXERCISES if name in found}
        show_progress(terminalreporter.write_line, outcomes, look)


def show_progress(write, outcomes, look):
    for name, outcome in outcomes.items():
        if outcome == "passed":
            write(f"done: {name}   {look[name]}".rstrip(), green=True)
    counts = collections.Counter(outcomes.values())
    done, wrong, left = counts["passed"], counts["failed"], counts["skipped"]
    write(f"derivations [{'#' * done}{'x' * wrong}{'.' * left}] "
          f"{done}/{len(outcomes)} done, {wrong} wrong, {left} not started")
    unfinished = [name for name, outcome in outcomes.items() if outcome != "passed"]
    if unfinished:
        path = os.path.relpath(HERE / unfinished[0])
        write(f"next: {unfinished[0]}   (open {path}.py)", bold=True)
