"""Sample metrics against closed forms, brute force and enumeration.

No tolerance here hides a sampling error.
"""
import itertools
import math
import os
import threading
import time
import tracemalloc

import numpy as np
import pytest

import tinygen as tg
from tinygen import TinygenError, backend
from tinygen.lab import metrics
from tinygen.lab.metrics import (
    accuracy, bures_w2, energy_distance, frechet_distance, gaussian_w2, in_blocks, mmd,
    mode_statistics, noise_floor, sliced_w2, wasserstein_1d)

rng = np.random.default_rng(7)


def close(value, tolerance=1e-12, floor=None):
    return pytest.approx(value, rel=tolerance, abs=tolerance if floor is None else floor)


def cheapest_assignment(x, y, p):
    """W_p of samples (n, d) of equal size by trying all n! ways to pair them."""
    cost = np.linalg.norm(x[:, None] - y[None], axis=2)**p
    rows = np.arange(len(x))
    means = [cost[rows, list(order)].mean() for order in itertools.permutations(rows)]
    return min(means)**(1 / p)


def covariance(d, rank=None):
    a = rng.normal(size=(d, rank or d))
    return a @ a.T


# Wasserstein distance on the line -----------------------------------------------------------------

@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_wasserstein_of_a_shift_is_the_shift(p):
    x = rng.normal(size=50)
    assert wasserstein_1d(x, rng.permutation(x) - 2.5, p) == close(2.5)
    assert wasserstein_1d(x, rng.permutation(x), p) == 0


@pytest.mark.parametrize("n, p", [(1, 2), (2, 1), (5, 3), (7, 2), (6, 1)])
def test_wasserstein_equals_the_cheapest_of_all_assignments(n, p):
    x = rng.normal(size=n)
    y = rng.normal(size=n) * 2 + 1
    assert wasserstein_1d(x, y, p) == close(cheapest_assignment(x[:, None], y[:, None], p))


@pytest.mark.parametrize("n, m", [(1, 5), (3, 2), (4, 6), (7, 5), (12, 8), (100, 99)])
@pytest.mark.parametrize("p", [1, 2, 2.5])
def test_wasserstein_of_different_sizes_equals_the_common_grid(n, m, p):
    """Repeating each point of x k/n times and each of y k/m times changes neither distribution."""
    x = rng.normal(size=n)
    y = rng.normal(size=m) + 0.5
    k = math.lcm(n, m)
    distances = np.abs(np.repeat(np.sort(x), k // n) - np.repeat(np.sort(y), k // m))
    value = (distances**p).mean()**(1 / p)
    assert wasserstein_1d(x, y, p) == close(value) == wasserstein_1d(y, x, p)


def test_w1_is_the_area_between_the_distribution_functions():
    x = rng.normal(size=31)
    y = rng.normal(size=20) * 2
    ends = np.sort(np.concatenate([x, y]))
    of_x = (x[:, None] <= ends[:-1]).mean(axis=0)
    of_y = (y[:, None] <= ends[:-1]).mean(axis=0)
    gap = np.abs(of_x - of_y)
    assert wasserstein_1d(x, y, p=1) == close(gap @ np.diff(ends))


# Sliced Wasserstein distance ----------------------------------------------------------------------

@pytest.mark.parametrize("d, directions", [
    (1, 1), (1, 7), (2, 2), (2, 5), (2, 256), (3, 6), (5, 5), (10, 40)])
def test_sliced_w2_of_a_shift(d, directions):
    """The mean of <u, v>^2 is |v|^2 / d.

    Equally spaced directions and orthogonal frames reach it exactly.
    """
    x = rng.normal(size=(20, d))
    v = rng.normal(size=d)
    expected = np.linalg.norm(v) / math.sqrt(d)
    assert sliced_w2(x, rng.permutation(x) + v, directions) == close(expected, 1e-10)


@pytest.mark.parametrize("d", [2, 4])
def test_sliced_w2_to_one_point_is_the_mean_square(d):
    """All mass goes to one point in each direction; the sizes n and 1 differ."""
    x = rng.normal(size=(30, d)) + 1
    mean_square = (x * x).sum(axis=1).mean()
    expected = math.sqrt(mean_square / d)
    assert sliced_w2(x, np.zeros((1, d)), directions=4 * d) == close(expected)


def test_sliced_w2_equals_brute_force_over_angles_and_assignments():
    """Unlike shifts, here the best assignment changes with the angle."""
    x = rng.normal(size=(4, 2))
    y = rng.normal(size=(4, 2))
    angles = np.arange(3000) * (2 * math.pi / 3000)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    squared = [cheapest_assignment((x @ u)[:, None], (y @ u)[:, None], 2)**2 for u in directions]
    assert sliced_w2(x, y) == pytest.approx(math.sqrt(np.mean(squared)), rel=1e-4)


@pytest.mark.parametrize("d", [1, 2])
def test_sliced_w2_in_few_dimensions_does_not_depend_on_the_seed(d):
    x = rng.normal(size=(9, d))
    y = rng.normal(size=(8, d))
    assert sliced_w2(x, y, seed=1) == sliced_w2(x, y, seed=2)
    if d == 1:
        assert sliced_w2(x, y) == close(wasserstein_1d(x[:, 0], y[:, 0]))


def test_sliced_w2_has_its_own_random_numbers():
    x = rng.normal(size=(9, 3))
    y = rng.normal(size=(8, 3))
    expected = backend.randn((3,)).tolist()
    legacy = np.random.get_state()[1].copy()
    backend.manual_seed(0)
    value = sliced_w2(x, y, 10, seed=1)
    assert value == sliced_w2(x, y, 10, seed=1)
    assert value != sliced_w2(x, y, 10, seed=2)
    mmd(x, y)
    assert backend.randn((3,)).tolist() == expected
    assert (np.random.get_state()[1] == legacy).all()


@pytest.mark.parametrize("d, count", [(2, 7), (3, 3), (3, 8), (9, 4)])
def test_directions_are_unit_vectors(d, count):
    u = metrics._directions(d, count, 0)
    assert u.shape == (count, d)
    assert np.allclose((u * u).sum(axis=1), 1)
    if d != 2:  # the first d of them are orthogonal
        products = u[:d] @ u[:d].T
        assert np.allclose(products, np.eye(len(products)))


def test_sliced_w2_is_fast():
    x = rng.normal(size=(10_000, 2))
    y = rng.normal(size=(10_000, 2))
    seconds = []
    for _ in range(3):  # the best of three, on a machine with other things to do
        start = time.perf_counter()
        sliced_w2(x, y)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1  # 0.06 s on two cores


# Gaussians ----------------------------------------------------------------------------------------

def test_bures_of_commuting_covariances():
    """Along common axes it is a sum over one-dimensional Gaussians: (m1 - m2)^2 + (s1 - s2)^2."""
    s1, s2, m1, m2 = rng.uniform(0.1, 3, size=(4, 5))
    q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    value = bures_w2(q @ m1, q * s1**2 @ q.T, q @ m2, q * s2**2 @ q.T)
    assert value**2 == close(((m1 - m2)**2 + (s1 - s2)**2).sum(), 1e-10)


def test_bures_in_two_dimensions():
    """With the eigenvalues l1, l2 of C1 C2 the root has a closed form.

    tr(C1 C2)^1/2 = sqrt(l1) + sqrt(l2) = sqrt(tr(C1 C2) + 2 sqrt(det C1 C2))
    """
    c1 = covariance(2)
    c2 = covariance(2)
    root = math.sqrt(np.trace(c1 @ c2) + 2 * math.sqrt(np.linalg.det(c1) * np.linalg.det(c2)))
    m = rng.normal(size=2)
    squared = m @ m + np.trace(c1) + np.trace(c2) - 2 * root
    assert bures_w2(m, c1, 0 * m, c2)**2 == close(squared, 1e-10)


def test_bures_is_the_cost_of_the_optimal_map():
    """A symmetric positive matrix is the gradient of a convex function, hence optimal (Brenier)."""
    c = covariance(4)
    a = covariance(4) + np.eye(4)
    cost = np.trace((a - np.eye(4)) @ c @ (a - np.eye(4)))
    assert bures_w2(np.zeros(4), c, np.zeros(4), a @ c @ a)**2 == close(cost, 1e-9)


def test_bures_of_singular_covariances():
    a, b = rng.normal(size=(2, 6))
    zero = np.zeros(6)
    squared = a @ a + b @ b - 2 * abs(a @ b)
    assert bures_w2(zero, np.outer(a, a), zero, np.outer(b, b))**2 == close(squared, 1e-10)
    assert bures_w2(zero, np.outer(a, a), zero, np.zeros((6, 6)))**2 == close(a @ a)
    c = covariance(6, rank=2)
    assert bures_w2(zero, c, zero, c) < 1e-7 * math.sqrt(np.trace(c))


def test_bures_of_nearly_equal_covariances_keeps_its_digits():
    """W2(C, (1 + e)^2 C) = e sqrt(tr C)

    Of a difference of traces, which is e^2 tr C, rounding would leave three digits.
    """
    c = covariance(5)
    expected = 1e-6 * math.sqrt(np.trace(c))
    value = bures_w2(np.zeros(5), c, np.zeros(5), (1 + 1e-6)**2 * c)
    assert value == close(expected, 1e-7, floor=0)


def test_gaussian_w2_of_a_scaled_and_shifted_sample():
    x = rng.normal(size=(12, 3)) @ rng.normal(size=(3, 3))
    v = rng.normal(size=3)
    mean = x.mean(axis=0)
    spread = np.trace(np.cov(x, rowvar=False))
    squared = ((mean - v)**2).sum() + 4 * spread
    assert gaussian_w2(x, 3 * (x - mean) + v)**2 == close(squared, 1e-10)

    x = rng.normal(size=(8, 1))
    y = 2 * x[:5]
    squared = (x.mean() - y.mean())**2 + (x.std(ddof=1) - y.std(ddof=1))**2
    assert gaussian_w2(x, y)**2 == close(squared, 1e-10)


def test_frechet_is_the_square_of_gaussian_w2_and_ignores_rotations():
    x = rng.normal(size=(30, 4)) @ covariance(4)
    y = rng.normal(size=(25, 4)) + 1
    value = frechet_distance(x, y)
    assert value == close(gaussian_w2(x, y)**2)
    assert value > 1
    q = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    assert frechet_distance(x @ q, y @ q) == close(value, 1e-9)
    assert frechet_distance(2 * x, 2 * y) == close(4 * value, 1e-9)
    assert frechet_distance(x, x + np.array([0, 0, 3, 0])) == close(9, 1e-9)


def test_frechet_needs_more_samples_than_features():
    assert frechet_distance(np.eye(3)[[0, 1, 2, 2]], np.eye(3)[[0, 1, 2, 1]]) > 0
    with pytest.raises(TinygenError, match="3 features needs more samples than that, not 4 and 3"):
        frechet_distance(np.eye(3)[[0, 1, 2, 2]], np.eye(3))


# Distances from all pairs -------------------------------------------------------------------------

SUPPORT = np.array([-1.0, 0.3, 2.0])
P = np.array([0.2, 0.5, 0.3])
Q = np.array([0.6, 0.1, 0.3])


def expected_over_all_samples(metric, n, m):
    """The mean of metric(x, y) over all samples of n points from P and m from Q, by probability."""
    total = 0.0
    for i in map(list, itertools.product(range(3), repeat=n)):
        for j in map(list, itertools.product(range(3), repeat=m)):
            value = metric(SUPPORT[i, None], SUPPORT[j, None])
            total += P[i].prod() * Q[j].prod() * value
    return total


@pytest.mark.parametrize("n, m", [(2, 2), (3, 2), (2, 4)])
def test_energy_distance_is_unbiased(n, m):
    """Against 2 * integral (F - G)^2, its closed form on the line."""
    gap = np.cumsum(P) - np.cumsum(Q)
    exact = 2 * (gap[:-1]**2 @ np.diff(SUPPORT))
    assert expected_over_all_samples(energy_distance, n, m) == close(exact)


@pytest.mark.parametrize("n, m", [(2, 2), (3, 2), (2, 4)])
def test_mmd_is_unbiased(n, m):
    """Against (P - Q)^T K (P - Q), the squared distance of the mean embeddings."""
    kernel = np.exp(-(SUPPORT[:, None] - SUPPORT)**2 / (2 * 0.8**2))
    exact = (P - Q) @ kernel @ (P - Q)
    found = expected_over_all_samples(lambda x, y: mmd(x, y, bandwidth=0.8), n, m)
    assert found == close(exact)


def test_pairs_by_hand():
    x = np.array([[0.0], [1.0]])
    assert energy_distance(x, x) == close(-1)  # 2 * 1/2 - 1 - 1: unbiased, hence below 0
    assert mmd(x, x, bandwidth=1) == close(math.exp(-0.5) - 1)  # 2 e^(-1/2) - 2 (1 + e^(-1/2)) / 2
    assert mmd(x, x + [[30.0]], bandwidth=1) == close(2 * math.exp(-0.5))
    assert mmd(x, 2 * x) == close(mmd(x, 2 * x, bandwidth=1))  # the median of 0, 1, 1, 1, 2, 2
    with pytest.raises(TinygenError, match="bandwidth above 0, not 0"):
        mmd(np.zeros((3, 2)), np.zeros((3, 2)))


@pytest.mark.parametrize("n, m", [(4, 9), (8, 8), (11, 3), (5, 2)])
def test_tiles_change_nothing(monkeypatch, n, m):
    x = rng.normal(size=(n, 3))
    y = rng.normal(size=(m, 3)) + 1
    length = lambda a, b: np.linalg.norm(a[:, None] - b, axis=2)
    bell = lambda a, b: np.exp(-length(a, b)**2 / (2 * 1.5**2))
    within = lambda k: (k.sum() - k.trace()) / (len(k) * (len(k) - 1))  # without the diagonal
    energy = 2 * length(x, y).mean() - within(length(x, x)) - within(length(y, y))
    discrepancy = within(bell(x, x)) + within(bell(y, y)) - 2 * bell(x, y).mean()
    monkeypatch.setattr(metrics, "TILE", 4)
    assert energy_distance(x, y) == close(energy)
    assert mmd(x, y, 1.5) == close(discrepancy)


def test_pairs_far_from_the_origin_keep_their_digits():
    x = rng.normal(size=(20, 2))
    y = rng.normal(size=(30, 2)) * 2
    assert energy_distance(x + 1e7, y + 1e7) == close(energy_distance(x, y), 1e-7)
    assert mmd(x + 1e7, y + 1e7, 1.0) == close(mmd(x, y, 1.0), 1e-7)


def test_pairs_need_little_memory():
    x, y = rng.normal(size=(2, 3000, 2))
    tracemalloc.start()
    mmd(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # all pairs at once are 72 MB, and 800 MB for 10,000 points


# Modes --------------------------------------------------------------------------------------------

SQUARE = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])


def test_modes_found_evenly():
    found = mode_statistics(np.repeat(SQUARE, 5, axis=0), SQUARE, 0.1)
    assert found == {"modes": 4, "high_quality": 1, "reverse_kl": close(0)}
    found = mode_statistics(SQUARE, SQUARE[:1], 10)
    assert found == {"modes": 1, "high_quality": 1, "reverse_kl": 0}


@pytest.mark.parametrize("k", [1, 2, 3])
def test_dropped_modes(k):
    found = mode_statistics(np.repeat(SQUARE[:k], 7, axis=0), SQUARE, 0.1)
    assert found == {"modes": k, "high_quality": 1, "reverse_kl": close(math.log(4) - math.log(k))}


def test_uneven_modes():
    found = mode_statistics(SQUARE[[0, 0, 0, 1]], SQUARE, 0.1)
    reverse_kl = close(0.75 * math.log(0.75 * 4))  # and 0.25 ln(0.25 * 4) = 0
    assert found == {"modes": 2, "high_quality": 1, "reverse_kl": reverse_kl}


def test_samples_between_the_modes_count_for_nothing_but_quality():
    """A point 0.31 from its center is of low quality at 3 * 0.1.

    It neither finds a mode nor shifts the fractions.
    """
    samples = np.concatenate([SQUARE[:2],
                              SQUARE[:2] + [0.0, 0.29],
                              SQUARE[[0, 3, 3, 3]] + [0.0, 0.31],
                              SQUARE[[3, 3]] + 2])
    found = mode_statistics(samples, SQUARE, 0.1)
    assert found == {"modes": 2, "high_quality": 0.4, "reverse_kl": close(math.log(2))}
    q = np.array([3, 2, 3]) / 8
    reverse_kl = close(math.log(4) + q @ np.log(q))
    found = mode_statistics(samples, SQUARE, 0.1, threshold=3.2)
    assert found == {"modes": 3, "high_quality": 0.8, "reverse_kl": reverse_kl}


def test_no_sample_near_any_mode():
    found = mode_statistics(SQUARE + 2, SQUARE, 0.1)
    assert found == {"modes": 0, "high_quality": 0, "reverse_kl": close(math.log(4))}


def test_the_ceiling_of_high_quality():
    """Points at the 20,000 mid-quantiles of the length of a standard normal vector in the plane."""
    u = (np.arange(20_000) + 0.5) / 20_000
    radius = 0.05 * np.sqrt(-2 * np.log1p(-u))
    angle = np.arange(20_000) * 2.4
    samples = SQUARE[3] + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ceiling = 1 - math.exp(-4.5)
    found = mode_statistics(samples, SQUARE, 0.05)
    assert found["high_quality"] == pytest.approx(ceiling, abs=5.1e-5)
    assert ceiling == pytest.approx(0.98889, abs=5e-6)


# What all have in common --------------------------------------------------------------------------

METRICS = {"sliced_w2": sliced_w2, "gaussian_w2": gaussian_w2, "frechet_distance": frechet_distance,
           "mmd": mmd, "energy_distance": energy_distance, "wasserstein_1d": wasserstein_1d,
           "mode_statistics": lambda x, y: mode_statistics(x, y, 1.0)}


def sample_for(name, n):
    """n samples that the metric takes: numbers for wasserstein_1d, else points of 3 dimensions."""
    x = rng.normal(size=(n, 3))
    return x[:, 0] if name == "wasserstein_1d" else x


@pytest.mark.parametrize("name", METRICS)
def test_every_kind_of_array_gives_the_same_python_floats(library, name):
    x = sample_for(name, 9).astype("float32")
    y = (sample_for(name, 7) + 1).astype("float32")
    pairs = [(x, y), (tg.Tensor(x), tg.Tensor(y)),
             (backend.asarray(x), y), (x.tolist(), y.tolist())]
    values = [METRICS[name](*pair) for pair in pairs]
    assert values[0] == values[1] == values[2] == values[3]
    numbers = values[0].values() if isinstance(values[0], dict) else values
    assert all(type(v) is float for v in numbers)


@pytest.mark.parametrize("name", [name for name in METRICS if name != "mode_statistics"])
def test_every_distance_is_symmetric_and_grows(name):
    metric = METRICS[name]
    x = sample_for(name, 9)
    y = sample_for(name, 7)
    assert metric(x, y) == close(metric(y, x), 1e-9)
    assert metric(x, y + 5) > metric(x, y) + 0.1


@pytest.mark.parametrize("name", METRICS)
def test_every_refusal_is_one_sentence(name):
    metric = METRICS[name]
    good = sample_for(name, 9)
    n = good.size
    d = n // 9
    two_nan = good.copy()
    two_nan[:2] = np.nan
    one_inf = good.copy()
    one_inf[:1] = -np.inf
    cases = [(good[:0], r"got no samples: an array of shape \(0"),
             (two_nan, f"NaN or Inf in {2 * d} of the {n} numbers"),
             (one_inf, f"NaN or Inf in {d} of the {n} numbers"),
             (good[None], r"cannot take an array of shape \(1, 9"),
             (np.float64(1), r"cannot take an array of shape \(\)"),
             (np.array([["a"]]), "needs numbers")]
    for bad, reason in cases:
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(TinygenError, match=f"^{name} .*{reason}") as error:
                metric(*pair)
            assert "\n" not in str(error.value)
            assert str(error.value).endswith(".")
    if name != "wasserstein_1d":
        words = r"equal dimension d, not arrays of shape \(9, 3\) and \(9, 2\)"
        with pytest.raises(TinygenError, match=words):
            metric(good, good[:, :2])
        with pytest.raises(TinygenError, match="one sample a row"):
            metric(good[:, 0], good[:, 0])


@pytest.mark.parametrize("call, reason", [
    (lambda x: wasserstein_1d(x[:, 0], x[:, 0], p=0.5), "finite p >= 1, not for p = 0.5"),
    (lambda x: wasserstein_1d(x[:, 0], x[:, 0], p=math.inf), "finite p >= 1, not for p = inf"),
    (lambda x: wasserstein_1d(x, x[:, 0]), r"reshape\(-1\)"),
    (lambda x: sliced_w2(x, x, directions=0), "at least one direction, not 0"),
    (lambda x: mmd(x, x, bandwidth=-1), "bandwidth above 0, not -1"),
    (lambda x: mmd(x, x[:1]), "at least 2 samples"),
    (lambda x: energy_distance(x[:1], x), "at least 2 samples"),
    (lambda x: gaussian_w2(x, x[:1]), "at least 2 samples"),
    (lambda x: mode_statistics(x, x, 0), "std > 0"),
    (lambda x: mode_statistics(x, x, 1, threshold=-1), "threshold > 0"),
    (lambda x: bures_w2(x[0], np.eye(3), x[0], np.eye(2)),
     r"not \(3,\), \(3, 3\), \(3,\), \(2, 2\)"),
    (lambda x: bures_w2(x[0], np.eye(3), x[0, :2], np.eye(3)), r"means \(d,\) and covariances"),
    (lambda x: bures_w2(x[:1], np.eye(3), x[:1], np.eye(3)), r"means \(d,\) and covariances"),
    (lambda x: bures_w2(x[0], np.eye(3), [], np.eye(3)), "is empty"),
    (lambda x: bures_w2(x[0], np.eye(2), x[0], np.eye(2)), r"means \(d,\) and covariances"),
    (lambda x: bures_w2(x[0], np.diag([1, 1, -1]), x[0], np.eye(3)), "smallest eigenvalue -1"),
    (lambda x: bures_w2(x[0], np.eye(3), x[0], np.triu(np.ones((3, 3)))), "not symmetric"),
    (lambda x: bures_w2(x[0], np.eye(3), x[0], np.full((3, 3), np.nan)), "NaN or Inf in 9"),
    (lambda x: noise_floor(sliced_w2, lambda n: x, 2, repeats=0), "at least one repeat"),
    (lambda x: accuracy(x, np.zeros(8, int)), "one integer label of at least 0 for each of 9 rows"),
    (lambda x: accuracy(x, np.zeros(9)), "dtype float64"),
    (lambda x: accuracy(x, np.arange(9)), "3 classes found labels from 0 to 8"),
    (lambda x: accuracy(x * np.nan, np.zeros(9, int)), "NaN or Inf in 27"),
    (lambda x: in_blocks(tg.exp, x[:0]), "at least one row"),
])
def test_further_refusals(call, reason):
    with pytest.raises(TinygenError, match=reason):
        call(rng.uniform(0.1, 1, size=(9, 3)))


def test_covariances_may_carry_the_rounding_of_float32():
    rounding = np.triu(np.full((20, 20), 1e-6, "float32"))
    c = covariance(20, rank=3).astype("float32") + rounding
    assert bures_w2(np.zeros(20), c, np.zeros(20), c) < 1e-3


def test_noise_floor_is_the_median_between_fresh_draws():
    draws = iter([0, 1, 0, 10, 0, 2])
    floor = noise_floor(lambda x, y: y - x, lambda n: n * next(draws), n=5)
    assert floor == 5 * 2  # of 5, 50 and 10
    assert next(draws, None) is None


# Labels -------------------------------------------------------------------------------------------

def test_accuracy(library):
    logits = tg.Tensor([[0.0, 1.0, 0.5], [2.0, 1.0, 1.5], [-1.0, -3.0, -2.0], [0.0, 0.0, 9.0]])
    assert accuracy(logits, tg.Tensor([1, 0, 2, 2])) == 0.75
    assert accuracy(logits, np.array([1, 0, 0, 2])) == 1


def test_spread_within_classes_is_that_of_each_class_about_its_own_mean(library):
    images = tg.Tensor([[[0.0, 2.0]], [[2.0, 2.0]], [[9.0, 9.0]], [[9.0, 13.0]]])
    spread = metrics.spread_within_classes(images, np.array([0, 0, 1, 1]))
    assert spread == close(((0.5 + 2) / 2)**0.5, 1e-6)


def test_assignment_of_integer_costs():
    assert metrics.assignment([[4, 1, 3], [2, 0, 5], [3, 2, 2]]).tolist() == [1, 0, 2]


def test_mode_statistics_far_from_the_origin():
    rng = np.random.default_rng(0)
    centers = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    samples = centers[rng.integers(3, size=3000)] + 0.01 * rng.standard_normal((3000, 2))
    shift = 2.0**20
    here = mode_statistics(samples, centers, 0.01)
    there = mode_statistics(samples + shift, centers + shift, 0.01)
    assert here == there


def test_impossible_sizes_are_refused():
    x = np.ones((4, 2))
    refused = (lambda: in_blocks(lambda x: x, x, block=0),
               lambda: metrics.optimal_pairs(x, x, group=0),
               lambda: metrics.spread_within_classes(x, np.array([0, 1])))
    for bad in refused:
        with pytest.raises(TinygenError):
            bad()


def test_beside_floor_is_what_its_name_says():
    rng = np.random.default_rng(0)
    sets = []

    def draw(n):
        sets.append(rng.standard_normal((n, 2)))
        return sets[-1]
    clouds = [1.5 * rng.standard_normal((300, 2)) for _ in range(2)]
    found = metrics.beside_floor(clouds, draw, sets=5)
    floor = np.mean([sliced_w2(a, b, 64)**2 for a, b in itertools.combinations(sets, 2)])**0.5
    distance = np.mean([sliced_w2(a, b, 64)**2 for a in clouds for b in sets])**0.5
    expected = {"sliced_w2": distance, "noise_floor": floor, "ratio": distance / floor}
    assert found == pytest.approx(expected, rel=1e-9)
    assert found["ratio"] > 3
    perfect = metrics.beside_floor([draw(300) for _ in range(5)], draw)
    assert 0.7 < perfect["ratio"] < 1.4

    refused = (lambda: metrics.beside_floor(draw(9), draw, sets=1),
               lambda: metrics.beside_floor([draw(9), draw(8)], draw))
    for bad in refused:
        with pytest.raises(TinygenError, match="clouds of one size and at least 2 sets"):
            bad()
    with pytest.raises(TinygenError, match="asked draw for 9 samples and got 8"):
        metrics.beside_floor(draw(9), lambda n: draw(n - 1))
    with pytest.raises(TinygenError, match="must give new ones each time"):
        metrics.beside_floor(draw(9), lambda n: np.ones((n, 2)))


def test_beside_floor_far_from_the_origin():
    cloud, *sets = np.random.default_rng(0).standard_normal((5, 100, 2))

    def measured(shift):
        shifted = iter([x + shift for x in sets])
        return metrics.beside_floor(cloud + shift, lambda n: next(shifted), sets=4)
    assert measured(0) == pytest.approx(measured(2.0**24), rel=1e-6)
