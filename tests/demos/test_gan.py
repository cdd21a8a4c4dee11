"""The GAN demos against their closed forms, and bugs put in on purpose.

Each bug is caught by a check with a name.
"""
import json

import numpy as np
import pytest

import conditional_gan
import dirac_gan
import gan
import tinygen as tg
from tinygen import backend, functional as F, nn, optim
from tinygen.lab import data, metrics


@pytest.fixture(autouse=True)
def float64():
    with backend.precision("float64"):
        yield


each_loss = pytest.mark.parametrize("name", gan.LOSSES)
with_optimum = pytest.mark.parametrize("name", gan.OPTIMAL_SCORE)


def two_gaussians(m=1.0):
    """The probabilities of small cells under N(0, 1) and N(m, 1).

    Sums over them are integrals, up to rounding.
    """
    x = np.linspace(-12, 12 + m, 4001)
    p, q = [np.exp(-(x - c)**2 / 2) / (2 * np.pi)**0.5 * (x[1] - x[0]) for c in (0, m)]
    return x, p, q


def derivative(f, x):
    x = tg.Tensor(x, requires_grad=True)
    return tg.grad(f(x).sum(), x)[0].numpy()


# The optimal discriminator ------------------------------------------------------------------------

@with_optimum
def test_no_score_is_better_than_the_optimal_one(name):
    """At D* the pointwise loss p f(a) + q g(a) is stationary; no other score has a lower one."""
    rng = np.random.default_rng(0)
    p, q = rng.random((2, 50))
    on_real, on_fake, _ = gan.LOSSES[name]
    pointwise = lambda a: tg.Tensor(p) * on_real(a) + tg.Tensor(q) * on_fake(a)
    optimal = gan.OPTIMAL_SCORE[name](p, q)
    if name != "hinge":  # which has a corner there
        assert np.abs(derivative(pointwise, optimal)).max() < 1e-12
    least = pointwise(tg.Tensor(optimal)).numpy()
    for other in np.linspace(-5, 5, 101):
        assert (pointwise(tg.full(50, other)).numpy() >= least - 1e-12).all()


def test_the_logit_of_the_optimal_d_is_the_log_ratio():
    p, q = np.random.default_rng(0).random((2, 50))
    D = F.sigmoid(tg.Tensor(gan.OPTIMAL_SCORE["minimax"](p, q))).numpy()
    np.testing.assert_allclose(D, p / (p + q), rtol=1e-12)


def check_value_at_the_optimum():
    """The loss of D* is ln 4 - 2 JSD, with JSD by its own definition."""
    _, p, q = two_gaussians()
    m = (p + q) / 2
    jsd = (p * np.log(p / m) + q * np.log(q / m)).sum() / 2
    assert gan.optimal_loss("minimax", p, q) == pytest.approx(np.log(4) - 2 * jsd, rel=1e-10)


def test_value_at_the_optimum():
    check_value_at_the_optimum()
    same = np.array([0.2, 0.8, 0, 0])
    apart = np.array([0, 0, 0.5, 0.5])
    assert gan.optimal_loss("minimax", same, same) == pytest.approx(2 * np.log(2), abs=1e-12)
    assert gan.optimal_loss("minimax", same, apart) == pytest.approx(0, abs=1e-12)


def test_hinge_at_the_optimum_is_total_variation():
    _, p, q = two_gaussians()
    total_variation = np.abs(p - q).sum() / 2
    assert gan.optimal_loss("hinge", p, q) == pytest.approx(2 - 2 * total_variation, rel=1e-12)


def test_the_least_squares_loss_of_g_is_a_chi_square():
    """2 (E_r + E_g) of G's own term at D* is chi^2(p_r + p_g || 2 p_g).

    Mao et al. 2017, with a, b, c = -1, 1, 0.
    """
    _, p, q = two_gaussians()
    for_G = gan.LOSSES["least_squares"][2]
    score = tg.Tensor(gan.OPTIMAL_SCORE["least_squares"](p, q))
    loss = (tg.Tensor(p + q) * for_G(score)).sum().item()
    assert 2 * loss == pytest.approx(((2 * q - (p + q))**2 / (p + q)).sum(), rel=1e-10)


def check_logistic_regression(m=1.0):
    """A linear score trained on N(0, 1) against N(m, 1) ends at logit D* = -m x + m^2/2.

    Expectations by Gauss-Hermite quadrature.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    real = tg.Tensor(nodes[:, None])                            # (40, 1)
    weights = tg.Tensor(weights[:, None] / weights.sum())       # (40, 1)
    D = nn.Linear(1, 1)
    on_real, on_fake, _ = gan.LOSSES["minimax"]
    optimizer = optim.SGD(D.parameters(), lr=2.0)
    for _ in range(800):
        loss = (weights * (on_real(D(real)) + on_fake(D(real + m)))).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [D.weight.item(), D.bias.item()] == pytest.approx([-m, m**2 / 2], abs=1e-8)


def test_logistic_regression_finds_the_optimal_d():
    check_logistic_regression()


# The losses ---------------------------------------------------------------------------------------

def test_equilibrium_values():
    ln2 = pytest.approx(np.log(2))
    twice_ln2 = pytest.approx(2 * np.log(2))
    guess = lambda x: 0 * x[:, :1]
    x = tg.randn(5, 2)
    assert gan.discriminator_loss("minimax", guess, x, x).item() == twice_ln2
    assert gan.generator_loss("minimax", guess, x).item() == pytest.approx(-np.log(2))
    assert gan.generator_loss("non_saturating", guess, x).item() == ln2
    y = tg.zeros(5, 10)
    conditional_guess = lambda x, y: guess(x)
    assert conditional_gan.discriminator_loss(conditional_guess, x, x, y).item() == twice_ln2
    assert conditional_gan.generator_loss(conditional_guess, x, y).item() == ln2


def test_the_logarithms_are_those_of_the_slide():
    a = np.linspace(-4, 4, 9)
    D = 1 / (1 + np.exp(-a))
    for term, formula in zip(gan.LOSSES["minimax"], (-np.log(D), -np.log(1 - D), np.log(1 - D))):
        np.testing.assert_allclose(term(tg.Tensor(a)).numpy(), formula, rtol=1e-12)
    for_G = gan.LOSSES["non_saturating"][2]
    np.testing.assert_allclose(for_G(tg.Tensor(a)).numpy(), -np.log(D), rtol=1e-12)


@each_loss
def test_far_scores_stay_finite(name):
    a = tg.Tensor([-1e4, 1e4], requires_grad=True)
    for term in gan.LOSSES[name]:
        assert np.isfinite(term(a).numpy()).all()
        assert np.isfinite(derivative(term, a)).all()


def test_the_minimax_generator_saturates():
    """Where D is sure that a sample is fake (score -10), only the other form has a gradient."""
    at = np.array([-10.0])
    minimax = derivative(gan.LOSSES["minimax"][2], at)
    non_saturating = derivative(gan.LOSSES["non_saturating"][2], at)
    assert minimax == pytest.approx(-1 / (1 + np.exp(10)), rel=1e-10)
    assert non_saturating == pytest.approx(-1 / (1 + np.exp(-10)), rel=1e-10)


def check_g_raises_the_score(name):
    """Descending G's loss raises the score of a fake that D rejects."""
    assert derivative(gan.LOSSES[name][2], np.array([-1.0])) < 0


@each_loss
def test_g_raises_the_score(name):
    check_g_raises_the_score(name)


def check_the_step_of_d_leaves_g_alone():
    G = gan.mlp(2, 2, hidden=4)
    D = gan.mlp(2, 1, hidden=4)
    real = tg.randn(6, 2)
    fake = G(tg.randn(6, 2))
    penalty = gan.r1_penalty(D, real) + gan.gradient_penalty(D, real, fake, tg.rand(6, 1))
    (gan.discriminator_loss("minimax", D, real, fake) + penalty).backward()
    assert all(p.grad is None for p in G.parameters())
    assert all(p.grad is not None for p in D.parameters()[:-1])


def test_the_step_of_d_leaves_g_alone():
    check_the_step_of_d_leaves_g_alone()


def check_gradient(loss, *players):
    """Of a loss, in all parameters.

    Also in those that it does not depend on, such as a penalty on the last bias.
    """
    parameters = [p for player in players for p in player.parameters()]
    assert tg.gradcheck(lambda *_: loss() + 0 * sum(p.sum() for p in parameters), *parameters)


@each_loss
def test_gradients_of_both_players(name):
    G = gan.mlp(2, 2, hidden=4)
    D = gan.mlp(2, 1, hidden=4)
    real = tg.randn(6, 2)
    z = tg.randn(6, 2)
    fake = G(z).detach()
    check_gradient(lambda: gan.discriminator_loss(name, D, real, fake), D)
    check_gradient(lambda: gan.generator_loss(name, D, G(z)), G, D)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_gradients_of_the_penalties(activation):
    """Through a gradient: tanh has the second derivative that ReLU lacks."""
    D = nn.Sequential(nn.Linear(2, 5), activation(), nn.Linear(5, 4), activation(),
                      nn.Linear(4, 1))
    real = tg.randn(6, 2)
    fake = tg.randn(6, 2)
    t = tg.rand(6, 1)
    check_gradient(lambda: gan.r1_penalty(D, real), D)
    check_gradient(lambda: gan.gradient_penalty(D, real, fake, t), D)


def test_the_input_gradient_of_a_quadratic_score():
    A = np.random.default_rng(0).standard_normal((2, 2))
    x = tg.randn(7, 2)
    D = lambda x: ((x @ tg.Tensor(A)) * x).sum(axis=1, keepdims=True)
    expected = x.numpy() @ (A + A.T)
    np.testing.assert_allclose(gan.input_gradient(D, x).numpy(), expected, rtol=1e-12)
    assert gan.r1_penalty(D, x).item() == pytest.approx((expected**2).sum(axis=1).mean())


def check_slope_of_wgan_gp(a=0.5, weight=0.1):
    """A datum at a, a sample at 0: a linear critic ends with slope 1 + a / (2 weight).

    So it overestimates W1 = a.
    """
    D = nn.Linear(1, 1, bias=False)
    D.weight.data = tg.full((1, 1), 1.5).data
    real = tg.full((1, 1), a)
    fake = tg.zeros(1, 1)
    t = tg.full((1, 1), 0.3)
    optimizer = optim.SGD(D.parameters(), lr=1.0)
    for _ in range(200):
        penalty = gan.gradient_penalty(D, real, fake, t)
        loss = gan.discriminator_loss("wgan_gp", D, real, fake) + weight * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert D.weight.item() == pytest.approx(1 + a / (2 * weight), rel=1e-9)
    distance = -gan.discriminator_loss("wgan_gp", D, real, fake).item()
    assert distance == pytest.approx(a + a**2 / (2 * weight), rel=1e-9)


def test_slope_of_wgan_gp():
    check_slope_of_wgan_gp()


# Data and cells -----------------------------------------------------------------------------------

def check_width_of_the_modes(points, name="eight_gaussians"):
    """The fraction of data within 3 standard deviations is 1 - e^(-9/2).

    Their spread is the standard deviation.
    """
    centers = data.centers(name, **gan.OPTIONS[name])
    std = gan.OPTIONS[name]["std"]
    found = metrics.mode_statistics(points, centers, std)["high_quality"]
    assert abs(found - (1 - np.exp(-4.5))) < 5 * (0.01 / len(points))**0.5


@pytest.mark.parametrize("name", gan.OPTIONS)
def test_width_of_the_modes(name):
    check_width_of_the_modes(data.toy(name, 20_000, **gan.OPTIONS[name]), name)


@pytest.mark.parametrize("name", gan.OPTIONS)
def test_cells_hold_the_data(name):
    """Their probabilities add up to 1 and have the exact covariance.

    Counts of samples stand in the right cell.
    """
    options = gan.OPTIONS[name]
    std, n = options["std"], 300
    side = np.abs(data.centers(name, **options)).max() + 8 * std
    window = [(-side, side), (-side, side)]
    corner = np.array([[side * 0.999, -side * 0.999]])          # right and below
    p, q = gan.cells(name, window, n, corner)
    middle = (np.arange(n) + 0.5) * 2 * side / n - side
    assert p.sum() == pytest.approx(1, abs=1e-12)
    own = (2 * side / n)**2 / 12 * np.eye(2)                    # the covariance of a cell
    covariance = data.moments(name, **options)[1] + own
    assert p.sum(axis=0) @ middle**2 == pytest.approx(covariance[0, 0], rel=1e-5)
    assert p.sum(axis=1) @ middle**2 == pytest.approx(covariance[1, 1], rel=1e-5)
    coarse, _ = gan.cells(name, window, n // 10, corner)        # wider than a mode, yet as exact
    sums = p.reshape(n // 10, 10, n // 10, 10).sum(axis=(1, 3))
    np.testing.assert_allclose(sums, coarse, atol=1e-12)
    assert q[0, -1] == 1 and q.sum() == 1


def test_cells_are_right_way_up(monkeypatch):
    """With one mode above and none to the right, the mass lies in the upper rows."""
    above = np.array([[0.0, 0.5]])
    monkeypatch.setattr(data, "centers", lambda name, **options: above)
    p, q = gan.cells("eight_gaussians", [(-1, 1), (-1, 1)], 200, above)
    assert p[140:160, 90:110].sum() == pytest.approx(1, abs=1e-6)
    assert q[140:160, 90:110].sum() == 1


# The Dirac GAN ------------------------------------------------------------------------------------

def eigenvalues(h, **how):
    """Of one step of dirac_gan.update at (0, 0), its matrix found by central differences."""
    def step(v):
        theta, psi = [tg.full((1, 1), number) for number in v]
        return np.array([new.item() for new in dirac_gan.update(theta, psi, h, **how)])
    columns = [(step(e) - step(-e)) / 2e-4 for e in 1e-4 * np.eye(2)]
    return np.linalg.eigvals(np.stack(columns, axis=1))


def check_spirals_out(h=0.2):
    expected = [(1 + h**2 / 4)**0.5] * 2
    assert np.abs(eigenvalues(h, simultaneous=True)) == pytest.approx(expected, rel=1e-7)


def test_both_at_once_spirals_out():
    check_spirals_out()


def test_alternately_goes_in_circles_up_to_a_step_of_4():
    for h in (0.2, 1.0, 3.9):
        assert np.abs(eigenvalues(h)) == pytest.approx([1, 1], abs=1e-7)
    assert np.abs(eigenvalues(4.5)).max() > 1.1


def test_r1_converges():
    """With both at once the step is 1 + h lambda exactly; alternately it is so for a small h."""
    for g in (0.3, 2.0):  # turning and not turning
        rate = -g / 2 + np.sqrt(complex(g**2 / 4 - 0.25)) * np.array([1, -1])
        at_once = (eigenvalues(0.1, simultaneous=True, weight=g) - 1) / 0.1
        in_turn = (eigenvalues(1e-4, weight=g) - 1) / 1e-4
        assert np.sort_complex(at_once) == pytest.approx(np.sort_complex(rate), abs=1e-6)
        assert np.sort_complex(in_turn) == pytest.approx(np.sort_complex(rate), abs=1e-3)
        assert np.abs(eigenvalues(0.2, weight=g)).max() < 1


@pytest.mark.parametrize("rule", dirac_gan.RULES)
def test_the_modulus_the_demo_prints(rule):
    how = dirac_gan.RULES[rule]
    for h in (0.2, 1.0):
        expected = np.abs(eigenvalues(h, **how)).max()
        assert dirac_gan.modulus(h, **how) == pytest.approx(expected, rel=1e-7)


# Bugs put in on purpose ---------------------------------------------------------------------------

def put(monkeypatch, name, real=None, fake=None, for_G=None):
    terms = [new or old for new, old in zip((real, fake, for_G), gan.LOSSES[name])]
    monkeypatch.setitem(gan.LOSSES, name, tuple(terms))


def test_bug_minus_ln_d_of_the_fake_instead_of_ln_of_1_minus_d(monkeypatch):
    # the loss of D is then +ln D(fake), without a lower bound
    put(monkeypatch, "minimax", fake=lambda b: -F.softplus(-b))
    with pytest.raises(AssertionError):
        check_value_at_the_optimum()
    with pytest.raises(AssertionError):
        check_logistic_regression()


@each_loss
def test_bug_wrong_sign_of_the_generator_loss(name, monkeypatch):
    right = gan.LOSSES[name][2]
    put(monkeypatch, name, for_G=lambda b: -right(b))
    with pytest.raises(AssertionError):
        check_g_raises_the_score(name)


def test_bug_wrong_sign_turns_the_dirac_gan_into_a_saddle(monkeypatch):
    put(monkeypatch, "minimax", for_G=lambda b: F.softplus(b))
    with pytest.raises(AssertionError):
        check_spirals_out()


def test_bug_forgotten_detach(monkeypatch):
    monkeypatch.setattr(tg.Tensor, "detach", lambda self: self)
    with pytest.raises(AssertionError):
        check_the_step_of_d_leaves_g_alone()


def test_bug_penalty_of_the_squared_norm(monkeypatch):
    def squared(D, real, fake, t):
        g = gan.input_gradient(D, t * real + (1 - t) * fake)
        return (((g * g).sum(axis=1) - 1)**2).mean()
    monkeypatch.setattr(gan, "gradient_penalty", squared)
    with pytest.raises(AssertionError):
        check_slope_of_wgan_gp()


def test_bug_penalty_without_its_second_derivative(monkeypatch):
    right = gan.input_gradient
    monkeypatch.setattr(gan, "input_gradient", lambda D, x: right(D, x).detach() + 0 * D(x).sum())
    with pytest.raises(tg.GradcheckError, match="wrong"):
        test_gradients_of_the_penalties(nn.Tanh)


@pytest.mark.parametrize("wrong", [0.01**0.5, 0.01**2],
                         ids=["variance passed as std", "std passed as variance"])
def test_bug_variance_and_standard_deviation_exchanged(wrong):
    with pytest.raises(AssertionError):
        check_width_of_the_modes(data.toy("eight_gaussians", 20_000, radius=1.0, std=wrong))


# The conditional GAN ------------------------------------------------------------------------------

def small_players():
    return (conditional_gan.Generator(pixels=6, hidden=5, latent=3, classes=4),
            conditional_gan.Discriminator(pixels=6, hidden=5, classes=4))


def labels_of_five():
    return F.one_hot(np.arange(5) % 4, 4)                       # (5, 4)


def test_gradients_of_the_conditional_gan():
    G, D = small_players()
    x = tg.randn(5, 6)
    z = tg.randn(5, 3)
    y = labels_of_five()
    fake = G(z, y).detach()
    check_gradient(lambda: conditional_gan.discriminator_loss(D, x, fake, y), D)
    check_gradient(lambda: conditional_gan.generator_loss(D, G(z, y), y), G, D)
    check_gradient(lambda: conditional_gan.r1_penalty(D, x, y), D)


def check_labels_reach(player, size):
    x = tg.randn(4, size)
    zero, one = [player(x, F.one_hot(np.full(4, label), 4)).numpy() for label in (0, 1)]
    assert np.abs(zero - one).min() > 0


def test_labels_reach_both_players():
    G, D = small_players()
    check_labels_reach(G, 3)
    check_labels_reach(D, 6)


def test_bug_d_does_not_receive_the_label():
    _, D = small_players()
    with pytest.raises(AssertionError):
        check_labels_reach(lambda x, y: D(x, 0 * y), 6)


def test_the_conditional_step_of_d_leaves_g_alone():
    G, D = small_players()
    x = tg.randn(5, 6)
    y = labels_of_five()
    fake = G(tg.randn(5, 3), y)
    loss = conditional_gan.discriminator_loss(D, x, fake, y) + conditional_gan.r1_penalty(D, x, y)
    loss.backward()
    assert all(p.grad is None for p in G.parameters())


# The whole demos ----------------------------------------------------------------------------------

def run_demo(module, tmp_path, *flags):
    with backend.precision("float32"):
        module.main(["--quick", "--out", str(tmp_path), *flags])
    return json.loads((tmp_path / "metrics.json").read_text())


@pytest.mark.parametrize("name, library", [("minimax", "strict"), ("least_squares", "numpy"),
                                           ("hinge", "numpy")])
def test_gan_with_the_exact_solution(name, library, tmp_path):
    if backend.name() != "numpy":
        library = backend.name()
    numbers = run_demo(gan, tmp_path, "--exact", "--steps", "6", "--loss", name,
                       "--backend", library, "--data", "twenty_five_gaussians")
    assert numbers["gap"] > -0.05  # D* is the best; counts in cells cost a little
    assert {"d_loss", "best_d_loss"} <= numbers.keys()
    assert (tmp_path / "discriminator.png").exists()


def test_wgan_gp_has_no_exact_solution(tmp_path):
    assert "gap" not in run_demo(gan, tmp_path, "--exact", "--steps", "2", "--loss", "wgan_gp")


def test_dirac_gan_compares_all_losses(tmp_path, capsys):
    numbers = run_demo(dirac_gan, tmp_path, "--compare", "--steps", "1")
    assert {f"{name}_modes" for name in [*gan.LOSSES, "minimax_without_R1"]} <= numbers.keys()
    assert "high_quality" in capsys.readouterr().out


def test_dirac_gan_with_the_exact_solution(tmp_path, monkeypatch):
    monkeypatch.setattr(dirac_gan, "draw", lambda job, paths, h: None)  # which takes long
    numbers = run_demo(dirac_gan, tmp_path, "--exact", "--steps", "200")
    assert numbers["growth_r1"] < 0.99 < numbers["growth_alternating"] < 1.001
    assert 1.001 < numbers["growth_simultaneous"]
    assert numbers["gap"] < 0.005
