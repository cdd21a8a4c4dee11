"""Solvers, likelihoods and scores against exact solutions; guidance against its definition."""
import math

import numpy as np
import pytest

import flow_ode
import tinygen as tg
from conditional_flow_matching import NO_CLASS, ConditionalVelocity, conditional_loss, guided
from flow_ode import (SOLVERS, at_one_time, divergence, log_likelihood, score, solve,
                      true_log_density)
from test_flow_matching import gaussian_velocity
from tinygen import backend
from tinygen.lab import plots

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def double():
    with backend.precision("float64"):
        yield


@pytest.mark.parametrize("name, order", [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_the_order_of_each_solver(name, order):
    """One step against the Taylor series of the exact solution of x' = a(t) x.

    The terms up to h^order agree, the next does not.
    """
    step, evaluations = SOLVERS[name]
    calls = []

    def f(x, t):
        calls.append(t)
        return x * math.cos(3 * t)
    errors = []
    for h in (0.02, 0.01):
        exact = math.exp((math.sin(3 * (0.3 + h)) - math.sin(0.9)) / 3)
        errors.append(abs(step(f, tg.Tensor([[1.0]]), 0.3, h).item() - exact))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.1)
    assert len(calls) == 2 * evaluations


def test_solving_forth_and_back_returns_to_the_start():
    u = gaussian_velocity([0.5, -1.0], [[2.0, 0.6], [0.6, 1.0]])
    f = at_one_time(u)
    x = tg.randn(5, 2)
    there = solve(f, x, 0.0, 1.0, 100)
    np.testing.assert_allclose(solve(f, there, 1.0, 0.0, 100).numpy(), x.numpy(), atol=1e-7)


def differentiable_gaussian(m, S):
    """The exact velocity N(0, I) -> N(m, S) as Tensor operations, to be differentiated."""
    m = np.asarray(m)
    S = np.asarray(S)

    def f(x, t):
        V = (1 - t)**2 * np.eye(len(m)) + t**2 * S
        A = (t * S - (1 - t) * np.eye(len(m))) @ np.linalg.inv(V)
        return tg.Tensor(m) + (x - tg.Tensor(t * m)) @ tg.Tensor(A.T)
    return f


def test_the_gaussian_flow_ends_at_the_optimal_transport_map():
    m = np.array([0.5, -1.0])
    S = np.array([[2.0, 0.6], [0.6, 1.0]])
    x = rng.standard_normal((5, 2))
    values, vectors = np.linalg.eigh(S)
    root = vectors * values**0.5 @ vectors.T
    end = solve(differentiable_gaussian(m, S), tg.Tensor(x), 0.0, 1.0, 200).numpy()
    np.testing.assert_allclose(end, m + x @ root, atol=1e-7)


def test_divergence_is_the_trace_of_the_jacobian():
    w = tg.Tensor(rng.standard_normal((3, 3)))

    def f(x, t):
        return tg.tanh(x @ w) * t
    x, h = rng.standard_normal((4, 3)), 1e-6
    expected = 0
    for i, e in enumerate(np.eye(3)):
        change = f(tg.Tensor(x + h * e), 0.7) - f(tg.Tensor(x - h * e), 0.7)    # (4, 3)
        expected = expected + change.numpy()[:, i] / (2 * h)                    # (4,)
    np.testing.assert_allclose(divergence(f, tg.Tensor(x), 0.7).numpy(), expected, rtol=1e-7)


def test_log_likelihood_of_a_gaussian_is_exact():
    """Tutorials get it wrong in several ways.

    The sign of the time step, a lost or doubled divergence, the trace of the wrong matrix.
    """
    m = np.array([0.5, -1.0])
    S = np.array([[2.0, 0.6], [0.6, 1.0]])
    x = rng.standard_normal((6, 2)) * 2
    d = x - m
    distance = np.einsum("ni,ij,nj->n", d, np.linalg.inv(S), d)     # (6,)
    expected = -0.5 * (distance + np.log(np.linalg.det(2 * np.pi * S)))
    got = log_likelihood(differentiable_gaussian(m, S), tg.Tensor(x), steps=100).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-7)


@pytest.mark.parametrize("bug", ["sign of the divergence", "no divergence",
                                 "sum of all entries of the Jacobian"])
def test_a_wrong_likelihood_is_rejected(bug, monkeypatch):
    right = divergence

    def wrong(f, x, t):
        if bug == "no divergence":
            return 0 * right(f, x, t)
        if bug == "sign of the divergence":
            return -right(f, x, t)
        x = tg.Tensor(x, requires_grad=True)
        y = f(x, t)
        return tg.grad(y, x, tg.ones(*y.shape))[0].sum(axis=1)
    monkeypatch.setattr(flow_ode, "divergence", wrong)
    with pytest.raises(AssertionError):
        test_log_likelihood_of_a_gaussian_is_exact()


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_velocity_and_score_carry_the_same_information(t):
    """For a Gaussian path the score is -V_t^-1 (x - t m), V_t = (1 - t)^2 I + t^2 S."""
    m = np.array([0.5, -1.0])
    S = np.array([[2.0, 0.6], [0.6, 1.0]])
    x = rng.standard_normal((5, 2))
    V = (1 - t)**2 * np.eye(2) + t**2 * S
    got = score(differentiable_gaussian(m, S), tg.Tensor(x), t).numpy()
    np.testing.assert_allclose(got, -(x - t * m) @ np.linalg.inv(V), atol=1e-10)


@pytest.mark.parametrize("t", [0.3, 1.0])
def test_the_true_density_integrates_to_one_and_is_standardized(t):
    n = 400
    points = plots.grid(((-7, 7), (-7, 7)), n)
    p = np.exp(true_log_density(tg.Tensor(points), t).numpy()) * (14 / (n - 1))**2
    assert p.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(p @ points, [0, 0], atol=1e-6)
    np.testing.assert_allclose(p @ points**2, t**2 + (1 - t)**2, atol=1e-5)


# Guidance -----------------------------------------------------------------------------------------

def test_guidance_with_weight_0_and_minus_1():
    u = ConditionalVelocity(dim=3, hidden=4)
    x = tg.randn(5, 3)
    t = tg.rand(5, 1)
    y = tg.Tensor([0, 3, 9, 9, 1])
    conditional = u(x, t, y).numpy()
    without = u(x, t, tg.full((5,), NO_CLASS)).numpy()
    np.testing.assert_allclose(guided(u, x, t, y, 0).numpy(), conditional)
    np.testing.assert_allclose(guided(u, x, t, y, -1).numpy(), without)
    both = guided(u, x, t, y, 2.5).numpy()
    np.testing.assert_allclose(both, 3.5 * conditional - 2.5 * without)


def test_a_dropped_label_is_no_label():
    u = ConditionalVelocity(dim=3, hidden=4)
    x1 = tg.randn(5, 3)
    x0 = tg.randn(5, 3)
    t = tg.rand(5, 1)
    y = tg.Tensor([0, 3, 9, 9, 1])
    none = tg.full((5,), NO_CLASS)
    every = backend.asarray([True] * 5)
    no = backend.asarray([False] * 5)
    all_dropped = conditional_loss(u, x1, y, x0, t, drop=every).item()
    assert all_dropped == conditional_loss(u, x1, none, x0, t, drop=no).item()
    assert all_dropped != conditional_loss(u, x1, y, x0, t, drop=no).item()


def test_conditional_loss_in_every_parameter():
    u = ConditionalVelocity(dim=3, hidden=4)
    x1 = tg.randn(5, 3)
    x0 = tg.randn(5, 3)
    t = 0.9 * tg.rand(5, 1)
    y = tg.Tensor([0, 3, 9, 9, 1])
    drop = backend.asarray([False, True, False, False, True])
    loss = lambda *parameters: conditional_loss(u, x1, y, x0, t, drop)
    assert tg.gradcheck(loss, *u.parameters())
