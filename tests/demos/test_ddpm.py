"""Diffusion against exact solutions (Gaussians, finite data, classes), and the errors easily made.

Nothing random is sampled. With the exact denoiser of Gaussian data the samplers are linear in all
the normal numbers they use. With unit vectors instead of these numbers, they give the variance of
their samples.
"""
import functools
import inspect
import itertools
import math

import numpy as np
import pytest

import conditional_ddpm
import ddim
import ddpm
import forward_process
import tinygen as tg
from ddim import ddim_step
from ddpm import Denoiser, ddpm_loss, ddpm_step, sample
from forward_process import Diffusion, posterior, target, to_eps
from tinygen import backend

rng = np.random.default_rng(0)
SCHEDULES = ("linear", "cosine")
STEPS = {"beta": lambda *args: ddpm.ddpm_step(*args, sigma="beta"),
         "posterior": lambda *args: ddpm.ddpm_step(*args, sigma="posterior"),
         "ddim": lambda *args: ddim.ddim_step(*args),
         "eta=1": lambda *args: ddim.ddim_step(*args, eta=1.0)}


@pytest.fixture(autouse=True)
def double():
    with backend.precision("float64"):
        yield


def betas(T, schedule):
    """Written again from the papers: linear, scaled; squared cosine with offset 0.008."""
    if schedule == "linear":
        beta = [(1e-4 + (0.02 - 1e-4) * i / max(1, T - 1)) * 1000 / T for i in range(T)]
    else:
        f = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2)**2 for t in range(T + 1)]
        beta = [1 - f[t] / f[t - 1] for t in range(1, T + 1)]
    return np.minimum(beta, 0.999)


def change(monkeypatch, module, name, old, new):
    """Put a bug into a function or class of a demo: its source, with `old` replaced by `new`."""
    source = inspect.getsource(getattr(module, name))
    assert source.count(old) == 1, f"{name} has no single {old!r}"
    monkeypatch.setattr(module, name, None)                         # notes what to put back
    exec(source.replace(old, new), vars(module))
    if name in globals():
        monkeypatch.setitem(globals(), name, getattr(module, name))


# The forward process ------------------------------------------------------------------------------

def check_forward(T, schedule):
    """Mean and variance of x_t given x_0, step by step (1), against q_sample() for every t."""
    diffusion, mean, variance = Diffusion(T, schedule), 1.0, 0.0
    x0 = tg.Tensor([[1.0], [0.0]])      # q_sample() is linear: unit vectors give both its weights
    eps = tg.Tensor([[0.0], [1.0]])
    for t, beta in enumerate(betas(T, schedule), 1):
        mean = math.sqrt(1 - beta) * mean
        variance = (1 - beta) * variance + beta
        a, b = diffusion.q_sample(x0, tg.full((2,), t), eps).numpy()[:, 0]
        np.testing.assert_allclose([a, b**2], [mean, variance], rtol=1e-9)


@pytest.mark.parametrize("T, schedule", [*itertools.product((1, 7, 50, 200, 1000), SCHEDULES)])
def test_noising_at_once_is_noising_step_by_step(T, schedule):
    check_forward(T, schedule)


@pytest.mark.parametrize("T, schedule", [*itertools.product((20, 50, 200, 1000), SCHEDULES)])
def test_nothing_of_the_data_is_left_at_T(T, schedule):
    alpha_bar = Diffusion(T, schedule).alpha_bar
    assert alpha_bar[0] == 1 and len(alpha_bar) == T + 1 and (np.diff(alpha_bar) < 0).all()
    assert 0 < alpha_bar[-1] < 1e-4


@pytest.mark.parametrize("t", [0, -1, 8])
def test_a_time_out_of_range_raises(t):
    diffusion = Diffusion(7)
    for ask in (diffusion.alpha_bar_at,
                lambda t: diffusion.q_sample(tg.zeros(2, 1), t, tg.zeros(2, 1)),
                lambda t: ddpm.exact_eps(tg.zeros(2, 1), t, diffusion, tg.zeros(3, 1))):
        with pytest.raises(IndexError, match="1..7"):
            ask(tg.Tensor([1, t]))
        ask(tg.Tensor([1, 7]))


def test_mean_alpha_bar_instead_of_its_root_is_rejected(monkeypatch):
    change(monkeypatch, forward_process, "Diffusion", "tg.sqrt(alpha_bar) * x0", "alpha_bar * x0")
    with pytest.raises(AssertionError):
        check_forward(50, "linear")


def test_time_off_by_one_is_rejected(monkeypatch):
    change(monkeypatch, forward_process, "Diffusion", "return self.table[t]",
           "return self.table[t - 1]")
    with pytest.raises(AssertionError):
        check_forward(50, "linear")


# The way back -------------------------------------------------------------------------------------

def check_posterior(T, schedule):
    """q(x_s | x_t, x_0) by the rule for two jointly Gaussian numbers.

    For every pair with s = t - 1, and some with s < t - 1.
    """
    diffusion = Diffusion(T, schedule)
    beta = np.append(0, betas(T, schedule))
    for t in range(1, T + 1):
        for s in {t - 1, t // 2, 0}:
            a, b, variance = posterior(diffusion.alpha_bar[t], diffusion.alpha_bar[s])
            prior = math.sqrt(np.prod(1 - beta[1:s + 1]))           # x_s | x_0 = 1: the mean
            v = 1 - np.prod(1 - beta[1:s + 1])                      #                the variance
            keep = math.sqrt(np.prod(1 - beta[s + 1:t + 1]))        # x_t = keep x_s + noise
            gain = v * keep / (keep**2 * v + 1 - keep**2)
            for x0, xt in ((1.0, 0.0), (0.0, 1.0)):
                expected = prior * x0 + gain * (xt - keep * prior * x0)
                assert a * x0 + b * xt == pytest.approx(expected, rel=1e-8, abs=1e-9)
            assert variance == pytest.approx(v - gain * keep * v, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("T, schedule", [*itertools.product((5, 50, 200), SCHEDULES)])
def test_posterior_is_gaussian_conditioning(T, schedule):
    check_posterior(T, schedule)


@pytest.mark.parametrize("old, new", [
    ("(1 - alpha_bar_s) / (1 - alpha_bar_t)", "(1 - alpha_bar_t) / (1 - alpha_bar_t)"),
    ("math.sqrt(alpha_bar_s) * beta", "math.sqrt(alpha_bar_t) * beta")])
def test_alpha_bar_t_for_alpha_bar_before_is_rejected(monkeypatch, old, new):
    change(monkeypatch, forward_process, "posterior", old, new)
    with pytest.raises(AssertionError):
        check_posterior(5, "linear")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_mean_of_algorithm_2_is_the_posterior_mean_at_the_implied_x0(schedule):
    alpha_bar = Diffusion(50, schedule).alpha_bar
    x = tg.randn(4, 3)
    eps = tg.randn(4, 3)
    for t, s in [(t, t - 1) for t in range(1, 51)] + [(50, 10), (10, 0)]:
        a, b, _ = posterior(alpha_bar[t], alpha_bar[s])
        x0 = (x - math.sqrt(1 - alpha_bar[t]) * eps) / math.sqrt(alpha_bar[t])
        expected = (a * x0 + b * x).numpy()
        got = ddpm_step(x, eps, tg.zeros(4, 3), alpha_bar[t], alpha_bar[s]).numpy()
        np.testing.assert_allclose(got, expected, atol=1e-8 * abs(expected).max())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_with_eta_1_is_ddpm_with_the_posterior_variance_step_by_step(schedule):
    alpha_bar = Diffusion(50, schedule).alpha_bar
    x = tg.randn(4, 3)
    eps = tg.randn(4, 3)
    z = tg.randn(4, 3)
    for t, s in [(t, t - 1) for t in range(1, 51)] + [(50, 10), (10, 0)]:
        one = STEPS["posterior"](x, eps, z, alpha_bar[t], alpha_bar[s]).numpy()
        two = STEPS["eta=1"](x, eps, z, alpha_bar[t], alpha_bar[s]).numpy()
        np.testing.assert_allclose(one, two, atol=1e-8 * abs(one).max())


def test_any_ddim_step_from_q_of_xt_ends_in_q_of_xs():
    alpha_bar = Diffusion(50).alpha_bar
    for eta, (t, s) in itertools.product((0, 0.3, 1), ((50, 49), (30, 7), (9, 0))):
        def step(x0, eps, z):
            xt = math.sqrt(alpha_bar[t]) * x0 + math.sqrt(1 - alpha_bar[t]) * eps
            return ddim_step(xt, eps, z, alpha_bar[t], alpha_bar[s], eta)
        a, b, c = (step(*unit) for unit in np.eye(3))
        expected = [math.sqrt(alpha_bar[s]), 1 - alpha_bar[s]]
        np.testing.assert_allclose([a, b**2 + c**2], expected, atol=1e-9)


# eps, x_0 and v -----------------------------------------------------------------------------------

@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_the_prediction_gives_back_the_noise(predict):
    diffusion = Diffusion(50)
    x0 = tg.randn(50, 3)
    eps = tg.randn(50, 3)
    t = tg.arange(1, 51)
    xt = diffusion.q_sample(x0, t, eps)
    alpha_bar = diffusion.alpha_bar_at(t)
    prediction = target(x0, eps, alpha_bar, predict)
    implied = to_eps(prediction, xt, alpha_bar, predict)
    np.testing.assert_allclose(implied.numpy(), eps.numpy(), atol=1e-9)

    def path(angle):                    # x_t = cos x_0 + sin eps, and v is its derivative
        return np.cos(angle) * x0.numpy() + np.sin(angle) * eps.numpy()
    angle = np.arccos(np.sqrt(alpha_bar.numpy()))
    v = (path(angle + 1e-6) - path(angle - 1e-6)) / 2e-6
    expected = {"eps": eps.numpy(), "x0": x0.numpy(), "v": v}[predict]
    np.testing.assert_allclose(prediction.numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_loss_in_all_parameters(predict):
    diffusion = Diffusion(9)
    model = Denoiser(2, hidden=4, features=4)
    x0 = tg.randn(4, 2)
    eps = tg.randn(4, 2)
    t = tg.Tensor([1, 9, 4, 4])
    loss = lambda *_: ddpm_loss(model, diffusion, x0, t, eps, predict)
    assert tg.gradcheck(loss, *model.parameters())


def test_loss_is_the_squared_error_at_the_noised_point():
    diffusion = Diffusion(9)
    x0 = tg.randn(4, 2)
    eps = tg.randn(4, 2)
    t = tg.Tensor([1, 9, 4, 4])
    seen = {}

    def model(x, t):
        seen.update(x=x.numpy(), t=t.numpy())
        return 0.5 * x
    loss = ddpm_loss(model, diffusion, x0, t, eps).item()
    alpha_bar = np.cumprod(1 - betas(9, "linear"))[t.numpy() - 1][:, None]
    xt = np.sqrt(alpha_bar) * x0.numpy() + np.sqrt(1 - alpha_bar) * eps.numpy()
    np.testing.assert_allclose(seen["x"], xt, atol=1e-12)
    np.testing.assert_array_equal(seen["t"], t.numpy())
    assert loss == pytest.approx(((eps.numpy() - 0.5 * xt)**2).sum(axis=1).mean())


# The network and its training ---------------------------------------------------------------------

def check_time_is_used():
    """Another time for one row changes that row and no other; the order of rows changes nothing."""
    model = Denoiser(2, hidden=8)
    x = tg.randn(5, 2)
    t = tg.Tensor([3, 3, 90, 4, 1])
    before = model(x, t).numpy()
    after = model(x, tg.Tensor([3, 3, 91, 4, 1])).numpy()
    changed = abs(before - after).max(axis=1) > 1e-9
    assert changed.tolist() == [False, False, True, False, False]
    order = [4, 2, 0, 1, 3]
    np.testing.assert_allclose(model(x[order], t[order]).numpy(), before[order], atol=1e-12)


def test_the_network_uses_the_time_of_each_row():
    check_time_is_used()


@pytest.mark.parametrize("time", [
    "0 * self.time(t)",
    "self.time(t).T.reshape(*self.time(t).shape)",
    "self.time(t).mean(axis=0, keepdims=True).broadcast_to(len(x), self.time.dim)"])
def test_a_network_without_time_or_with_time_along_the_wrong_axis_is_rejected(monkeypatch, time):
    change(monkeypatch, ddpm, "Denoiser", "self.time(t)", time)
    with pytest.raises(AssertionError):
        check_time_is_used()


def check_all_times_are_trained(monkeypatch, tmp_path):
    """The times that main() trains with are 1, ..., T, all of them."""
    seen, loss = set(), ddpm.ddpm_loss

    def watched(model, diffusion, x0, t, *rest):
        seen.update(t.numpy().tolist())
        return loss(model, diffusion, x0, t, *rest)
    monkeypatch.setattr(ddpm, "ddpm_loss", watched)
    monkeypatch.setattr(ddpm, "pictures", lambda *args, **kwargs: {})
    ddpm.main(["--quick", "--steps", "5", "--T", "6", "--out", str(tmp_path)])
    assert seen == {1, 2, 3, 4, 5, 6}


def test_all_times_are_trained(monkeypatch, tmp_path):
    check_all_times_are_trained(monkeypatch, tmp_path)


@pytest.mark.parametrize("wrong", ["1, T", "0, T + 1", "0, T"])
def test_times_that_miss_T_are_rejected(monkeypatch, tmp_path, wrong):
    change(monkeypatch, ddpm, "random_times", "1, T + 1", wrong)
    with pytest.raises((AssertionError, IndexError)):
        check_all_times_are_trained(monkeypatch, tmp_path)


# The exact denoisers ------------------------------------------------------------------------------

DATA = rng.standard_normal((7, 2)) * 1.5 + [0.5, -1.0]


@pytest.mark.parametrize("t", [1, 5, 20, 50])
def test_exact_eps_is_the_score_of_the_noised_data(t):
    diffusion = Diffusion(50)
    alpha_bar = diffusion.alpha_bar[t]

    def log_density(x):
        e = -((x - math.sqrt(alpha_bar) * DATA)**2).sum(1) / (2 * (1 - alpha_bar))
        return np.log(np.exp(e - e.max()).sum()) + e.max()

    def score(x):
        steps = np.eye(2) * 1e-5
        return np.array([(log_density(x + h) - log_density(x - h)) / 2e-5 for h in steps])
    noise = rng.standard_normal((5, 2))
    points = math.sqrt(alpha_bar) * DATA[:5] + math.sqrt(1 - alpha_bar) * noise
    expected = -math.sqrt(1 - alpha_bar) * np.array([score(x) for x in points])
    eps = ddpm.exact_eps(tg.Tensor(points), tg.full((5,), t), diffusion, tg.Tensor(DATA)).numpy()
    np.testing.assert_allclose(eps, expected, rtol=1e-5, atol=1e-6)


def gaussian_eps(diffusion, mean, covariance):
    """eps* for data from N(mean, covariance), ddim.py, eq. (3); one time for all points."""
    def eps(x, t):
        alpha_bar = diffusion.alpha_bar[int(t.numpy()[0])]
        V = alpha_bar * np.atleast_2d(covariance) + (1 - alpha_bar) * np.eye(x.shape[1])
        A = math.sqrt(1 - alpha_bar) * np.linalg.inv(V)
        return (x - math.sqrt(alpha_bar) * tg.Tensor(mean)) @ tg.Tensor(A).T
    return eps


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("t", [1, 10, 25, 50])
def test_the_smallest_loss_on_gaussian_data(t, predict):
    """E |eps - eps*|^2 = tr[a S (a S + (1 - a) I)^-1], a = alpha_bar, by quadrature.

    Any other linear denoiser loses more.
    """
    diffusion = Diffusion(50)
    m = np.array([0.5, -1.0])
    S = np.array([[1.4, 0.55], [0.55, 0.9]])
    z, w = np.polynomial.hermite_e.hermegauss(3)    # exact for the squares of linear functions
    nodes = np.array(list(itertools.product(z, repeat=4)))
    weights = tg.Tensor(np.prod(list(itertools.product(w / w.sum(), repeat=4)), axis=1))
    x0 = tg.Tensor(m + nodes[:, :2] @ np.linalg.cholesky(S).T)
    eps = tg.Tensor(nodes[:, 2:])
    ts = tg.full((81,), t)
    alpha_bar = diffusion.alpha_bar[t]
    best = gaussian_eps(diffusion, m, S)

    def loss(change):
        xt = diffusion.q_sample(x0, ts, eps)
        return (weights * ((best(xt, ts) + change * xt - eps)**2).sum(axis=1)).sum().item()
    floor = np.trace(alpha_bar * S @ np.linalg.inv(alpha_bar * S + (1 - alpha_bar) * np.eye(2)))
    assert loss(0) == pytest.approx(floor, rel=1e-9)
    assert loss(0.02) > floor and loss(-0.02) > floor
    # The demo's loss of that denoiser, whatever it predicts: at each node the errors differ by a
    # factor only
    factor = {"eps": 1, "x0": (1 - alpha_bar) / alpha_bar, "v": 1 / alpha_bar}[predict]

    def model(x, t):
        e = best(x, t)
        x0_hat = (x - math.sqrt(1 - alpha_bar) * e) / math.sqrt(alpha_bar)
        return target(x0_hat, e, diffusion.alpha_bar_at(t), predict)
    one = slice(17, 18)
    part = ddpm_loss(model, diffusion, x0[one], ts[one], eps[one], predict).item()
    error = best(diffusion.q_sample(x0[one], ts[one], eps[one]), ts[one]) - eps[one]
    assert part == pytest.approx(factor * (error**2).sum().item(), rel=1e-6)


# The samplers, exactly ----------------------------------------------------------------------------

def sampled_variance(monkeypatch, S, diffusion, step, steps=None):
    """The variance of the samples for data N(0, S).

    Row k gets a 1 as its k-th normal number, and 0 as all others.
    """
    n = (steps or diffusion.T) + 1
    units = iter(np.eye(n))

    def unit(*shape):
        return tg.Tensor(next(units).reshape(shape))
    with monkeypatch.context() as patch:
        patch.setattr(tg, "randn", unit)
        eps = gaussian_eps(diffusion, [0.0], [[S]])
        _, path = ddpm.sample(eps, unit(n, 1), diffusion, step, steps)
    end = path[-1].numpy()[:, 0]                                    # (n,)
    return end @ end


def recursion(S, T, schedule, kind):
    """v_{t-1} = a_t^2 v_t + sigma_t^2 from v_T = 1, without noise at t = 1, by the betas alone."""
    beta = np.append(0, betas(T, schedule))
    alpha_bar = np.cumprod(1 - beta)
    v = 1.0
    for t in range(T, 0, -1):
        now, before = alpha_bar[t], alpha_bar[t - 1]
        k = 1 / (now * S + 1 - now)                                 # eps* = sqrt(1 - alpha_bar) k x
        sigma2 = 0
        if kind == "ddim":
            a = math.sqrt(before / now) * (1 - (1 - now) * k)
            a += math.sqrt((1 - before) * (1 - now)) * k
        else:
            a = (1 - beta[t] * k) / math.sqrt(1 - beta[t])
            if t > 1:
                sigma2 = beta[t] if kind == "beta" else beta[t] * (1 - before) / (1 - now)
        v = a * a * v + sigma2
    return v


@pytest.mark.parametrize("kind", ["beta", "posterior", "ddim"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("T", [1, 2, 17, 50, 200])
def test_the_sampled_variance_obeys_the_recursion(monkeypatch, T, schedule, kind):
    for S in (0.25, 1.0, 4.0):
        got = sampled_variance(monkeypatch, S, Diffusion(T, schedule), STEPS[kind])
        assert got == pytest.approx(recursion(S, T, schedule, kind), rel=1e-7)


NUMBERS = {("posterior", 4): 3.535, ("beta", 4): 3.806, ("ddim", 4): 3.753,
           ("posterior", 1): 0.854, ("beta", 1): 0.998, ("ddim", 1): 0.927}


def check_numbers(monkeypatch):
    for (kind, S), variance in NUMBERS.items():
        got = sampled_variance(monkeypatch, S, Diffusion(50), STEPS[kind])
        assert got == pytest.approx(variance, abs=5.1e-4)


def test_the_sampled_variance_of_fifty_steps(monkeypatch):
    check_numbers(monkeypatch)


def test_unscaled_betas_are_rejected(monkeypatch):
    change(monkeypatch, forward_process, "Diffusion", " * 1000 / T", "")
    got = sampled_variance(monkeypatch, 4, Diffusion(50), STEPS["posterior"])
    assert got == pytest.approx(1.746, abs=5e-4)                    # not 4
    for check in (check_numbers, lambda _: test_nothing_of_the_data_is_left_at_T(50, "linear")):
        with pytest.raises(AssertionError):
            check(monkeypatch)


@pytest.mark.parametrize("module, name, old, new", [
    (ddpm, "sample", "if s > 0 else tg.zeros(*x.shape)", ""),       # noise at the last step
    (ddpm, "sample", "int(t)", "max(1, int(s))"),                   # the network gets t - 1
    (ddpm, "ddpm_step", "/ math.sqrt(1 - alpha_bar_t) * eps",
     "/ math.sqrt(1 - alpha_bar_s + 1e-9) * eps"),
    (ddpm, "ddpm_step", "/ math.sqrt(alpha)", "/ alpha"),
    (ddpm, "ddpm_step", "math.sqrt(variance) * z", "variance * z"),
    (ddim, "ddim_step", "math.sqrt(alpha_bar_s) * x0", "math.sqrt(alpha_bar_t) * x0"),
    (ddpm, "posterior", "(1 - alpha_bar_s) / (1 - alpha_bar_t)",
     "(1 - alpha_bar_t) / (1 - alpha_bar_t)")])
def test_a_wrong_sampler_is_rejected(monkeypatch, module, name, old, new):
    change(monkeypatch, module, name, old, new)
    with pytest.raises(AssertionError):
        check_numbers(monkeypatch)


def test_the_last_step_adds_no_noise(monkeypatch):
    """And every step before adds some, in Algorithm 2."""
    diffusion = Diffusion(6)
    eps = lambda x, t: 0.1 * x
    x = tg.ones(3, 2)
    one, two = (sample(eps, x, diffusion, STEPS["beta"])[1].numpy() for _ in range(2))
    alpha = diffusion.alpha_bar[1]
    expected = one[-2] * (1 - math.sqrt(1 - alpha) * 0.1) / math.sqrt(alpha)
    np.testing.assert_allclose(one[-1], expected, rtol=1e-12)
    assert (abs(one - two)[1:] > 1e-9).all() and len(one) == 7


def test_the_samplers_visit_the_times_they_should():
    for T in range(1, 30):
        diffusion = Diffusion(T)
        for steps in range(1, T + 1):
            asked = []

            def eps(x, t):
                asked.append(int(t.numpy()[0]))
                return 0 * x
            times, path = sample(eps, tg.zeros(1, 1), diffusion, ddim_step, steps)
            assert times[0] == T and times[-1] == 0
            assert len(times) == steps + 1 == len(path)
            assert (np.diff(times) < 0).all() and asked == times[:-1].tolist()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_with_one_data_point_ddim_jumps_to_it(schedule, steps):
    diffusion = Diffusion(20, schedule)
    point = np.array([[1.5, -2.0]])
    eps = functools.partial(ddpm.exact_eps, diffusion=diffusion, data=tg.Tensor(point))
    end = sample(eps, tg.randn(5, 2), diffusion, ddim_step, steps)[1][-1].numpy()
    np.testing.assert_allclose(end, np.repeat(point, 5, axis=0), atol=1e-6)


def test_many_ddim_steps_approach_the_map_between_gaussians():
    """x_0 = m + S^1/2 (a S + (1 - a) I)^-1/2 (x_T - sqrt(a) m), a = alpha_bar_T.

    The error falls as 1/T.
    """
    m, s = 0.7, 2.0
    errors = []
    x = tg.Tensor([[1.0], [-0.5]])
    for T in (200, 400, 800):
        diffusion = Diffusion(T)
        _, path = sample(gaussian_eps(diffusion, [m], [[s * s]]), x, diffusion, ddim_step)
        alpha_bar = diffusion.alpha_bar[-1]
        scale = s / math.sqrt(alpha_bar * s * s + 1 - alpha_bar)
        exact = m + scale * (x.numpy() - math.sqrt(alpha_bar) * m)
        errors.append(abs(path[-1].numpy() - exact).max())
    assert errors[0] < 0.1 and errors[1] < 0.6 * errors[0] and errors[2] < 0.6 * errors[1]


# The bound on the likelihood ----------------------------------------------------------------------

def bound(T, schedule, S, kind, q=posterior):
    """E[ELBO] over data from N(0, S), in nats, with the exact denoiser: sums of Gaussian integrals.

    ln p(x_T) - ln q(x_T | x_0), and ln p(x_s | x_t) - ln q(x_s | x_t, x_0) for each step, whose
    mean is the demo's own. The last step, which sampling leaves without noise, has the density
    N(x_0; mean, beta_1).
    """
    diffusion, value = Diffusion(T, schedule), 0.0
    alpha_bar = diffusion.alpha_bar
    eps = gaussian_eps(diffusion, [0.0], [[S]])
    one = tg.Tensor([[1.0]])

    def kl(mean2, v1, v2):
        return 0.5 * (v1 / v2 + mean2 / v2 - 1 - math.log(v1 / v2))
    value -= kl(alpha_bar[T] * S, 1 - alpha_bar[T], 1.0)
    for t in range(T, 0, -1):
        now, before = alpha_bar[t], alpha_bar[t - 1]
        noise = eps(one, tg.full((1,), t))
        a = STEPS[kind](one, noise, tg.zeros(1, 1), now, before).item()     # mean of p is a x_t
        beta = 1 - now / before
        ca, cb, beta_tilde = q(now, before)
        # E (ca x_0 + cb x_t - a x_t)^2 for x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps
        distance = (ca + (cb - a) * math.sqrt(now))**2 * S + (cb - a)**2 * (1 - now)
        if t > 1:
            value -= kl(distance, beta_tilde, beta if kind == "beta" else beta_tilde)
        else:
            value -= 0.5 * (math.log(2 * math.pi * beta) + distance / beta)
    return value


@pytest.mark.parametrize("S", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("kind", ["beta", "posterior"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bound_is_never_above_the_likelihood(schedule, kind, S):
    """With sigma^2 = beta the gap closes for many steps.

    At S = 1 it is 0 for any number of steps, because then every q(x_s | x_t) is
    N(sqrt(alpha) x_t, beta). With sigma^2 = beta_tilde, right for a single data point, it stays
    open.
    """
    truth = -0.5 * math.log(2 * math.pi * math.e * S)               # E ln p(x_0)
    gaps = [truth - bound(T, schedule, S, kind) for T in (10, 50, 250)]
    if kind == "beta" and S == 1:
        np.testing.assert_allclose(gaps, 0, atol=1e-9)
    else:
        assert min(gaps) > 0 and (gaps[2] < 0.12) == (kind == "beta")


def test_a_bound_with_a_wrong_posterior_is_rejected():
    """beta for beta_tilde ignores x_0, and the "bound" comes out above the likelihood."""
    def wrong(alpha_bar_t, alpha_bar_s):
        a, b, _ = posterior(alpha_bar_t, alpha_bar_s)
        return a, b, 1 - alpha_bar_t / alpha_bar_s
    truth = -0.5 * math.log(2 * math.pi * math.e * 4)
    assert bound(50, "linear", 4.0, "beta") < truth < bound(50, "linear", 4.0, "beta", wrong)


# Guidance -----------------------------------------------------------------------------------------

CENTERS, VARIANCE = rng.standard_normal((3, 2)) * 1.5, 0.3


def check_guidance(t):
    """eps_w = -sqrt(1 - alpha_bar) grad ln[p_t(x | y)^(1 + w) p_t(x)^-w], by differences."""
    diffusion = Diffusion(50)
    alpha_bar = diffusion.alpha_bar[t]
    v = alpha_bar * VARIANCE + 1 - alpha_bar

    def eps(x, t, y):
        return conditional_ddpm.exact_eps(x, t, y, diffusion, tg.Tensor(CENTERS), VARIANCE)

    def log_density(x, y, w):
        e = -((x - math.sqrt(alpha_bar) * CENTERS)**2).sum(1) / (2 * v)
        return (1 + w) * e[y] - w * np.log(np.exp(e).mean())

    def score(x, y, w):
        steps = np.eye(2) * 1e-5
        return [(log_density(x + h, y, w) - log_density(x - h, y, w)) / 2e-5 for h in steps]
    x = rng.standard_normal((6, 2))
    y = np.array([0, 1, 2, 0, 1, 2])
    for w in (-1, 0, 0.5, 3):
        eps_w = conditional_ddpm.guided(eps, tg.Tensor(y), w, 3)
        got = eps_w(tg.Tensor(x), tg.full((6,), t)).numpy()
        expected = -math.sqrt(1 - alpha_bar) * np.array([score(*row, w) for row in zip(x, y)])
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("t", [1, 10, 25, 50])
def test_guidance_follows_the_score_of_the_product(t):
    check_guidance(t)


def test_the_other_convention_of_guidance_is_rejected(monkeypatch):
    change(monkeypatch, conditional_ddpm, "guided", "(1 + w) * eps(x, t, y) - w * eps",
           "w * eps(x, t, y) + (1 - w) * eps")
    with pytest.raises(AssertionError):
        check_guidance(25)


def test_guidance_of_minus_1_forgets_the_label_and_of_0_only_asks_for_it():
    model = conditional_ddpm.ConditionalDenoiser(2, 8, classes=3)
    x = tg.randn(5, 2)
    t = tg.Tensor([1, 2, 3, 4, 5])
    y = tg.Tensor([0, 1, 2, 1, 0])
    none = model(x, t, tg.full((5,), 3)).numpy()
    conditional = model(x, t, y).numpy()
    forgets = conditional_ddpm.guided(model, y, -1, 3)
    asks = conditional_ddpm.guided(model, y, 0, 3)
    np.testing.assert_allclose(forgets(x, t).numpy(), none, atol=1e-12)
    np.testing.assert_allclose(asks(x, t).numpy(), conditional, atol=1e-12)
    assert (abs(none - conditional).max(axis=1) > 1e-6).all()


def test_labels_are_dropped_one_by_one(monkeypatch):
    monkeypatch.setattr(tg, "rand", lambda n: tg.Tensor([0.05, 0.5, 0.0999, 0.1, 0.99][:n]))
    dropped = conditional_ddpm.drop(tg.Tensor([4, 5, 6, 7, 0]), 8)
    assert dropped.numpy().tolist() == [8, 5, 8, 7, 0]


def test_conditional_loss_in_all_parameters():
    diffusion = Diffusion(9)
    model = conditional_ddpm.ConditionalDenoiser(2, 4, classes=3, features=4)
    x0 = tg.randn(4, 2)
    eps = tg.randn(4, 2)
    t = tg.Tensor([1, 9, 4, 4])
    y = tg.Tensor([0, 3, 2, 2])
    labeled = lambda x, t: model(x, t, y)
    assert tg.gradcheck(lambda *_: ddpm_loss(labeled, diffusion, x0, t, eps), *model.parameters())
