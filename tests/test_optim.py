"""Optimizers step for step, against the numbers of PyTorch 2.13 and the formulas written out."""
import math

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend, functional as F, nn, optim

W = [[0.5, -1.0, 2.0], [0.1, 0.2, -0.3]]
B = [0.3, -0.2]
AFTER_FIVE_STEPS = {  # of loss = sum(w^2 * (1, 10, 0.1)) + sum(sin 3b), in float64, by torch.optim
    "sgd": (
        lambda p: optim.SGD(p, lr=0.01),
        [[0.4519603984, -0.32768, 1.98007984016],
         [0.09039207968, 0.065536, -0.297011976024]],
        [0.193808203047, -0.310205275914]),
    "momentum": (
        lambda p: optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1),
        [[0.368705788596, 0.583956125172, 1.921692123753],
         [0.073741157719, -0.116791225034, -0.288253818563]],
        [0.014636289291, -0.47654818163]),
    "adam": (
        lambda p: optim.Adam(p, lr=0.1),
        [[0.027814451371, -0.507963656868, 1.502955792977],
         [-0.010852080394, -0.117095023697, 0.116177735437]],
        [-0.200836271766, -0.632990557901]),
    "adam, betas": (
        lambda p: optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-3),
        [[0.07123077728, -0.527094782689, 1.513100400385],
         [0.019986779702, -0.027050741878, 0.039674353962]],
        [-0.220459076357, -0.565012462019]),
    "adamw": (
        lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.2),
        [[0.003667423257, -0.433738156753, 1.331907569335],
         [-0.007137392822, -0.112207978899, 0.118946388395]],
        [-0.209896425431, -0.604859469705]),
    "adam, b every other step": (
        lambda p: optim.Adam(p, lr=0.1),
        [[0.027814451371, -0.507963656868, 1.502955792977],
         [-0.010852080394, -0.117095023697, 0.116177735437]],
        [0.000267362907, -0.491291104916]),
}


def five_steps(make, every_other=False):
    with backend.precision("float64"):
        w = nn.Parameter(W)
        b = nn.Parameter(B)
        optimizer = make([w, b])
        for i in range(5):
            optimizer.zero_grad()
            loss = (w**2 * tg.Tensor([1.0, 10.0, 0.1])).sum()
            if not (every_other and i % 2):
                loss = loss + tg.sin(3 * b).sum()
            loss.backward()
            optimizer.step()
    return w, b


@pytest.mark.parametrize("name", AFTER_FIVE_STEPS)
def test_five_steps_equal_pytorch(name, library):
    make, w_expected, b_expected = AFTER_FIVE_STEPS[name]
    w, b = five_steps(make, every_other="every other" in name)
    np.testing.assert_allclose(w.numpy(), w_expected, atol=2e-12)
    np.testing.assert_allclose(b.numpy(), b_expected, atol=2e-12)


def test_adam_is_the_formula_of_the_paper():
    rng = np.random.default_rng(0)
    w = rng.standard_normal(23)
    with backend.precision("float64"):
        p = nn.Parameter(w)
        optimizer = optim.Adam([p], lr=0.01)
        m = v = 0
        for t in range(1, 6):
            g = rng.standard_normal(23)
            p.grad = backend.asarray(g)
            optimizer.step()
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * g * g
            w = w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            np.testing.assert_allclose(p.numpy(), w, rtol=1e-12)


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, 0.1, 0.9), optim.Adam, optim.AdamW])
def test_a_loaded_state_continues_where_it_was(make, library):
    def steps(model, optimizer, n):
        for i in range(n):
            for p in model.parameters():
                p.grad = p.data * 0.5 + i
            optimizer.step()
    model = nn.Linear(3, 2)
    optimizer = make(model.parameters())
    steps(model, optimizer, 3)
    weights = model.state_dict()
    state = optimizer.state_dict()
    kept = [backend.to_numpy(value).copy() for value in weights.values()]
    steps(model, optimizer, 2)
    for value, before in zip(weights.values(), kept):
        np.testing.assert_array_equal(backend.to_numpy(value), before)  # a state stays what it was
    twin = nn.Linear(3, 2)
    again = make(twin.parameters())
    twin.load_state_dict(weights)
    again.load_state_dict(state)
    steps(twin, again, 2)
    for a, b in zip(model.parameters(), twin.parameters()):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    without_lr = {name: value for name, value in state.items() if name != "lr"}
    with pytest.raises(tg.TinygenError, match="does not fit this"):
        make(nn.Linear(3, 2).parameters()).load_state_dict(without_lr)
    with pytest.raises(tg.TinygenError, match="does not fit this"):
        make(nn.Linear(1, 1).parameters()).load_state_dict(state)


def test_two_optimizers_may_share_parameters():
    """Neither may continue with stale data."""
    p = nn.Parameter([1.0, 2.0])
    first = optim.SGD([p], 0.5)
    second = optim.SGD([p], 0.25)
    for optimizer in (first, second, first):
        p.grad = backend.asarray([1.0, 1.0], dtype="float32")
        optimizer.step()
    assert p.numpy().tolist() == [-0.25, 0.75]
    p.data = backend.asarray([0.0, 0.0], dtype="float32")  # and the user may assign
    first.step()
    assert p.numpy().tolist() == [-0.5, -0.5]


def test_data_that_were_exchanged_are_noticed():
    a = nn.Parameter([1.0, 1.0])
    b = nn.Parameter([2.0, 2.0])
    optimizer = optim.SGD([a, b], lr=1.0)
    a.data, b.data = b.data, a.data
    (a * 10).sum().backward()
    optimizer.step()
    assert a.numpy().tolist() == [-8, -8]
    assert b.numpy().tolist() == [1, 1]


def test_frozen_and_single_parameters():
    frozen = tg.zeros(2)
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    optimizer = optim.SGD([frozen, w], lr=1.0)
    kept = (frozen * 1).sum()
    (w.sum() * 2).backward()
    optimizer.step()
    assert frozen.numpy().tolist() == [0, 0]
    assert w.numpy().tolist() == [-1, 0]
    assert optim.SGD(w, lr=1.0).params == [w]
    assert kept.item() == 0


def test_a_parameter_without_gradient_counts_as_unchanged():
    a = nn.Parameter([1.0])
    b = nn.Parameter([2.0])
    optimizer = optim.SGD([a, b], lr=1.0)
    loss = (b * b).sum()
    (a * a).sum().backward()
    optimizer.step()
    loss.backward()
    assert b.grad.tolist() == [4]


def test_parameters_of_two_dtypes():
    a = nn.Parameter([1.0])
    b = tg.Tensor([1.0], requires_grad=True, dtype="float64")
    optimizer = optim.Adam([a, b], lr=0.1)
    (a * 2 + b.astype("float32")).sum().backward()
    optimizer.step()
    assert a.dtype == np.float32
    assert b.dtype == np.float64
    assert a.item() == pytest.approx(0.9)


@pytest.mark.parametrize("write", [
    "step", "load", "ema", "clip", "batch_norm", "spectral_norm", "load optimizer"])
def test_nothing_in_the_package_writes_in_place(write, library):
    """Arrays that were taken before stay what they were."""
    model = nn.Sequential(nn.spectral_norm(nn.Linear(2, 3)), nn.BatchNorm1d(3), nn.Linear(3, 1))
    optimizer = optim.Adam(model.parameters())
    ema = optim.EMA(model)
    model(tg.randn(4, 2)).sum().backward()
    optimizer.step()
    taken = [*model.state_dict().values(), *ema.model.state_dict().values(),
             *(p.grad for p in model.parameters()), *optimizer.state_dict()["m"]]
    before = [backend.to_numpy(a).copy() for a in taken]
    if write == "step":
        optimizer.step()
    elif write == "load":
        weights = model.state_dict()
        model.load_state_dict({name: value + 1 for name, value in weights.items()})
    elif write == "ema":
        ema.update()
    elif write == "clip":
        optim.clip_grad_norm_(model.parameters(), 1e-3)
    elif write == "load optimizer":
        state = optimizer.state_dict()
        optimizer.load_state_dict(state | {"m": [m + 1 for m in state["m"]]})
    else:
        model(tg.randn(4, 2))
    for array, kept in zip(taken, before):
        np.testing.assert_array_equal(backend.to_numpy(array), kept)


def test_ema_averages_shared_parameters_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    ema = optim.EMA(model, 0.999)
    model[0].weight.data = model[0].weight.data + 1
    ema.update()
    behind = model[0].weight.numpy() - ema.model[1].weight.numpy()
    np.testing.assert_allclose(behind, 2 / 11, rtol=1e-5)  # the decay of the first update
    assert ema.model[0].weight is ema.model[1].weight


def test_what_an_optimizer_refuses():
    for nothing in ([], [tg.zeros(2)], [nn.Parameter([1.0]) * 2], ["w"]):
        with pytest.raises(tg.TinygenError, match="needs parameters"):
            optim.Adam(nothing)
    for betas in ((1.0, 0.9), (0.9,), (0.9, 0.99, 0.999), 0.9):
        with pytest.raises(tg.TinygenError, match="two betas"):
            optim.Adam([nn.Parameter([1.0])], betas=betas)
    two = [nn.Parameter([1.0]), nn.Parameter([2.0])]
    state = optim.Adam(two).state_dict()
    wrong = ("steps", [1]), ("m", [np.zeros(3)]), ("m", np.zeros(3)), ("m", None), ("v", [])
    for name, value in wrong:
        with pytest.raises(tg.TinygenError, match=f"its '{name}' is missing, or not of shape"):
            optim.Adam(two).load_state_dict(state | {name: value})
    p = nn.Parameter([1.0, 2.0])
    p.grad = backend.asarray([1.0], dtype="float32")
    with pytest.raises(tg.TinygenError, match=r"shape \(2,\) has a gradient of shape \(1,\)"):
        optim.SGD([p], lr=1.0).step()
    with pytest.raises(tg.TinygenError, match="learning rate must be 0 or more, not -1"):
        optim.SGD([nn.Parameter([1.0])], lr=-1)


def test_clip_grad_norm(library):
    a = nn.Parameter([0.0])
    b = nn.Parameter([0.0, 0.0])
    a.grad = backend.asarray([3.0], dtype="float32")
    b.grad = backend.asarray([0.0, 4.0], dtype="float32")
    norm = optim.clip_grad_norm_([a, b], 10.0)
    assert float(backend.to_numpy(norm)) == 5
    assert backend.to_numpy(b.grad).tolist() == [0, 4]
    optim.clip_grad_norm_([a, b], 1.0)
    clipped = [backend.to_numpy(a.grad)[0], backend.to_numpy(b.grad)[1]]
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-5)
    with pytest.raises(tg.TinygenError, match="no gradients"):
        optim.clip_grad_norm_([nn.Parameter([1.0])], 1.0)


def test_schedules():
    optimizer = optim.SGD([nn.Parameter([1.0])], lr=2.0)
    warmup = optim.LinearWarmup(optimizer, 4)
    rates = []
    for _ in range(6):
        rates.append(optimizer.lr)
        warmup.step()
    assert rates == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    optimizer.lr = 2.0
    cosine = optim.CosineLR(optimizer, 12, end=0.1, warmup=2)
    rates = []
    for _ in range(14):
        rates.append(optimizer.lr)
        cosine.step()
    falling = [2 * (0.1 + 0.45 * (1 + math.cos(math.pi * min(i, 10) / 10))) for i in range(12)]
    np.testing.assert_allclose(rates, [1.0, 2.0, *falling])
    again = optim.CosineLR(optim.SGD([nn.Parameter([1.0])], lr=1.0), 12, end=0.1, warmup=2)
    again.load_state_dict(cosine.state_dict())
    assert again.optimizer.lr == optimizer.lr


def test_ema_averages_and_copies_buffers(library):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = optim.EMA(model, decay=0.9)
    weight = model[0].weight
    average = weight.numpy().copy()
    for n in range(1, 100):
        weight.data = weight.data + 1
        model(tg.randn(4, 2))
        ema.update()
        d = min(0.9, (1 + n) / (10 + n))
        average = d * average + (1 - d) * weight.numpy()
    np.testing.assert_allclose(ema.model[0].weight.numpy(), average, rtol=1e-5)
    np.testing.assert_array_equal(ema.model[1].running_mean.numpy(), model[1].running_mean.numpy())
    twin = optim.EMA(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    twin.load_state_dict(ema.state_dict())
    np.testing.assert_array_equal(twin.model[0].weight.numpy(), ema.model[0].weight.numpy())


def test_a_training_step_never_makes_the_host_wait(count):
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 2))
    optimizer = optim.AdamW(model.parameters())
    ema = optim.EMA(model)
    schedule = optim.CosineLR(optimizer, 10)
    x = tg.randn(16, 2)
    count.syncs = 0
    for _ in range(3):
        labels = tg.randint(0, 2, (16,))
        loss = F.mse_loss(model(x), x) + F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update()
    assert count.syncs == 0


def test_one_tensor_or_a_model_instead_of_parameters():
    w = tg.Tensor(np.ones(3), requires_grad=True)
    (w * w).sum().backward()
    assert abs(float(optim.clip_grad_norm_(w, 1.0)) - 12**0.5) < 1e-6
    with pytest.raises(tg.TinygenError, match="pass model.parameters"):
        optim.SGD(nn.Linear(2, 2), 0.1)
