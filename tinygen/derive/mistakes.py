"""Floor 7: the usual mistakes in a derivative, and how to recognize each.

When gradcheck finds a gradient wrong it has two arrays, the analytic gradient A and the numerical
one N. Most mistakes leave a trace in how the two differ: A = -N is a sign, A = N / 32 with a batch
of 32 a mean instead of a sum, and where A - N is constant along a row, a term that sums over the
row is missing. Each function below looks for one such trace and returns one sentence of advice, or
None. They are called in this order, from simple to subtle.
"""
import itertools
import math

import numpy as np

from .. import backend

TOLERANCE = 1e-6  # relative: what differs by more is wrong, what differs by less is equal
MISTAKES = {}     # name -> test(case) -> a sentence or None


def mistake(test):
    MISTAKES[test.__name__] = test
    return test


class Case:
    """A gradient that is wrong, as the tests see it.

    A, N      the analytic and the numerical gradient, at the entries looked at;   E = A - N
    x, y, u   the input, the output of f, and its random cotangent, which a vjp calls g: whole
    smooth    False at kinks
    wrong     True where A is wrong
    others    the other inputs with a wrong gradient
    """

    def __init__(self, check, n, axes, N, smooth):
        self.check = check
        self.n = n
        self.axes = axes
        self.N = N
        self.smooth = smooth
        self.whole = check.gradients[n]
        self.inputs = [(m, x.numpy()) for m, x in enumerate(check.wrt)]
        self.x = self.inputs[n][1]
        ys = check.values()
        self.y = ys[0] if len(ys) == 1 else np.array(np.nan)
        self.u = check.us[0] if len(ys) == 1 else np.array(np.nan)
        self.A = self.take(self.whole)
        self.E = self.A - N
        size = abs(self.E)
        scale = np.maximum(abs(N), abs(self.whole).max(initial=0.0))
        self.error = np.where(smooth, np.where(np.isfinite(size), size, np.inf), -1.0)
        self.wrong = smooth & ~(size <= TOLERANCE * scale + check.noise)
        tiny = TOLERANCE * scale.max() + check.noise
        self.close = min(tiny, 0.01 * self.error.max())  # far below the mistake itself

    def __str__(self):
        i = np.unravel_index(self.error.argmax(), self.N.shape)
        entry = tuple(int(axis[k]) for axis, k in zip(self.axes, i))
        a, b = self.A[i], self.N[i]
        ratio = f"ratio {a / b:.6g}" if b else "the numerical one is 0"
        return (f"worst is input {self.n}, entry {entry}: analytic {a:.9g}, numerical {b:.9g}, "
                f"{ratio}")

    def take(self, a):
        """The entries looked at, of an array of x's shape."""
        return np.asarray(a[np.ix_(*self.axes)] if self.axes else a)

    def same(self, a, b):
        """Whether a and b agree wherever f is smooth."""
        gap = np.broadcast_to(abs(np.subtract(a, b)), self.N.shape)
        return bool((gap[self.smooth] <= self.close).all())

    def analytic(self, us=None, x=None):
        """The analytic gradient for other cotangents, or at another x."""
        leaf = self.check.wrt[self.n]
        before = leaf.data
        try:
            if x is not None:
                leaf.data = backend.asarray(x)
            return self.take(self.check.analytic(us or self.check.us)[self.n])
        finally:
            leaf.data = before

    def constant_along(self, E, w=1.0):
        """The axes along which E is w times a constant."""
        E, w = [np.where(self.smooth, a, 0) for a in (E, w)]
        found = []
        for axis, size in enumerate(E.shape):
            if size > 1:
                fit = (E * w).sum(axis, keepdims=True) / (w * w).sum(axis, keepdims=True)
                if self.same(E, w * fit):
                    found.append(axis)
        return tuple(found)

    @property
    def keeps_shape(self):
        return self.y.shape == self.x.shape != ()

    @np.errstate(all="ignore")
    def diagnosis(self, cases, second=False):
        """(name of the mistake, sentence), or (None, None). Second derivatives tell less."""
        self.others = [c for c in cases if c is not self]
        for name in ("not_finite", "frozen") if second else [m for m in MISTAKES if m != "frozen"]:
            sentence = MISTAKES[name](self)
            if sentence:
                return name, sentence
        return None, None


def over(axes):
    return f"axis {axes[0]}" if len(axes) == 1 else "axes " + " and ".join(map(str, axes))


def _repeated(small, large):
    """The axes of shape `large` that `small` lacks, if it broadcasts there."""
    small = (1,) * (len(large) - len(small)) + small
    if len(small) == len(large) and all(n in (1, m) for n, m in zip(small, large)):
        return [i for i, (n, m) in enumerate(zip(small, large)) if n != m]


def shapes(got, wanted):
    """The advice for a gradient of shape `got` for an input of shape `wanted` (equal: unknown)."""
    if got == wanted:
        return "The shapes inside a vjp do not fit together: write the shape under every factor."
    if len(got) == 2 and got == wanted[::-1]:
        return "It comes out transposed."
    if sorted(got) == sorted(wanted):
        return ("Its axes are in another order: put them back with the inverse permutation, "
                "np.argsort(axes).")
    if _repeated(wanted, got):
        return (f"The input was repeated along {over(_repeated(wanted, got))}, so its gradient is "
                "the sum over that.")
    if _repeated(got, wanted):
        return (f"Too much was summed, over {over(_repeated(got, wanted))} of the input, or a "
                "keepdims=True is missing.")
    return ("Write the shape under every factor and see where the gradient departs from the "
            "input's shape.")


# One number or none -------------------------------------------------------------------------------

@mistake
def not_finite(c):
    if not np.isfinite(c.N[c.smooth]).all():
        return "f itself is not finite next to this entry: check it further inside its domain."
    if not np.isfinite(c.A).all():
        return ("Somewhere 0 * inf or 0 / 0: where() also differentiates the branch that is not "
                "taken. Make its input safe first, as in "
                "where(a > 0, log(where(a > 0, a, 1)), 0).")


@mistake
def detached(c):
    if not c.A.any():
        return ("No gradient arrives, it is 0 everywhere: the path is cut by .detach(), .data, "
                ".numpy() or no_grad(), or the vjp returns 0.")


@mistake
def upstream(c):
    if c.same(c.A, c.analytic([u + 1 + u * u for u in c.check.us])):
        return ("It stays the same whatever the upstream gradient g is: multiply by g (the chain "
                "rule).")


@mistake
def not_linear(c):
    if not c.same(2 * c.A, c.analytic([2 * u for u in c.check.us])):
        return ("Twice the upstream gradient g does not give twice the result: every term must "
                "have the factor g just once.")


@mistake
def sign(c):
    if c.same(c.A, -c.N):
        return ("It is exactly the negative of the right one: a minus sign is missing, or one too "
                "many.")


@mistake
def factor(c):
    k = float((c.A * c.N)[c.smooth].sum() / (c.N * c.N)[c.smooth].sum())
    if c.same(c.A, k * c.N):
        small = abs(k) < 1
        ratio = max(abs(k), 1 / abs(k))
        name = next((name for n, name in _usual_factors(c, small) if abs(ratio / n - 1) < 1e-6),
                    None)
        if name or c.smooth.sum() > 1:
            times = ("-" if k < 0 else "") + ("1/" if small else "") + f"{ratio:.6g}"
            meaning = f"; {ratio:.6g} is {name}." if name else "."
            return f"Every entry is {times} times the right one{meaning}"


def _usual_factors(c, small):
    """(number, what it is and what to do), for numbers that are easily forgotten."""
    lengths = [(math.prod(shape[i] for i in axes), f"the length of {over(axes)} of the {of}")
               for of, shape in (("input", c.x.shape), ("output", c.y.shape))
               for r in range(1, len(shape) + 1)
               for axes in itertools.combinations(range(len(shape)), r)]
    do = ": multiply by it" if small else ": divide by it"
    why = ", a mean stands for a sum" if small else ", a sum stands for a mean"
    yield from ((n, name + do + why) for n, name in lengths if n > 1)
    yield 2, ("the 2 of a square, or one of two equal paths" if small
              else "a 1/2 that is missing, as in exp(logvar / 2)")
    yield from ((n**0.5, f"the square root of {name}{do}") for n, name in lengths if n > 1)


# The right numbers in the wrong place -------------------------------------------------------------

@mistake
def exchanged(c):
    for o in c.others:
        if o.whole.shape == c.whole.shape == c.N.shape == o.N.shape and c.same(c.A, o.N):
            return f"It is the gradient of input {o.n}: the vjps stand in the wrong order."


@mistake
def another_axis(c):
    fits = [k for k in range(c.x.ndim) if c.x.shape[:k] + c.x.shape[k + 1:] == c.u.shape]
    spread = {k: c.take(np.broadcast_to(np.expand_dims(c.u, k), c.x.shape)) for k in fits}
    for a, b in itertools.permutations(fits, 2):
        for r in (1, 1 / c.x.shape[b]):
            if c.same(c.A, r * spread[a]) and c.same(c.N, r * spread[b]):
                return (f"g is repeated along axis {a} instead of axis {b}: first give g the lost "
                        "axis back (keepdims=True).")


@mistake
def not_inverted(c):
    for axes in itertools.permutations(range(c.x.ndim)):
        back = tuple(int(i) for i in np.argsort(axes))
        if axes == back or c.u.shape != c.x.transpose(axes).shape:
            continue
        again, right = [c.u.transpose(order) for order in (axes, back)]
        if again.shape == c.x.shape and c.same(c.A, c.take(again)) and c.same(c.N, c.take(right)):
            return (f"The axes are permuted by {axes} again instead of back, by {back}: use "
                    "np.argsort(axes).")


@mistake
def transposed(c):
    for axes in itertools.permutations(range(c.x.ndim)):
        turned = c.whole.transpose(axes)
        if axes != tuple(range(c.x.ndim)) and turned.shape == c.x.shape:
            if c.same(c.take(turned), c.N):
                return ("It is the transpose of the right one." if c.x.ndim == 2
                        else f"Its axes must be permuted by {axes}.")


@mistake
def flipped(c):
    for r in range(1, c.x.ndim + 1):
        for axes in itertools.combinations(range(c.x.ndim), r):
            if c.same(c.take(np.flip(c.whole, axes)), c.N):
                return f"It is reversed along {over(axes)}: its entries come in the opposite order."


@mistake
def overwritten(c):
    i = np.unravel_index(c.error.argmax(), c.N.shape)
    copies = c.u[c.y == c.take(c.x)[i]]
    if copies.size > 1 and abs(copies.sum() - c.N[i]) <= c.close:
        if (abs(copies - c.A[i]) <= c.close).any():
            return (f"The worst entry is used {copies.size} times but receives one gradient: uses "
                    "add up, so write add_at (np.add.at); an assignment keeps only the last.")


@mistake
def region(c):
    x, right = c.take(c.x), c.smooth & ~c.wrong
    if min(c.wrong.sum(), right.sum()) < 2:
        return None
    for name, inside in (("x < 0", x < 0), ("x > 0", x > 0)):
        if inside[c.wrong].all() and not inside[right].any():
            return f"It is wrong exactly where {name}: look at that branch."
    for axis, places in enumerate(map(np.unique, np.nonzero(c.wrong))):
        if len(places) <= c.N.shape[axis] // 2 and not right.take(places, axis).any():
            where = ", ".join(str(c.axes[axis][i]) for i in places)
            return f"It is wrong exactly at index {where} of axis {axis}: look at the edges."


# The wrong formula --------------------------------------------------------------------------------

@mistake
def slices(c):
    axes = c.constant_along(c.A, c.N)
    if axes:
        return (f"Along {over(axes)} it is right up to a factor, another one for each slice: a "
                "norm, a standard deviation or a sum over it is missing.")


@mistake
def square(c):
    if c.keeps_shape and c.N.size > 1:
        u = c.take(c.u)
        if c.same(c.A * c.A, c.N * u):
            return "The factor of g is the square root of the right one: a square is missing."
        if c.same(c.N * c.N, c.A * u):
            return "The factor of g is the square of the right one: a square is too many."


@mistake
def wrong_factor(c):
    if c.keeps_shape and c.N.size > 1:
        plain = {"x": c.x, "y": c.y} | {f"input {n}": x for n, x in c.inputs
                                        if n != c.n and x.shape == c.x.shape}
        more = {"x^2": c.x**2, "y^2": c.y**2, "1 - y": 1 - c.y, "1 + y": 1 + c.y,
                "1 - y^2": 1 - c.y**2}
        for name, w in (plain | more).items():
            if c.same(c.A, c.N * c.take(w)):
                return f"It has a factor {name} too many."
            if c.same(c.A * c.take(w), c.N):
                return f"A factor {name} is missing."
        for (a, v), (b, w) in itertools.permutations(plain.items(), 2):
            if c.same(c.A * c.take(w), c.N * c.take(v)):
                return f"It has a factor {a} where {b} should stand."


@mistake
def x_for_y(c):
    if c.keeps_shape and c.same(c.analytic(x=c.y), c.N):
        return ("The formula would be right with the output y instead of the input x: vjps are "
                "called as vjp(g, y, x).")


@mistake
def missing_sum(c):
    axes = c.constant_along(c.E)
    if axes:
        return (f"The error is the same all along {over(axes)}: the term "
                f"{_term(c, axes, 1.0, '')} is missing (or too many).")


@mistake
def missing_product(c):
    if not c.keeps_shape:
        return None
    for name, w in (("y", c.y), ("x", c.x), ("e^y", np.exp(c.y))):
        axes = c.constant_along(c.E, c.take(w))
        if axes:
            return (f"The error is {name} times a constant along {over(axes)}: the term "
                    f"{_term(c, axes, w, name + ' ')} is missing (or too many).")


def _term(c, axes, w, name):
    """The missing term -E as a formula: w times a sum or mean over axes of g, g y or g x, if so."""
    n = math.prod(c.x.shape[i] for i in axes)
    for inner, s in (("g", c.u), ("g y", c.u * c.y), ("g x", c.u * c.x)) if c.keeps_shape else ():
        whole = c.take(np.broadcast_to(w * s.sum(axes, keepdims=True), c.x.shape))
        for size, kind in ((1, "sum"), (n, "mean")):
            for symbol, k in (("+", size), ("-", -size)):
                if c.same(-c.E * k, whole):
                    return f"{symbol} {name}{kind}({inner}) over {over(axes)}"
    inner = f"g {name.strip()}" if name in ("y ", "x ") else "g"
    return f"that sums or averages over it, such as {name}sum({inner}),"


@mistake
def two_terms(c):
    if not c.keeps_shape or not c.smooth.all():
        return None
    for axis, size in enumerate(c.N.shape):
        E, y = [a - a.mean(axis, keepdims=True) for a in (c.E, c.take(c.y))]
        if size > 3 and axis in c.constant_along(E, y):
            return (f"The error is a + b y with a and b constant along axis {axis}: two terms are "
                    "missing, like the mean(g) and the y mean(g y) of a normalization.")


@mistake
def passed_on(c):
    if c.keeps_shape and c.same(c.A, c.take(c.u)):
        return "It is g itself: the derivative of f is missing."


@mistake
def frozen(c):
    """For second derivatives only."""
    return ("The gradient itself is right, so a vjp uses something not recorded in the graph "
            "(.detach(), .data, a number kept from the forward computation), or an operation in a "
            "vjp has a wrong vjp.")
