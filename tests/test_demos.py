"""Every demo: its loss differentiates right in every parameter, it runs on every backend, and never makes a GPU wait."""
import importlib
import json
import pathlib
import sys

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend

FOLDER = pathlib.Path(__file__).parent.parent / "demos"
DEMOS = sorted(path.stem for path in FOLDER.glob("*.py"))
sys.path.insert(0, str(FOLDER))
rng = np.random.default_rng(0)


def quick(name, tmp_path, *flags):
    importlib.import_module(name).main(["--quick", "--out", str(tmp_path), "--backend", backend.name(), *flags])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics and all(isinstance(v, float) and np.isfinite(v) for v in metrics.values())
    return metrics


@pytest.mark.parametrize("name", DEMOS)
def test_it_runs_and_documents_its_numbers(name, tmp_path, library):
    metrics = quick(name, tmp_path)
    doc = importlib.import_module(name).__doc__
    undocumented = [key for key in metrics if key not in doc]
    assert not undocumented, f"{name}: say in the docstring what {undocumented} mean"
    pictures = [p.name for p in tmp_path.iterdir() if p.suffix in (".png", ".gif")]
    assert pictures and all(p in doc for p in pictures if not p.startswith("samples_")), f"{name}: say what to look at in {pictures}"


@pytest.mark.parametrize("name, flags", [("flow_matching", ["--data", "glyphs"]), ("flow_matching", ["--data", "checkerboard"])])
def test_other_data(name, flags, tmp_path):
    quick(name, tmp_path, *flags)


@pytest.mark.parametrize("name", DEMOS)
def test_a_training_step_never_makes_the_host_wait(name, tmp_path, count):
    """Doubling the steps must not add a single synchronisation: what is left belongs to the log, which has 20 lines."""
    waits = []
    for steps in (20, 40):
        count.syncs = 0
        importlib.import_module(name).main(["--steps", str(steps), "--out", str(tmp_path), "--backend", "strict", "--quick"])
        waits.append(count.syncs)
    assert waits[0] == waits[1]


# Losses, checked in every parameter -----------------------------------------------------------------------------------

def check(loss, model, *inputs):
    assert tg.gradcheck(lambda *parameters_and_inputs: loss(), *model.parameters(), *inputs)


def test_flow_matching_loss():
    from flow_matching import Velocity, flow_matching_loss
    with backend.precision("float64"):
        u = Velocity(2, hidden=5)
        x1, x0, t = tg.randn(4, 2), tg.randn(4, 2), tg.rand(4, 1)
        check(lambda: flow_matching_loss(u, x1, x0, t), u)


def test_vae_loss():
    from vae import VAE, vae_loss
    with backend.precision("float64"):
        vae = VAE(pixels=6, hidden=5, latent=3)
        x, eps = tg.rand(4, 6), tg.randn(4, 3)
        check(lambda: sum(vae_loss(vae, x, eps)), vae)
