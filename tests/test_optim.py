"""Optimizers step for step: against the numbers PyTorch 2.13 gives, and against the formulas written out."""
import math

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend, nn, optim

W, B = [[0.5, -1.0, 2.0], [0.1, 0.2, -0.3]], [0.3, -0.2]
AFTER_FIVE_STEPS = {  # of loss = sum(w^2 * (1, 10, 0.1)) + sum(sin 3b), in float64, by torch.optim
    "sgd": (lambda p: optim.SGD(p, lr=0.01), [[0.4519603984, -0.32768, 1.98007984016], [0.09039207968, 0.065536, -0.297011976024]],
            [0.193808203047, -0.310205275914]),
    "momentum": (lambda p: optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1),
                 [[0.368705788596, 0.583956125172, 1.921692123753], [0.073741157719, -0.116791225034, -0.288253818563]],
                 [0.014636289291, -0.47654818163]),
    "adam": (lambda p: optim.Adam(p, lr=0.1),
             [[0.027814451371, -0.507963656868, 1.502955792977], [-0.010852080394, -0.117095023697, 0.116177735437]],
             [-0.200836271766, -0.632990557901]),
    "adam, betas": (lambda p: optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-3),
                    [[0.07123077728, -0.527094782689, 1.513100400385], [0.019986779702, -0.027050741878, 0.039674353962]],
                    [-0.220459076357, -0.565012462019]),
    "adamw": (lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.2),
              [[0.003667423257, -0.433738156753, 1.331907569335], [-0.007137392822, -0.112207978899, 0.118946388395]],
              [-0.209896425431, -0.604859469705]),
    "adam, b every other step": (lambda p: optim.Adam(p, lr=0.1),
                                 [[0.027814451371, -0.507963656868, 1.502955792977], [-0.010852080394, -0.117095023697, 0.116177735437]],
                                 [0.000267362907, -0.491291104916]),
}


def five_steps(make, every_other=False):
    with backend.precision("float64"):
        w, b = nn.Parameter(W), nn.Parameter(B)
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
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            w = w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            np.testing.assert_allclose(p.numpy(), w, rtol=1e-12)


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, 0.1, 0.9), optim.Adam, optim.AdamW])
def test_state_goes_on_where_it_was(make, library):
    def steps(model, optimizer, n):
        for i in range(n):
            for p in model.parameters():
                p.grad = p.data * 0.5 + i
            optimizer.step()
    model = nn.Linear(3, 2)
    optimizer = make(model.parameters())
    steps(model, optimizer, 3)
    saved = model.state_dict(), optimizer.state_dict()
    kept = [backend.to_numpy(value).copy() for value in saved[0].values()]
    steps(model, optimizer, 2)
    for value, before in zip(saved[0].values(), kept):
        np.testing.assert_array_equal(backend.to_numpy(value), before)  # a state stays what it was
    twin = nn.Linear(3, 2)
    again = make(twin.parameters())
    twin.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    steps(twin, again, 2)
    for a, b in zip(model.parameters(), twin.parameters()):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    with pytest.raises(tg.TinygenError, match="does not belong"):
        make(nn.Linear(3, 2).parameters()).load_state_dict({k: v for k, v in saved[1].items() if k != "lr"})
    with pytest.raises(tg.TinygenError, match="does not belong"):
        make(nn.Linear(1, 1).parameters()).load_state_dict(saved[1])


def test_two_optimizers_may_share_parameters():
    """Neither may continue with stale data."""
    p = nn.Parameter([1.0, 2.0])
    first, second = optim.SGD([p], 0.5), optim.SGD([p], 0.25)
    for optimizer in (first, second, first):
        p.grad = backend.asarray([1.0, 1.0], dtype="float32")
        optimizer.step()
    assert p.numpy().tolist() == [-0.25, 0.75]
    p.data = backend.asarray([0.0, 0.0], dtype="float32")  # and the user may assign
    first.step()
    assert p.numpy().tolist() == [-0.5, -0.5]


def test_data_that_were_exchanged_are_noticed():
    a, b = nn.Parameter([1.0, 1.0]), nn.Parameter([2.0, 2.0])
    optimizer = optim.SGD([a, b], lr=1.0)
    a.data, b.data = b.data, a.data
    (a * 10).sum().backward()
    optimizer.step()
    assert a.numpy().tolist() == [-8, -8] and b.numpy().tolist() == [1, 1]


def test_frozen_and_single_parameters():
    frozen, w = tg.zeros(2), tg.Tensor([1.0, 2.0], requires_grad=True)
    optimizer = optim.SGD([frozen, w], lr=1.0)
    kept = (frozen * 1).sum()
    (w.sum() * 2).backward()
    optimizer.step()
    assert frozen.numpy().tolist() == [0, 0] and w.numpy().tolist() == [-1, 0]
    assert optim.SGD(w, lr=1.0).params == [w] and kept.item() == 0


def test_a_parameter_without_gradient_counts_as_unchanged():
    a, b = nn.Parameter([1.0]), nn.Parameter([2.0])
    optimizer = optim.SGD([a, b], lr=1.0)
    loss = (b * b).sum()
    (a * a).sum().backward()
    optimizer.step()
    loss.backward()
    assert b.grad.tolist() == [4]


def test_parameters_of_two_dtypes():
    a, b = nn.Parameter([1.0]), tg.Tensor([1.0], requires_grad=True, dtype="float64")
    optimizer = optim.Adam([a, b], lr=0.1)
    (a * 2 + b.astype("float32")).sum().backward()
    optimizer.step()
    assert a.dtype == np.float32 and b.dtype == np.float64 and a.item() == pytest.approx(0.9)


@pytest.mark.parametrize("write", ["step", "load", "ema", "clip", "batch_norm", "spectral_norm", "load optimizer"])
def test_nothing_in_the_package_writes_in_place(write, library):
    """Arrays that somebody took before stay what they were."""
    model = nn.Sequential(nn.spectral_norm(nn.Linear(2, 3)), nn.BatchNorm1d(3), nn.Linear(3, 1))
    optimizer, ema = optim.Adam(model.parameters()), optim.EMA(model)
    model(tg.randn(4, 2)).sum().backward()
    optimizer.step()
    taken = [*model.state_dict().values(), *ema.model.state_dict().values(),
             *(p.grad for p in model.parameters()), *optimizer.state_dict()["m"]]
    before = [backend.to_numpy(a).copy() for a in taken]
    if write == "step":
        optimizer.step()
    elif write == "load":
        model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})
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
    model[0].weight.data += 1
    ema.update()
    np.testing.assert_allclose(model[0].weight.numpy() - ema.model[1].weight.numpy(), 2 / 11, rtol=1e-5)
    assert ema.model[0].weight is ema.model[1].weight


def test_what_an_optimizer_refuses():
    for nothing in ([], [tg.zeros(2)], [nn.Parameter([1.0]) * 2], ["w"]):
        with pytest.raises(tg.TinygenError, match="needs parameters"):
            optim.Adam(nothing)
    for betas in ((1.0, 0.9), (0.9,), (0.9, 0.99, 0.999), 0.9):
        with pytest.raises(tg.TinygenError, match="two betas"):
            optim.Adam([nn.Parameter([1.0])], betas=betas)
    state = optim.Adam([nn.Parameter([1.0]), nn.Parameter([2.0])]).state_dict()
    for name, value in ("steps", [1]), ("m", [np.zeros(3)]), ("m", np.zeros(3)), ("m", None), ("v", []):
        with pytest.raises(tg.TinygenError, match=f"its '{name}' is missing, or not of shape"):
            optim.Adam([nn.Parameter([1.0]), nn.Parameter([2.0])]).load_state_dict(state | {name: value})
    p = nn.Parameter([1.0, 2.0])
    p.grad = backend.asarray([1.0], dtype="float32")
    with pytest.raises(tg.TinygenError, match=r"shape \(2,\) has a gradient of shape \(1,\)"):
        optim.SGD([p], lr=1.0).step()
    with pytest.raises(tg.TinygenError, match="learning rate must be 0 or more, not -1"):
        optim.SGD([nn.Parameter([1.0])], lr=-1)


def test_clip_grad_norm(library):
    a, b = nn.Parameter([0.0]), nn.Parameter([0.0, 0.0])
    a.grad, b.grad = backend.asarray([3.0], dtype="float32"), backend.asarray([0.0, 4.0], dtype="float32")
    assert float(backend.to_numpy(optim.clip_grad_norm_([a, b], 10.0))) == 5 and backend.to_numpy(b.grad).tolist() == [0, 4]
    optim.clip_grad_norm_([a, b], 1.0)
    np.testing.assert_allclose([backend.to_numpy(a.grad)[0], backend.to_numpy(b.grad)[1]], [0.6, 0.8], rtol=1e-5)
    with pytest.raises(tg.TinygenError, match="no gradients"):
        optim.clip_grad_norm_([nn.Parameter([1.0])], 1.0)


def test_schedules():
    optimizer = optim.SGD([nn.Parameter([1.0])], lr=2.0)
    warmup, rates = optim.LinearWarmup(optimizer, 4), []
    for _ in range(6):
        rates.append(optimizer.lr)
        warmup.step()
    assert rates == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    optimizer.lr = 2.0
    cosine, rates = optim.CosineLR(optimizer, 12, end=0.1, warmup=2), []
    for _ in range(14):
        rates.append(optimizer.lr)
        cosine.step()
    expected = [1.0, 2.0] + [2 * (0.1 + 0.45 * (1 + math.cos(math.pi * min(i, 10) / 10))) for i in range(12)]
    np.testing.assert_allclose(rates, expected)
    again = optim.CosineLR(optim.SGD([nn.Parameter([1.0])], lr=1.0), 12, end=0.1, warmup=2)
    again.load_state_dict(cosine.state_dict())
    assert again.optimizer.lr == optimizer.lr


def test_ema_averages_and_copies_buffers(library):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = optim.EMA(model, decay=0.9)
    average = model.layers[0].weight.numpy().copy()
    for n in range(1, 100):
        model.layers[0].weight.data += 1
        model(tg.randn(4, 2))
        ema.update()
        d = min(0.9, (1 + n) / (10 + n))
        average = d * average + (1 - d) * model.layers[0].weight.numpy()
    np.testing.assert_allclose(ema.model.layers[0].weight.numpy(), average, rtol=1e-5)
    np.testing.assert_array_equal(ema.model.layers[1].running_mean.numpy(), model.layers[1].running_mean.numpy())
    twin = optim.EMA(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    twin.load_state_dict(ema.state_dict())
    np.testing.assert_array_equal(twin.model.layers[0].weight.numpy(), ema.model.layers[0].weight.numpy())


def test_a_training_step_never_makes_the_host_wait(count):
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 2))
    optimizer, ema = optim.AdamW(model.parameters()), optim.EMA(model)
    schedule = optim.CosineLR(optimizer, 10)
    x = tg.randn(16, 2)
    count.syncs = 0
    for _ in range(3):
        loss = tg.functional.mse_loss(model(x), x) + tg.functional.cross_entropy(model(x), tg.randint(0, 2, (16,)))
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update()
    assert count.syncs == 0


def test_one_tensor_or_a_model_in_place_of_parameters():
    w = tg.Tensor(np.ones(3), requires_grad=True)
    (w * w).sum().backward()
    assert abs(float(optim.clip_grad_norm_(w, 1.0)) - 12**0.5) < 1e-6
    with pytest.raises(tg.TinygenError, match="pass model.parameters"):
        optim.SGD(nn.Linear(2, 2), 0.1)
