"""Auto-encoders against what is known exactly: PCA, quadrature, probabilistic PCA, Shannon's curve.

A gradient check cannot find a wrong formula, only a wrong derivative of it. So each bound is
compared with its definition, whose integrals are done on grids. Classic mistakes are put in on
purpose to show that the comparison rejects them.
"""
import itertools
import json

import numpy as np
import pytest

import autoencoder
import conditional_vae
import linear_vae
import tinygen as tg
import vae as vae_demo
from autoencoder import (AutoEncoder, LinearAutoEncoder, pca, project, projector_gap,
                         squared_error)
from conditional_vae import ConditionalVAE, conditional_vae_loss
from linear_vae import (LinearVAE, bound, distortion_and_rate, exact_means, probabilistic_pca,
                        water_filling)
from tinygen import backend, functional as F
from vae import (VAE, exact_log_likelihood, importance_bound, log_weights, reparameterize,
                 vae_loss)

rng = np.random.default_rng(0)
START = rng.bit_generator.state


@pytest.fixture(autouse=True)
def float64():
    rng.bit_generator.state = START     # so that no test depends on those before it
    with backend.precision("float64"):
        yield


def close(a, b, tolerance=1e-9):
    a, b = map(backend.to_numpy, (a, b))
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def gradients(loss, *parameters):
    return [g.numpy() for g in tg.grad(loss, parameters)]


def check_gradient(loss, model):
    assert tg.gradcheck(lambda *parameters: loss(), *model.parameters())


# Auto-encoder: Baldi & Hornik ---------------------------------------------------------------------

EIGENVALUES = np.array([5.0, 3.0, 2.0, 1.0, 0.4])


def data_with_covariance(eigenvalues, n=200):
    """(n, d) with mean not 0 and exactly these eigenvalues; and the eigenvectors as columns."""
    d = len(eigenvalues)
    x = rng.standard_normal((n, d))
    x = x - x.mean(axis=0)
    x = np.linalg.qr(x)[0] * np.sqrt(n)                         # covariance exactly I
    u = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return tg.Tensor(x * np.sqrt(eigenvalues) @ u.T + rng.standard_normal(d)), u


def linear_at(x, u, mixing):
    """A linear auto-encoder that projects onto the columns of u.

    Its code is mixed by an invertible matrix.
    """
    model = LinearAutoEncoder(u.shape[1], x.mean(axis=0))
    model.v.weight.data = backend.asarray(mixing @ u.T)
    model.w.weight.data = backend.asarray(u @ np.linalg.inv(mixing))
    return model


def test_pca_finds_the_eigenvalues_and_the_best_plane():
    x, u = data_with_covariance(EIGENVALUES)
    mean, eigenvalues, found = pca(x)
    close(eigenvalues, EIGENVALUES)
    close(np.abs(np.sum(u * found, axis=0)), np.ones(5))
    for k in range(6):
        error = project(x, mean, found[:, :k]) - x.numpy()
        close((error**2).sum(axis=1).mean(), EIGENVALUES[k:].sum())


@pytest.mark.parametrize("kept", list(itertools.combinations(range(5), 2)))
def test_every_choice_of_eigenvectors_is_critical_and_only_the_first_is_a_minimum(kept):
    """Baldi & Hornik: the loss there is the sum of the other eigenvalues, the gradient 0.

    All but one are saddles.
    """
    x, u = data_with_covariance(EIGENVALUES)
    model = linear_at(x, u[:, kept], mixing=rng.standard_normal((2, 2)) + 2 * np.eye(2))
    loss = squared_error(model, x)
    left_out = [j for j in range(5) if j not in kept]
    close(loss, EIGENVALUES[left_out].sum())
    for g in gradients(loss, *model.parameters()):
        close(g, 0 * g)

    def turned(a, b, angle):
        """The loss with the kept direction a turned towards b."""
        v = u[:, kept].copy()
        v[:, kept.index(a)] = np.cos(angle) * u[:, a] + np.sin(angle) * u[:, b]
        return squared_error(linear_at(x, v, np.eye(2)), x).item()
    pairs = list(itertools.product(kept, left_out))
    changes = [turned(a, b, 0.1) - loss.item() for a, b in pairs]
    assert (min(changes) > 0) == (kept == (0, 1))
    close(changes, [np.sin(0.1)**2 * (EIGENVALUES[a] - EIGENVALUES[b]) for a, b in pairs])


def test_the_linear_autoencoder_is_trained_to_pca():
    x, u = data_with_covariance(EIGENVALUES)
    model = LinearAutoEncoder(2, x.mean(axis=0))
    optimizer = tg.optim.Adam(model.parameters(), lr=3e-2)
    schedule = tg.optim.CosineLR(optimizer, 800)
    for _ in range(800):
        loss = squared_error(model, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    close(loss, EIGENVALUES[2:].sum(), 1e-6)
    v = model.v.weight.numpy()
    w = model.w.weight.numpy()
    assert projector_gap(w, u[:, :2]) < 1e-6
    close(v @ w, np.eye(2), 1e-3)       # PCA only up to an invertible matrix: V W = I, not W = U
    assert np.abs(w.T @ w - np.eye(2)).max() > 1e-2


def test_projector_gap_is_the_mean_squared_sine_of_the_angles():
    u, w = [np.linalg.qr(rng.standard_normal((6, 2)))[0] for _ in range(2)]
    projector = lambda a: a @ np.linalg.inv(a.T @ a) @ a.T
    mixed = w @ rng.standard_normal((2, 2))
    close(projector_gap(mixed, u), ((projector(mixed) - projector(u))**2).sum() / 4)
    first, second = np.eye(3)[:, :1], np.eye(3)[:, 1:2]
    close(projector_gap(first + second, first), 0.5)            # 45 degrees


def test_squared_error_is_a_sum_over_pixels_and_a_mean_over_images(monkeypatch):
    class Zero:
        encoder = decoder = staticmethod(lambda x: 0 * x)

    def check():
        close(autoencoder.squared_error(Zero, tg.ones(3, 784)), 784)

    def mean_over_pixels(model, x):
        return F.mse_loss(model.decoder(model.encoder(x)), x)
    check()
    monkeypatch.setattr(autoencoder, "squared_error", mean_over_pixels)
    with pytest.raises(AssertionError):                         # 784 times too small
        check()


def test_squared_error_gradients():
    x = tg.rand(4, 6)
    for model in (AutoEncoder(2, pixels=6, wide=5, narrow=4),
                  LinearAutoEncoder(2, x.mean(axis=0))):
        check_gradient(lambda: squared_error(model, x), model)


# The KL divergence of two normals -----------------------------------------------------------------

MEANS = np.array([0.0, 0.7, -1.3])
STDS = np.array([1.0, 0.4, 1.6])
LINE = np.linspace(-16, 16, 4001)


def normal(x, mean=0.0, std=1.0):
    return np.exp(-0.5 * ((x - mean) / std)**2) / (std * np.sqrt(2 * np.pi))


def kl_by_quadrature(mean, std):
    """The integral of q ln(q / p), one dimension after the other.

    The trapezoid rule is exact to rounding for these.
    """
    mean, std = mean[:, None], std[:, None]
    log_ratio = -0.5 * ((LINE - mean) / std)**2 - np.log(std) + 0.5 * LINE**2
    return (normal(LINE, mean, std) * log_ratio).sum() * (LINE[1] - LINE[0])


def kl_is_its_definition():
    mean = tg.Tensor(MEANS[None])
    logvar = tg.Tensor(2 * np.log(STDS)[None])
    close(F.kl_standard_normal(mean, logvar), [kl_by_quadrature(MEANS, STDS)])


def test_kl_is_its_definition():
    kl_is_its_definition()


def test_kl_gradients_are_mean_and_half_variance_minus_one():
    mean = tg.Tensor(MEANS, requires_grad=True)
    logvar = tg.Tensor(2 * np.log(STDS), requires_grad=True)
    by_mean, by_logvar = gradients(F.kl_standard_normal(mean, logvar), mean, logvar)
    close(by_mean, MEANS)
    close(by_logvar, 0.5 * (STDS**2 - 1))


right_kl = F.kl_standard_normal
WRONG_KL = {
    "a mean over the dimensions": lambda m, lv: right_kl(m, lv) / m.shape[-1],
    "the sign": lambda m, lv: -right_kl(m, lv),
    "logvar taken for ln std": lambda m, lv: right_kl(m, 2 * lv),
    "KL(p || q), nearly": lambda m, lv: 0.5 * (m * m + tg.exp(-lv) - 1 + lv).sum(axis=-1),
}


@pytest.mark.parametrize("bug", WRONG_KL)
def test_wrong_kl_is_rejected(bug, monkeypatch):
    monkeypatch.setattr(F, "kl_standard_normal", WRONG_KL[bug])
    with pytest.raises(AssertionError):
        kl_is_its_definition()
    with pytest.raises(AssertionError):
        vae_loss_is_nll_plus_gap()


# The variational bound, by quadrature -------------------------------------------------------------
# Networks with tanh instead of ReLU: for smooth functions that fall off like a normal density the
# trapezoid rule on a plain grid is exact to many digits.

def smooth(model, scale=2.0):
    """The same model with tanh inside and larger random weights.

    The posterior is then far from q.
    """
    for part in (model.encoder, model.decoder):
        part.layers = [tg.nn.Tanh() if isinstance(layer, tg.nn.ReLU) else layer
                       for layer in part.layers]
    for p in model.parameters():
        p.data = p.data * scale
    return model


def tiny(latent=2, pixels=3):
    backend.manual_seed(3)
    model = smooth(VAE(pixels=pixels, hidden=5, latent=latent))
    return model, np.array([0.1, 0.8, 0.4])[:pixels]


def plane(n=161, reach=8.0):
    """Points of the plane (n^2, 2) and the area of each."""
    line = np.linspace(-reach, reach, n)
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2), (line[1] - line[0])**2


def probabilities(logits):
    return 1 / (1 + np.exp(-logits.numpy()))


def exact_gap(x, mean, logvar, decode):
    """-ln p(x), and -ln p(x) + KL(q(z | x) || p(z | x)), for one image, from the definitions.

    decode   z -> logits
    """
    z, area = plane()
    p = probabilities(decode(tg.Tensor(z)))                     # (n^2, pixels)
    log_p_x = (x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1)
    log_joint = log_p_x + np.log(normal(z)).sum(axis=1)         # (n^2,)
    nll = -np.log(np.exp(log_joint).sum() * area)
    q = normal(z, mean.numpy(), np.exp(logvar.numpy() / 2)).prod(axis=1)
    log_ratio = np.log(np.maximum(q, 1e-300)) - (log_joint + nll)   # ln q(z | x) / p(z | x)
    return nll, nll + (q * log_ratio).sum() * area


def mean_over_eps(f):
    """E f(eps) for eps ~ N(0, I) in the plane; f is called with one eps (1, 2) at a time."""
    eps, area = plane(n=41, reach=6.0)
    weight = normal(eps).prod(axis=1) * area
    kept = weight > 1e-13
    return sum(w * f(tg.Tensor(e[None])).item() for e, w in zip(eps[kept], weight[kept]))


@tg.no_grad()
def vae_loss_is_nll_plus_gap():
    """What the loss is for: its mean over eps is -ln p(x) + KL(q || posterior), for any encoder."""
    vae, x = tiny()
    image = tg.Tensor(x[None])
    mean, logvar = vae.encode(image)
    nll, expected = exact_gap(x, mean, logvar, vae.decode)
    assert expected > nll + 0.05        # the bound is not tight here, so nothing is trivial
    found = mean_over_eps(lambda eps: sum(vae_demo.vae_loss(vae, image, eps)))
    close(found, expected, 1e-6)


def test_the_vae_loss_is_minus_log_likelihood_plus_the_gap():
    vae_loss_is_nll_plus_gap()


BUGS = {
    "the variance used as standard deviation":
        (vae_demo, "reparameterize", lambda mean, logvar, eps: mean + tg.exp(logvar) * eps),
    "reconstruction at the mean only":
        (vae_demo, "reparameterize", lambda mean, logvar, eps: mean + 0 * eps),
    "KL as a mean over dimensions":
        (F, "kl_standard_normal", lambda mean, logvar: right_kl(mean, logvar) / mean.shape[-1]),
    "KL with the wrong sign":
        (F, "kl_standard_normal", lambda mean, logvar: -right_kl(mean, logvar)),
    "KL without its factor 1/2":
        (F, "kl_standard_normal", lambda mean, logvar: 2 * right_kl(mean, logvar)),
    "reconstruction as a mean over pixels":
        (F, "binary_cross_entropy_with_logits",
         lambda logits, x, reduction: F.bce_with_logits(logits, x).mean()),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_vae_loss_is_rejected_though_its_gradient_is_right(bug, monkeypatch):
    monkeypatch.setattr(*BUGS[bug])
    vae, x = tiny()
    image = tg.Tensor(x[None])
    eps = tg.randn(1, 2)
    check_gradient(lambda: sum(vae_demo.vae_loss(vae, image, eps)), vae)    # finds nothing
    with pytest.raises(AssertionError):
        vae_loss_is_nll_plus_gap()


def test_reparameterize_gradients():
    mean = tg.Tensor(MEANS, requires_grad=True)
    logvar = tg.Tensor(2 * np.log(STDS), requires_grad=True)
    eps = tg.randn(3)
    by_mean, by_logvar = gradients(reparameterize(mean, logvar, eps).sum(), mean, logvar)
    close(by_mean, np.ones(3))
    close(by_logvar, 0.5 * STDS * eps.numpy())


# Importance weighting -----------------------------------------------------------------------------

@tg.no_grad()
def enumerated(draws, n=41, reach=6.0):
    """All combinations of eps on a line: log-weights (n^draws, draws) and probabilities.

    Returns the model and the image as well.
    """
    vae, x = tiny(latent=1)
    line = np.linspace(-reach, reach, n)
    probability = normal(line) * (line[1] - line[0])
    images = tg.Tensor(x[None]).broadcast_to(n, 3)
    log_w = log_weights(vae, images, tg.Tensor(line[:, None])).numpy()      # (n,)
    index = np.array(list(itertools.product(range(n), repeat=draws)))
    return tg.Tensor(log_w[index]), probability[index].prod(axis=1), vae, x


def test_the_mean_weight_is_the_likelihood():
    """E_q p(x, z) / q(z | x) = p(x), whatever q; and E_q ln w is minus the loss."""
    # The reach is far, because p still counts where q is 0
    log_w, probability, vae, x = enumerated(1, n=2001, reach=25.0)
    z = np.linspace(-8, 8, 2001)
    p = probabilities(vae.decode(tg.Tensor(z[:, None])))
    p_x = np.prod(p**x * (1 - p)**(1 - x), axis=1)
    exact = (p_x * normal(z)).sum() * (z[1] - z[0])
    close((np.exp(log_w.numpy()[:, 0]) * probability).sum(), exact, 1e-7)
    log_w, probability, *_ = enumerated(1)
    loss = 0
    for eps, weight in zip(np.linspace(-6, 6, 41), probability):
        terms = vae_loss(vae, tg.Tensor(x[None]), tg.Tensor([[eps]]))
        loss += weight * sum(terms).item()
    close((log_w.numpy()[:, 0] * probability).sum(), -loss, 1e-8)


def test_the_bounds_grow_with_the_draws_by_enumeration():
    bounds = []
    for m in (1, 2, 3):
        log_w, probability, *_ = enumerated(m)
        bounds.append((importance_bound(log_w, m).numpy() * probability).sum())
        one_by_one = (importance_bound(log_w, 1).numpy() * probability).sum()
        close(one_by_one, bounds[0], 1e-8)                      # any number of draws gives L_1
    log_w, probability, *_ = enumerated(1, n=2001, reach=25.0)
    exact = np.log((np.exp(log_w.numpy()[:, 0]) * probability).sum())
    assert np.all(np.diff([*bounds, exact]) > 1e-3)             # L_1 < L_2 < L_3 < ln p(x)


def test_importance_bound_on_the_same_draws_never_falls():
    log_w = tg.Tensor(5 * rng.standard_normal((4, 12)))
    rows = [importance_bound(log_w, m).numpy() for m in (1, 2, 6, 12)]
    assert all((b >= a).all() for a, b in zip(rows, rows[1:]))
    w = np.exp(log_w.numpy())
    close(rows[2], 0.5 * (np.log(w[:, :6].mean(axis=1)) + np.log(w[:, 6:].mean(axis=1))))


@tg.no_grad()
def test_exact_log_likelihood_is_the_integral():
    vae, x = tiny()
    x = np.stack([x, rng.random(3)])
    found = exact_log_likelihood(vae, tg.Tensor(x), reach=7, n=141).numpy()
    for image, value in zip(x, found):
        mean, logvar = vae.encode(tg.Tensor(image[None]))
        nll, _ = exact_gap(image, mean, logvar, vae.decode)
        close(-value, nll, 1e-7)


# The conditional one ------------------------------------------------------------------------------

def test_conditional_vae_loss_gradients():
    cvae = ConditionalVAE(pixels=6, classes=3, hidden=5, latent=2)
    x = tg.rand(4, 6)
    y = F.one_hot(tg.Tensor([0, 2, 1, 2]), 3)
    eps = tg.randn(4, 2)
    check_gradient(lambda: sum(conditional_vae_loss(cvae, x, y, eps)), cvae)


@tg.no_grad()
def conditional_loss_is_conditional_nll_plus_gap():
    """-ln p(x | y) + KL(q(z | x, y) || p(z | x, y)) for each class y, and the classes differ."""
    backend.manual_seed(3)
    cvae = smooth(ConditionalVAE(pixels=3, classes=2, hidden=5, latent=2), scale=1.2)
    x = np.array([0.1, 0.8, 0.4])
    image = tg.Tensor(x[None])
    nlls = []
    for y in np.eye(2):
        label = tg.Tensor(y[None])

        def decode(z):
            z_and_y = np.concatenate([z.numpy(), np.tile(y, (len(z), 1))], axis=1)
            return tg.Tensor(decoder_by_hand(cvae, z_and_y))

        def loss(eps):
            return sum(conditional_vae.conditional_vae_loss(cvae, image, label, eps))
        mean, logvar = cvae.encode(image, label)
        nll, expected = exact_gap(x, mean, logvar, decode)
        close(mean_over_eps(loss), expected, 1e-6)
        nlls.append(nll)
    assert abs(nlls[0] - nlls[1]) > 0.05


def decoder_by_hand(cvae, z_and_y):
    h = z_and_y
    for layer in cvae.decoder.layers:
        if isinstance(layer, tg.nn.Linear):
            h = h @ layer.weight.numpy().T + layer.bias.numpy()
        else:
            h = np.tanh(h)
    return h


def test_the_conditional_loss_is_minus_conditional_log_likelihood_plus_the_gap():
    conditional_loss_is_conditional_nll_plus_gap()


def decode_without_class(cvae, z, y):
    return cvae.decoder(tg.cat([z, 0 * y], axis=1))


def loss_with_variance_as_std(cvae, x, y, eps):
    mean, logvar = cvae.encode(x, y)
    logits = cvae.decode(mean + tg.exp(logvar) * eps, y)
    reconstruction = F.bce_with_logits(logits, x).sum() / len(x)
    return reconstruction, F.kl_standard_normal(mean, logvar).mean()


@pytest.mark.parametrize("place, name, wrong", [
    (ConditionalVAE, "decode", decode_without_class),
    (conditional_vae, "conditional_vae_loss", loss_with_variance_as_std)])
def test_a_wrong_conditional_loss_is_rejected(place, name, wrong, monkeypatch):
    monkeypatch.setattr(place, name, wrong)
    with pytest.raises(AssertionError):
        conditional_loss_is_conditional_nll_plus_gap()


# The linear one: probabilistic PCA ----------------------------------------------------------------

def at_optimum(eigenvalues, u, latent, s2, beta=1.0):
    """The best v (D, K), w (K, D) and logvar (K,) for the water level tau = beta s^2.

    u   the basis, as columns
    """
    tau = beta * s2
    first = eigenvalues[:latent]
    lengths = np.sqrt(np.maximum(first - tau, 0))               # of the columns of W
    w = lengths[:, None] * u[:, :latent].T
    return w.T / np.maximum(first, tau), w, np.log(np.minimum(1, tau / first))


def linear_objective(v, w, logvar, covariance, s2, beta):
    distortion, rates = exact_means(v, w, logvar, covariance)
    log_s2 = tg.Tensor(np.log(s2))
    return bound(distortion, rates.sum(), log_s2, beta, len(covariance)).item()


def nearby(*arrays):
    """The arrays, each with a small random change."""
    return [a + 0.1 * rng.standard_normal(a.shape) for a in arrays]


def gaussian_problem(latent=2):
    u = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    best, s2 = probabilistic_pca(EIGENVALUES, latent)
    return (u * EIGENVALUES) @ u.T, u, best, s2


def test_linear_vae_gradients():
    backend.manual_seed(1)
    vae = LinearVAE(3, dim=4, latent=2)
    x = tg.randn(6, 4)
    eps = tg.randn(3, 6, 2)
    beta = tg.Tensor([1.0, 1.0, 3.0])
    log_s2 = tg.Tensor([-0.5, 0.2])

    def loss():
        distortion, rate = distortion_and_rate(vae, x, eps)
        return bound(distortion, rate, tg.cat([vae.log_s2, log_s2]), beta, 4).sum()
    check_gradient(loss, vae)


def means_at_signs(vae, x, latent):
    """distortion_and_rate at each combination of signs as eps, (1, 1), (1, -1), ...

    It is quadratic in eps, so the mean over these is an exact quadrature.
    """
    signs = itertools.product((-1.0, 1.0), repeat=latent)
    return [distortion_and_rate(vae, x, tg.Tensor(np.broadcast_to(e, (1, len(x), latent))))
            for e in signs]


def test_the_closed_form_means_are_the_means_over_draws():
    x, _ = data_with_covariance(EIGENVALUES)
    x = x - x.mean(axis=0)
    vae = LinearVAE(1, dim=5, latent=2)
    vae.logvar.data = vae.logvar.data + tg.randn(1, 1, 2).data
    draws = means_at_signs(vae, x, 2)
    covariance = x.numpy().T @ x.numpy() / len(x)
    v, w, logvar = [p.numpy()[0] for p in (vae.v, vae.w, vae.logvar[:, 0])]
    distortion, rates = exact_means(v, w, logvar, covariance)
    close(np.mean([d.item() for d, _ in draws]), distortion)
    close(draws[0][1].item(), rates.sum())


def log_normal(x, mean, covariance):
    d = x - mean
    log_det = np.log(np.linalg.det(2 * np.pi * covariance))
    return -0.5 * (log_det + d @ np.linalg.inv(covariance) @ d)


def test_with_the_exact_posterior_every_z_gives_the_log_likelihood():
    """ln p(x, z) - ln q(z | x) = ln p(x) for every z: the draws of the bound have no variance."""
    w, s2 = rng.standard_normal((5, 2)), 0.3
    m = w.T @ w + s2 * np.eye(2)
    x = rng.standard_normal(5)
    mean = np.linalg.solve(m, w.T @ x)
    covariance = s2 * np.linalg.inv(m)
    expected = log_normal(x, np.zeros(5), w @ w.T + s2 * np.eye(5))
    for z in 3 * rng.standard_normal((20, 2)):
        log_prior = log_normal(z, np.zeros(2), np.eye(2))
        log_joint = log_normal(x, w @ z, s2 * np.eye(5)) + log_prior
        close(log_joint - log_normal(z, mean, covariance), expected)


def mean_log_likelihood(w, s2, covariance):
    """E ln N(x; 0, W W^T + s^2 I) over x with that covariance."""
    c = w.T @ w + s2 * np.eye(5)
    log_det = np.log(np.linalg.det(2 * np.pi * c))
    return -0.5 * (log_det + np.trace(np.linalg.solve(c, covariance)))


def test_elbo_is_log_likelihood_minus_the_gap():
    """For any encoder and decoder, in closed form.

    E ln N(x; 0, W W^T + s^2 I) - E KL(N(V x, diag) || N(M^-1 W^T x, s^2 M^-1))
    """
    covariance, *_ = gaussian_problem()
    v = rng.standard_normal((5, 2))
    w = rng.standard_normal((2, 5))
    logvar = rng.standard_normal(2)
    s2 = 0.7
    precision = (w @ w.T + s2 * np.eye(2)) / s2
    d = v - w.T @ np.linalg.inv(precision) / s2                 # of the posterior means, times x
    variances = np.trace(precision @ np.diag(np.exp(logvar)))
    log_dets = np.linalg.slogdet(precision)[1] + logvar.sum()
    kl = 0.5 * (variances - 2 - log_dets + np.trace(precision @ d.T @ covariance @ d))
    assert kl > 0.1
    elbo = -linear_objective(v, w, logvar, covariance, s2, beta=1)
    close(elbo, mean_log_likelihood(w, s2, covariance) - kl)


@pytest.mark.parametrize("latent", [1, 2, 4])
def test_the_optimum_of_the_linear_vae_is_probabilistic_pca(latent):
    covariance, u, best, s2 = gaussian_problem(latent)
    v, w, logvar = at_optimum(EIGENVALUES, u, latent, s2)
    close(-linear_objective(v, w, logvar, covariance, s2, beta=1), best)    # the bound is tight
    _, rates = exact_means(v, w, logvar, covariance)
    close(rates, 0.5 * np.log(EIGENVALUES[:latent] / s2))
    close(mean_log_likelihood(w, s2, covariance), best)
    for _ in range(20):                                         # nothing near it is better
        changed = nearby(v, w, logvar)
        other = np.exp(np.log(s2) + 0.1 * rng.standard_normal())
        assert -linear_objective(*changed, covariance, other, 1) < best


@pytest.mark.parametrize("latent", [2, 4])
def test_the_gradient_of_the_drawn_loss_vanishes_at_probabilistic_pca(latent):
    """The program's own loss, on data with exactly that covariance.

    Its mean over eps is taken by an exact quadrature.
    """
    x, u = data_with_covariance(EIGENVALUES)
    x = x - x.mean(axis=0)
    _, s2 = probabilistic_pca(EIGENVALUES, latent)
    vae = LinearVAE(1, dim=5, latent=latent)
    values = *at_optimum(EIGENVALUES, u, latent, s2), np.log(s2)
    for p, value in zip((vae.v, vae.w, vae.logvar, vae.log_s2), values):
        p.data = backend.asarray(value).reshape(p.shape)
    draws = means_at_signs(vae, x, latent)
    losses = [bound(distortion, rate, vae.log_s2, 1.0, 5).sum() for distortion, rate in draws]
    for g in gradients(sum(losses) / len(losses), *vae.parameters()):
        close(g, 0 * g, 1e-8)


@pytest.mark.parametrize("beta", [0.5, 1, 2, 3.9, 4.1, 8, 11])
def test_the_beta_vae_lies_on_the_rate_distortion_curve(beta):
    """Reverse water-filling, with collapse exactly where lambda_j <= tau = beta s^2."""
    covariance, u, *_ = gaussian_problem()
    s2 = 0.5
    v, w, logvar = at_optimum(EIGENVALUES, u, 5, s2, beta)
    distortion, rates = exact_means(v, w, logvar, covariance)
    exact_distortion, exact_rates = water_filling(EIGENVALUES, beta * s2)
    close(distortion, exact_distortion)
    close(rates, exact_rates)
    assert ((rates < 1e-12) == (EIGENVALUES <= beta * s2)).all()
    least = linear_objective(v, w, logvar, covariance, s2, beta)
    for _ in range(20):
        assert linear_objective(*nearby(v, w, logvar), covariance, s2, beta) > least


def test_water_filling_is_shannons_curve():
    """The slope of the curve is dr/dd = -1 / 2 tau.

    One dimension alone gives r = 1/2 ln(lambda / d).
    """
    tau = 1.3
    d1, r1 = water_filling(EIGENVALUES, tau)
    d2, r2 = water_filling(EIGENVALUES, tau * (1 + 1e-6))
    close((r2.sum() - r1.sum()) / (d2 - d1), -1 / (2 * tau), 1e-5)
    distortion, rates = water_filling(np.array([4.0]), 1.0)
    close([distortion, rates[0]], [1.0, 0.5 * np.log(4)])


# The demos, where the flags change what they do ---------------------------------------------------

@pytest.mark.parametrize("name, flags", [
    ("vae", ["--latent", "2", "--exact", "--k", "7", "--beta", "4"]),
    ("autoencoder", ["--code", "2"]),
    ("linear_vae", ["--latent", "3"])])
def test_flags(name, flags, tmp_path, count):
    demo = {"vae": vae_demo, "autoencoder": autoencoder, "linear_vae": linear_vae}[name]
    with backend.precision("float32"):
        demo.main(["--quick", "--out", str(tmp_path), "--backend", "strict", *flags])
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert all(np.isfinite(list(found.values())))
    if name == "vae":
        assert found["nll_7"] < found["nll_1"]
        assert "nll_5" not in found
        assert found["gap"] > 0
        pictures = {p.name for p in tmp_path.glob("*.png")}
        assert pictures >= {"manifold.png", "posterior.png", "code.png"}


@pytest.mark.parametrize("demo, flags", [
    (vae_demo, ["--exact"]),
    (vae_demo, ["--latent", "0"]),
    (vae_demo, ["--k", "0"]),
    (vae_demo, ["--beta", "-1"]),
    (autoencoder, ["--code", "0"]),
    (autoencoder, ["--code", "784"]),
    (linear_vae, ["--latent", "196"])])
def test_flags_that_make_no_sense_are_refused_in_one_sentence(demo, flags, tmp_path):
    with pytest.raises((tg.TinygenError, SystemExit), match="needs|2"):  # argparse leaves with 2
        demo.main(["--quick", "--out", str(tmp_path), *flags])
    assert not (tmp_path / "metrics.json").exists()
