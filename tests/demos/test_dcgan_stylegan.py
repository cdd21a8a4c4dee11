"""DCGAN and StyleGAN: their losses differentiate right, and the claims of their docstrings hold.

Losses are checked in every parameter.
"""
import pathlib
import sys

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend, functional as F, nn

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent / "demos"))
import dcgan  # noqa: E402
import stylegan  # noqa: E402
import stylegan_networks  # noqa: E402


@pytest.fixture(autouse=True)
def float64():
    with backend.precision("float64"):
        yield


@pytest.fixture
def smooth(monkeypatch):
    """All units are tanh.

    Of thousands of units with a kink, some have it within the step of a numerical difference.
    """
    for layer in (nn.ReLU, nn.LeakyReLU):
        monkeypatch.setattr(layer, "forward", lambda self, x: tg.tanh(x))
    monkeypatch.setattr(F, "leaky_relu", lambda x, negative_slope: tg.tanh(x))


def check(loss, *models):
    parameters = [p for model in models for p in model.parameters()]
    assert tg.gradcheck(lambda *parameters: loss(), *parameters)


# DCGAN --------------------------------------------------------------------------------------------

def small_dcgan():
    G = dcgan.Generator(latent=2, channels=1)
    D = dcgan.Discriminator(channels=1)
    return G, D


def test_dcgan_discriminator_loss(smooth):
    _, D = small_dcgan()
    real = tg.randn(3, 1, 28, 28)
    fake = tg.randn(3, 1, 28, 28)
    check(lambda: dcgan.discriminator_loss(D, real, fake), D)


def test_dcgan_generator_loss(smooth):
    G, D = small_dcgan()
    z = tg.randn(3, 2)
    check(lambda: dcgan.generator_loss(D, G(z)), G)


def test_the_layers_of_dcgan_have_the_numbers_of_weights_which_the_docstring_states():
    layer = next(p for p in dcgan.Generator().parameters() if p.shape[:2] == (128, 64))
    assert f"{layer.size:,}" in dcgan.__doc__
    assert f"{128 * 7 * 7 * 64 * 14 * 14:,}" in dcgan.__doc__


def test_an_interpolation_begins_and_ends_at_the_given_z_and_keeps_their_length_between():
    identity = lambda z: z                                  # returns the z that G gets
    start, end = tg.randn(2, 5, 64)
    z = dcgan.interpolate(identity, start, end, stops=7).numpy().reshape(5, 7, 64)
    np.testing.assert_allclose(z[:, 0], start.numpy(), atol=1e-12)
    np.testing.assert_allclose(z[:, -1], end.numpy(), atol=1e-12)
    many = tg.randn(2, 20_000, 1)
    z = dcgan.interpolate(identity, *many, stops=5).numpy().reshape(-1, 5)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=0.03)


# StyleGAN -----------------------------------------------------------------------------------------

def small_stylegan():
    G = stylegan.Generator(latent=3, channels=(2, 2, 1, 1, 1, 1))
    D = stylegan.Discriminator(channels=1, hidden=2)
    return G, D


def test_stylegan_discriminator_loss_and_penalty(smooth):
    _, D = small_stylegan()
    real = tg.randn(3, 1, 28, 28)
    fake = tg.randn(3, 1, 28, 28)

    def loss():
        return stylegan.discriminator_loss(D, real, fake) + stylegan.r1_penalty(D, real)
    check(loss, D)


def test_stylegan_generator_loss(smooth):
    """With mixing, and with noise, whose strength is not the 0 it starts from."""
    G, D = small_stylegan()
    for layer in G.layers:
        layer.strength.data = tg.full(layer.strength.shape, 0.3).data
    z1 = tg.randn(3, 3)
    z2 = tg.randn(3, 3)
    noise = G.noise(3)
    k = tg.randint(1, 7, (3, 1)).data
    G.eval()  # so that w_mean, which follows f(z) in training, stays where it is

    def loss():
        styles = stylegan.mix(G.mapping(z1), G.mapping(z2), k)
        return stylegan.generator_loss(D, G.synthesis(styles, noise))
    check(loss, G)


def test_adain_gives_each_channel_the_size_and_level_of_its_style():
    style = tg.randn(4, 6)                                  # 3 channels: scales, then shifts
    y = stylegan_networks.adain(7 + 3 * tg.randn(4, 3, 14, 14), style).numpy()
    np.testing.assert_allclose(y.mean(axis=(2, 3)), style.numpy()[:, 3:], atol=1e-10)
    scale = np.abs(1 + style.numpy()[:, :3])
    np.testing.assert_allclose(y.std(axis=(2, 3)), scale, rtol=1e-4)


def test_psi_0_makes_one_image_of_all_z_where_the_noise_is_equal():
    G, _ = small_stylegan()
    G.mapping(tg.randn(50, 3))                              # in training w_mean moves away from 0
    G.eval()
    w = G.mapping(tg.randn(5, 3), psi=0.0)
    noise = G.noise(1)
    np.testing.assert_array_equal(w.numpy(), np.tile(G.w_mean.numpy(), (5, 1)))
    images = G.synthesis(stylegan.mix(w, w, 0), noise).numpy()
    same = np.tile(images[:1], (5, 1, 1, 1))
    # not exactly, because BLAS may round each row differently
    np.testing.assert_allclose(images, same, rtol=0, atol=1e-12)
    w = G.mapping(tg.randn(5, 3))
    free = G.synthesis(stylegan.mix(w, w, 0), noise).numpy()
    assert free.std(axis=0).max() > 1e-3                    # and psi = 1 does not


def test_mixing_a_style_with_itself_changes_nothing_and_the_ends_are_the_sources():
    w1 = tg.randn(4, 8)
    w2 = tg.randn(4, 8)
    for k in range(7):
        same = stylegan.mix(w1, w1, k).numpy()
        np.testing.assert_array_equal(same, np.tile(w1.numpy()[:, None], (1, 6, 1)))
        mixed = stylegan.mix(w1, w2, k).numpy()
        assert (mixed[:, :k] == w1.numpy()[:, None]).all()
        assert (mixed[:, k:] == w2.numpy()[:, None]).all()
    columns = tg.Tensor([[1], [3], [6], [2]]).data          # each row has its own k
    each = stylegan.mix(w1, w2, columns).numpy()
    for i, k in enumerate((1, 3, 6, 2)):
        np.testing.assert_array_equal(each[i], stylegan.mix(w1, w2, k).numpy()[i])


def test_w_mean_follows_the_mean_style_in_training_only():
    G = stylegan.Generator()
    z = tg.randn(20, 64)
    for _ in range(600):
        w = G.mapping(z)
    np.testing.assert_allclose(G.w_mean.numpy(), w.mean(axis=0).numpy(), atol=1e-2)
    before = G.w_mean.numpy().copy()
    G.eval().mapping(tg.randn(5, 64))
    np.testing.assert_array_equal(G.w_mean.numpy(), before)
