"""Flow matching against exact solutions (finite data, Gaussians), and the errors easily made."""
import itertools
import math

import numpy as np
import pytest

import flow_matching
import tinygen as tg
from flow_matching import ImageVelocity, euler, exact_velocity, flow_matching_loss
from tinygen import backend
from tinygen.lab import metrics

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def double():
    with backend.precision("float64"):
        yield


def gaussian_velocity(mean, covariance):
    """u* for N(0, I) -> N(m, S).

    m + (t S - (1 - t) I) V_t^-1 (x - t m),   V_t = (1 - t)^2 I + t^2 S
    """
    m = np.asarray(mean, dtype=float)
    S = np.asarray(covariance, dtype=float)

    def u(x, t):
        t = float(t.numpy().flat[0])  # one time for all points
        V = (1 - t)**2 * np.eye(len(m)) + t**2 * S
        A = (t * S - (1 - t) * np.eye(len(m))) @ np.linalg.inv(V)
        return tg.Tensor(m + (x.numpy() - t * m) @ A.T)
    return u


# The path and its loss ----------------------------------------------------------------------------

def test_the_path_starts_at_noise_and_ends_at_data_with_its_own_derivative_as_target():
    """A reversed path x_t = t x_0 + (1 - t) x_1 with the target x_1 - x_0 fails here.

    It is a misprint in a textbook.
    """
    x0 = tg.randn(4, 2)
    x1 = tg.randn(4, 2)
    seen = []

    def u(x, t):
        seen.append(x.numpy())
        return 0 * x
    for t in (0.0, 1.0, 0.3, 0.3 + 1e-6):
        loss = flow_matching_loss(u, x1, x0, tg.full((4, 1), t))
    np.testing.assert_allclose(seen[0], x0.numpy())
    np.testing.assert_allclose(seen[1], x1.numpy())
    speed = (seen[3] - seen[2]) / 1e-6
    assert loss.item() == pytest.approx((speed**2).sum(1).mean(), rel=1e-6)


def test_a_reversed_path_is_rejected(monkeypatch):
    def reversed_loss(u, x1, x0, t):
        xt = t * x0 + (1 - t) * x1
        error = u(xt, t) - (x1 - x0)
        return (error * error).sum(axis=1).mean()
    monkeypatch.setitem(globals(), "flow_matching_loss", reversed_loss)
    with pytest.raises(AssertionError):
        test_the_path_starts_at_noise_and_ends_at_data_with_its_own_derivative_as_target()


def test_the_smallest_loss_on_gaussian_data_is_half_pi_trace_root_sigma():
    """E |x_1 - x_0 - u*|^2, integrated over t.

    In one dimension Var(x_1 - x_0 | x_t) = s^2 / V_t, whose integral is pi/2 s.
    """
    nodes, weights = np.polynomial.legendre.leggauss(200)
    t, w = (nodes + 1) / 2, weights / 2
    z, wz = np.polynomial.hermite_e.hermegauss(3)   # exact for the squares of linear functions
    wz = wz / wz.sum()
    total = 0.0
    for s in (0.5, 2.0):
        u = gaussian_velocity([0.7], [[s * s]])
        for ti, wi in zip(t, w):
            grids = np.broadcast_arrays(z[:, None], 0.7 + s * z, wz[:, None] * wz)  # (3, 3)
            x0, x1, weight = map(np.ravel, grids)           # (9,)
            xt = (1 - ti) * x0 + ti * x1
            error = u(tg.Tensor(xt[:, None]), tg.full((9, 1), ti)).numpy()[:, 0] - (x1 - x0)
            total += wi * (weight @ error**2)
    assert total == pytest.approx(math.pi / 2 * (0.5 + 2.0), rel=1e-6)


# The exact velocity -------------------------------------------------------------------------------

DATA = rng.standard_normal((7, 2)) * 1.5 + [0.5, -1.0]


def log_density(x, t):
    """ln p_t(x) + constant for finite data: a mixture of N(t x^i, (1 - t)^2 I)."""
    e = -((x - t * DATA)**2).sum(1) / (2 * (1 - t)**2)
    return np.log(np.exp(e - e.max()).sum()) + e.max() - 2 * math.log(1 - t)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.6, 0.9])
def test_exact_velocity_obeys_the_continuity_equation(t):
    """d ln p/dt + div u + u . grad ln p = 0: what it means to move the density p_t."""
    h = 1e-5
    steps = np.eye(2) * h

    def u(x):
        return exact_velocity(tg.Tensor(x[None]), tg.full((1, 1), t), tg.Tensor(DATA)).numpy()[0]
    for x in rng.standard_normal((5, 2)):
        before = max(t - h, 0)                              # at t = 0 the difference is one-sided
        dt = (log_density(x, t + h) - log_density(x, before)) / (t + h - before)
        divergence = sum((u(x + e)[i] - u(x - e)[i]) / (2 * h) for i, e in enumerate(steps))
        score = [(log_density(x + e, t) - log_density(x - e, t)) / (2 * h) for e in steps]
        terms = np.array([dt, divergence, u(x) @ score])
        assert abs(terms.sum()) < (1e-3 if t == 0 else 1e-7) * abs(terms).sum()
        from_score = (x + (1 - t) * np.array(score)) / t if t else DATA.mean(0) - x
        assert np.allclose(u(x), from_score)


def test_one_euler_step_of_the_exact_velocity_puts_everything_on_the_mean():
    path = euler(lambda x, t: exact_velocity(x, t, tg.Tensor(DATA)), tg.randn(5, 2), 1)
    expected = np.broadcast_to(DATA.mean(0), (5, 2))
    np.testing.assert_allclose(path[-1].numpy(), expected, atol=1e-12)


def test_exact_velocity_minimizes_the_loss():
    """Over all data points and a quadrature of the noise, any change makes the loss larger."""
    z, w = np.polynomial.hermite_e.hermegauss(12)
    w = w / w.sum()
    t = 0.5
    x0 = np.array(list(itertools.product(z, z)))
    weight = np.array([a * b for a, b in itertools.product(w, w)])
    x1 = np.repeat(DATA, len(x0), axis=0)
    x0 = np.tile(x0, (len(DATA), 1))
    weight = np.tile(weight, len(DATA)) / len(DATA)
    xt = (1 - t) * x0 + t * x1
    best = exact_velocity(tg.Tensor(xt), tg.full((len(xt), 1), t), tg.Tensor(DATA)).numpy()
    loss = weight @ ((best - (x1 - x0))**2).sum(1)
    for change in (0.1 * np.sin(xt), 0.1 * np.ones(2), -0.05 * xt):
        assert weight @ ((best + change - (x1 - x0))**2).sum(1) > loss


# Euler's method -----------------------------------------------------------------------------------

def test_euler_on_a_gaussian_ends_where_the_recursion_says():
    """N(0, 1) -> N(0, 4): the factor of x_0 after N steps; 2 in the limit."""
    u = gaussian_velocity([0.0], [[4.0]])
    expected = {1: 0, 2: 0.8, 5: 1.4769, 10: 1.7231, 20: 1.857, 50: 1.9416, 100: 1.9706}
    for steps, end in expected.items():
        path = euler(u, tg.Tensor([[1.0], [-3.0]]), steps)
        assert path.shape == (steps + 1, 2, 1)
        np.testing.assert_allclose(path[-1].numpy()[:, 0], [end, -3 * end], atol=2e-4)


def test_euler_goes_through_the_times_it_should():
    """Starting at t = dt, or ending with t = 1, is the classic off-by-one."""
    times = []

    def u(x, t):
        times.append(t.numpy()[0, 0])
        return 0 * x
    euler(u, tg.zeros(1, 2), 4)
    assert times == [0, 0.25, 0.5, 0.75]


# Optimal transport --------------------------------------------------------------------------------

def test_assignment_is_the_best_of_all_permutations():
    for n in range(1, 7):
        for _ in range(10):
            for cost in (rng.standard_normal((n, n)), rng.integers(0, 3, (n, n)).astype(float)):
                p = metrics.assignment(cost)
                best = min(cost[range(n), q].sum() for q in itertools.permutations(range(n)))
                assert sorted(p) == list(range(n))
                assert cost[range(n), p].sum() == pytest.approx(best)
    with pytest.raises(tg.TinygenError, match=r"equally many.*\(2, 3\)"):
        metrics.assignment(np.zeros((2, 3)))


def test_in_one_dimension_the_best_coupling_is_to_sort():
    x0 = rng.standard_normal((20, 1))
    x1 = rng.standard_normal((20, 1))
    coupled = x0[metrics.optimal_pairs(x0, x1)]
    np.testing.assert_allclose(coupled[np.argsort(x1[:, 0]), 0], np.sort(x0[:, 0]))


def test_coupling_reorders_the_noise_and_not_the_inverse_way():
    """A permutation put on the wrong side is the inverse one; in 3-cycles the two differ."""
    x1 = np.array([[0.0, 0], [10, 0], [20, 0]])
    x0 = x1[[1, 2, 0]] + 0.1
    np.testing.assert_allclose(x0[metrics.optimal_pairs(x0, x1)], x1 + 0.1)
    x0 = tg.randn(100, 2)
    x1 = tg.randn(100, 2)
    y = x0[metrics.optimal_pairs(x0, x1)].numpy()
    np.testing.assert_allclose(np.sort(y, axis=0), np.sort(x0.numpy(), axis=0))
    assert ((y - x1.numpy())**2).sum() < ((x0.numpy() - x1.numpy())**2).sum()


def test_the_image_velocity_leads_to_the_end_it_predicts():
    u = ImageVelocity(3, hidden=4)
    x = tg.randn(5, 3)
    t = 0.9 * tg.rand(5, 1)
    end = super(ImageVelocity, u).forward(x, t)
    np.testing.assert_allclose((x + (1 - t) * u(x, t)).numpy(), end.numpy())
    x1 = tg.randn(5, 3)
    x0 = tg.randn(5, 3)
    assert tg.gradcheck(lambda *parameters: flow_matching_loss(u, x1, x0, t), *u.parameters())


def test_exact_and_ot_do_not_go_together(tmp_path):
    with pytest.raises(tg.TinygenError, match="needs independent pairs"):
        flow_matching.main(["--exact", "--coupling", "ot", "--quick", "--out", str(tmp_path)])


def test_exact_and_ot_run(tmp_path):
    short = ["--quick", "--steps", "3", "--out", str(tmp_path)]
    flow_matching.main(["--exact", *short])
    flow_matching.main(["--coupling", "ot", "--data", "eight_gaussians", *short])
