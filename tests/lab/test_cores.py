"""Blocks of rows on several cores: only the time changes, and BLAS gets its threads back."""
import threading

import numpy as np
import pytest

import tinygen as tg
from tinygen import TinygenError, backend, nn
from tinygen.lab import cores
from tinygen.lab.metrics import in_blocks

rng = np.random.default_rng(7)


def test_blocks_change_nothing_and_record_nothing():
    model = nn.Linear(4, 3)
    x = rng.normal(size=(10, 4))
    seen = []

    def watched(rows):
        y = model(rows)
        seen.append((len(rows), y.requires_grad))
        return y
    expected = model(tg.Tensor(x)).numpy()
    assert np.allclose(in_blocks(watched, x, block=4), expected, atol=1e-6)
    assert seen == [(4, False), (4, False), (2, False)]


def test_cores_share_the_blocks_out(library):
    """Two blocks wait for each other inside f, which needs two threads; order and values stay."""
    model = nn.Linear(4, 3)
    x = rng.normal(size=(10, 4))
    expected = model(tg.Tensor(x)).numpy()
    assert np.allclose(in_blocks(model, x, block=3, cores=2), expected, atol=1e-6)
    if backend.name() != "numpy":
        return
    together = threading.Barrier(2, timeout=20)
    blas = cores._openblas()
    if blas:
        blas.scipy_openblas_set_num_threads64_(2)
    inside = []

    def f(rows):
        together.wait()
        inside.append(blas and blas.scipy_openblas_get_num_threads64_())
        return model(rows)
    try:
        assert np.allclose(in_blocks(f, x, block=5, cores=2), expected, atol=1e-6)
        assert inside == [blas and 1] * 2
        with pytest.raises(ZeroDivisionError):
            in_blocks(lambda rows: 1 / 0, x, block=5, cores=2)
        assert blas is None or blas.scipy_openblas_get_num_threads64_() == 2
    finally:
        if blas:
            blas.scipy_openblas_set_num_threads64_(1)


def test_cores_without_a_switch_for_the_threads_of_blas(monkeypatch):
    monkeypatch.setattr(cores, "_openblas", lambda: None)
    assert cores.on_cores(lambda n: n * n, [1, 2, 3], cores=2) == [1, 4, 9]


@pytest.mark.parametrize("number", [0, -1, 1.5, None])
def test_cores_are_a_whole_number(number):
    with pytest.raises(TinygenError, match="whole number of at least 1"):
        in_blocks(tg.exp, np.ones((3, 2)), cores=number)
