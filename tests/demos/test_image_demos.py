"""The image demos: networks, losses and samplers, at small sizes and against exact solutions."""
import numpy as np
import pytest

import tinygen as tg
from test_demos import check
from tinygen import backend, nn

rng = np.random.default_rng(0)


@pytest.fixture
def double():
    with backend.precision("float64"):
        yield


def small_unet():
    """A U-Net as small as its eight groups allow, its attention awake."""
    from unet import UNet
    unet = UNet(width=8, condition=4)
    weight = unet.attention.out.weight
    weight.data = backend.randn(weight.shape)
    return unet


# The U-Net ----------------------------------------------------------------------------------------

def test_the_unet_is_right_in_every_parameter(double):
    unet = small_unet()
    x = tg.randn(2, 1, 28, 28)
    t = tg.rand(2)
    y = tg.Tensor([3, 10])
    check(lambda: (unet(x, t, y)**2).mean(), unet)


def test_the_unet_keeps_each_image_to_itself_and_depends_on_time_and_class(double):
    unet = small_unet()
    x = tg.randn(3, 1, 28, 28)
    t = tg.rand(3)
    y = tg.Tensor([0, 1, 10])
    together = unet(x, t, y).numpy()
    assert together.shape == (3, 1, 28, 28)
    for i in range(3):
        alone = unet(x[i:i + 1], t[i:i + 1], y[i:i + 1]).numpy()
        np.testing.assert_allclose(alone, together[i:i + 1], atol=1e-12)
    assert abs(unet(x, t + 0.1, y).numpy() - together).max() > 1e-3
    assert abs(unet(x, t, y * 0 + 10).numpy() - together)[:2].max() > 1e-3


def test_a_pixel_in_a_corner_reaches_every_pixel(double):
    unet = small_unet()
    x = tg.Tensor(rng.standard_normal((1, 1, 28, 28)), requires_grad=True)
    unet(x, tg.rand(1), tg.Tensor([4]))[0, 0, 0, 0].backward()
    assert (x.grad != 0).all()


# Diffusion ----------------------------------------------------------------------------------------

def test_ddpm_images_loss(double):
    from ddpm import ddpm_loss
    from ddpm_images import rows
    from forward_process import Diffusion
    unet = small_unet()
    diffusion = Diffusion(1000)
    network = rows(unet, 1000)
    x0 = tg.randn(2, 784)
    y = tg.Tensor([7, 10])
    t = tg.Tensor([1, 900])
    noise = tg.randn(2, 784)
    model = lambda x, t: network(x, t, y)
    check(lambda: ddpm_loss(model, diffusion, x0, t, noise, "v") / 784, unet)


def test_ddim_draws_the_one_image_that_there_is(double):
    """If all data are one image m, every path ends at m.

    The best eps is (x - sqrt(alpha_bar) m) / sqrt(1 - alpha_bar).
    """
    from ddpm_images import draw
    from forward_process import Diffusion
    m = tg.randn(1, 784)
    diffusion = Diffusion(1000)

    def eps(x, t, y):
        alpha_bar = diffusion.alpha_bar_at(t)
        return (x - tg.sqrt(alpha_bar) * m) / tg.sqrt(1 - alpha_bar)
    times, path = draw(eps, tg.Tensor([3, 5]), 1, tg.randn(2, 784), diffusion, 7)
    assert path.shape == (8, 2, 784) and times[0] == 1000 and times[-1] == 0
    np.testing.assert_allclose(path[-1].numpy(), np.repeat(m.numpy(), 2, axis=0), atol=1e-10)


# Flow matching ------------------------------------------------------------------------------------

def test_flow_matching_images_loss(double):
    from conditional_flow_matching import conditional_loss
    from flow_matching_images import ImageVelocity
    u = ImageVelocity(8)
    x1 = tg.randn(2, 784)
    x0 = tg.randn(2, 784)
    t = tg.rand(2, 1)
    y = tg.Tensor([3, 9])
    drop = np.array([False, True])
    check(lambda: conditional_loss(u, x1, y, x0, t, drop) / 784, u)


class Gauss(nn.Module):
    """The exact velocity for data N(m_y, s^2).

    E[x_1 | x_t = x] = m + t s^2 (x - t m) / ((1 - t)^2 + t^2 s^2)
    """

    def __init__(self, means, s):
        self.means = means
        self.s = s

    def forward(self, x, t, y):
        m = tg.Tensor(self.means)[y].reshape(-1, 1)
        end = m + t * self.s**2 * (x - t * m) / ((1 - t)**2 + t**2 * self.s**2)
        return (end - x) / (1 - t)


@pytest.mark.parametrize("method, order", [("euler", 1), ("heun", 2)])
def test_the_samplers_have_their_order(method, order, double):
    """The exact path of a Gaussian ends at m + s x_0: the error falls as h (Euler), h^2 (Heun)."""
    from flow_matching_images import draw
    u = Gauss(np.array([1.0, -2.0]), 0.5)
    x0 = tg.randn(2, 3)
    y = tg.Tensor([0, 1])
    exact = np.array([[1.0], [-2.0]]) + 0.5 * x0.numpy()
    error = [abs(draw(u, y, 0, x0, n, method)[-1].numpy() - exact).max() for n in (40, 80)]
    assert np.log2(error[0] / error[1]) == pytest.approx(order, abs=0.15)


def test_one_point_is_reached_in_any_number_of_steps(double):
    """With s = 0 the predicted end is always the same, and the last step goes straight there.

    This holds for every method and guidance.
    """
    from flow_matching_images import draw
    u = Gauss(np.ones(11), 0.0)
    x0 = tg.randn(2, 3)
    y = tg.Tensor([0, 1])
    for method in ("euler", "heun"):
        for w in (0, 2):
            path = draw(u, y, w, x0, 3, method)
            assert path.shape == (4, 2, 3)
            np.testing.assert_allclose(path[-1].numpy(), 1, atol=1e-12)
