"""BigGAN: its losses differentiate right in every parameter, and its docstring is right."""
import math
import pathlib
import sys

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend, functional as F, nn

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent / "demos"))
import biggan  # noqa: E402


@pytest.fixture(autouse=True)
def float64():
    with backend.precision("float64"):
        yield


def tiny(seed=0):
    """G and D for images of 4x4.

    Few pixels have few kinks of ReLU that a numerical difference could step over. D is in eval(),
    because its power iteration would otherwise advance between the evaluations of the check.
    """
    backend.manual_seed(seed)
    G = biggan.Generator(latent=2, embedding=2, channels=(2, 1, 1))
    D = biggan.Discriminator(2, 3).eval()
    G.start = nn.Linear(4, 2)
    G.first = 2, 1, 1
    return G, D


def check(loss, model):
    assert tg.gradcheck(lambda *parameters: loss(), *model.parameters())


def labels(n):
    return F.one_hot(np.arange(n) % 10, 10)


def test_discriminator_loss():
    _, D = tiny()
    real = tg.randn(3, 1, 4, 4)
    fake = tg.randn(3, 1, 4, 4)
    y = labels(3)
    check(lambda: biggan.discriminator_loss(D, real, fake, y), D)


def test_generator_loss_through_attention_and_conditional_batch_norm():
    G, D = tiny()
    for p in G.attention.out.parameters():                      # attention begins as the identity
        p.data = tg.randn(*p.shape).data
    z = tg.randn(3, 2)
    y = labels(3)
    check(lambda: biggan.generator_loss(D, G(z, y), y), G)


def test_hinge_losses_by_hand():
    score = lambda x, y: x                                      # a D that returns what it gets
    real = tg.Tensor([[2.0], [0.5]])
    fake = tg.Tensor([[-3.0], [0.0]])
    by_hand = (0 + 0.5) / 2 + (0 + 1) / 2
    assert biggan.discriminator_loss(score, real, fake, None).item() == by_hand
    assert biggan.generator_loss(score, fake, None).item() == 1.5


def test_projection_adds_the_product_of_the_class_with_the_features():
    _, D = tiny()
    x = tg.randn(3, 1, 8, 8)
    f = D.net(x).sum(axis=(2, 3)).numpy()                       # (3, 3)
    v = D.embed(tg.eye(10)).numpy()                             # (10, 3)
    scores = [D(x, F.one_hot(np.full(3, y), 10)).numpy()[:, 0] for y in range(10)]
    projection = np.stack(scores, axis=1) - D.score(tg.Tensor(f)).numpy()       # (3, 10)
    np.testing.assert_allclose(projection, f @ v.T, rtol=1e-9, atol=1e-12)


def test_every_layer_of_D_has_spectral_norm_and_begins_with_equal_singular_values():
    D = biggan.Discriminator()
    normed = [m for m in D.modules() if isinstance(m, nn.SpectralNorm)]
    inside = {id(p) for m in normed for p in m.parameters()}
    assert len(normed) == 9
    assert inside == {id(p) for p in D.parameters()}
    for module in normed:
        weight = module.layer.weight.numpy()
        singular = np.linalg.svd(weight.reshape(len(weight), -1))[1]
        np.testing.assert_allclose(singular, 1, rtol=1e-9)


@pytest.mark.parametrize("threshold", (0.1, 0.5, 1.0, 2.0, math.inf))
def test_the_truncated_draw(threshold):
    """Var = 1 - 2 t p(t) / (2 Phi(t) - 1).

    p and Phi are the density and the distribution function of N(0, 1).
    """
    backend.manual_seed(1)
    z = biggan.truncated(8000, threshold).numpy()
    assert z.shape == (8000, biggan.LATENT)
    assert abs(z).max() <= threshold
    t = min(threshold, 50)
    density = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    inside = math.erf(t / math.sqrt(2))
    assert abs(z.std() / math.sqrt(1 - 2 * t * density / inside) - 1) < 0.005
    assert abs(z.mean()) < 0.01 * min(t, 1)


def test_standing_statistics_are_the_plain_mean_over_the_passes():
    backend.manual_seed(0)
    G = biggan.Generator(latent=biggan.LATENT, embedding=2, channels=(2, 1, 1))
    for buffer in G.buffers():
        buffer.data = backend.xp.full_like(buffer.data, 7)      # what was there before is forgotten
    norm = G.blocks[0].norm1.norm
    forward = norm.forward
    seen = []

    def record(x):
        seen.append(backend.to_numpy(x.data.mean(axis=(0, 2, 3))))
        return forward(x)
    norm.forward = record
    biggan.standing(G, passes=5, batch=8)
    assert len(seen) == 5
    assert not G.training
    running_mean = backend.to_numpy(norm.running_mean)
    np.testing.assert_allclose(running_mean, np.mean(seen, axis=0))
