"""Every row of the calculus table, on every backend: both orders of gradients, and good manners."""
import warnings

import numpy as np
import pytest

import tinygen as tg
from table import CASES, case, draw, samples_of
from tinygen import backend
from tinygen.engine import PRIMITIVES, primitive

rows = pytest.mark.parametrize("name, i", CASES)


def leaves(xs, dtype="float64"):
    return [tg.Tensor(x, requires_grad=True, dtype=dtype) for x in xs]


def vjp(f, xs, u, **options):
    """The gradients of <u, f> at fresh leaves, as NumPy arrays."""
    xs = leaves(xs, **options)
    y = f(*xs)
    grads = tg.grad(y, xs, grad_output=tg.Tensor(u, dtype=y.dtype), allow_unused=True)
    return [None if g is None else g.numpy() for g in grads]


@rows
def test_gradients_of_both_orders(name, i, library):
    op, f, xs = case(name, i)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no sample may sit at a kink, and no formula may overflow
        assert tg.gradcheck(f, *xs, order=2, seed=i)


@rows
def test_vjp_is_linear_and_leaves_its_inputs_alone(name, i, library):
    op, f, xs = case(name, i)
    kept = [x.copy() for x in xs]
    with backend.precision("float64"):
        shape = f(*leaves(xs)).shape
        u = np.asarray(draw(*shape))
        v = np.asarray(draw(*shape))
        of_zero, of_u, of_v, of_both = (vjp(f, xs, w) for w in (0 * u, u, v, 2 * u - 3 * v))
    for zero, gu, gv, both in zip(of_zero, of_u, of_v, of_both):
        assert not zero.any()
        np.testing.assert_allclose(both, 2 * gu - 3 * gv, rtol=1e-12, atol=1e-12)
    for x, before in zip(xs, kept):
        np.testing.assert_array_equal(x, before)


@rows
def test_strides_do_not_matter(name, i):
    op, f, xs = case(name, i)
    strided = [np.repeat(x[None], 2, 0).T[..., 0].T if x.ndim else x for x in xs]
    with backend.precision("float64"):
        y = f(*leaves(xs)).numpy()
        np.testing.assert_array_equal(f(*leaves(strided)).numpy(), y)
        for a, b in zip(vjp(f, xs, np.ones(y.shape)), vjp(f, strided, np.ones(y.shape))):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@rows
def test_float32_stays_float32(name, i, library):
    op, f, xs = case(name, i)
    y = f(*leaves(xs, dtype="float32"))
    if op.__name__ != "astype":
        assert y.dtype == np.float32
    for g in vjp(f, xs, np.ones(y.shape), dtype="float32"):
        assert g.dtype == np.float32


@pytest.mark.parametrize("name, i", [c for c in CASES if hasattr(PRIMITIVES[c[0]], "plain")])
def test_fused_equals_plain(name, i):
    """Value, gradient and Hessian-vector product are those of the composition next to it."""
    op, f, xs = case(name, i)
    _, attributes = samples_of(op)[i]
    results = []
    with backend.precision("float64"):
        u = np.random.default_rng(0).standard_normal(f(*leaves(xs)).shape)
        for function in (f, lambda *xs: op.plain(*xs, **attributes)):
            ts = leaves(xs)
            y = function(*ts)
            gs = tg.grad(y, ts, grad_output=tg.Tensor(u), create_graph=True)
            inner = sum((g * tg.Tensor(np.cos(x))).sum() for g, x in zip(gs, xs))
            hvp = [None] * len(ts)
            if inner.requires_grad:
                hvp = tg.grad(inner, ts, allow_unused=True)
            hvp = [h if h is not None else 0 * t for h, t in zip(hvp, ts)]
            results.append([y, *gs, *hvp])
    for fused, plain in zip(*results):
        np.testing.assert_allclose(fused.numpy(), plain.numpy(), rtol=1e-9, atol=1e-12)


def test_a_primitive_without_samples_fails():
    @primitive(lambda g, y, x: g)
    def unsampled(x):
        return x
    try:
        with pytest.raises(AssertionError, match="unsampled has no samples"):
            samples_of(unsampled)
    finally:
        del PRIMITIVES["unsampled"]


def test_every_row_states_its_formula():
    for name, op in PRIMITIVES.items():
        assert op.__doc__, name
        assert op.__doc__.splitlines()[0].replace("Y", "y").startswith("y = "), name


# Special places -----------------------------------------------------------------------------------

def gradient(f, *values):
    xs = [tg.Tensor(v, requires_grad=True) for v in values]
    f(*xs).sum().backward()
    return [backend.to_numpy(x.grad).tolist() for x in xs]


def test_ties_share_the_gradient(library):
    assert gradient(tg.maximum, [1.0, 2.0], [1.0, 3.0]) == [[0.5, 0.0], [0.5, 1.0]]
    assert gradient(tg.minimum, [1.0, 2.0], [1.0, 3.0]) == [[0.5, 1.0], [0.5, 0.0]]
    rows = [[1.0, 4, 4], [0, -1, -2]]
    assert gradient(lambda x: tg.max(x, axis=1), rows) == [[[0, 0.5, 0.5], [1, 0, 0]]]
    assert gradient(lambda x: tg.min(x), [3.0, 3.0]) == [[0.5, 0.5]]


def test_kinks_take_a_fixed_side(library):
    """As in PyTorch: at their kinks |x| and relu have slope 0, and a clipped bound has slope 1."""
    assert gradient(tg.abs, [0.0, -2.0]) == [[0.0, -1.0]]
    assert gradient(tg.functional.relu, [0.0, 1.0]) == [[0.0, 1.0]]
    assert gradient(lambda x: x.clip(-1, 1), [-1.0, 1.0, 1.5]) == [[1.0, 1.0, 0.0]]


def test_powers_at_zero(library):
    assert gradient(lambda x: x**2, [0.0, -3.0]) == [[0.0, -6.0]]
    assert gradient(lambda x: x**0, [0.0]) == [[0.0]]
    slope = pytest.approx(2 * np.log(2), rel=1e-6)
    assert gradient(tg.pow, [0.0, 2.0], [3.0, 1.0]) == [[0.0, 1.0], [0.0, slope]]


def test_duplicate_indices_add_up(library):
    assert gradient(lambda x: x[[0, 0, 2]], [1.0, 2.0, 3.0]) == [[2.0, 0.0, 1.0]]
    index = tg.Tensor([1, 1, -1])
    assert gradient(lambda x: x[index], [1.0, 2.0, 3.0]) == [[0.0, 2.0, 1.0]]


def test_duplicate_indices_in_tuples_and_lists_add_up(library):
    assert gradient(lambda x: x[(0, 0),], [1.0, 2.0, 3.0]) == [[2.0, 0.0, 0.0]]
    index = [0, 0] if library == "numpy" else backend.asarray([0, 0])  # a GPU takes no lists
    assert gradient(lambda x: tg.getitem(x, index=index), [1.0, 2.0, 3.0]) == [[2.0, 0.0, 0.0]]


def test_empty_and_single(library):
    """The mean of nothing and the variance of one number are not numbers, as in NumPy."""
    assert np.isnan(tg.zeros(0).mean().item())
    assert np.isnan(tg.Tensor([1.0]).var().item())
    assert tg.nn.Flatten()(tg.zeros(0, 3, 2)).shape == (0, 6)
    assert tg.Tensor(2.0).flatten().shape == (1,)
    assert not tg.Tensor([1.5], requires_grad=True).astype("int64").requires_grad
    np.testing.assert_allclose(tg.erf(tg.Tensor([1, 2])).numpy(), [0.8427008, 0.9953223], rtol=1e-6)


def test_boolean_index(library):
    assert gradient(lambda x: x[x > 1.5], [1.0, 2.0, 3.0]) == [[0.0, 1.0, 1.0]]


def test_where_needs_a_safe_input():
    """The branch that is not taken must not make inf: the double where of its docstring."""
    def safe_log(x):
        positive = tg.where(x > 0, x, 1.0)
        return tg.where(x > 0, tg.log(positive), 0.0)
    assert gradient(safe_log, [-1.0, 2.0]) == [[0.0, 0.5]]


def test_matmul_of_vectors_as_in_numpy(library):
    rng = np.random.default_rng(0)
    shapes = [((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)),
              ((5, 2, 3), (3,)), ((3,), (5, 3, 2)), ((2, 3), (3, 4))]
    for of_x, of_y in shapes:
        x = rng.standard_normal(of_x)
        y = rng.standard_normal(of_y)
        product = tg.Tensor(x, dtype="float64") @ tg.Tensor(y, dtype="float64")
        assert product.shape == np.shape(x @ y)
        np.testing.assert_allclose(product.numpy(), x @ y, rtol=1e-12)
        assert tg.gradcheck(lambda a, b: a @ b, x, y)


def test_statistics_agree_with_numpy(library):
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    t = tg.Tensor(x, dtype="float64")
    for axis in (None, 0, -1, (0, 2)):
        for keepdims in (False, True):
            pairs = [(t.mean(axis, keepdims), x.mean(axis, keepdims=keepdims)),
                     (t.var(axis, keepdims), x.var(axis, keepdims=keepdims, ddof=1)),
                     (t.std(axis, keepdims, 0), x.std(axis, keepdims=keepdims)),
                     (t.min(axis, keepdims), x.min(axis, keepdims=keepdims))]
            for found, expected in pairs:
                np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert tg.gradcheck(lambda x: x.std(axis=1), x, order=2)


def test_shapes_agree_with_numpy(library):
    x = np.arange(24.0).reshape(2, 3, 4)
    t = tg.Tensor(x)
    pairs = [(tg.stack([t, t], axis=1), np.stack([x, x], 1)),
             (tg.cat([t, t], -1), np.concatenate([x, x], -1)),
             (tg.pad(t, pad=(1, 0, 0, 2)), np.pad(x, ((0, 0), (0, 2), (1, 0)))),
             (t.permute(2, 0, 1), x.transpose(2, 0, 1)),
             (t.transpose(0, 2), x.swapaxes(0, 2)),
             (t.mT, x.swapaxes(1, 2)),
             (t[:, 0].T, x[:, 0].T),
             (t.flatten(1), x.reshape(2, 12)),
             (t.flatten(), x.reshape(-1)),
             (t.unsqueeze(1), x[:, None]),
             (t[:1].squeeze(0), x[0]),
             (t[:1, :, :1].squeeze(), x[0, :, 0]),
             (t[..., None], x[..., None]),
             (t[1, ::2, [0, 0]], x[1, ::2, [0, 0]]),
             (t.expand(5, 2, 3, 4), np.broadcast_to(x, (5, 2, 3, 4)))]
    for found, expected in pairs:
        np.testing.assert_array_equal(found.numpy(), expected)


def test_making_tensors(library):
    assert tg.zeros(2, 3).dtype == np.float32
    assert tg.zeros(2, dtype="float64").dtype == np.float64
    assert tg.ones((2, 3)).shape == (2, 3)
    assert tg.eye(2, 3).shape == (2, 3)
    assert tg.arange(3).dtype.kind == "i"
    assert tg.arange(2, 5).numpy().tolist() == [2, 3, 4]
    assert tg.arange(1.0, 2.0, 0.25).shape == (4,)
    assert tg.linspace(0, 1, 5).numpy().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert tg.full((2,), 7.0).numpy().tolist() == [7, 7]
    assert tg.randn(3, requires_grad=True).requires_grad
    assert sorted(tg.randperm(5).numpy().tolist()) == [0, 1, 2, 3, 4]
    draws = tg.randint(2, 5, (1000,)).numpy()
    assert set(draws.tolist()) == {2, 3, 4}
    assert 0 <= tg.rand(1000).numpy().min()
    assert tg.rand(1000).numpy().max() < 1
    assert [round(x.item()) for x in tg.Tensor([1.0, 2.0])] == [1, 2]


def test_min_of_integers_and_booleans():
    """-max(-a) would be wrong for unsigned integers, because there -0 is the smallest number."""
    x = np.array([[0, 3], [7, 200]], np.uint8)
    np.testing.assert_array_equal(tg.min(tg.Tensor(x), axis=0).numpy(), [0, 3])
    assert tg.min(tg.Tensor([True, False])).item() is False
    assert tg.min(tg.Tensor(np.array([-2**63, 5]))).item() == -2**63


def test_std_of_equal_values_has_a_gradient():
    x = tg.Tensor([[5.0, 1.0], [5.0, 2.0], [5.0, 4.0]], requires_grad=True)
    x.std(axis=0).sum().backward()
    assert np.isfinite(x.grad).all()
    assert not x.grad[:, 0].any()
    assert x.grad[:, 1].any()


def test_what_names_no_axis_is_refused_in_a_sentence():
    x = tg.ones(2, 3, 1)
    refused = (lambda: x.squeeze((0, 2)),
               lambda: x.mean(axis=[0, 1]),
               lambda: tg.var(x, axis="rows"))
    for bad in refused:
        with pytest.raises(TypeError, match="axis is a whole number"):
            bad()
    with pytest.raises(IndexError, match="There is no axis 5 among 3"):
        x.swapaxes(0, 5)
    with pytest.raises(tg.TinygenError, match="flatten"):
        tg.concatenate([x, x], axis=None)


def test_an_empty_list_picks_nothing():
    assert tg.ones(3, 2)[[]].shape == (0, 2)
    nothing = tg.ones(0, 3)
    assert nothing[nothing > 0].shape == (0,)  # a mask stays a mask
    assert nothing[nothing.numpy() > 0].shape == (0,)


def test_a_list_may_hold_scalars_of_the_device(library):
    x = tg.Tensor([[1.0, 2.0], [4.0, 3.0]])
    largest = int(x.data[:, 0].argmax())
    np.testing.assert_array_equal(x[[largest, 0]].numpy(), [[4, 3], [1, 2]])


def test_randn_like_keeps_the_dtype():
    assert tg.randn_like(tg.zeros(2, dtype="float64")).dtype == np.float64
    assert tg.randn_like(tg.Tensor([1, 2])).dtype == np.float32
