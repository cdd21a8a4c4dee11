"""The machinery behind `pytest demos/exercises`: call an answer safely, compare its numbers, find the hint.

Nothing in here knows a formula. The chapter files (_checks_backprop.py, ...) hold one class per exercise:

    class e04_softmax_vjp(Exercise):
        against = "numerical derivative of ..."        in words: what the numbers are compared with
        def returns(z, g): return {"dz": z.shape}      names and shapes of the outputs, in order
        def draw(rng): yield z, g                      inputs: fresh random ones, then fixed stress rows
        def check(f, z, g): yield "dz", f(z, g), ...   (name, yours, expected); expected comes by another road
        slips = {"hint": lambda z, g: ...}             usual wrong answers, and the hint that each deserves

The classes are records: they are never instantiated, and their functions take no self.
"""
import ast
import functools
import inspect
import textwrap
import traceback
import warnings

import numpy as np

EXERCISES = {}  # name -> class; the chapter files are written in the order for teaching
ROUNDS = 3      # fresh draws in one run


class Exercise:
    """One derivation; see the top of this file."""
    tolerance = 1e-11  # of the largest entry; right answers err by 1e-14, finite differences by 1e-10

    def __init_subclass__(cls):
        EXERCISES[cls.__name__] = cls
        cls.number, cls.function = cls.__name__[1:].split("_", 1)
        cls.chapter = cls.__module__.removeprefix("_checks_")
        cls.arguments = list(inspect.signature(cls.returns).parameters)
        cls.signature = f"{cls.function}({', '.join(cls.arguments)})"


class Mistake(Exception):
    """What is wrong with an answer: lines to print and a hint. Without a hint of its own it gets that of the
    slip which the answer equals, or else the fallback. `output` is the index of the wrong one, if known."""

    def __init__(self, *lines, hint=None, fallback=None, output=None):
        super().__init__(*lines)
        self.lines, self.hint, self.fallback, self.output = lines, hint, fallback, output


@np.errstate(all="ignore")  # an overflow is judged by the number it leads to
def grade(exercise, function, seed):
    """None when the answer is right, else the message for the student. NotImplementedError passes through."""
    answer = Answer(exercise, function)
    rng = np.random.default_rng([*str(seed).encode(), int(exercise.number)])  # any word can be a seed
    try:
        for _ in range(ROUNDS):
            for case in exercise.draw(rng):
                for name, yours, expected, *against in exercise.check(answer, *case):
                    compare(answer, name, yours, expected, *against)
    except NotImplementedError:
        raise
    except Mistake as mistake:
        hint = mistake.hint or slip_hint(exercise, function, mistake.output) or mistake.fallback
        return report(exercise, seed, *mistake.lines, hint=hint)
    except Exception as error:  # numbers so odd that the check itself stumbles: a sentence, not a traceback
        what = f"the check cannot work with your numbers ({type(error).__name__}: {error})"
        hint = slip_hint(exercise, function, None) or BY_HAND
        return report(exercise, seed, what, f"inputs: {answer.described()}", hint=hint)


def report(exercise, seed, *lines, hint):
    """The whole message. Its first line is the one that pytest repeats in its short summary."""
    hint = textwrap.fill(f"hint: {hint}", 100, initial_indent="  ", subsequent_indent="        ")
    return "\n".join([f"{exercise.__name__}.{exercise.function}  (EXERCISE_SEED={seed} reproduces this)",
                      *(f"  {line}" for line in lines), hint])


# ---------------------------------------------------------------------------------------- reading an answer

def load(path):
    """The function in an answer file such as e04_softmax_vjp.py, after a look at what the file imports."""
    name = path.stem.split("_", 1)[1]
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        raise Mistake(f"Python cannot read {path.name}, line {error.lineno}: {error.msg}",
                      *(f"  {line.strip()}" for line in [error.text or ""] if line.strip()),
                      hint="Mend this line first; nothing was run.") from None
    except ValueError as error:
        raise Mistake(f"Python cannot read {path.name}: {error}", hint="Save it as plain text.") from None
    foreign = sorted({module for node in ast.walk(tree) for module in _imported(node)} - {"numpy"})
    if foreign:
        raise Mistake(f"{path.name} imports {', '.join(foreign)}",
                      hint="An answer may import numpy and nothing else: the derivation is yours to write.")
    namespace = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(tree, str(path), "exec"), namespace)
    except Exception as error:
        raise Mistake(*_raised(f"{path.name} raised", error, str(path)),
                      hint="This happened before your function was called; mend this line first.") from None
    if not callable(namespace.get(name)):
        raise Mistake(f"{path.name} has no function {name}", hint=f"Keep the stub's name: def {name}(...):")
    return namespace[name]


def _imported(node):
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return ["a neighbouring file"] if node.level else [node.module.split(".")[0]]
    return []


def _raised(what, error, filename):
    """What an exception says, and the last line of the student's own file on its way."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    return [f"{what} {type(error).__name__}: {' '.join(str(error).split())}",
            *(f"  in line {frame.lineno}: {frame.line}" for frame in own[-1:])]


# ---------------------------------------------------------------------------------------- calling an answer

class Answer:
    """A student's function behind a guard: what comes out has the right number of outputs, the right shapes,
    and is finite float64. Everything else is a Mistake that says so in a sentence."""

    def __init__(self, exercise, function):
        self.exercise, self.function, self.inputs = exercise, function, ()

    def __call__(self, *args):
        self.inputs, given = args, _copies(args)
        self.require_signature()
        try:
            result = _call(self.function, given)
        except NotImplementedError:
            raise
        except Exception as error:
            code = getattr(self.function, "__code__", None)
            raise Mistake(*_raised("your function raised", error, code and code.co_filename),
                          f"inputs: {self.described()}",
                          fallback=SHAPES if isinstance(error, (ValueError, IndexError)) else MEND) from None
        self.require_untouched(given)
        shapes = self.exercise.returns(*args)
        outputs = _outputs(result, list(shapes))
        for index, (name, shape) in enumerate(shapes.items()):
            self.require_shape(index, name, outputs[index], shape)
            self.require_numbers(index, name, outputs[index])
        outputs = tuple(np.array(output, float)[()] for output in outputs)
        return outputs if len(outputs) > 1 else outputs[0]

    def described(self):
        """The inputs of the last call in a few words: shapes of arrays, values of numbers."""
        return ", ".join(name if callable(value) else
                         f"{name} {value.shape}" if np.ndim(value) else f"{name} = {value:.6g}"
                         for name, value in zip(self.exercise.arguments, self.inputs))

    def require_signature(self):
        try:
            inspect.signature(self.function).bind(*self.inputs)
        except TypeError:
            raise Mistake(f"your function cannot be called as {self.exercise.signature}",
                          hint="Keep the def line of the stub: same arguments, same order.") from None
        except ValueError:  # a built-in, which has no signature to look at
            pass

    def require_untouched(self, given):
        for name, before, after in zip(self.exercise.arguments, self.inputs, given):
            if isinstance(before, np.ndarray) and not np.array_equal(before, after):
                raise Mistake(f"your function changed its input {name}",
                              hint=f"Lines like {name}[...] = ... and {name} += ... overwrite the caller's "
                                   f"array. Start from {name}.copy(), or write {name} = {name} + ...")

    def require_shape(self, index, name, output, shape):
        if output.shape == shape:
            return
        if output.ndim == 2 and output.T.shape == shape:
            hint = f"{name} comes out transposed."
        elif output.ndim > len(shape):
            hint = f"{name} has too many axes: sum over those that it should not have."
        elif output.ndim < len(shape):
            hint = f"An axis of {name} is lost: too much was summed, or a sum lacks keepdims=True."
        else:
            hint = f"Write the shape under every factor and see where {name} leaves the way to {shape}."
        raise Mistake(f"{name} has shape {output.shape}, expected {shape or '(), a single number'}",
                      f"inputs: {self.described()}", output=index, fallback=hint)

    def require_numbers(self, index, name, output):
        if output.dtype.kind == "f" and output.dtype.itemsize < 8:
            raise Mistake(f"{name} is {output.dtype}",
                          hint="Seven digits are too few for these checks: remove the cast, keep float64.")
        if not np.isfinite(output).all():
            where = tuple(map(int, np.argwhere(~np.isfinite(output))[0]))
            raise Mistake(f"{_entry(name, where)} is {output[where]}, expected a finite number",
                          f"inputs: {self.described()}", output=index, fallback=NOT_FINITE)


def _call(function, args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args)


def _copies(args):
    return [a.copy() if isinstance(a, np.ndarray) else a for a in args]


def _outputs(result, names):
    """What a function returned, as a list of arrays of real numbers, one for each name."""
    advice = f"End the function with: return {', '.join(names)}"
    if result is None:
        raise Mistake("your function returned None", hint=advice)
    several = len(names) > 1 and isinstance(result, (tuple, list))
    outputs = list(result) if several else [result]
    if len(outputs) != len(names):
        raise Mistake(f"number of outputs: yours {len(outputs)}, expected {len(names)}", hint=advice)
    try:
        arrays = [np.asarray(output) for output in outputs]
    except ValueError:  # a ragged list
        arrays = [np.asarray(None)] * len(names)
    for name, array in zip(names, arrays):
        if array.dtype.kind not in "fiub":
            raise Mistake(f"{name} is not an array of real numbers",
                          hint=f"Return {name} as one NumPy array of floats.")
    return arrays


# ---------------------------------------------------------------------------------------- comparing numbers

def compare(answer, name, yours, expected, against=None):
    """Equal up to rounding? The error is measured against the largest expected entry."""
    yours, expected = np.asarray(yours, float), np.asarray(expected, float)
    scale = np.abs(expected).max(initial=0) + 0.01
    error = np.nan_to_num(np.abs(yours - expected), nan=np.inf) / scale
    if error.max() <= answer.exercise.tolerance:
        return
    where = tuple(map(int, np.unravel_index(error.argmax(), error.shape)))
    digits = "+.6g" if error.max() > 1e-4 else "+.15g"
    names = list(answer.exercise.returns(*answer.inputs))
    concerned = [i for i, output in enumerate(names) if name.endswith(output) or len(names) == 1]
    raise Mistake(f"checked against: {against or answer.exercise.against}", f"inputs: {answer.described()}",
                  f"worst entry {_entry(name, where)}: "
                  f"yours {yours[where]:{digits}}   expected {expected[where]:{digits}}",
                  output=concerned[0] if concerned else None,
                  hint=NEARLY if error.max() < 1e-7 else None, fallback=number_hint(yours, expected, scale))


def _entry(name, where):
    return f"{name}[{', '.join(map(str, where))}]" if where else name


# ---------------------------------------------------------------------------------------- hints

MEND = "Mend this line, then run again."
BY_HAND = "Take the smallest case that is not trivial (one row, two columns), do it by hand and compare."
SHAPES = ("Write the shape under every factor of that line: the inner sizes of @ must agree, the axes of * "
          "and + must be equal or 1.")
NOT_FINITE = ("Look for exp of a large number, log of 0 or a division by 0, and rewrite the expression so "
              "that it cannot happen.")
NEARLY = ("Nearly right. An error of this size comes from a finite difference, from a small constant that "
          "does not belong (or one that is missing), or from rounding: write the exact expression.")


def slip_hint(exercise, function, output):
    """The hint of the slip that gives the same numbers as the answer, if there is one.

    Where the wrong output is known only that one must agree: the others may be right, or wrong otherwise."""
    cases, slips = probes(exercise)
    yours, best, hint = [outcome(function, case) for case in cases], 0, None
    for text, theirs in slips.items():
        agree = agreement(yours, theirs)
        decisive = agree if output is None else agree[output:output + 1]
        if decisive and all(decisive) and sum(agree) > best:
            best, hint = sum(agree), text
    return hint


@functools.cache
def probes(exercise):
    """Inputs on which answers are compared with slips, always the same, and what the slips make of them."""
    rng = np.random.default_rng(0)
    cases = [case for _ in range(ROUNDS) for case in exercise.draw(rng)]
    return cases, {hint: [outcome(slip, case) for case in cases] for hint, slip in exercise.slips.items()}


def outcome(function, case):
    """The outputs as arrays; or the kind of exception, for slips may raise just as answers do."""
    try:
        result = _call(function, _copies(case))
        return [np.asarray(r, float) for r in (result if isinstance(result, (tuple, list)) else [result])]
    except Exception as error:
        return type(error)


def agreement(yours, theirs, rtol=1e-8):
    """For every output: do two functions agree on all cases? Empty if they cannot be compared."""
    pairs = [(a, b) for a, b in zip(yours, theirs) if not (isinstance(a, type) and a is b)]
    if not pairs or any(isinstance(a, type) or isinstance(b, type) or len(a) != len(b) for a, b in pairs):
        return []
    return [all(a.shape == b.shape and np.allclose(a, b, rtol, 1e-10, equal_nan=True) for a, b in outputs)
            for outputs in zip(*(zip(a, b) for a, b in pairs))]


def number_hint(yours, expected, scale):
    """What the numbers themselves say, when the answer is none of the known slips."""
    def close(a, b, tolerance=1e-6):
        return np.abs(a - b).max() <= tolerance * scale

    if not np.isfinite(yours).all():
        return NOT_FINITE
    if close(yours, expected, 1e-5):
        return NEARLY
    if not expected.any():
        return BY_HAND
    if not yours.any():
        return "Your answer is 0 everywhere, the right one is not: something is left out, or it underflows."
    if close(yours, -expected):
        return "The sign is wrong everywhere, and nothing else is."
    if yours.shape == yours.T.shape and close(yours.T, expected):
        return "That is the transpose of the right answer."
    if np.ptp(expected) > 0:
        ratio, offset = (yours * expected).sum() / (expected ** 2).sum(), (yours - expected).mean()
        if close(yours, ratio * expected) and 1e-3 < abs(ratio) < 1e3:
            return (f"Every entry is {ratio:.6g} times the right one: a factor is missing or superfluous. "
                    "Compare it with the sizes of the inputs.")
        if close(yours, expected + offset):
            return f"Every entry is off by the same {offset:+.6g}: a constant term is missing or superfluous."
    return BY_HAND
