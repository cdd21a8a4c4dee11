"""The Gaussian mixture against formulas, quadrature and itself: EM and the gradient agree."""
import functools
import json
import math

import numpy as np
import pytest

import gmm
import tinygen as tg
from gmm import TRUE_PARAMETERS, GaussianMixture, em_step, kl, negative_log_likelihood, start
from tinygen import backend, functional as F, optim
from tinygen.lab import data, plots

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def double():
    with backend.precision("float64"):
        yield


def random_mixture(K, D):
    A = rng.standard_normal((K, D, D))
    weights = rng.uniform(0.5, 1.5, K)
    means = 2 * rng.standard_normal((K, D))
    return weights / weights.sum(), means, A @ A.swapaxes(1, 2) + 0.5 * np.eye(D)


def brute_force_joint(x, weights, means, covariances):
    """pi_k N(x; mu_k, Sigma_k) as the slide has it, with inverse and determinant: (K, N)"""
    rows = []
    for weight, mean, covariance in zip(weights, means, covariances):
        d = x - mean
        distance = np.einsum("nd,de,ne->n", d, np.linalg.inv(covariance), d)
        constant = math.sqrt(np.linalg.det(2 * math.pi * covariance))
        rows.append(weight * np.exp(-0.5 * distance) / constant)
    return np.stack(rows)


# The density --------------------------------------------------------------------------------------

@pytest.mark.parametrize("K, D", [(1, 1), (3, 2), (2, 4)])
def test_density_and_responsibilities_are_those_of_the_slide(K, D):
    parameters = random_mixture(K, D)
    x = rng.standard_normal((6, D))
    model = GaussianMixture(*parameters)
    joint = brute_force_joint(x, *parameters)
    log_prob = model.log_prob(tg.Tensor(x)).numpy()
    r = model.responsibilities(tg.Tensor(x)).numpy()
    np.testing.assert_allclose(log_prob, np.log(joint.sum(axis=0)), rtol=1e-12)
    np.testing.assert_allclose(r, joint / joint.sum(axis=0), rtol=1e-10)


def integral(model, half=14, n=401):
    points = tg.Tensor(plots.grid(((-half, half), (-half, half)), n))
    return tg.exp(model.log_prob(points)).sum().item() * (2 * half / (n - 1))**2


def test_the_density_integrates_to_one():
    assert integral(GaussianMixture(*TRUE_PARAMETERS)) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("wrong", [0.5 * math.log(2 * math.pi), math.log(2 * math.pi)])
def test_a_wrong_constant_is_rejected(wrong, monkeypatch):
    """(2 pi)^(d/2) without its d, or left out: the gradient is the same, the integral is not."""
    right = GaussianMixture.log_prob
    monkeypatch.setattr(GaussianMixture, "log_prob", lambda self, x: right(self, x) + wrong)
    with pytest.raises(AssertionError):
        test_the_density_integrates_to_one()


def far(log_prob):
    """A thousand standard deviations away, p(x) is e^-500000 and its logarithm is known."""
    model = GaussianMixture([0.25, 0.75], [[0.0], [1.0]], [[[1.0]], [[1.0]]])
    x = tg.Tensor([[1001.0], [-1000.0]])
    nearest = np.log([0.75, 0.25]) - 0.5 * 1000**2 - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(log_prob(model, x).numpy(), nearest, rtol=1e-14)
    return model.responsibilities(x).numpy()


def test_far_points_keep_their_likelihood_and_their_responsibilities():
    r = far(GaussianMixture.log_prob)
    assert np.isfinite(r).all()
    np.testing.assert_allclose(r.sum(axis=0), 1, rtol=1e-14)
    np.testing.assert_allclose(r, [[0, 1], [1, 0]], atol=1e-14)


def test_a_floor_inside_the_logarithm_is_rejected():
    """ln(p + 1e-8) never goes below -18.4, however far the point: a bug of a textbook's EM."""
    with pytest.raises(AssertionError):
        far(lambda model, x: tg.log(tg.exp(model.log_joint(x)).sum(axis=0) + 1e-8))


def test_responsibilities_sum_to_one_in_float32_as_well():
    with backend.precision("float32"):
        x = tg.Tensor(rng.standard_normal((100, 2)) * 1e4)
        r = GaussianMixture(*TRUE_PARAMETERS).responsibilities(x).numpy()
    assert r.dtype == np.float32 and np.isfinite(r).all()
    np.testing.assert_allclose(r.sum(axis=0), 1, atol=1e-6)


# The gradient -------------------------------------------------------------------------------------

def test_the_loss_differentiates_right_in_every_parameter():
    model = GaussianMixture(*random_mixture(3, 2))
    x = tg.randn(5, 2, requires_grad=True)
    loss = lambda *_: negative_log_likelihood(model, x)
    assert tg.gradcheck(loss, *model.parameters(), x, order=2)


def log_likelihood_gradients(model, x):
    log_likelihood = -len(x) * negative_log_likelihood(model, x)
    return [g.numpy() for g in tg.grad(log_likelihood, [model.logits, model.means])]


def check_em_is_a_preconditioned_gradient(em_step):
    model = GaussianMixture(*random_mixture(3, 2))
    x = tg.randn(50, 2)
    count = model.responsibilities(x).numpy().sum(axis=1)       # N_k
    L = model.factor().numpy()
    covariances = np.linalg.inv(L @ L.swapaxes(1, 2))           # (K, D, D)
    _, gradient = log_likelihood_gradients(model, x)
    step = np.einsum("kij,kj->ki", covariances, gradient) / count[:, None]
    means = em_step(model, x).means.numpy()
    np.testing.assert_allclose(means, model.means.numpy() + step, rtol=0, atol=1e-10)


def test_an_em_step_of_the_means_is_the_gradient_times_sigma_over_n_k():
    check_em_is_a_preconditioned_gradient(em_step)


def test_the_gradient_by_the_logits_is_n_k_minus_n_pi_k():
    model = GaussianMixture(*random_mixture(3, 2))
    x = tg.randn(50, 2)
    count = model.responsibilities(x).numpy().sum(axis=1)       # N_k
    weights = F.softmax(model.logits).numpy()
    by_logits, _ = log_likelihood_gradients(model, x)
    np.testing.assert_allclose(by_logits, count - 50 * weights, atol=1e-12)


# EM -----------------------------------------------------------------------------------------------

@tg.no_grad()
def check_m_step_is_stationary(em_step):
    """With r fixed, sum r ln p(x, y) has slope 0 at the new parameters, in every one of them."""
    model = GaussianMixture(*random_mixture(3, 2))
    x = tg.randn(50, 2)
    r = model.responsibilities(x)
    new = em_step(model, x)
    for p in (new.logits, new.means, new.log_diagonal, new.below):
        optimum = p.numpy()

        def q(change):
            p.data = backend.asarray(optimum + change)
            return (r * new.log_joint(x)).sum().item()
        for i in np.ndindex(p.shape):
            change = np.zeros(p.shape)
            change[i] = 1e-5
            slope = (q(change) - q(-change)) / 2e-5
            assert abs(slope) < 1e-6, (i, slope)
        q(0)


def test_the_m_step_is_stationary():
    check_m_step_is_stationary(em_step)


@tg.no_grad()
def buggy_em_step(model, x, bug):
    """em_step with one of the mistakes that still look like EM."""
    log_weights = F.log_softmax(model.logits)[:, None]
    r = F.softmax(model.log_joint(x) - (log_weights if bug == "no pi" else 0), axis=0)
    count = r.sum(axis=1)
    means = r @ x / count[:, None]
    d = x - (model.means if bug == "old means" else means)[:, None]
    divisor = count - 1 if bug == "N_k - 1" else count
    covariances = (r[:, :, None] * d).mT @ d / divisor[:, None, None]
    weights = np.full(3, 1 / 3) if bug == "equal weights" else (count / len(x)).numpy()
    return GaussianMixture(weights, means.numpy(), covariances.numpy())


def test_wrong_m_steps_are_rejected():
    check_m_step_is_stationary(functools.partial(buggy_em_step, bug=None))
    for bug in ("old means", "N_k - 1", "equal weights"):
        with pytest.raises(AssertionError):
            check_m_step_is_stationary(functools.partial(buggy_em_step, bug=bug))


def test_an_e_step_without_the_weights_is_rejected():
    check_em_is_a_preconditioned_gradient(functools.partial(buggy_em_step, bug=None))
    with pytest.raises(AssertionError):
        check_em_is_a_preconditioned_gradient(functools.partial(buggy_em_step, bug="no pi"))


def test_one_step_by_hand():
    """Points -1 and 1, components N(-1, 1) and N(1, 1) of weight 1/2.

    Then r = sigmoid(2) = s for the near component, so mu = -+(2 s - 1) and sigma^2 = 1 - mu^2.
    """
    old = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    new = em_step(old, tg.Tensor([[-1.0], [1.0]]))
    mean = 2 / (1 + math.exp(-2)) - 1
    variances = new.factor().numpy().squeeze()**-2.0
    np.testing.assert_allclose(F.softmax(new.logits).numpy(), [0.5, 0.5], rtol=1e-14)
    np.testing.assert_allclose(new.means.numpy(), [[-mean], [mean]], rtol=1e-14)
    np.testing.assert_allclose(variances, [1 - mean**2] * 2, rtol=1e-12)


@pytest.mark.parametrize("name, K", [("lecture_mixture", 2), ("pinwheel", 5), ("moons", 3)])
def test_em_never_makes_the_likelihood_worse(name, K):
    x = data.toy(name, 400)
    model = start(x.numpy(), K)
    nll = []
    for _ in range(60):
        nll.append(negative_log_likelihood(model, x).item())
        model = em_step(model, x)
    assert (np.diff(nll) < 1e-12).all()
    assert nll[-1] < nll[0] - 0.1


@pytest.mark.parametrize("D", [1, 2, 5])
def test_one_component_reaches_its_closed_form_in_one_step(D):
    """The least NLL of a Gaussian is 1/2 (d ln 2 pi + ln |S| + d).

    S is the (biased) covariance of the data.
    """
    x = tg.randn(40, D)
    model = em_step(GaussianMixture(*random_mixture(1, D)), x)
    S = np.cov(x.numpy().T, ddof=0).reshape(D, D)
    best = 0.5 * (D * math.log(2 * math.pi) + np.linalg.slogdet(S)[1] + D)
    assert negative_log_likelihood(model, x).item() == pytest.approx(best, abs=1e-12)
    gradients = tg.grad(negative_log_likelihood(model, x), model.parameters())
    assert max(np.abs(g.numpy()).max() for g in gradients) < 1e-12


def test_both_ways_reach_the_same_likelihood_and_the_true_density():
    x = data.toy("lecture_mixture", 5000)
    em = start(x.numpy(), 2)
    for _ in range(40):
        em = em_step(em, x)
    model = start(x.numpy(), 2)
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    for _ in range(400):
        loss = negative_log_likelihood(model, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    truth = GaussianMixture(*TRUE_PARAMETERS)
    nll_em = negative_log_likelihood(em, x).item()
    assert abs(negative_log_likelihood(model, x).item() - nll_em) < 1e-6
    assert nll_em < negative_log_likelihood(truth, x).item()
    assert kl(truth, em) < 0.01
    assert kl(truth, model) < 0.01


# Comparing and sampling ---------------------------------------------------------------------------

def test_the_kl_of_two_gaussians_has_a_closed_form():
    """KL(N(m, S) || N(m', S')) = 1/2 (tr S'^-1 S + d^T S'^-1 d - 2 + ln |S'| / |S|), d = m' - m"""
    _, m, S = TRUE_PARAMETERS
    p, q = [GaussianMixture([1.0], m[k:k + 1] / 4, S[k:k + 1]) for k in (0, 1)]
    d = (m[1] - m[0]) / 4
    inverse = np.linalg.inv(S[1])
    log_ratio = np.log(np.linalg.det(S[1]) / np.linalg.det(S[0]))
    exact = 0.5 * (np.trace(inverse @ S[0]) + d @ inverse @ d - 2 + log_ratio)
    assert kl(p, q) == pytest.approx(exact, abs=1e-10)


def test_components_in_another_order_are_the_same_density():
    weights, means, covariances = TRUE_PARAMETERS
    model = GaussianMixture(*TRUE_PARAMETERS)
    other = GaussianMixture(weights[::-1], means[::-1], covariances[::-1])
    assert kl(model, other) == pytest.approx(0, abs=1e-14)
    x = data.toy("lecture_mixture", 200)
    expected = negative_log_likelihood(em_step(model, x), x).item()
    found = negative_log_likelihood(em_step(other, x), x).item()
    assert found == pytest.approx(expected, abs=1e-12)


def check_covariance_of_samples(from_noise):
    """x = mu + A z has the covariance A A^T; the rows of A^T are where the unit vectors go."""
    weights, means, covariances = random_mixture(3, 2)
    model = GaussianMixture(weights, means, covariances)
    of_zero = from_noise(model, tg.zeros(1, 2)).numpy()[:, 0]
    np.testing.assert_allclose(of_zero, means, rtol=1e-12)
    A = from_noise(model, tg.eye(2)).numpy() - means[:, None]
    np.testing.assert_allclose(A.swapaxes(1, 2) @ A, covariances, rtol=1e-10)


def test_samples_have_the_right_mean_and_covariance():
    check_covariance_of_samples(GaussianMixture.from_noise)


def test_a_transposed_root_is_rejected():
    def transposed(model, z):
        return z @ tg.Tensor(np.linalg.inv(model.factor().numpy())).mT + model.means[:, None]
    with pytest.raises(AssertionError):
        check_covariance_of_samples(transposed)


def test_a_sample_given_y_comes_from_component_y():
    means = np.array([[0.0, 0.0], [5.0, 5.0], [9.0, 0.0]])
    model = GaussianMixture([0.2, 0.3, 0.5], means, np.stack([1e-20 * np.eye(2)] * 3))
    y = backend.asarray([2, 0, 1, 1, 2])
    np.testing.assert_allclose(model.sample(y).numpy(), means[[2, 0, 1, 1, 2]], atol=1e-8)


def test_components_are_drawn_in_proportion_to_their_weights(monkeypatch):
    """Evenly spaced numbers instead of random ones: the counts are exact, y = K never occurs."""
    _, means, covariances = random_mixture(3, 2)
    model = GaussianMixture([0.1, 0.6, 0.3], means, covariances)
    monkeypatch.setattr(tg, "rand", lambda n, _: tg.Tensor((np.arange(n)[:, None] + 0.5) / n))
    counts = np.bincount(backend.to_numpy(model.draw_components(1000)))
    assert counts.tolist() == [100, 600, 300]
    monkeypatch.setattr(tg, "rand", lambda n, _: tg.full((n, 1), 1 - 1e-16))
    assert (backend.to_numpy(model.draw_components(5)) == 2).all()


# The demo -----------------------------------------------------------------------------------------

def test_exact_is_for_the_mixture_whose_truth_is_known(tmp_path):
    with pytest.raises(tg.TinygenError, match="lecture_mixture"):
        gmm.main(["--data", "pinwheel", "--exact", "--quick", "--out", str(tmp_path)])


@pytest.mark.parametrize("flags", [["--exact"], ["--data", "pinwheel"]])
def test_it_runs(flags, tmp_path):
    with backend.precision("float32"):
        gmm.main(["--quick", "--batch", "500", "--out", str(tmp_path), *flags])
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert ("nll_true" in numbers) == ("--exact" in flags)
