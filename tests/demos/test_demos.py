"""Every demo: right derivatives, every backend, documented numbers, and no wait for the GPU."""
import importlib
import json
import pathlib
import sys

import numpy as np
import pytest

import strict
import tinygen as tg
from tinygen import backend
from tinygen.lab import run

FOLDER = pathlib.Path(__file__).parent.parent.parent / "demos"
DEMOS = sorted(path.stem for path in FOLDER.glob("*.py")
               if "def main(" in path.read_text())  # unet.py and others are parts
sys.path.insert(0, str(FOLDER))
rng = np.random.default_rng(0)


def quick(name, tmp_path, *flags):
    demo = importlib.import_module(name)
    demo.main(["--quick", "--out", str(tmp_path), "--backend", backend.name(), *flags])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics and all(isinstance(v, float) and np.isfinite(v) for v in metrics.values())
    return metrics


@pytest.fixture
def waits(monkeypatch):
    """How often the host waited for the device within each training step.

    What the log reads lies between the steps.
    """
    found = []
    train = run.Job.train

    def watched(job, show=None, **parts):
        for step in train(job, show, **parts):
            before = strict.count.syncs
            yield step
            found.append(strict.count.syncs - before)
    monkeypatch.setattr(run.Job, "train", watched)
    return found


@pytest.mark.parametrize("name", DEMOS)
def test_it_runs_documents_its_numbers_and_never_makes_the_host_wait(name, tmp_path, waits):
    """On the strict stand-in, which is NumPy inside (or on real CuPy, where nobody counts)."""
    backend.use("strict" if backend.name() == "numpy" else backend.name())
    metrics = quick(name, tmp_path)
    doc = importlib.import_module(name).__doc__
    undocumented = [key for key in metrics if key not in doc]
    assert not undocumented, f"{name}: explain {undocumented} in the docstring"
    pictures = [p.name for p in tmp_path.iterdir() if p.suffix in (".png", ".gif")]
    assert pictures and all(p in doc for p in pictures if not p.startswith("samples_")), (
        f"{name}: explain in the docstring what to look at in {pictures}")
    assert waits and not any(waits), f"{name}: the host waited {waits} times in the training steps"


def test_a_wait_would_be_noticed(count, waits, tmp_path):
    flags = ["--quick", "--out", str(tmp_path), "--backend", "strict"]
    job = run.Job("noisy", "", flags, data=("moons",), steps=9, batch=1, lr=1)
    for step in job.train():
        float(tg.ones(1).sum())
    assert waits == [1] * 20


@pytest.mark.parametrize("name, flags", [("flow_matching", ["--data", "glyphs"]),
                                         ("flow_matching", ["--data", "checkerboard"])])
def test_other_data(name, flags, tmp_path):
    quick(name, tmp_path, *flags)


# Losses, checked in every parameter ---------------------------------------------------------------

def check(loss, model, *inputs):
    assert tg.gradcheck(lambda *ignored: loss(), *model.parameters(), *inputs)


def test_flow_matching_loss():
    from flow_matching import Velocity, flow_matching_loss
    with backend.precision("float64"):
        u = Velocity(2, hidden=5)
        x1 = tg.randn(4, 2)
        x0 = tg.randn(4, 2)
        t = tg.rand(4, 1)
        check(lambda: flow_matching_loss(u, x1, x0, t), u)


def test_vae_loss():
    from vae import VAE, vae_loss
    with backend.precision("float64"):
        vae = VAE(pixels=6, hidden=5, latent=3)
        x = tg.rand(4, 6)
        eps = tg.randn(4, 3)
        check(lambda: sum(vae_loss(vae, x, eps)), vae)
