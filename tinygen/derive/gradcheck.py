"""Floor 8: is this gradient right? Compare it with central differences, and name the mistake.

Start with gradcheck_plain, which is the idea. The full check computes in float64 as well and draws
a random cotangent u. It looks at phi(x) = <u, f(x)>, one number, so that no error can hide behind a
symmetry (the gradient of a sum of softmaxes is 0 whatever the code says). First it compares the
slope of phi along random directions, through all inputs and through each. That costs a few
evaluations for each input, whatever its size. Only when it fails does the check look at single
entries (halving finds a wrong one) and ask the table in mistakes.py which of the usual mistakes it
is. What changes phi by less than a millionth of the rest is not seen: no large constants in f.
"""
import itertools
import math
import warnings

import numpy as np

from .. import backend
from ..engine import Tensor, grad
from ..refusals import GradientShapeError
from . import mistakes

EPS = 1e-5        # central differences in float64 are best here: error ~ eps^2 + 1e-16 / eps
TOLERANCE = mistakes.TOLERANCE  # relative; a right vjp is at 1e-9, a wrong one at 1
KINK = 1e-2       # from this relative difference of the slopes to the left and right, x is a kink


def gradcheck_plain(f, x, eps=1e-5):
    """Compare the gradient of f at x with a central difference along one random direction."""
    rng = np.random.default_rng(0)
    with backend.precision("float64"):
        leaf = Tensor(x, requires_grad=True)
        y = f(leaf)
        u = rng.standard_normal(y.shape)        # a cotangent: phi(x) = <u, f(x)> is one number
        v = rng.standard_normal(leaf.shape)     # a direction: its slope along v is <gradient, v>
        y.backward(u)
        right = (u * f(Tensor(leaf.numpy() + eps * v)).numpy()).sum()
        left = (u * f(Tensor(leaf.numpy() - eps * v)).numpy()).sum()
        slope = (backend.to_numpy(leaf.grad) * v).sum()
    return bool(np.isclose(slope, (right - left) / (2 * eps), rtol=1e-6))


class GradcheckError(AssertionError):
    """The gradient is wrong. The text says where and by how much, .mistake names the mistake."""

    def __init__(self, text, mistake=None, sentence=None):
        super().__init__(f"{text}\n{sentence}" if sentence else text)
        self.mistake = mistake


def gradcheck(f, *inputs, order=1, seed=0, directions=3, entries=200):
    """True if the gradients of f at inputs agree with differences, else raise GradcheckError.

    f           a function of Tensors that returns a Tensor, or several; it must give the same
                result when called again
    inputs      arrays or Tensors. Floating ones are checked, as float64. A float64 Tensor with
                requires_grad=True is perturbed itself, so that f may also reach it from elsewhere
                (model.parameters())
    order       2 also checks the gradient of the gradient
    seed        of the cotangents and directions
    directions  how many random directions to try
    entries     how many single entries to look at, at most, to explain a failure
    """
    if order not in (1, 2) or directions < 1:
        raise ValueError("gradcheck needs an order of 1 or 2 and at least one direction, not "
                         f"order={order}, directions={directions}.")
    # Not default_rng(seed): inputs drawn from that would be their own cotangent
    rng = np.random.default_rng([seed, 271828])
    with backend.precision("float64"):
        xs = [_as_leaf(x, inputs[:i]) for i, x in enumerate(inputs)]
        wrt = [x for x in xs if x.requires_grad]
        if not wrt:
            raise TypeError("gradcheck found no floating input to differentiate by: pass at least "
                            "one floating array.")
        us = [rng.standard_normal(y.shape) for y in _outputs(f(*xs))]
        first = _Check(lambda: f(*xs), wrt, us, rng, entries, "the gradient")
        first.run(directions)
        _refuse_unused(_outputs(f(*xs)), wrt)
        if order == 2:
            us = [Tensor(u, requires_grad=True) for u in us]
            recorded = lambda: _gradients(_outputs(f(*xs)), us, wrt, create_graph=True)
            _refuse_other_values(first.gradients, recorded())
            vs = [rng.standard_normal(x.shape) for x in wrt]
            second = _Check(recorded, wrt + us, vs, rng, entries, "the gradient of the gradient")
            second.run(directions)
    return True


def _as_leaf(x, before):
    """x as a float64 leaf: itself if it is one (and not given twice), else a copy."""
    if isinstance(x, Tensor) and not any(x is other for other in before):
        if x.dtype.kind != "f" or x.dtype == np.float64 and x.requires_grad:
            return x
    data = backend.xp.array(x.data if isinstance(x, Tensor) else x)
    return Tensor(data, requires_grad=data.dtype.kind == "f")


def _outputs(y):
    return [x if isinstance(x, Tensor) else Tensor(x)
            for x in (y if isinstance(y, (list, tuple)) else [y])]


def _refuse_unused(ys, wrt):
    """Where f uses none of its inputs, nothing was checked. (One of several may have no effect.)"""
    total = sum(y.sum() for y in ys)
    if all(g is None for g in grad(total, wrt, allow_unused=True)):
        raise GradcheckError(
            "f depends on none of its inputs, so nothing was checked: use the arguments of f, or "
            "pass float64 parameters (build the model under tg.backend.precision('float64')), "
            "which are not copied.")


def _refuse_other_values(raws, tensors):
    for n, (raw, recorded) in enumerate(zip(raws, tensors)):
        close = TOLERANCE * np.abs(raw).max(initial=0)
        if not np.allclose(raw, recorded.numpy(), rtol=TOLERANCE, atol=close):
            raise GradcheckError(f"With create_graph=True the gradient of input {n} differs from "
                                 "the one without: a vjp computes something else when it is given "
                                 "Tensors.")


def _gradients(ys, us, wrt, create_graph=False):
    """d<us, ys>/d(wrt) as Tensors; zeros where ys do not depend on one."""
    rows = [grad(y, wrt, grad_output=u, create_graph=create_graph, allow_unused=True)
            for y, u in zip(ys, us)]
    columns = [[g for g in column if g is not None] for column in zip(*rows)]
    return [sum(gs[1:], start=gs[0]) if gs else 0.0 * x for gs, x in zip(columns, wrt)]


# The comparison -----------------------------------------------------------------------------------

class _Check:
    """The gradient of phi = <us, f()> by wrt, against differences of phi."""

    def __init__(self, f, wrt, us, rng, entries, what):
        self.f = f
        self.wrt = wrt
        self.us = us
        self.rng = rng
        self.entries = entries
        self.what = what
        self.gradients = self.analytic(us)
        self.value = self.phi()
        if np.isnan(self.value):
            raise GradcheckError("f gives NaN at these inputs, so there is nothing to compare: "
                                 "choose others, tg.debug() finds the cause.")
        if self.phi() != self.value:
            raise GradcheckError("f gives two results for the same inputs, so differences mean "
                                 "nothing: draw random numbers outside f, or call tg.manual_seed "
                                 "inside it.")
        self.noise = 5e-14 * abs(self.value) / EPS

    def phi(self):
        with np.errstate(all="ignore"):
            return sum(float(y.reshape(-1) @ np.reshape(u, -1))
                       for y, u in zip(self.values(), self.us))

    def values(self):
        """The outputs of f as NumPy arrays."""
        return [y.numpy() for y in _outputs(self.f())]

    def analytic(self, us):
        """The gradient of <us, f()> by each of wrt, as the vjps give it."""
        ys = _outputs(self.f())
        try:
            return [g.numpy().astype("float64")
                    for g in _gradients(ys, [Tensor(u) for u in us], self.wrt)]
        except (GradientShapeError, ValueError, IndexError) as error:
            sentence = mistakes.shapes(getattr(error, "got", ()), getattr(error, "wanted", ()))
            text = f"{self.what} stops with an error: {error}"
            raise GradcheckError(text, "shapes", sentence) from error

    def slopes(self, vs, eps=EPS):
        """(slope of phi along vs, how much of a kink there is); None in vs is a direction of zeros.

        The slope is extrapolated from central differences at eps and eps/2. The slopes to the right
        and to the left differ by eps phi'' where phi is smooth, which halves with eps; at a kink
        they differ by as much at any eps.
        """
        moved = [(x, x.data, backend.asarray(v)) for x, v in zip(self.wrt, vs) if v is not None]

        def at(h):
            for x, start, v in moved:
                x.data = start + h * v
            return self.phi()

        try:
            right, left, near_right, near_left = map(at, (eps, -eps, eps / 2, -eps / 2))
        finally:
            for x, start, _ in moved:
                x.data = start
        coarse = (right - left) / (2 * eps)
        fine = (near_right - near_left) / eps
        bend = (right - 2 * self.value + left) / eps
        near_bend = (near_right - 2 * self.value + near_left) / (eps / 2)
        return (4 * fine - coarse) / 3, abs(bend - 2 * near_bend)

    def differs(self, vs):
        """Whether the slope along vs is another than the gradient says."""
        slope, _ = self.slopes(vs)
        terms = [g * v for g, v in zip(self.gradients, vs) if v is not None]
        analytic = sum(float(t.sum()) for t in terms)
        size = max(sum(float(np.abs(t).sum()) for t in terms), abs(slope))
        if abs(slope - analytic) <= TOLERANCE * size + self.noise:
            return False
        # Where f bends within EPS, as 1/x near 0, a tenth of EPS comes ten thousand times as close
        finer, _ = self.slopes(vs, EPS / 10)
        return not abs(finer - analytic) <= 0.01 * abs(slope - analytic) + self.noise

    def along(self, n, part=slice(None)):
        """A random direction within part of the flattened input n."""
        v = np.zeros(self.wrt[n].size)
        v[part] = self.rng.standard_normal(v[part].shape)
        return self.only(n, v.reshape(self.wrt[n].shape))

    def only(self, n, v):
        """The direction v of input n, and zeros for the others."""
        return [v if m == n else None for m in range(len(self.wrt))]

    def entry(self, n, index):
        """The numerical derivative by one entry of input n, and whether it sits at a kink."""
        v = np.zeros(self.wrt[n].shape)
        v[index] = 1.0
        numeric, kink = self.slopes(self.only(n, v))
        scale = max(abs(numeric), np.abs(self.gradients[n]).max())
        finite = np.isfinite(self.gradients[n][index])
        return numeric, kink > KINK * scale + 0.1 * self.noise and finite

    def find(self, n):
        """The index of an entry of input n whose derivative is wrong; at worst of one at a kink."""
        left = np.arange(self.wrt[n].size)
        for _ in range(20):
            part = left
            while len(part) > 1:
                half = part[:len(part) // 2]
                part = half if self.differs(self.along(n, half)) else part[len(half):]
            index = np.unravel_index(part[0], self.wrt[n].shape)
            left = left[left != part[0]]
            if not self.entry(n, index)[1] or not self.differs(self.along(n, left)):
                break
        return index

    def look(self, n):
        """Differentiate by each entry of input n, or by those of a block that holds a wrong one."""
        x = self.wrt[n]
        lengths = list(x.shape)
        found = self.find(n) if x.size > self.entries else [0] * x.ndim
        while math.prod(lengths) > self.entries:
            lengths[np.argmax(lengths)] = max(lengths) // 2
        axes = [np.arange(size) if k == size
                else np.union1d(self.rng.choice(size, k - 1, replace=False), i)
                for size, k, i in zip(x.shape, lengths, found)]
        numeric, kinks = zip(*[self.entry(n, i) for i in itertools.product(*axes)])
        shape = [len(axis) for axis in axes]
        return mistakes.Case(self, n, axes, np.reshape(numeric, shape), ~np.reshape(kinks, shape))

    def run(self, directions):
        """Return if the gradient is right, or where a kink explains the difference; else raise."""
        suspects = [n for n, x in enumerate(self.wrt) if x.size and self.differs(self.along(n))]
        if not suspects and not any(
                self.differs([self.rng.standard_normal(x.shape) for x in self.wrt])
                for _ in range(directions)):
            return
        cases = [self.look(n) for n in suspects or range(len(self.wrt)) if self.wrt[n].size]
        looked = sum(c.N.size for c in cases)
        wrong = sum(int(c.wrong.sum()) for c in cases)
        kinks = sum(int((~c.smooth).sum()) for c in cases)
        if wrong:
            worst = max(cases, key=lambda c: c.error.max())
            text = f"{self.what} is wrong in {wrong} of {looked} entries looked at; {worst}."
            second = self.what != "the gradient"
            raise GradcheckError(text, *worst.diagnosis(cases, second))
        if not kinks:
            raise GradcheckError(f"{self.what} is wrong along random directions, though the "
                                 f"{looked} single entries looked at are right: raise entries=... "
                                 "to find the wrong one.")
        warnings.warn(f"gradcheck: {kinks} of {looked} entries sit at a kink (relu, abs or max at "
                      "a tie), where central differences say nothing; the others looked at are "
                      "right.", stacklevel=3)
