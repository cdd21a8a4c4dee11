"""Grade an answer: call it safely, compare its numbers, choose the hint.

This file contains no formula. The chapter files (_checks_backprop.py, ...) hold one class for each
exercise:

    class e04_softmax_vjp(Exercise):
        against = "numerical derivative of ..."     what the numbers are compared with, in words
        def returns(z, g): return {"dz": z.shape}   names and shapes of the outputs, in order
        def draw(rng): yield z, g                   inputs: random ones, then fixed hard cases
        def check(f, z, g): yield "dz", f(z, g), expected   (expected is computed in another way)
        slips = {"hint": lambda z, g: ...}          common wrong answers, each with its own hint

These classes are records: they are never instantiated, and their functions have no self.
"""
import ast
import functools
import inspect
import textwrap
import traceback
import warnings

import numpy as np

EXERCISES = {}  # name -> class, in teaching order: the order of the chapter files
ROUNDS = 3      # how often inputs are drawn in one run


class Exercise:
    """One derivation; see the top of this file."""
    # Relative to the largest entry: right answers err by 1e-14, finite differences by 1e-10
    tolerance = 1e-11

    def __init_subclass__(cls):
        EXERCISES[cls.__name__] = cls
        cls.number, cls.function = cls.__name__[1:].split("_", 1)
        cls.chapter = cls.__module__.removeprefix("_checks_")
        cls.arguments = list(inspect.signature(cls.returns).parameters)
        cls.signature = f"{cls.function}({', '.join(cls.arguments)})"


class Mistake(Exception):
    """What is wrong with an answer: lines to print, and a hint.

    hint      the hint to print, whatever the numbers are
    fallback  the hint to print where `hint` is None and the answer equals none of the slips
    output    the index of the wrong output, if it is known
    """

    def __init__(self, *lines, hint=None, fallback=None, output=None):
        super().__init__(*lines)
        self.lines = lines
        self.hint = hint
        self.fallback = fallback
        self.output = output


@np.errstate(all="ignore")  # an overflow is judged by the number that it leads to
def grade(exercise, function, seed):
    """None when the answer is right, else the message for the student.

    NotImplementedError passes through.
    """
    answer = Answer(exercise, function)
    rng = np.random.default_rng([*str(seed).encode(), int(exercise.number)])  # a word is a seed too
    try:
        for _ in range(ROUNDS):
            for case in exercise.draw(rng):
                for name, yours, expected, *against in exercise.check(answer, *case):
                    compare(answer, name, yours, expected, *against)
    except NotImplementedError:
        raise
    except Mistake as mistake:
        slip = mistake.hint or slip_hint(exercise, function, mistake.output)
        return report(exercise, seed, *mistake.lines, hint=slip or mistake.fallback)
    except Exception as error:  # the check itself cannot handle such numbers: no traceback
        what = f"the check cannot work with your numbers ({type(error).__name__}: {error})"
        hint = slip_hint(exercise, function, None) or BY_HAND
        return report(exercise, seed, what, f"inputs: {answer.described()}", hint=hint)


def report(exercise, seed, *lines, hint):
    """The whole message. Its first line is the one that pytest repeats in its short summary."""
    title = f"{exercise.__name__}.{exercise.function}  (EXERCISE_SEED={seed} reproduces this)"
    hint = textwrap.fill(f"hint: {hint}", 100, initial_indent="  ", subsequent_indent="        ",
                         break_on_hyphens=False)
    return "\n".join([title, *(f"  {line}" for line in lines), hint])


# Reading an answer --------------------------------------------------------------------------------

def load(path):
    """The function in an answer file such as e04_softmax_vjp.py, if the file imports only numpy."""
    tree = _parse(path)
    modules = {module for node in ast.walk(tree) for module in _imported(node)}
    foreign = sorted(modules - {"numpy"})
    if foreign:
        raise Mistake(f"{path.name} imports {', '.join(foreign)}",
                      hint="An answer may import only numpy: the derivation is yours to write.")
    namespace = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(tree, str(path), "exec"), namespace)
    except Exception as error:
        hint = "This happened before your function was called: fix this line first."
        raise Mistake(*_raised(f"{path.name} raised", error, str(path)), hint=hint) from None
    name = path.stem.split("_", 1)[1]
    if not callable(namespace.get(name)):
        raise Mistake(f"{path.name} has no function {name}",
                      hint=f"Keep the name from the stub: def {name}(...):")
    return namespace[name]


def _parse(path):
    try:
        return ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        lines = [f"Python cannot read {path.name}, line {error.lineno}: {error.msg}"]
        source = (error.text or "").strip()
        if source:
            lines.append(f"  {source}")
        raise Mistake(*lines, hint="Fix this line first: nothing was run.") from None
    except ValueError as error:
        raise Mistake(f"Python cannot read {path.name}: {error}",
                      hint="Save the file as plain text.") from None


def _imported(node):
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return ["a neighboring file"] if node.level else [node.module.split(".")[0]]
    return []


def _raised(what, error, filename):
    """The text of an exception, and the last line of the student's file that it came through."""
    lines = [f"{what} {type(error).__name__}: {' '.join(str(error).split())}"]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == filename]
    if own:
        lines.append(f"  in line {own[-1].lineno}: {own[-1].line}")
    return lines


# Calling an answer --------------------------------------------------------------------------------

class Answer:
    """A student's function behind a guard.

    Its results have the right number of outputs and the right shapes, and they are finite float64.
    Everything else raises a Mistake that explains it in a sentence.
    """

    def __init__(self, exercise, function):
        self.exercise = exercise
        self.function = function
        self.inputs = ()

    def __call__(self, *args):
        self.inputs = args
        given = _copies(args)
        self.require_signature()
        try:
            result = _call(self.function, given)
        except NotImplementedError:
            raise
        except Exception as error:
            code = getattr(self.function, "__code__", None)
            lines = _raised("your function raised", error, code and code.co_filename)
            fallback = SHAPES if isinstance(error, (ValueError, IndexError)) else FIX
            raise Mistake(*lines, f"inputs: {self.described()}", fallback=fallback) from None
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
        return ", ".join(map(_described, self.exercise.arguments, self.inputs))

    def require_signature(self):
        try:
            inspect.signature(self.function).bind(*self.inputs)
        except TypeError:
            hint = "Keep the def line of the stub: same arguments, same order."
            raise Mistake(f"your function cannot be called as {self.exercise.signature}",
                          hint=hint) from None
        except ValueError:  # a built-in function, whose signature Python cannot read
            pass

    def require_untouched(self, given):
        for name, before, after in zip(self.exercise.arguments, self.inputs, given):
            if isinstance(before, np.ndarray) and not np.array_equal(before, after):
                raise Mistake(f"your function changed its input {name}",
                              hint=f"Lines like {name}[...] = ... and {name} += ... overwrite the "
                                   f"caller's array. Start from {name}.copy(), or write "
                                   f"{name} = {name} + ...")

    def require_shape(self, index, name, output, shape):
        if output.shape == shape:
            return
        if output.ndim == 2 and output.T.shape == shape:
            hint = f"{name} comes out transposed."
        elif output.ndim > len(shape):
            hint = f"{name} has too many axes: sum over the extra ones."
        elif output.ndim < len(shape):
            hint = (f"An axis of {name} is lost: you summed over too many axes, or a sum lacks "
                    "keepdims=True.")
        else:
            hint = (f"Write the shape under every factor of {name} and find the first one that "
                    f"cannot lead to {shape}.")
        expected = shape or "(), a single number"
        raise Mistake(f"{name} has shape {output.shape}, expected {expected}",
                      f"inputs: {self.described()}", output=index, fallback=hint)

    def require_numbers(self, index, name, output):
        if output.dtype.kind == "f" and output.dtype.itemsize < 8:
            raise Mistake(f"{name} is {output.dtype}",
                          hint="These checks need the 16 digits of float64: remove the cast.")
        finite = np.isfinite(output)
        if not finite.all():
            where = tuple(map(int, np.argwhere(~finite)[0]))
            raise Mistake(f"{_entry(name, where)} is {output[where]}, expected a finite number",
                          f"inputs: {self.described()}", output=index, fallback=NOT_FINITE)


def _described(name, value):
    if callable(value):
        return name
    return f"{name} {value.shape}" if np.ndim(value) else f"{name} = {value:.6g}"


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
        raise Mistake(f"number of outputs: yours {len(outputs)}, expected {len(names)}",
                      hint=advice)
    try:
        arrays = [np.asarray(output) for output in outputs]
    except ValueError:  # a ragged list
        arrays = [np.asarray(None)] * len(names)
    for name, array in zip(names, arrays):
        if array.dtype.kind not in "fiub":
            raise Mistake(f"{name} is not an array of real numbers",
                          hint=f"Return {name} as one NumPy array of floats.")
    return arrays


# Comparing numbers --------------------------------------------------------------------------------

def compare(answer, name, yours, expected, against=None):
    """Raise a Mistake unless both are equal up to rounding.

    The error is measured against the largest expected entry.
    """
    yours = np.asarray(yours, float)
    expected = np.asarray(expected, float)
    scale = np.abs(expected).max(initial=0) + 0.01
    error = np.nan_to_num(np.abs(yours - expected), nan=np.inf) / scale
    if error.max() <= answer.exercise.tolerance:
        return
    where = tuple(map(int, np.unravel_index(error.argmax(), error.shape)))
    digits = "+.6g" if error.max() > 1e-4 else "+.15g"
    names = list(answer.exercise.returns(*answer.inputs))
    concerned = [i for i, output in enumerate(names) if name.endswith(output) or len(names) == 1]
    raise Mistake(f"checked against: {against or answer.exercise.against}",
                  f"inputs: {answer.described()}",
                  f"worst entry {_entry(name, where)}: "
                  f"yours {yours[where]:{digits}}   expected {expected[where]:{digits}}",
                  output=concerned[0] if concerned else None,
                  hint=NEARLY if error.max() < 1e-7 else None,
                  fallback=number_hint(yours, expected, scale))


def _entry(name, where):
    return f"{name}[{', '.join(map(str, where))}]" if where else name


# Hints --------------------------------------------------------------------------------------------

FIX = "Fix this line, then run again."
BY_HAND = "Take the smallest nontrivial case (one row, two columns), do it by hand and compare."
SHAPES = ("Write the shape under every factor of that line: the inner sizes of @ must agree, and "
          "the axes of * and + must be equal or 1.")
NOT_FINITE = ("Look for exp of a large number, log of 0 or a division by 0, and rewrite the "
              "expression so that it cannot happen.")
NEARLY = ("Nearly right. An error of this size comes from rounding, a finite difference, or a "
          "small constant that is missing or superfluous: write the exact expression.")


def slip_hint(exercise, function, output):
    """The hint of the slip that gives the same numbers as the answer, or None.

    Where the wrong output is known, only that one must agree: the others may be right, or wrong in
    another way.
    """
    cases, slips = probes(exercise)
    yours = [outcome(function, case) for case in cases]
    most = 0
    hint = None
    for text, theirs in slips.items():
        agree = agreement(yours, theirs)
        decisive = agree if output is None else agree[output:output + 1]
        if decisive and all(decisive) and sum(agree) > most:
            most = sum(agree)
            hint = text
    return hint


@functools.cache
def probes(exercise):
    """Inputs on which answers are compared with slips, always the same, and the slips' outcomes."""
    rng = np.random.default_rng(0)
    cases = [case for _ in range(ROUNDS) for case in exercise.draw(rng)]
    slips = {}
    for hint, slip in exercise.slips.items():
        slips[hint] = [outcome(slip, case) for case in cases]
    return cases, slips


def outcome(function, case):
    """The outputs as arrays, or the kind of exception, because slips may raise as answers do."""
    try:
        result = _call(function, _copies(case))
        outputs = result if isinstance(result, (tuple, list)) else [result]
        return [np.asarray(output, float) for output in outputs]
    except Exception as error:
        return type(error)


def agreement(yours, theirs, rtol=1e-8):
    """For each output: do two functions agree on all cases? Empty if they cannot be compared."""
    pairs = []
    for a, b in zip(yours, theirs):
        failed = isinstance(a, type) or isinstance(b, type)
        if failed and a is b:  # both raised the same kind of exception
            continue
        if failed or len(a) != len(b):
            return []
        pairs.append((a, b))
    count = min((len(a) for a, _ in pairs), default=0)
    return [all(_close(a[i], b[i], rtol) for a, b in pairs) for i in range(count)]


def _close(a, b, rtol):
    return a.shape == b.shape and np.allclose(a, b, rtol, 1e-10, equal_nan=True)


def number_hint(yours, expected, scale):
    """The hint that the numbers themselves give, when the answer is none of the slips."""
    def close(a, b, tolerance=1e-6):
        return np.abs(a - b).max() <= tolerance * scale

    if not np.isfinite(yours).all():
        return NOT_FINITE
    if close(yours, expected, 1e-5):
        return NEARLY
    if not expected.any():
        return BY_HAND
    if not yours.any():
        return ("Your answer is 0 everywhere, but the right one is not: a term is missing, or "
                "something underflows.")
    if close(yours, -expected):
        return "The sign is wrong everywhere, and nothing else is."
    if yours.shape == yours.T.shape and close(yours.T, expected):
        return "That is the transpose of the right answer."
    if np.ptp(expected) > 0:
        ratio = (yours * expected).sum() / (expected ** 2).sum()
        offset = (yours - expected).mean()
        if close(yours, ratio * expected) and 1e-3 < abs(ratio) < 1e3:
            return (f"Every entry is {ratio:.6g} times the right one: a factor is missing or "
                    "superfluous. Compare it with the sizes of the inputs.")
        if close(yours, expected + offset):
            return (f"Every entry is off by the same {offset:+.6g}: a constant term is missing or "
                    "superfluous.")
    return BY_HAND
