"""The vjp row: give tinygen three new operations, and watch a network learn with your derivatives.

An operation of tinygen is a row of a table: a formula, and above it one function for each input.
That function turns the upstream gradient g = dL/dy into dL/dx. It is called as vjp(g, y, x), where
y is the output and x the input. It is written with tinygen's own operations (tg.exp, tg.sum,
tg.mean, ..., not np.exp), so that it can be differentiated again:

    @tg.primitive(lambda g, y, x: g * y, elementwise=True)
    def exp(x):
        "y = e^x;   dx = g y"
        return xp.exp(x)

The three rows below lack their derivative. Derive it on paper, write it instead of the three dots,
and type

    python demos/exercises/vjp_row.py

Each row is compared with central differences; if yours is wrong, the mistake is named. Then a small
flow-matching model is trained with the rows that are right. For comparison, it is also trained with
the negatives of your derivatives.

Paper first: 5 + 5 + 15 minutes. To check a row of your own, write it below and add it to ROWS.
"""
import sys

import numpy as np

import tinygen as tg
from tinygen import functional as F, nn
from tinygen.backend import xp  # NumPy, or CuPy
from tinygen.derive.samples import as_function, samples
from tinygen.lab import data


# Row 1, element by element. tg.abs(x) is |x|; can you write it with y alone?

@tg.primitive(lambda g, y, x: ...,
              elementwise=True)
def softsign(x):
    """y = x / (1 + |x|);   dx = ?"""
    return x / (1 + xp.abs(x))


# Row 2, along the last axis: every x_j changes the mean, and so every y_i.
# tg.mean(g, axis=-1, keepdims=True) is a mean.

@tg.primitive(lambda g, y, x: ...,
              samples=lambda r: [(r(3, 4),), (r(2, 3, 5),)])
def center(x):
    """y = x - mean(x);   dx = ?"""
    return x - x.mean(axis=-1, keepdims=True)


# Row 3, along the last axis as well, with r = sqrt(mean(x^2) + 1e-5).
# It helps to name r: see rms() below.

@tg.primitive(lambda g, y, x: ...,
              samples=lambda r: [(r(3, 4),), (r(2, 3, 5),)])
def rms_norm(x):
    """y = x / r;   dx = ?"""
    return x / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5)


def rms(x):
    return tg.sqrt(tg.mean(x * x, axis=-1, keepdims=True) + 1e-5)


ROWS = [softsign, center, rms_norm]


# What happens when you run this file --------------------------------------------------------------

def verdict(op):
    """What to print about a row: right, not started, or what is wrong with it."""
    rng = np.random.default_rng(0)
    cases = [as_function(op, *sample) for sample in samples(op, lambda *n: rng.standard_normal(n))]
    _, inputs = cases[0]
    if not started(op, inputs[0]):
        return "not started"
    try:
        for order in (1, 2):
            for f, xs in cases:
                tg.gradcheck(f, *xs, order=order)
    except tg.GradcheckError as error:
        return "wrong: " + str(error).replace("\n", "\n          ")
    except Exception as error:
        return f"your vjp raised {type(error).__name__}: {error}"
    return "right"


def started(op, x):
    try:
        return op.vjps[0](x, x, x) is not ...
    except Exception:  # something is written there, although it is wrong
        return True


def negative(op):
    """The same row with the negative of its derivative."""
    vjp = lambda g, y, x: -op.vjps[0](g, y, x)
    return tg.primitive(vjp, elementwise=op.elementwise)(op.forward)


def train(activation, normalization, steps, show):
    """Flow matching in the plane, from noise (t = 0) to two moons (t = 1).

    Yields (step, the mean loss of the last `show` steps), every `show` steps.
    """
    tg.manual_seed(0)
    x = data.toy("moons", 2000, standardize=True)               # (N, 2)
    u = nn.Sequential(nn.Linear(3, 64), activation, nn.Linear(64, 64), normalization, activation,
                      nn.Linear(64, 2))
    optimizer = tg.optim.Adam(u.parameters(), lr=3e-3)
    losses = []
    for step in range(1, steps + 1):
        x1 = x[tg.randint(0, len(x), (256,))]                   # (B, 2)
        x0 = tg.randn(256, 2)                                   # (B, 2)
        t = tg.rand(256, 1)                                     # (B, 1)
        xt = (1 - t) * x0 + t * x1                              # (B, 2)
        loss = F.mse_loss(u(tg.cat([xt, t], axis=1)), x1 - x0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % show == 0:
            yield step, sum(losses[-show:]) / show


def network(right, change):
    """An activation and a normalization from the rows that are right, each changed by `change`."""
    normalization = [change(right[name]) for name in ("center", "rms_norm") if name in right]
    activation = change(right["softsign"]) if "softsign" in right else tg.tanh
    return activation, nn.Sequential(*normalization)


def compare(right, steps):
    """Train with the rows that are right, with their negatives, and with tinygen's own SiLU."""
    show = steps // 8
    runs = [train(*network(right, lambda op: op), steps, show),
            train(*network(right, negative), steps, show),
            train(F.silu, nn.Sequential(), steps, show)]
    print(f"Flow matching with {', '.join(right)}: the mean loss of {show} steps. "
          "It cannot reach 0, because the lines cross.\n")
    print("    step   your derivative   its negative   tinygen's own SiLU")
    for (step, yours), (_, opposite), (_, silu) in zip(*runs):
        print(f"{step:8}{yours:18.4f}{opposite:15.4f}{silu:21.4f}")
    print()


def main(steps=2000):
    verdicts = {op.__name__: verdict(op) for op in ROWS}
    for name, text in verdicts.items():
        print(f"{name:10}{text}\n")
    right = {op.__name__: op for op in ROWS if verdicts[op.__name__] == "right"}
    if right:
        compare(right, steps)
    waiting = [name for name, text in verdicts.items() if text != "right"]
    next_row = f" Next: {waiting[0]}." if waiting else ""
    print(f"{len(right)} of {len(ROWS)} rows are right.{next_row}")
    return any(text not in ("right", "not started") for text in verdicts.values())


if __name__ == "__main__":
    sys.exit(main())
