"""The rules of the engine, one named test each.

Each rule was broken in at least one well-known small engine.
"""
import copy
import gc
import pickle
import subprocess
import sys
import threading
import warnings
import weakref

import numpy as np
import pytest

import tinygen as tg
from table import unlisted
from tinygen import backend
from tinygen.lab import cores
from tinygen.engine import PRIMITIVES, primitive


def leaf(value, **options):
    return tg.Tensor(value, requires_grad=True, **options)


def got(x):
    return backend.to_numpy(x.grad).tolist()


# Rule 1: backward is iterative --------------------------------------------------------------------

def test_rule1_a_long_chain_and_a_diamond(library):
    """Recursion fails after 1,000 operations, and 60 doublings have 2^60 paths."""
    x = leaf(1.0)
    y = x
    for _ in range(100_000 if library == "numpy" else 5_000):
        y = y + 1.0
    y.backward()
    assert got(x) == 1

    x.grad = None
    y = x
    for _ in range(60):
        y = y + y
    y.backward()
    assert got(x) == 2.0**60


# Rule 2: gradients are popped, .grad is for leaves ------------------------------------------------

def test_rule2_backward_twice_accumulates_on_leaves_only(library):
    """With stale gradients inside, .grad would end as 3 times the gradient instead of 2."""
    x = leaf(3.0)
    square = x * x
    y = square * square
    y.backward()
    assert got(x) == 108
    assert square.grad is None
    assert y.grad is None
    y.backward()
    assert got(x) == 216


def test_rule2_memory_is_freed_with_the_loss():
    """A reference cycle would keep every array of every step until the next garbage collection."""
    gc.disable()
    try:
        x = leaf(np.ones(4))
        loss = (tg.exp(x) * x).sum()
        inner = weakref.ref(loss.inputs[0])
        loss.backward()
        assert inner() is not None
        del loss
        assert inner() is None
    finally:
        gc.enable()


# Rule 3: accumulation never aliases ---------------------------------------------------------------

def test_rule3_two_parents_may_receive_the_same_array(library):
    """a + b passes one array on to both; changing a.grad in place must not change b.grad."""
    a = leaf([1.0, 2.0])
    b = leaf([3.0, 4.0])
    c = leaf([[1.0, 2.0]])
    (a + b + c.reshape(2)).sum().backward()
    a.grad += 1
    assert got(b) == [1, 1]
    assert got(c) == [[1, 1]]

    g = np.ones(2, dtype="float32")
    d = leaf([1.0, 2.0])
    d.backward(tg.Tensor(g))
    d.grad += 1
    assert g.tolist() == [1, 1]

    h, k = 2 * a, 3 * b
    for_h, for_k = tg.grad((h + k).sum(), [h, k])  # of results, too
    for_h.data += 1
    assert for_k.numpy().tolist() == [1, 1]


def test_a_gradient_is_an_array_also_of_one_number(library):
    """NumPy makes scalars of products of arrays of shape (), and of sums of them."""
    x = leaf(2.0)
    for _ in range(3):
        (x * 3.0).backward()
        assert isinstance(x.grad, backend.xp.ndarray)
    assert got(x) == 9
    for create_graph in (False, True):
        g, = tg.grad(x * x, x, create_graph=create_graph)
        assert isinstance(g.data, backend.xp.ndarray)


# Rule 4: float32 stays float32 --------------------------------------------------------------------

def test_rule4_nothing_promotes(library):
    """One float64 scalar is enough to make a whole network run at half speed, unnoticed."""
    x = leaf([1.0, 2.0])
    integers = tg.Tensor([1, 2])
    results = [x * 2, x + 2.5, 1 / x, x**2, 2**x, x * True, x * np.float64(2), x[0] * np.sqrt(2),
               x * integers, x / integers, integers / 3, tg.sqrt(integers), x.mean(), x.std()]
    if library == "numpy":
        results.append(x * np.array([1.0, 2.0]))
    for y in results:
        assert y.dtype == np.float32, y
        if y.requires_grad:
            x.grad = None
            y.sum().backward()
            assert x.grad.dtype == np.float32
    with backend.precision("float64"):
        assert (leaf([1.0]) * integers[0]).dtype == np.float64
        assert tg.randn(2).dtype == np.float64
    assert tg.Tensor([1.0]).dtype == np.float32


def test_rule4_float64_from_a_pickle_is_float64():
    """The dtype of a pickled array equals NumPy's own, but is another object."""
    with backend.precision("float64"):
        x = pickle.loads(pickle.dumps(leaf([1 / 3])))
    assert x.sum().item() == 1 / 3
    x.data = pickle.loads(pickle.dumps(x.data))
    assert (2 * x.mean()).item() == 2 / 3


def test_rule4_precision_takes_a_name_a_type_or_a_dtype():
    for dtype in ("float64", np.float64, np.dtype("float64")):
        with backend.precision(dtype):
            assert tg.zeros(1).dtype == np.float64
    for dtype in ("float16", int, None, "double precision"):
        with pytest.raises(tg.TinygenError, match="'float32' or 'float64', not"):
            backend.precision(dtype)


def test_rule4_only_floats_have_gradients(library):
    with pytest.raises(TypeError, match="Only floating Tensors have gradients.*int64"):
        tg.Tensor([1, 2], requires_grad=True)
    with pytest.raises(TypeError, match="dtype complex"):
        tg.Tensor([1j])
    assert not (tg.Tensor([1, 2]) * tg.Tensor([True, False])).requires_grad


# Rule 5: parameters in order of construction ------------------------------------------------------

class Nest(tg.nn.Module):
    def __init__(self):
        self.second = tg.nn.Linear(2, 2)
        self.blocks = [tg.nn.Linear(2, 2), {"a": tg.nn.Linear(2, 2, bias=False)}]
        self.first = tg.nn.Parameter(tg.zeros(1))
        self.tied = self.second


def test_rule5_parameters_come_in_order_and_once():
    """In other engines a hash seed orders them, lists lose layers, shared ones count twice."""
    names = [name for name, _ in Nest().named_parameters()]
    assert names == ["second.weight", "second.bias", "blocks.0.weight", "blocks.0.bias",
                     "blocks.1.a.weight", "first"]


# Rule 6: errors teach -----------------------------------------------------------------------------

@pytest.mark.parametrize("act, error, words", [
    (lambda x: x.__setitem__(0, 1.0), TypeError, "cannot be assigned into.*tg.where"),
    (lambda x: np.asarray(x), TypeError, r"call tensor.numpy\(\)"),
    (lambda x: float(x), ValueError, r"shape \(2, 3\).*reduce it"),
    (lambda x: bool(x > 1), ValueError, "truth value"),
    (lambda x: x + tg.zeros(2), ValueError,
     r"add cannot take \(2, 3\) float32 and \(2,\) float32.*equal or 1"),
    (lambda x: x @ x, ValueError, r"matmul cannot take \(2, 3\).*is a .mT missing"),
    (lambda x: x.reshape(4), ValueError, r"reshape cannot take \(2, 3\).*shape=\(4,\)"),
    (lambda x: x.sum(axis=2), (ValueError, IndexError),
     "sum cannot take.*axis 2 is out of bounds"),
    (lambda x: x.sum(dim=0), TypeError,
     "PyTorch's dim and keepdim are called axis and keepdims here"),
    (lambda x: x[5], IndexError, "5"),
    (lambda x: tg.cat([x, tg.zeros(2, 2)]), ValueError, "all shapes must agree"),
    (lambda x: tg.zeros(0).max(), ValueError, "at least one element"),
    (lambda x: x.backward(), RuntimeError, r"shape \(2, 3\): reduce it"),
    (lambda x: x.backward(np.ones(3)), ValueError, "upstream gradient has shape"),
    (lambda x: x.detach().backward(), RuntimeError, "nothing to differentiate"),
    (lambda x: tg.grad(x.sum(), [x, leaf(1.0)]), RuntimeError, "does not depend on input 1"),
    (lambda x: tg.Tensor([[1.0], [1.0, 2.0]]), TypeError, "cannot be made from list"),
    (lambda x: tg.Tensor("hello"), TypeError, "dtype"),
    (lambda x: len(x.sum()), TypeError, "no length"),
    (lambda x: tg.zeros(2, 3, 4).T, ValueError, "use .mT"),
    (lambda x: tg.functional.mse_loss(x, tg.zeros(2)), ValueError,
     r"\(2, 3\) and the target \(2,\)"),
    (lambda x: tg.functional.embedding(tg.Tensor([0.0]), x), TypeError, "needs integers"),
    (lambda x: tg.functional.softmax(x, 1, 2), TypeError, "softmax"),
    (lambda x: x.__iadd__(1), TypeError, "not changed in place.*x.data"),
    (lambda x: tg.functional.linear(x, bias=tg.zeros(2)), TypeError, "without weight"),
    (lambda x: tg.Tensor([1.0], dtype="complex64"), TypeError, "complex64"),
    (lambda x: tg.grad(x.sum(), [1.0]), TypeError, "a sequence of Tensors"),
    (lambda x: x.unsqueeze(5), IndexError, "no axis 5 among 3"),
    (lambda x: x.flatten(1, 0), ValueError, "goes backwards"),
    (lambda x: tg.pad(x, (1,)), ValueError, "pair"),
    (lambda x: tg.functional.cross_entropy(x, tg.Tensor([0, 1, 2])), ValueError,
     r"labels of shape \(2,\)"),
    (lambda x: tg.functional.gaussian_nll_loss(x, x, tg.ones(3)), ValueError,
     "a variance for each number or each row"),
    (lambda x: tg.manual_seed(-1), ValueError, "at least 0, not -1"),
    (lambda x: backend.precision("float16").__enter__(), ValueError,
     "'float32' or 'float64'"),
    (lambda x: tg.nn.Sequential([tg.nn.ReLU()]), TypeError, "one by one"),
])
def test_rule6_errors_say_what_happened_and_the_fix(act, error, words):
    with pytest.raises(error, match=words):
        act(leaf(np.ones((2, 3))))


def test_rule6_an_index_out_of_range_is_found_on_every_backend(library):
    """CuPy wraps such an index around and returns another row."""
    table = leaf(np.ones((4, 2)))
    lookups = (lambda i: tg.functional.embedding(i, table),
               lambda i: tg.functional.one_hot(i, 4),
               lambda i: table[i],
               lambda i: table[:, None][i],
               lambda i: table[..., i[:1] - 2])
    for look_up in lookups:
        look_up(tg.Tensor([0, 3]))
        with pytest.raises(IndexError, match="outside|out of bounds"):
            look_up(tg.Tensor([0, 4])[1:])
            tg.zeros(1).item()  # on a GPU the verdict is read at the next transfer to the host
        backend._bad_index.clear()


def test_rule6_a_verdict_on_the_device_reaches_the_host(count):
    """Checking an index on a GPU at once would make the host wait at every lookup."""
    index = tg.Tensor([0, 9])
    backend.check_index(index.data, 4, "a table of 4 rows")
    assert count.syncs == 0
    with pytest.raises(IndexError, match=r"a table of 4 rows has an index outside 0..3"):
        index.numpy()
    index.numpy()


def test_rule6_backends_do_not_mix():
    here = leaf([1.0, 2.0])
    tg.backend.use("strict")
    with pytest.raises(TypeError, match="numpy while the backend is 'strict'"):
        here + 1
    with pytest.raises(TypeError, match="wrap it in tg.Tensor"):
        leaf([1.0, 2.0]) + np.ones(2)
    with pytest.raises(tg.TinygenError, match="no backend 'torch'; choose one of numpy, cupy"):
        tg.backend.use("torch")
    assert tg.backend.name() == "strict"


def test_rule6_an_index_from_the_host_moves_to_the_device(library):
    """A list or a NumPy array may select rows, on every backend."""
    x = leaf([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    indices = [[2, 0], np.array([2, 0]), np.array([True, False, True]),
               (np.array([2, 0]), 1), (slice(None), np.array([1, 0]))]
    for index in indices:
        expected = x.numpy()[index]
        y = x[index]
        np.testing.assert_array_equal(y.numpy(), expected)
        y.sum().backward()


def test_rule6_cupy_without_a_gpu_says_why():
    try:
        import cupy
        if cupy.is_available():
            pytest.skip("there is a GPU")
    except ImportError:
        pass
    with pytest.raises(tg.TinygenError, match="cupy.*pip install"):
        tg.backend.use("cupy")


# Rule 7: the NaN detective ------------------------------------------------------------------------

def test_rule7_debug_names_the_first_bad_operation_and_the_line():
    """PyTorch names the last bad operation, in backward; the first, in forward, needs the fix."""
    x = leaf([1.0, 0.0])
    words = r"log made the first Inf.*test_engine.py:\d+: y = tg.log\(x\)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tg.debug(), pytest.raises(FloatingPointError, match=words):
            y = tg.log(x)
        tg.log(x)


# Rule 8: seeded everywhere ------------------------------------------------------------------------

def test_rule8_the_same_numbers_again(library):
    tg.manual_seed(3)
    first = tg.randn(4).numpy()
    state = backend.rng_state()
    normals = tg.randn(4).numpy()
    order = tg.randperm(4).numpy()
    backend.set_rng_state(state)
    np.testing.assert_array_equal(normals, tg.randn(4).numpy())
    np.testing.assert_array_equal(order, tg.randperm(4).numpy())
    tg.manual_seed(3)
    np.testing.assert_array_equal(first, tg.randn(4).numpy())


def test_rule8_host_numbers_are_the_same_on_every_backend():
    draws = []
    for name in ("numpy", "strict"):
        backend.use(name)
        tg.manual_seed(5, host=True)
        draws.append([tg.randn(3).numpy(), tg.rand(2).numpy(), tg.randint(0, 9, (3,)).numpy()])
    for a, b in zip(*draws):
        np.testing.assert_array_equal(a, b)


def test_rule3_a_tensor_owns_its_data(library):
    """Two Parameters made from one array must not change together."""
    array = np.ones(3, dtype="float32")
    a = tg.Tensor(array)
    b = tg.nn.Parameter(array)
    array[:] = 5
    assert a.numpy().tolist() == b.numpy().tolist() == [1, 1, 1]


# The rest of the contract -------------------------------------------------------------------------

def test_astype_gives_what_was_asked_for(library):
    """float32 stays float32 in every operation but this one."""
    x = leaf([1.0, 2.0])
    wide = x.astype("float64")
    assert x.dtype == np.float32
    assert wide.dtype == np.float64
    assert (wide * 2).dtype == np.float64
    wide.sum().backward()
    assert x.grad.dtype == np.float32


def test_grad_leaves_recording_as_it_is():
    """A gradient that needs no recording must not switch it off."""
    recorded = []

    def vjp(g, y, a):
        recorded.append((leaf([1.0]) * 2).requires_grad)
        return g
    op = unlisted(lambda a: a * 1.0, vjp)
    x = leaf([1.0])
    tg.grad(op(x).sum(), x)
    assert recorded == [True]


def test_no_grad_refuses_a_function_whose_body_runs_later():
    def generator():
        yield

    async def coroutine():
        pass

    async def both():
        yield

    for function in (generator, coroutine, both):
        words = f"{function.__name__} is a generator or async.*write the `with` inside"
        with pytest.raises(TypeError, match=words):
            tg.no_grad()(function)


def test_requires_grad_is_no_dtype():
    calls = (lambda: tg.Tensor([1.0], "float64"), lambda: tg.zeros_like(tg.ones(2), "float64"))
    for make in calls:
        with pytest.raises(TypeError, match="requires_grad is True or False, not 'float64'"):
            make()


def test_results_are_visited_youngest_first():
    """Passing b's gradient on before all of c's has arrived would lose a part of it."""
    a = leaf(1.0)
    b = a + a
    c = b * b + a
    c.backward()
    assert got(a) == 9


def test_a_gradient_is_that_of_the_values_used_going_forward(library):
    """Old activations and new weights together would give the gradient of nothing."""
    w = tg.nn.Parameter([2.0])
    loss = (w * w * w).sum()
    loss.backward()
    assert got(w) == [12]
    tg.optim.SGD([w], lr=0.1).step()
    assert w.item() == pytest.approx(0.8)
    w.grad = None
    loss.backward()
    assert got(w) == [12]


def test_also_of_constants_and_of_results_that_were_assigned_to(library):
    x = leaf([3.0])
    w = tg.Tensor([2.0])
    h = tg.exp(x * w)
    y = (h * h).sum()
    w.data = w.data * 50
    h.data = h.data * 0
    y.backward()
    assert got(x) == pytest.approx([4 * np.exp(12)], rel=1e-5)  # d/dx e^(2 w x) at w = 2, x = 3


def test_second_derivatives_are_those_of_the_values_used_going_forward(library):
    """d^2/dp^2 p^3 = 6 p, at the p of the forward pass, whatever p is now."""
    p = leaf([3.0])
    q = leaf([5.0])
    y = p * p
    loss = (y * p * q).sum()
    p.data = p.data * 10
    y.data = y.data * 10
    gp, gq = tg.grad(loss, [p, q], create_graph=True)
    assert (gp.item(), gq.item()) == (135, 27)
    hpp, hpq = tg.grad(gp.sum(), [p, q])
    assert (hpp.item(), hpq.item()) == (90, 27)


def test_an_assignment_off_the_path_changes_nothing():
    x = leaf([3.0])
    w = leaf([2.0])
    y = (x * x + w * w).sum()
    w.data = w.data * 50
    assert tg.grad(y, x)[0].item() == 6
    g, = tg.grad(y, x, create_graph=True)
    assert tg.grad(g.sum(), x)[0].item() == 2


@pytest.mark.parametrize("vjp", [
    lambda g, y, a: g[0], lambda g, y, a: None, lambda g, y, a: 1 / 0])
def test_a_refused_backward_has_written_to_no_leaf(vjp):
    """Else some of the gradients would count twice in the next try."""
    op = unlisted(lambda a: a * 1.0, vjp)
    w = leaf([2.0, 1.0])
    v = leaf([3.0, 1.0])
    v.grad = np.ones(2, "float32")
    loss = (op(w) * v).sum()
    with pytest.raises((RuntimeError, ZeroDivisionError)):
        loss.backward()
    assert w.grad is None
    assert v.grad.tolist() == [1, 1]


def test_copies_and_pickles_compute_and_train_like_the_original(library):
    x = backend.asarray(np.ones((3, 2)), dtype="float32")
    model = tg.nn.Sequential(tg.nn.Linear(2, 3), tg.nn.BatchNorm1d(3), tg.nn.Linear(3, 1))
    optimizer = tg.optim.Adam(model.parameters(), lr=0.1)

    def step(model, optimizer):
        loss = (model(tg.Tensor(x) * tg.Tensor([1.0, 2.0]))**2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()
    step(model, optimizer)
    copies = [copy.deepcopy((model, optimizer))]
    if library != "strict":
        copies.append(pickle.loads(pickle.dumps((model, optimizer))))
    losses = [step(model, optimizer) for _ in range(3)]
    for twin in copies:
        assert [step(*twin) for _ in range(3)] == losses
    words = "Only leaf Tensors can be copied or pickled.*result of mul"
    with pytest.raises(TypeError, match=words):
        copy.deepcopy(leaf(1.0) * 2)


def test_a_leaf_from_another_process_is_as_young_as_it_is():
    """With its number in the other process it would come after results that are made from it."""
    code = ("import pickle, sys, tinygen as tg; [tg.zeros(1) for _ in range(1000)]; "
            "sys.stdout.buffer.write(pickle.dumps(tg.nn.Parameter([3.0])))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    p = pickle.loads(done.stdout)
    (p * p).sum().backward()
    assert got(p) == [6]
    assert isinstance(p, tg.nn.Parameter)


def test_formatting_a_loss():
    assert f"{leaf(1.23456) * 1:.2f}" == "1.23"


def test_modes_belong_to_the_thread_that_set_them():
    """Else two threads that enter and leave in turns would leave the wrong mode behind."""
    x = leaf(1.0)
    seen = []
    turn = [threading.Event() for _ in range(4)]

    def other():
        turn[0].wait()
        seen.append((x * 2).requires_grad)
        with tg.no_grad(), backend.precision("float64"):
            turn[1].set()
            turn[2].wait()
            seen.append((x * 2).requires_grad)
            seen.append(tg.Tensor(1.0).dtype == np.float64)
        turn[3].set()
    thread = threading.Thread(target=other)
    thread.start()
    with tg.no_grad():
        turn[0].set()
        turn[1].wait()
    assert (x * 2).requires_grad
    assert tg.Tensor(1.0).dtype == np.float32
    turn[2].set()
    turn[3].wait()
    thread.join()
    assert seen == [True, False, True]
    assert (x * 2).requires_grad


def test_workers_compute_in_the_modes_of_their_caller():
    x = leaf(1.0)
    with tg.no_grad(), backend.precision("float64"):
        made = cores.on_cores(lambda i: (x * i, tg.Tensor(1.0)), range(4), cores=2)
    assert not any(y.requires_grad for y, _ in made)
    assert all(t.dtype == np.float64 for _, t in made)
    recorded = cores.on_cores(lambda i: x * i, range(4), cores=2)
    assert all(y.requires_grad for y in recorded)


def test_a_mode_may_be_entered_again_inside_itself_and_survives_errors():
    x = leaf(1.0)
    off = tg.no_grad()
    with off:
        with off:
            pass
        assert not (x * 2).requires_grad
        with pytest.raises(ZeroDivisionError), off:
            1 / 0
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_no_grad_records_nothing():
    x = leaf(1.0)
    with tg.no_grad():
        assert not (x * 2).requires_grad

    @tg.no_grad()
    def twice(x):
        return x * 2
    assert not twice(x).requires_grad
    assert not twice(x).requires_grad
    assert (x * 2).requires_grad


def test_grad_touches_no_leaf_and_takes_inner_nodes(library):
    x = leaf(2.0)
    w = leaf(5.0)
    h = x * x
    y = h * h * w
    gx, gh = tg.grad(y, [x, h])
    assert (gx.item(), gh.item()) == (160, 40)
    assert x.grad is None
    assert w.grad is None
    assert tg.grad(y, [leaf(1.0), w], allow_unused=True)[0] is None


def test_second_derivatives_through_grad(library):
    x = leaf([1.0, 2.0])
    g, = tg.grad((x**3).sum(), x, create_graph=True)
    (g * g).sum().backward()
    assert got(x) == [36.0, 288.0]  # d/dx 9 x^4


def test_a_missing_vjp_is_an_error_at_forward_time():
    @primitive(samples=lambda r: [(r(2),)])
    def no_row(x):
        return x
    try:
        no_row(tg.Tensor([1.0]))
        with pytest.raises(NotImplementedError, match="no_row has no vjp"):
            no_row(leaf([1.0]))
    finally:
        del PRIMITIVES["no_row"]


def test_a_wrong_shape_from_a_vjp_is_an_error():
    @primitive(lambda g, y, x: g[0])
    def bad_row(x):
        return x * 1
    try:
        with pytest.raises(RuntimeError, match=r"vjp of bad_row.*\(\).*\(2,\)"):
            bad_row(leaf([1.0, 2.0])).sum().backward()
    finally:
        del PRIMITIVES["bad_row"]


def test_inputs_by_keyword_are_differentiated():
    x = leaf(np.ones((2, 3)))
    w = leaf(np.ones((4, 3)))
    tg.functional.linear(x, bias=leaf(np.ones(4)), weight=w).sum().backward()
    assert got(w) == [[2.0] * 3] * 4
    assert tg.functional.leaky_relu(leaf([-1.0]), 0.2).item() == pytest.approx(-0.2)


def test_raw_arrays_in_raw_arrays_out(library):
    raw = backend.asarray([1.0, 4.0])
    assert isinstance(tg.sqrt(raw), backend.xp.ndarray)


def test_importing_tinygen_imports_no_plotting_and_no_gpu():
    code = ("import sys, tinygen; "
            "print(sorted({'matplotlib', 'cupy', 'pytest', 'torch'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
