"""Floor 5: is this gradient right? Compare it with central differences, in float64, and name the mistake.

The check draws a random cotangent u and looks at phi(x) = <u, f(x)>, one number, so that no error can hide behind a
symmetry (the gradient of a sum of softmaxes is 0 whatever the code says). First it compares the slope of phi along
random directions, through all inputs and through each, which costs a few evaluations an input, whatever its size; only
when that fails does it look at single entries (a wrong one is found by halving) and ask the table in mistakes.py which of
the usual mistakes it is. What changes phi by less than a millionth of the rest is not seen: no large constants in f.
"""
import inspect
import itertools
import math
import re
import warnings

import numpy as np

from . import backend, mistakes
from .tensor import Tensor, grad

EPS = 1e-5        # central differences in float64 are best here: error ~ eps^2 + 1e-16 / eps
TOLERANCE = mistakes.TOLERANCE  # relative; a right vjp is at 1e-9, a wrong one at 1
KINK = 1e-2       # relative difference of the slopes to the left and to the right from which on x counts as a kink


class GradcheckError(AssertionError):
    """The gradient is wrong; the text says where and by how much, and .mistake names the mistake (see mistakes.py)."""

    def __init__(self, text, mistake=None, sentence=None):
        super().__init__(f"{text}\n{sentence}" if sentence else text)
        self.mistake = mistake


def gradcheck(f, *inputs, order=1, seed=0, directions=3, entries=200):
    """Return True if the gradients of f at inputs agree with central differences, else raise GradcheckError.

    f           a function of Tensors that returns a Tensor, or several; it must give the same result when called again
    inputs      arrays or Tensors. Floating ones are checked, as float64; a float64 Tensor with requires_grad=True is
                perturbed where it stands, so that f may also reach it from elsewhere (model.parameters())
    order       2 also checks the gradient of the gradient
    seed        of the cotangents and directions
    directions  random directions to try;   entries: how many single entries to look at, at most, to explain a failure
    """
    if order not in (1, 2) or directions < 1:
        raise ValueError(f"gradcheck knows order 1 and 2 and wants at least one direction, not order={order}, directions={directions}.")
    rng = np.random.default_rng([seed, 271828])  # not default_rng(seed): inputs drawn from that would be their own cotangent
    with backend.precision("float64"):
        xs = [_as_leaf(x, inputs[:i]) for i, x in enumerate(inputs)]
        wrt = [x for x in xs if x.requires_grad]
        if not wrt:
            raise TypeError("gradcheck found no floating input to differentiate by: pass at least one floating array.")
        us = [rng.standard_normal(y.shape) for y in _outputs(f(*xs))]
        first = _Check(lambda: f(*xs), wrt, us, rng, entries, "the gradient")
        first.run(directions)
        _refuse_unused(_outputs(f(*xs)), wrt)
        if order == 2:
            us = [Tensor(u, requires_grad=True) for u in us]
            gradients = lambda: _gradients(_outputs(f(*xs)), us, wrt, create_graph=True)
            for n, (raw, recorded) in enumerate(zip(first.analytic, gradients())):
                if not np.allclose(raw, recorded.numpy(), rtol=TOLERANCE, atol=TOLERANCE * np.abs(raw).max(initial=0)):
                    raise GradcheckError(f"With create_graph=True the gradient of input {n} is another than without: a vjp computes "
                                         "something else when it is given Tensors.")
            vs = [rng.standard_normal(x.shape) for x in wrt]
            _Check(gradients, wrt + us, vs, rng, entries, "the gradient of the gradient").run(directions)
    return True


def samples(op, r):
    """[(inputs, attributes)] to check a primitive with, r(*shape) being random numbers; empty if it has none."""
    if op.samples:
        return [(s[:-1], s[-1]) if isinstance(s[-1], dict) else (s, {}) for s in op.samples(r)]
    if not op.elementwise:
        return []
    arity = len([p for p in inspect.signature(op.forward).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD])
    shapes = {1: [[(3, 4)], [()], [(2, 0)], [(1, 1)]],  # equal shapes, broadcasting both ways, 0-d, size 0 and 1
              2: [[(3, 4), (3, 4)], [(2, 1, 4), (3, 1)], [(), (2,)], [(3,), (2, 3)], [(4, 0), (1,)]]}
    return [([r(*s) for s in row], {}) for row in shapes.get(arity, [[(3, 4)] * arity])]


def as_function(op, inputs, attributes):
    """A sample of a primitive as gradcheck wants it: a function of its floating arrays only, and these."""
    free = [n for n, x in enumerate(inputs) if getattr(x, "dtype", None) == np.float64]

    def f(*xs):
        full = [Tensor(x) if hasattr(x, "dtype") else x for x in inputs]
        for n, x in zip(free, xs):
            full[n] = x
        return op(*full, **attributes)
    return f, [np.asarray(inputs[n]) for n in free]


# The comparison -------------------------------------------------------------------------------------------------------

def _as_leaf(x, before):
    """x as a float64 leaf: itself if it is one (and not given twice), else a copy."""
    if isinstance(x, Tensor) and (x.dtype == np.float64 and x.requires_grad or x.dtype.kind != "f"):
        if not any(x is other for other in before):
            return x
    data = backend.xp.array(x.data if isinstance(x, Tensor) else x)
    floating = data.dtype.kind == "f"
    return Tensor(data.astype("float64") if floating else data, requires_grad=floating)


def _outputs(y):
    return [x if isinstance(x, Tensor) else Tensor(x) for x in (y if isinstance(y, (list, tuple)) else [y])]


def _refuse_unused(ys, wrt):
    """Where f looks at none of its inputs, nothing was checked. (One of several may well have no influence.)"""
    total = sum(y.sum() for y in ys)
    if all(g is None for g in grad(total, wrt, allow_unused=True)):
        raise GradcheckError("f depends on none of its inputs, so nothing was checked: use the arguments of f, or pass float64 "
                             "parameters (build the model under tg.backend.precision('float64')), which are not copied.")


def _gradients(ys, us, wrt, create_graph=False):
    """d<us, ys>/d(wrt) as Tensors; zeros where ys do not depend on one."""
    rows = [grad(y, wrt, grad_output=u, create_graph=create_graph, allow_unused=True) for y, u in zip(ys, us)]
    columns = [[g for g in column if g is not None] for column in zip(*rows)]
    return [sum(gs[1:], start=gs[0]) if gs else 0.0 * x for gs, x in zip(columns, wrt)]


class _Check:
    """The gradient of phi = <us, f()> by wrt against differences of phi, wrt being changed in place."""

    def __init__(self, f, wrt, us, rng, entries, what):
        self.f, self.wrt, self.us, self.rng, self.entries, self.what = f, wrt, us, rng, entries, what
        self.analytic = self.claimed(us)
        self.value = self.phi()
        if np.isnan(self.value):
            raise GradcheckError("f gives NaN at these inputs, so there is nothing to compare: move them, tg.debug() finds the cause.")
        if self.phi() != self.value:
            raise GradcheckError("f gives two results for the same inputs, so differences mean nothing: "
                                 "draw random numbers outside f, or call tg.manual_seed inside it.")
        self.noise = 5e-14 * abs(self.value) / EPS

    def phi(self):
        with np.errstate(all="ignore"):
            return sum(float(y.reshape(-1) @ np.reshape(u, -1)) for y, u in zip(self.values(), self.us))

    def values(self):
        """The outputs of f as NumPy arrays."""
        return [backend.to_numpy(y.data) for y in _outputs(self.f())]

    def claimed(self, us):
        """What the vjps say the gradient of <us, f()> is, for each of wrt."""
        ys = _outputs(self.f())
        try:
            return [backend.to_numpy(g).astype("float64") for g in _gradients(ys, [Tensor(u) for u in us], self.wrt)]
        except (RuntimeError, ValueError, IndexError) as error:
            shapes = re.search(r"shape (\(.*?\)) for an input of shape (\(.*?\)):", str(error))
            if isinstance(error, RuntimeError) and not shapes:
                raise
            got, wanted = [tuple(map(int, re.findall(r"\d+", s))) for s in shapes.groups()] if shapes else ((), ())
            text = f"{self.what} stops with an error: {error}"
            raise GradcheckError(text, "shapes", mistakes.shapes(got, wanted)) from error

    def slopes(self, vs, eps=EPS):
        """The slope of phi along vs, extrapolated from central differences at eps and eps/2; and how much of a kink there
        is. The slopes to the right and to the left differ by eps phi'' where phi is smooth, which halves with eps; at a kink
        they differ by as much at any eps. None stands for a direction of zeros."""
        moved = [(x, x.data.copy(), backend.asarray(v)) for x, v in zip(self.wrt, vs) if v is not None]

        def at(h):
            for x, start, v in moved:
                x.data[...] = start + h * v
            return self.phi()

        try:
            right, left, near_right, near_left = at(eps), at(-eps), at(eps / 2), at(-eps / 2)
        finally:
            for x, start, _ in moved:
                x.data[...] = start
        coarse, fine = (right - left) / (2 * eps), (near_right - near_left) / eps
        bend, near_bend = (right - 2 * self.value + left) / eps, (near_right - 2 * self.value + near_left) / (eps / 2)
        return (4 * fine - coarse) / 3, abs(bend - 2 * near_bend)

    def differs(self, vs):
        """Whether the slope along vs is another than the gradient claims."""
        slope, _ = self.slopes(vs)
        terms = [g * v for g, v in zip(self.analytic, vs) if v is not None]
        size, claim = max(sum(float(np.abs(t).sum()) for t in terms), abs(slope)), sum(float(t.sum()) for t in terms)
        if abs(slope - claim) <= TOLERANCE * size + self.noise:
            return False
        finer, _ = self.slopes(vs, EPS / 10)  # where f bends within EPS, as 1/x near 0, this comes ten thousand times as close
        return not abs(finer - claim) <= 0.01 * abs(slope - claim) + self.noise

    def along(self, n, part=slice(None)):
        """A random direction within part of the flattened input n."""
        v = np.zeros(self.wrt[n].size)
        v[part] = self.rng.standard_normal(v[part].shape)
        return [None] * n + [v.reshape(self.wrt[n].shape)] + [None] * (len(self.wrt) - n - 1)

    def entry(self, n, index):
        """The numerical derivative by one entry of input n, and whether it sits at a kink."""
        v = np.zeros(self.wrt[n].shape)
        v[index] = 1.0
        numeric, asymmetry = self.slopes([None] * n + [v] + [None] * (len(self.wrt) - n - 1))
        scale = max(abs(numeric), np.abs(self.analytic[n]).max())
        return numeric, asymmetry > KINK * scale + 0.1 * self.noise and np.isfinite(self.analytic[n][index])

    def find(self, n):
        """The index of an entry of input n whose derivative is wrong, by halving; at worst of one at a kink."""
        left = np.arange(self.wrt[n].size)
        for _ in range(20):
            part = left
            while len(part) > 1:
                half = part[:len(part) // 2]
                part = half if self.differs(self.along(n, half)) else part[len(half):]
            index, left = np.unravel_index(part[0], self.wrt[n].shape), left[left != part[0]]
            if not self.entry(n, index)[1] or not self.differs(self.along(n, left)):
                break
        return index

    def look(self, n):
        """Differentiate by each entry of input n, or by those of a small block that holds a wrong one."""
        x, lengths = self.wrt[n], list(self.wrt[n].shape)
        found = self.find(n) if x.size > self.entries else [0] * x.ndim
        while math.prod(lengths) > self.entries:
            lengths[np.argmax(lengths)] = max(lengths) // 2
        axes = [np.arange(size) if k == size else np.union1d(self.rng.choice(size, k - 1, replace=False), i)
                for size, k, i in zip(x.shape, lengths, found)]
        index = list(itertools.product(*axes))
        numeric, kinks = zip(*[self.entry(n, i) for i in index])
        shape = [len(axis) for axis in axes]
        return mistakes.Case(self, n, axes, np.reshape(numeric, shape), ~np.reshape(kinks, shape))

    def run(self, directions):
        draw = lambda: [self.rng.standard_normal(x.shape) for x in self.wrt]
        suspects = [n for n, x in enumerate(self.wrt) if x.size and self.differs(self.along(n))]
        if not suspects and not any(self.differs(draw()) for _ in range(directions)):
            return
        cases = [self.look(n) for n in suspects or range(len(self.wrt)) if self.wrt[n].size]
        looked, wrong, kinks = (sum(int(np.sum(count(c))) for c in cases) for count in
                                (lambda c: c.N.size, lambda c: c.wrong, lambda c: ~c.smooth))
        if wrong:
            worst = max(cases, key=lambda c: c.error.max())
            i = np.unravel_index(worst.error.argmax(), worst.N.shape)
            a, b, entry = worst.A[i], worst.N[i], tuple(int(axis[k]) for axis, k in zip(worst.axes, i))
            ratio = f"ratio {a / b:.6g}" if b else "the numerical one is 0"
            text = (f"{self.what} is wrong in {wrong} of {looked} entries looked at; worst is input {worst.n}, entry "
                    f"{entry}: analytic {a:.9g}, numerical {b:.9g}, {ratio}.")
            raise GradcheckError(text, *worst.diagnosis(cases, second=self.what != "the gradient"))
        if not kinks:
            raise GradcheckError(f"{self.what} is wrong along random directions, though the {looked} single entries looked "
                                 "at are right: raise entries=... to find the wrong one.")
        warnings.warn(f"gradcheck: {kinks} of {looked} entries sit at a kink (relu, abs or max at a tie), where central "
                      "differences say nothing; the others looked at are right.", stacklevel=3)
