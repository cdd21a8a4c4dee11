"""The normalizing flow against Jacobian determinants, quadrature, and the entropy of a Gaussian."""
import json
import math

import numpy as np
import pytest

import normalizing_flow
import tinygen as tg
from normalizing_flow import LOG_SCALE, Coupling, Flow, integral, moons_log_prob
from tinygen import backend, nn, optim
from tinygen.lab import data, metrics, plots

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def double():
    with backend.precision("float64"):
        yield


def bent_flow(dim=2, layers=4, bend=1.8, kind=Flow):
    """A flow that is far from the identity, as after training."""
    flow = kind(dim, hidden=8, layers=layers)
    for p in flow.parameters():
        p.data = p.data * bend
    return flow


# Invertible, and the determinant is right ---------------------------------------------------------

def check_inverse(flow, dim):
    z = tg.randn(50, dim)
    x = flow.inverse(z)[-1]
    assert np.abs(x.numpy() - z.numpy()).max() > 0.5            # it does something
    np.testing.assert_allclose(flow(x)[0].numpy(), z.numpy(), atol=1e-9)
    np.testing.assert_allclose(flow.inverse(flow(z)[0])[-1].numpy(), z.numpy(), atol=1e-9)


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_the_inverse_undoes_the_flow(dim):
    check_inverse(bent_flow(dim), dim)


def test_an_inverse_in_the_wrong_order_is_rejected():
    class Wrong(Flow):
        def inverse(self, z):
            path = [z]
            for layer in self.layers:
                path.append(layer.inverse(path[-1]))
            return path
    with pytest.raises(AssertionError):
        check_inverse(bent_flow(kind=Wrong), 2)


def test_a_layer_keeps_what_its_mask_says():
    for parity in (0, 1):
        x = tg.randn(5, 3)
        y, _ = Coupling(3, 8, parity)(x)
        kept = (np.arange(3) + parity) % 2 == 1
        np.testing.assert_array_equal((x.numpy() == y.numpy()).all(axis=0), kept)


def jacobian(flow, x):
    """df/dx of every point by the engine: (B, D) -> (B, D, D), row: output"""
    leaf = tg.Tensor(x, requires_grad=True)
    z, _ = flow(leaf)
    return np.stack([tg.grad(z[:, i].sum(), leaf)[0].numpy() for i in range(x.shape[1])], axis=1)


def check_determinant(kind, dim=2):
    flow = bent_flow(dim, kind=kind)
    x = rng.standard_normal((20, dim))
    log_det = flow(tg.Tensor(x))[1].numpy()
    by_engine = np.linalg.slogdet(jacobian(flow, x))[1]
    np.testing.assert_allclose(log_det, by_engine, atol=1e-10)
    f = lambda x: flow(tg.Tensor(x))[0].numpy()
    columns = [(f(x + 1e-6 * e) - f(x - 1e-6 * e)) / 2e-6 for e in np.eye(dim)]
    by_differences = np.linalg.slogdet(np.stack(columns, axis=2))[1]
    np.testing.assert_allclose(log_det, by_differences, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_log_det_is_that_of_the_jacobian(dim):
    check_determinant(Flow, dim)


def check_integral(kind):
    flow = bent_flow(bend=1, kind=kind)         # bent more, it would reach beyond any grid
    assert integral(flow, half=10, n=401) == pytest.approx(1, abs=1e-5)


def test_the_density_integrates_to_one():
    check_integral(Flow)


class Overwritten(Flow):
    """log_det of the last layer only: a bug of a published model collection."""

    def forward(self, x):
        for layer in self.layers:
            x, log_det = layer(x)
        return x, log_det


class Negative(Flow):
    """The determinant of the inverse map."""

    def forward(self, x):
        z, log_det = super().forward(x)
        return z, -log_det


@pytest.mark.parametrize("bug", [Overwritten, Negative])
@pytest.mark.parametrize("check", [check_determinant, check_integral])
def test_a_wrong_log_det_is_rejected(bug, check):
    with pytest.raises(AssertionError):
        check(bug)


def test_the_loss_differentiates_right_in_every_parameter():
    flow = bent_flow(layers=2)
    x = tg.randn(6, 2, requires_grad=True)
    assert tg.gradcheck(lambda *_: -flow.log_prob(x).mean(), *flow.parameters(), x)


def test_no_layer_stretches_by_more_than_it_may():
    with backend.precision("float32"):
        layer = Coupling(2, 8, 0)
        x = tg.randn(100, 2) * 1e4
        y, log_det = layer(x)
    assert np.abs(log_det.numpy()).max() <= LOG_SCALE + 1e-6
    assert np.isfinite(y.numpy()).all() and y.dtype == np.float32


# Exact optima -------------------------------------------------------------------------------------

class Line(nn.Module):
    """Replaces a coupling's network: s constant and t affine in x make the whole flow affine."""

    def __init__(self, dim):
        self.s = nn.Parameter(np.zeros(dim))
        self.t = nn.Linear(dim, dim)

    def forward(self, x):
        return tg.cat([self.s.broadcast_to(x.shape), self.t(x)], axis=1)


def test_an_affine_flow_on_gaussian_data_reaches_the_entropy():
    """The least loss is 1/2 ln((2 pi e)^d |Sigma|), with Sigma the very covariance of the data."""
    Sigma = np.array([[1.5, -0.8], [-0.8, 0.7]])
    mean = np.array([0.5, -1.0])
    x = rng.standard_normal((100, 2))
    x = x - x.mean(axis=0)
    whiten = np.linalg.inv(np.linalg.cholesky(x.T @ x / 100))
    x = x @ whiten.T @ np.linalg.cholesky(Sigma).T + mean
    flow = Flow(2, layers=2)
    for layer in flow.layers:
        layer.net = Line(2)
    optimizer = optim.Adam(flow.parameters(), lr=0.05)
    schedule = optim.CosineLR(optimizer, 600)
    losses = []
    for _ in range(600):
        loss = -flow.log_prob(tg.Tensor(x)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    best = 0.5 * math.log((2 * math.pi * math.e)**2 * np.linalg.det(Sigma))
    assert min(losses) > best - 1e-12
    assert losses[-1] == pytest.approx(best, abs=1e-6)


def grid_density(log_prob, half=2.6, n=105):
    """Points of a grid and the probability of the cell around each."""
    points = plots.grid(((-half, half), (-half, half)), n)
    density = np.exp(metrics.in_blocks(log_prob, points))
    return points, density * (2 * half / (n - 1))**2


def check_moons(log_prob):
    """It integrates to 1, with mean 0, variance 1 and the correlation of the data."""
    points, p = grid_density(log_prob)
    assert p.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(p @ points, 0, atol=1e-6)
    _, covariance = data.moments("moons")
    variance = np.diagonal(covariance)
    correlation = covariance / np.sqrt(np.outer(variance, variance))
    np.testing.assert_allclose((points.T * p) @ points, correlation, atol=1e-5)


def test_the_true_density_of_the_moons():
    check_moons(moons_log_prob)


def test_forgetting_the_jacobian_of_the_standardization_is_rejected():
    std = np.sqrt(np.diagonal(data.moments("moons")[1]))
    with pytest.raises(AssertionError):
        check_moons(lambda x: moons_log_prob(x) - math.log(std.prod()))


def test_the_entropy_of_the_moons_is_that_of_a_ring_less_its_ends():
    """It is a little above that of a ring, ln 2 pi + 1/2 ln(2 pi e 0.05^2) - ln std.

    Far from the ends the noise is N(0, 0.05^2) across a curve of length 2 pi. The four ends and the
    bend add a little, because there the noise spreads along the curve as well.
    """
    points, p = grid_density(moons_log_prob)
    entropy = -(p * metrics.in_blocks(moons_log_prob, points)).sum()
    std = np.sqrt(np.diagonal(data.moments("moons")[1]))
    across = 0.5 * math.log(2 * math.pi * math.e * 0.05**2)
    curve = math.log(2 * math.pi) + across - np.log(std).sum()
    assert curve < entropy < curve + 0.03


# The demo -----------------------------------------------------------------------------------------

def test_exact_is_for_the_moons(tmp_path):
    flags = ["--data", "checkerboard", "--exact", "--quick", "--out", str(tmp_path)]
    with pytest.raises(tg.TinygenError, match="moons"):
        normalizing_flow.main(flags)


def test_it_compares_with_the_truth(tmp_path):
    with backend.precision("float32"):
        normalizing_flow.main(["--quick", "--exact", "--out", str(tmp_path)])
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert numbers["kl"] > 0 and numbers["kl"] == pytest.approx(numbers["nll"] - numbers["entropy"])
    assert numbers["entropy"] == pytest.approx(1.12, abs=0.15)  # of 500 points
    assert numbers["integral"] == pytest.approx(1, abs=5e-3)
