"""Floor 5: is this gradient right? Compare it with central differences, in float64.

The check draws a random cotangent u and looks at phi(x) = <u, f(x)>, one number, so that no error can hide behind a
symmetry (the gradient of a sum of softmaxes is 0 whatever the code says). First it compares the slope of phi along
random directions, which costs a few evaluations whatever the size; only when that fails does it look at single
entries, to say which is worst.
"""
import warnings

import numpy as np

from . import backend
from .tensor import Tensor, grad

EPS = 1e-5        # central differences in float64 are best here: error ~ eps^2 + 1e-16 / eps
TOLERANCE = 1e-6  # relative; a right vjp is at 1e-9, a wrong one at 1
KINK = 1e-2       # relative difference of the slopes to the left and to the right from which on x counts as a kink


class GradcheckError(AssertionError):
    """The gradient is wrong; the text says where, by how much, and how to see it again."""


def gradcheck(f, *inputs, order=1, seed=0, directions=3, entries=200):
    """Return True if the gradients of f at inputs agree with central differences, else raise GradcheckError.

    f           a function of Tensors that returns a Tensor, or several; it must give the same result when called again
    inputs      arrays or Tensors. Floating ones are checked, as float64; a float64 Tensor with requires_grad=True is
                perturbed where it stands, so that f may also reach it from elsewhere (model.parameters())
    order       2 also checks the gradient of the gradient
    seed        of the cotangents and directions
    directions  random directions to try;   entries: how many single entries to look at, at most, to explain a failure
    """
    rng = np.random.default_rng(seed)
    with backend.precision("float64"):
        xs = [_as_leaf(x) for x in inputs]
        wrt = [x for x in xs if x.requires_grad]
        if not wrt:
            raise TypeError("gradcheck found no floating input to differentiate by: pass at least one floating array.")
        us = [rng.standard_normal(y.shape) for y in _outputs(f(*xs))]
        _check(lambda: f(*xs), wrt, us, rng, directions, entries, "the gradient")
        if order == 2:
            us = [Tensor(u, requires_grad=True) for u in us]
            vs = [rng.standard_normal(x.shape) for x in wrt]
            _check(lambda: _gradients(_outputs(f(*xs)), us, wrt, create_graph=True), wrt + us, vs, rng, directions, entries,
                   "the gradient of the gradient")
    return True


def _as_leaf(x):
    if isinstance(x, Tensor) and (x.dtype == np.float64 and x.requires_grad or x.dtype.kind != "f"):
        return x
    data = backend.xp.array(x.data if isinstance(x, Tensor) else x)
    floating = data.dtype.kind == "f"
    return Tensor(data.astype("float64") if floating else data, requires_grad=floating)


def _outputs(y):
    return list(y) if isinstance(y, (list, tuple)) else [y]


def _gradients(ys, us, wrt, create_graph=False):
    """d<us, ys>/d(wrt) as Tensors; zeros where ys do not depend on one."""
    total = sum((u * y).sum() for u, y in zip(us, ys))
    if not total.requires_grad:
        return [Tensor(np.zeros(x.shape)) for x in wrt]
    gs = grad(total, wrt, create_graph=create_graph, allow_unused=True)
    return [0.0 * x if g is None else g for g, x in zip(gs, wrt)]


def _check(f, wrt, us, rng, directions, entries, what):
    """Compare the gradient of phi = <us, f()> by wrt with differences of phi, wrt being changed in place."""
    us = [Tensor(u) for u in us]
    analytic = [backend.to_numpy(g).astype("float64") for g in _gradients(_outputs(f()), us, wrt)]

    def phi():
        with np.errstate(all="ignore"):
            return sum(float(backend.to_numpy(y.data).reshape(-1) @ backend.to_numpy(u.data).reshape(-1))
                       for u, y in zip(us, _outputs(f())))

    value = phi()
    if phi() != value:
        raise GradcheckError("f gives two results for the same inputs, so differences mean nothing: "
                             "draw random numbers outside f, or call tg.manual_seed inside it.")
    for _ in range(directions):
        vs = [rng.standard_normal(x.shape) for x in wrt]
        slope, _ = _slopes(phi, value, wrt, vs)
        claimed = sum(float((g * v).sum()) for g, v in zip(analytic, vs))
        size = sum(float(np.abs(g * v).sum()) for g, v in zip(analytic, vs))
        noise = 1e-15 * abs(value) / EPS
        if not abs(slope - claimed) <= TOLERANCE * max(size, abs(slope)) + 50 * noise:
            _explain(phi, value, wrt, analytic, rng, entries, what, noise)
            break


def _slopes(phi, value, wrt, vs):
    """The slope of phi along vs, extrapolated from central differences at eps and eps/2; and how much the slopes to the
    right and to the left differ: by about eps where phi is smooth."""
    start = [x.data.copy() for x in wrt]

    def at(h):
        for x, x0, v in zip(wrt, start, vs):
            x.data[...] = x0 + h * backend.asarray(v)
        return phi()

    try:
        right, left, near_right, near_left = at(EPS), at(-EPS), at(EPS / 2), at(-EPS / 2)
    finally:
        for x, x0 in zip(wrt, start):
            x.data[...] = x0
    coarse, fine = (right - left) / (2 * EPS), (near_right - near_left) / EPS
    return (4 * fine - coarse) / 3, abs(right - 2 * value + left) / EPS


def _explain(phi, value, wrt, analytic, rng, entries, what, noise):
    """Compare entry by entry and raise with the worst one, unless all the difference sits at kinks."""
    worst, kinks, wrong, looked = None, 0, 0, 0
    for n, (x, g) in enumerate(zip(wrt, analytic)):
        if g.shape != x.shape:
            raise GradcheckError(f"{what} by input {n} has shape {g.shape}, the input {x.shape}: they must be equal.")
        chosen = np.arange(x.size) if x.size <= entries else np.sort(rng.choice(x.size, entries, replace=False))
        scale = np.abs(g).max(initial=0.0)
        for flat in chosen:
            index = np.unravel_index(flat, x.shape)
            vs = [np.zeros(y.shape) for y in wrt]
            vs[n][index] = 1.0
            numeric, asymmetry = _slopes(phi, value, wrt, vs)
            looked += 1
            if asymmetry > KINK * max(abs(numeric), scale) + 4 * noise:
                kinks += 1
                continue
            error = abs(numeric - g[index])
            if not error <= TOLERANCE * max(abs(numeric), scale) + 50 * noise:
                wrong += 1
                if worst is None or not error <= worst[0]:
                    worst = error, n, tuple(int(i) for i in index), float(g[index]), numeric
    if worst is None and kinks:
        warnings.warn(f"gradcheck: {kinks} of {looked} entries sit at a kink (relu, abs or max at a tie), where central "
                      "differences say nothing; all others are right.", stacklevel=4)
        return
    if worst is None:
        raise GradcheckError(f"{what} is wrong along random directions, though the {looked} single entries looked at are right: "
                             "raise entries=... to find the wrong one.")
    _, n, index, a, b = worst
    ratio = f"ratio {a / b:.6g}" if b else "the numerical one is 0"
    raise GradcheckError(f"{what} is wrong in {wrong} of {looked} entries looked at; worst is input {n}, entry {index}: "
                         f"analytic {a:.9g}, numerical {b:.9g}, {ratio}.")
