"""The demo runner.

Files are written whole or not at all, runs survive being killed, and mistakes are answered in one
sentence.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend, nn
from tinygen.lab import plots, run

DEMO = str(pathlib.Path(__file__).parent.parent.parent / "demos" / "flow_matching.py")
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}


def demo(*flags, **options):
    return subprocess.run([sys.executable, DEMO, *flags], capture_output=True, text=True,
                          env=ENVIRONMENT, **options)


# Trees on disk ------------------------------------------------------------------------------------

def test_a_tree_round_trips(tmp_path, library):
    tree = {"model": nn.Linear(2, 3).state_dict(), "list": [1, 2.5, None, True, "text"],
            "empty": {}, "none": [], "tensor": tg.Tensor([1.5, 2.5]),
            "integers": backend.asarray([3, 4]), "zero-d": backend.asarray(7), "odd/name": 1e-300}
    tg.save(tmp_path / "tree.npz", tree)
    back = tg.load(tmp_path / "tree.npz")
    assert list(back) == list(tree)
    assert back["list"] == [1, 2.5, None, True, "text"]
    assert back["empty"] == {}
    assert back["none"] == []
    assert back["tensor"].dtype == np.float32
    assert back["integers"].tolist() == [3, 4]
    assert back["zero-d"] == 7
    assert back["odd/name"] == 1e-300
    weight = backend.to_numpy(tree["model"]["weight"])
    np.testing.assert_array_equal(back["model"]["weight"], weight)


def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(tg.TinygenError, match="Cannot save a/1: it is a function"):
        tg.save(tmp_path / "x.npz", {"a": [1, lambda: 0]})
    assert os.listdir(tmp_path) == []
    with pytest.raises(tg.TinygenError, match="Cannot write.*--out"):
        tg.save("/dev/null/x.npz", {})


@pytest.mark.parametrize("tree", [
    {1: 2},
    {"a/b": np.ones(1), "a": {"b": np.ones(1)}},
    {"o": np.array([{}], dtype=object)},
])
def test_ambiguous_trees_are_refused(tree, tmp_path):
    with pytest.raises(tg.TinygenError, match="Cannot save"):
        tg.save(tmp_path / "x.npz", tree)


def test_a_diverged_run_says_so(tmp_path):
    result = demo("--steps", "60", "--lr", "1e12", "--quick", "--out", str(tmp_path))
    assert result.returncode == 2, result.stderr
    assert "NaN or Inf" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "metrics.json").exists()


def test_pictures_of_another_run_are_not_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.png").write_bytes(b"")
    job = run.Job("x", "", ["--out", "out"], data=("moons",), steps=1, batch=1, lr=1)
    for _ in job.train(show=lambda: plots.figure(1, 1)[0]):
        job.log(loss=1.0)
    job.finish()
    assert "pictures in out/: samples_1.png\n" in capsys.readouterr().out


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(tg.TinygenError, match="There is no file"):
        tg.load(path)
    tg.save(path, {"a": np.arange(1000)})
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:500], whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(tg.TinygenError, match="damaged or was not written by tinygen"):
            tg.load(path)
    np.savez(path, a=np.array([{}], dtype=object))  # a pickle inside is not opened
    with pytest.raises(tg.TinygenError, match="damaged or was not written"):
        tg.load(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.npz"
    tg.save(path, {"a": 1})

    def write(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")
    with pytest.raises(tg.TinygenError, match="No space left"):
        run.write_atomically(path, write)
    assert tg.load(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.npz"]


# Interrupted runs ---------------------------------------------------------------------------------

FLAGS = ("--quick", "--steps", "600", "--batch", "64", "--data", "eight_gaussians", "--seed", "3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The checkpoint and the metrics of a run that was not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    result = demo(*FLAGS, "--out", str(folder))
    assert result.returncode == 0, result.stderr
    return results(folder)


def results(folder):
    """The checkpoint and the metrics of a run, without their seconds."""
    checkpoint = tg.load(folder / "checkpoint.npz")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert checkpoint.pop("seconds") > 0
    metrics.pop("seconds", None)
    return checkpoint, metrics


def start_and_stop(folder, how):
    """Start a run, wait for its first checkpoint, and send it a signal."""
    process = subprocess.Popen([sys.executable, DEMO, *FLAGS, "--out", str(folder)],
                               stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    deadline = time.time() + 60
    while not (folder / "checkpoint.npz").exists() and time.time() < deadline:
        time.sleep(0.005)
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return np.array_equal(a, b)


@pytest.mark.parametrize("how, code", [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, whole, how, code):
    returned, output = start_and_stop(tmp_path, how)
    assert returned == code
    step = tg.load(tmp_path / "checkpoint.npz")["step"]
    assert 0 < step < 600
    assert not (tmp_path / "metrics.json").exists()
    assert ("--resume" in output) == (how == signal.SIGINT)
    result = demo(*FLAGS, "--out", str(tmp_path), "--resume")
    assert result.returncode == 0, result.stderr
    assert f"resumed at step {step}" in result.stdout
    expected_checkpoint, expected_metrics = whole
    checkpoint, metrics = results(tmp_path)
    assert equal(checkpoint, expected_checkpoint)
    assert metrics == expected_metrics


def test_resuming_with_other_flags_is_refused(tmp_path):
    assert demo("--quick", "--out", str(tmp_path)).returncode == 0
    before = (tmp_path / "checkpoint.npz").read_bytes()
    setup = (tmp_path / "run.json").read_text()
    result = demo("--quick", "--batch", "32", "--out", str(tmp_path), "--resume")
    assert result.returncode == 2
    assert "was made with --batch 256: resume with the same flags" in result.stderr
    assert (tmp_path / "run.json").read_text() == setup
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
    (tmp_path / "checkpoint.npz").write_bytes(b"junk")
    result = demo("--quick", "--out", str(tmp_path), "--resume")
    assert result.returncode == 2
    assert "checkpoint.npz is damaged" in result.stderr


# Mistakes on the command line ---------------------------------------------------------------------

@pytest.mark.parametrize("flags, words", [
    (["--steps", "-5"], "'-5' is not a whole number of at least 1"),
    (["--lr", "fast"], "'fast' is not a number of at least 0"),
    (["--lr", "nan"], "'nan' is not a number"),
    (["--data", "cats"], "invalid choice: 'cats'"),
    (["--backend", "torch"], "invalid choice: 'torch'"),
    (["--sedd", "1"], "unrecognized arguments: --sedd"),
    (["--resume", "--out", "/tmp/surely/not/there"], "There is no file"),
    (["--out", "/dev/null/x"], "Cannot write"),
    (["--data", "mnist", "--data-dir", "/tmp/surely/not/there"], "not/there"),
    (["--batch", "99999999"], "batch"),
])
def test_mistakes_are_answered_in_one_sentence_with_exit_code_2(flags, words, tmp_path):
    if "--out" not in flags:
        flags = [*flags, "--out", str(tmp_path)]
    result = demo("--quick", *flags)
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()[-1]) > 0
    assert not (tmp_path / "metrics.json").exists()


def test_help_shows_the_equations():
    result = demo("--help")
    assert result.returncode == 0
    assert "x_t = (1 - t) x_0 + t x_1" in result.stdout
    assert "--data-dir" in result.stdout


def test_a_reader_who_leaves_early_gets_no_traceback():
    """python demos/NAME.py | head -1"""
    code = ("from tinygen.lab import run; "
            "run.main(lambda: [print(i, flush=True) for i in range(100_000)])")
    with subprocess.Popen([sys.executable, "-c", code],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""
