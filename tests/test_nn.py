"""Layers: gradients in inputs and parameters, orders 1 and 2, on every backend; state; names as in PyTorch."""
import copy

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend, functional as F, nn

rng = np.random.default_rng(0)


def _awake(attention):
    """Self-attention starts as the identity; give its output map some weight so that there is something to check."""
    attention.out.weight.data[...] = backend.randn(attention.out.weight.shape)
    return attention


def _conditioned(layer, n):
    """A layer that wants a condition beside its input, with one condition for each of n samples."""
    c, forward = tg.randn(n, layer.scale.weight.shape[1]), layer.forward
    vars(layer)["forward"] = lambda x: forward(x, c)
    return layer


LAYERS = {  # every layer with parameters or settings -> an input
    "Linear": (lambda: nn.Linear(3, 4), (5, 3)),
    "Linear, no bias": (lambda: nn.Linear(3, 4, bias=False), (2, 5, 3)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(3, 4), F.tanh, nn.SiLU(), nn.Linear(4, 2)), (5, 3)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (5, 3)),
    "BatchNorm1d, length": (lambda: nn.BatchNorm1d(3), (5, 3, 2)),
    "BatchNorm1d, eval": (lambda: nn.BatchNorm1d(3).eval(), (5, 3)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (4, 3, 2, 2)),
    "ConditionalBatchNorm2d": (lambda: _conditioned(nn.ConditionalBatchNorm2d(3, 2), 4), (4, 3, 2, 2)),
    "LayerNorm": (lambda: nn.LayerNorm((3, 2)), (5, 3, 2)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (3, 4, 2)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 2, 5, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1), (2, 2, 3, 2)),
    "SelfAttention": (lambda: _awake(nn.SelfAttention(4)), (2, 4, 2, 3)),
    "SpectralNorm": (lambda: nn.spectral_norm(nn.Linear(3, 4)).eval(), (5, 3)),
    "SpectralNorm, conv": (lambda: nn.spectral_norm(nn.Conv2d(2, 3, 2)).eval(), (2, 2, 3, 3)),
    "Flatten": (lambda: nn.Flatten(), (3, 4, 2)),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 2)), (3, 4)),
    "SinusoidalEmbedding": (lambda: nn.SinusoidalEmbedding(6, max_period=10.0), (5,)),
    "Dropout, eval": (lambda: nn.Dropout(0.3).eval(), (5, 3)),
    **{name: (lambda name=name: getattr(nn, name)(), (3, 4))
       for name in ("ReLU", "Tanh", "Sigmoid", "Softplus", "SiLU", "SELU", "ELU", "LeakyReLU", "GELU", "Softmax")},
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_both_orders(name, library):
    make, shape = LAYERS[name]
    with backend.precision("float64"):
        layer = make()
        assert tg.gradcheck(lambda x, *parameters: layer(x), rng.standard_normal(shape), *layer.parameters(), order=2)


@pytest.mark.parametrize("name", LAYERS)
def test_float32_stays_float32(name, library):
    make, shape = LAYERS[name]
    layer = make()
    y = layer(tg.Tensor(rng.standard_normal(shape), requires_grad=True))
    y.sum().backward()
    assert y.dtype == np.float32 and all(p.grad.dtype == np.float32 for p in layer.parameters())


def test_embedding(library):
    with backend.precision("float64"):
        layer, index = nn.Embedding(4, 3), tg.Tensor([[0, 3], [3, 1]])
        assert layer(index).shape == (2, 2, 3)
        assert tg.gradcheck(lambda w: layer(index), layer.weight, order=2)


def test_spectral_norm_is_the_largest_singular_value():
    with backend.precision("float64"):
        for layer, shape in ((nn.Linear(5, 7), (7, 5)), (nn.Conv2d(3, 4, 3), (4, 27))):
            layer.weight.data[...] *= 10
            normal = nn.spectral_norm(layer)
            x = tg.randn(2, 5) if layer.weight.ndim == 2 else tg.randn(2, 3, 4, 4)
            for _ in range(200):
                normal(x)
            sigma = np.linalg.svd(layer.weight.numpy().reshape(shape))[1][0]
            twin = copy.deepcopy(layer)
            twin.weight.data[...] /= sigma
            np.testing.assert_allclose(normal.eval()(x).numpy(), twin(x).numpy(), rtol=1e-6)
            assert set(n for n, _ in normal.named_parameters()) == {"layer.weight", "layer.bias"}


def test_spectral_norm_is_close_before_any_training():
    """A model that is only evaluated must not be divided by a number that means nothing."""
    for seed in range(20):
        tg.manual_seed(seed)
        layer = nn.Linear(64, 64)
        weight = nn.spectral_norm(layer).eval()(tg.Tensor(np.eye(64))).numpy() - layer.bias.numpy()
        assert 0.999 < np.linalg.norm(weight, 2) < 1.15                 # a Gaussian matrix has its largest values close together


def test_spectral_norm_recovers_from_a_weight_of_zeros():
    layer = nn.Linear(3, 3)
    layer.weight.data[...] = 0
    normal = nn.spectral_norm(layer)
    layer.weight.data[...] = 2 * np.eye(3)
    for _ in range(3):
        y = normal(tg.Tensor(np.eye(3))).numpy() - layer.bias.numpy()
    np.testing.assert_allclose(y, np.eye(3), atol=1e-3)


def test_spectral_norm_may_run_twice_before_backward():
    """A discriminator sees real and fake images before its one backward pass: the first graph must keep its u and v."""
    with backend.precision("float64"):
        layer, x = nn.spectral_norm(nn.Linear(3, 4)), tg.randn(2, 3)
        first = layer(x).sum()
        expected, = tg.grad(first, layer.layer.weight)
        layer(x)
        again, = tg.grad(first, layer.layer.weight)
        np.testing.assert_array_equal(expected.numpy(), again.numpy())


def test_self_attention_begins_as_the_identity_and_mixes_pixels():
    layer, x = nn.SelfAttention(4), tg.randn(2, 4, 3, 3)
    np.testing.assert_array_equal(layer(x).numpy(), x.numpy())
    other = x.numpy().copy()
    other[:, :, 0, 0] += 1
    assert (_awake(layer)(x).numpy() != layer(tg.Tensor(other)).numpy()).all()  # one pixel is seen by all


def test_every_layer_is_tested():
    layers = {n for n, c in vars(nn).items() if isinstance(c, type) and issubclass(c, nn.Module)} - {"Module", "ModuleList"}
    assert layers - {"Embedding"} == {name.split(",")[0] for name in LAYERS} - {"Embedding"}


def test_initial_weights_are_uniform_in_one_over_root_fan_in():
    w = nn.Linear(400, 300).weight.numpy()
    assert abs(w).max() <= 1 / 20 and abs(w.std() - 1 / 20 / 3**0.5) < 1e-3 and abs(w.mean()) < 1e-3


def test_state_dict_has_pytorch_names_and_round_trips(library):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var",
                                        "1.num_batches_tracked", "3.0.weight", "3.0.bias"]
    model(tg.randn(5, 3))
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))
    other.load_state_dict({name: backend.to_numpy(value) for name, value in model.state_dict().items()})
    x = tg.randn(5, 3)
    np.testing.assert_array_equal(model.eval()(x).numpy(), other.eval()(x).numpy())
    assert int(other.state_dict()["1.num_batches_tracked"]) == 1


def test_a_foreign_state_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = copy.deepcopy(model)
    state = {name: value + 1 for name, value in model.state_dict().items()}
    state["1.weight"] = np.zeros((5, 5))
    state["2.weight"] = state.pop("0.bias")
    with pytest.raises(tg.TinygenError, match=r"0.bias is missing; 2.weight is unknown here; 1.weight has shape \(5, 5\) instead of \(2, 4\)"):
        model.load_state_dict(state)
    for a, b in zip(model.parameters(), before.parameters()):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_batch_norm_remembers_the_unbiased_statistics(library):
    layer = nn.BatchNorm1d(2)
    x = rng.standard_normal((8, 2)).astype("float32")
    layer(tg.Tensor(x))
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)
    layer.eval()
    expected = (x - layer.running_mean.numpy()) / np.sqrt(layer.running_var.numpy() + 1e-5)
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
    twin.parameters()[0].data += 1
    assert not np.array_equal(twin.parameters()[0].numpy(), model.parameters()[0].numpy())
    assert twin.layers[0] is twin.layers[1]
    assert twin.parameters()[0].requires_grad and isinstance(twin.parameters()[0], nn.Parameter)


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


def test_a_module_may_know_its_parent():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].parent = model
    assert len(model.parameters()) == 2 and len(model) == 1


def test_printing_a_model_shows_its_structure():
    text = repr(nn.Sequential(nn.Linear(2, 3), F.relu, nn.Sequential(nn.Linear(3, 1, bias=False))))
    assert text.splitlines() == ["Sequential(", "  (0): Linear(weight=(3, 2), bias=(3,))", "  (1): relu", "  (2): Sequential(",
                                 "    (0): Linear(weight=(1, 3), bias=None)", "  )", ")"]


def test_sinusoidal_embedding_by_its_formula(library):
    t = np.array([0.0, 0.5, 7.0])
    w = 10000.0 ** -(np.arange(4) / 4)
    expected = np.concatenate([np.sin(t[:, None] * w), np.cos(t[:, None] * w)], 1)
    with backend.precision("float64"):
        np.testing.assert_allclose(nn.SinusoidalEmbedding(8)(tg.Tensor(t)).numpy(), expected, atol=1e-12)
    with pytest.raises(tg.TinygenError, match="even, not 7"):
        nn.SinusoidalEmbedding(7)


def test_conditional_batch_norm_scales_each_sample_by_its_condition(library):
    layer, c = nn.ConditionalBatchNorm2d(3, 2), tg.Tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    x = tg.randn(3, 3, 4, 4)
    y, normal = layer(x, c), nn.BatchNorm2d(3)(x)
    for i in range(3):
        for channel in range(3):
            scale = 1 + layer.scale.bias.data[channel] + (layer.scale.weight.data[channel] * c.data[i]).sum()
            shift = layer.shift.bias.data[channel] + (layer.shift.weight.data[channel] * c.data[i]).sum()
            np.testing.assert_allclose(y[i, channel].numpy(), backend.to_numpy(normal[i, channel].data * scale + shift), atol=1e-5)
    assert "norm.running_mean" in layer.state_dict() and "norm.weight" not in layer.state_dict()
