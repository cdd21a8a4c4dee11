"""Layers on every backend: both orders of gradients in inputs and parameters, state, names."""
import copy

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend, functional as F, nn

rng = np.random.default_rng(0)


def _awake(attention):
    """Self-attention starts as the identity; random weights in its output map end that."""
    attention.out.weight.data = backend.randn(attention.out.weight.shape)
    return attention


def _conditioned(layer, n):
    """A layer whose second argument, one condition for each of n samples, is fixed."""
    c = tg.randn(n, layer.scale.weight.shape[1])
    forward = layer.forward
    vars(layer)["forward"] = lambda x: forward(x, c)
    return layer


ACTIVATIONS = ("ReLU", "Tanh", "Sigmoid", "Softplus", "SiLU", "SELU", "ELU", "LeakyReLU", "GELU",
               "Softmax")


LAYERS = {  # name -> (makes the layer, shape of an input)
    "Linear": (lambda: nn.Linear(3, 4), (5, 3)),
    "Linear, no bias": (lambda: nn.Linear(3, 4, bias=False), (2, 5, 3)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(3, 4), F.tanh, nn.SiLU(), nn.Linear(4, 2)),
                   (5, 3)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (5, 3)),
    "BatchNorm1d, length": (lambda: nn.BatchNorm1d(3), (5, 3, 2)),
    "BatchNorm1d, eval": (lambda: nn.BatchNorm1d(3).eval(), (5, 3)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (4, 3, 2, 2)),
    "ConditionalBatchNorm2d": (lambda: _conditioned(nn.ConditionalBatchNorm2d(3, 2), 4),
                               (4, 3, 2, 2)),
    "LayerNorm": (lambda: nn.LayerNorm((3, 2)), (5, 3, 2)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (3, 4, 2)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 2, 5, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1),
                        (2, 2, 3, 2)),
    "SelfAttention": (lambda: _awake(nn.SelfAttention(4)), (2, 4, 2, 3)),
    "SpectralNorm": (lambda: nn.spectral_norm(nn.Linear(3, 4)).eval(), (5, 3)),
    "SpectralNorm, conv": (lambda: nn.spectral_norm(nn.Conv2d(2, 3, 2)).eval(), (2, 2, 3, 3)),
    "Flatten": (lambda: nn.Flatten(), (3, 4, 2)),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 2)), (3, 4)),
    "SinusoidalEmbedding": (lambda: nn.SinusoidalEmbedding(6, max_period=10.0), (5,)),
    "Dropout, eval": (lambda: nn.Dropout(0.3).eval(), (5, 3)),
    **{name: (lambda name=name: getattr(nn, name)(), (3, 4)) for name in ACTIVATIONS},
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_both_orders(name, library):
    make, shape = LAYERS[name]
    with backend.precision("float64"):
        layer = make()
        x = rng.standard_normal(shape)
        assert tg.gradcheck(lambda x, *parameters: layer(x), x, *layer.parameters(), order=2)


@pytest.mark.parametrize("name", LAYERS)
def test_float32_stays_float32(name, library):
    make, shape = LAYERS[name]
    layer = make()
    y = layer(tg.Tensor(rng.standard_normal(shape), requires_grad=True))
    y.sum().backward()
    assert y.dtype == np.float32
    assert all(p.grad.dtype == np.float32 for p in layer.parameters())


def test_embedding(library):
    with backend.precision("float64"):
        layer = nn.Embedding(4, 3)
        index = tg.Tensor([[0, 3], [3, 1]])
        assert layer(index).shape == (2, 2, 3)
        assert tg.gradcheck(lambda w: layer(index), layer.weight, order=2)


def test_spectral_norm_is_the_largest_singular_value():
    with backend.precision("float64"):
        for layer, shape in ((nn.Linear(5, 7), (7, 5)), (nn.Conv2d(3, 4, 3), (4, 27))):
            layer.weight.data = layer.weight.data * 10
            normal = nn.spectral_norm(layer)
            x = tg.randn(2, 5) if layer.weight.ndim == 2 else tg.randn(2, 3, 4, 4)
            for _ in range(200):
                normal(x)
            sigma = np.linalg.svd(layer.weight.numpy().reshape(shape))[1][0]
            twin = copy.deepcopy(layer)
            twin.weight.data = twin.weight.data / sigma
            np.testing.assert_allclose(normal.eval()(x).numpy(), twin(x).numpy(), rtol=1e-6)
            assert {n for n, _ in normal.named_parameters()} == {"layer.weight", "layer.bias"}


def test_spectral_norm_is_close_before_any_training():
    """A model that is only evaluated must not be divided by a number that means nothing."""
    for seed in range(20):
        tg.manual_seed(seed)
        layer = nn.Linear(64, 64)
        normal = nn.spectral_norm(layer).eval()
        weight = normal(tg.Tensor(np.eye(64))).numpy() - layer.bias.numpy()
        # the largest singular values of a random matrix lie close together
        assert 0.999 < np.linalg.norm(weight, 2) < 1.15


def test_spectral_norm_recovers_from_a_weight_of_zeros():
    layer = nn.Linear(3, 3)
    layer.weight.data = 0 * layer.weight.data
    normal = nn.spectral_norm(layer)
    layer.weight.data = 2 * np.eye(3, dtype="float32")
    for _ in range(3):
        y = normal(tg.Tensor(np.eye(3))).numpy() - layer.bias.numpy()
    np.testing.assert_allclose(y, np.eye(3), atol=1e-3)


def test_spectral_norm_may_run_twice_before_backward():
    """As in a discriminator, for real and generated images: the first graph keeps its u and v."""
    with backend.precision("float64"):
        layer = nn.spectral_norm(nn.Linear(3, 4))
        x = tg.randn(2, 3)
        first = layer(x).sum()
        expected, = tg.grad(first, layer.layer.weight)
        layer(x)
        again, = tg.grad(first, layer.layer.weight)
        np.testing.assert_array_equal(expected.numpy(), again.numpy())


def test_self_attention_begins_as_the_identity_and_mixes_pixels():
    layer = nn.SelfAttention(4)
    x = tg.randn(2, 4, 3, 3)
    np.testing.assert_array_equal(layer(x).numpy(), x.numpy())
    other = x.numpy().copy()
    other[:, :, 0, 0] += 1
    changed = _awake(layer)(x).numpy() != layer(tg.Tensor(other)).numpy()
    assert changed.all()  # every pixel depends on this one


def test_every_layer_is_tested():
    classes = {name: c for name, c in vars(nn).items() if isinstance(c, type)}
    layers = {name for name, c in classes.items() if issubclass(c, nn.Module)}
    tested = {name.split(",")[0] for name in LAYERS}
    assert layers - {"Module", "ModuleList", "Embedding"} == tested - {"Embedding"}


def test_initial_weights_are_uniform_in_one_over_root_fan_in():
    w = nn.Linear(400, 300).weight.numpy()
    assert abs(w).max() <= 1 / 20
    assert abs(w.std() - 1 / 20 / 3**0.5) < 1e-3
    assert abs(w.mean()) < 1e-3


def test_state_dict_has_pytorch_names_and_round_trips(library):
    def make():
        return nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))
    model = make()
    assert list(model.state_dict()) == [
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var",
        "1.num_batches_tracked", "3.0.weight", "3.0.bias"]
    model(tg.randn(5, 3))
    other = make()
    state = model.state_dict()
    other.load_state_dict({name: backend.to_numpy(value) for name, value in state.items()})
    x = tg.randn(5, 3)
    np.testing.assert_array_equal(model.eval()(x).numpy(), other.eval()(x).numpy())
    assert int(other.state_dict()["1.num_batches_tracked"]) == 1


def test_a_foreign_state_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = copy.deepcopy(model)
    state = {name: value + 1 for name, value in model.state_dict().items()}
    state["1.weight"] = np.zeros((5, 5))
    state["2.weight"] = state.pop("0.bias")
    words = (r"0.bias is missing; 2.weight is unknown here; "
             r"1.weight has shape \(5, 5\) instead of \(2, 4\)")
    with pytest.raises(tg.TinygenError, match=words):
        model.load_state_dict(state)
    for a, b in zip(model.parameters(), before.parameters()):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_batch_norm_remembers_the_unbiased_statistics(library):
    layer = nn.BatchNorm1d(2)
    x = rng.standard_normal((8, 2)).astype("float32")
    layer(tg.Tensor(x))
    mean = layer.running_mean.numpy()
    var = layer.running_var.numpy()
    np.testing.assert_allclose(mean, 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)
    layer.eval()
    expected = (x - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(layer(tg.Tensor(x)).numpy(), expected, rtol=1e-4)
    with pytest.raises(tg.TinygenError, match="axis 1 holds the channels"):
        layer(tg.randn(5, 3))


def test_training_mode_reaches_every_module():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    model.blocks = nn.ModuleList([nn.Dropout()])
    assert all(m.training for m in model.modules())
    assert not any(m.training for m in model.eval().modules())


def test_shared_parameters_appear_once_and_copies_are_independent():
    model = nn.Sequential(nn.Linear(2, 2))
    model.layers.append(model.layers[0])
    assert len(model.parameters()) == 2
    twin = copy.deepcopy(model)
    weight = twin.parameters()[0]
    weight.data += 1  # in place, so that a shared array would be found
    assert not np.array_equal(weight.numpy(), model.parameters()[0].numpy())
    assert twin.layers[0] is twin.layers[1]
    assert weight.requires_grad
    assert isinstance(weight, nn.Parameter)


def test_nothing_is_lost_in_subclasses_of_containers():
    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(2, 2))
            self.scale = nn.Parameter([1.0])

    class Blocks(nn.ModuleList):
        pass
    blocks = Blocks([nn.Linear(1, 1)])
    blocks.extra = nn.Parameter([1.0])
    assert [n for n, _ in Net().named_parameters()] == ["0.weight", "0.bias", "scale"]
    assert [n for n, _ in blocks.named_parameters()] == ["0.weight", "0.bias", "extra"]


def test_a_parameter_is_not_replaced_by_accident():
    layer = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="would lose a Parameter"):
        layer.weight = layer.weight * 0.5
    layer.weight = nn.Parameter([[1.0, 2.0]])
    layer.bias = None


def test_a_module_may_hold_its_parent():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].parent = model
    assert len(model.parameters()) == 2
    assert len(model) == 1


def test_printing_a_model_shows_its_structure():
    head = nn.Sequential(nn.Linear(3, 1, bias=False))
    assert repr(nn.Sequential(nn.Linear(2, 3), F.relu, head)).splitlines() == [
        "Sequential(",
        "  (0): Linear(weight=(3, 2), bias=(3,))",
        "  (1): relu",
        "  (2): Sequential(",
        "    (0): Linear(weight=(1, 3), bias=None)",
        "  )",
        ")"]


def test_sinusoidal_embedding_by_its_formula(library):
    t = np.array([0.0, 0.5, 7.0])
    w = 10000.0 ** -(np.arange(4) / 4)
    angles = t[:, None] * w
    expected = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    with backend.precision("float64"):
        found = nn.SinusoidalEmbedding(8)(tg.Tensor(t)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    with pytest.raises(tg.TinygenError, match="even, not 7"):
        nn.SinusoidalEmbedding(7)


def test_conditional_batch_norm_scales_each_sample_by_its_condition(library):
    layer = nn.ConditionalBatchNorm2d(3, 2)
    c = tg.Tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    x = tg.randn(3, 3, 4, 4)
    y = layer(x, c).numpy()
    normal = nn.BatchNorm2d(3)(x).numpy()
    scales = 1 + c.numpy() @ layer.scale.weight.numpy().T + layer.scale.bias.numpy()    # (N, C)
    shifts = c.numpy() @ layer.shift.weight.numpy().T + layer.shift.bias.numpy()        # (N, C)
    for i in range(3):
        for channel in range(3):
            expected = normal[i, channel] * scales[i, channel] + shifts[i, channel]
            np.testing.assert_allclose(y[i, channel], expected, atol=1e-5)
    assert "norm.running_mean" in layer.state_dict()
    assert "norm.weight" not in layer.state_dict()
