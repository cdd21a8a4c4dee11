"""Floor 4: optimisers, sorted by increasing complexity.

Each optimiser lays its parameters end to end in one flat array, of which every parameter's data becomes a view. An
update is then one formula over long arrays: worked through in pieces that stay in the cache on a processor, as one
kernel on a GPU.
"""
import copy
import math

import numpy as np

from . import backend
from .backend import TinygenError, xp
from .tensor import Tensor

OPERANDS = 8  # arrays that an update has in hand at once, its temporaries included: they should stay in the cache together


def _several(params):
    """Parameters to iterate over: one alone would give its rows, and a model is for the error that follows."""
    return [params] if isinstance(params, Tensor) or not hasattr(params, "__iter__") else params


class Optimizer:
    """Common to all: the parameters as one flat array, and which parts of it have a gradient.

    params   an iterable of Tensors with requires_grad=True, such as model.parameters(). Their data move: an array taken before
             (p.data, state_dict()) is not theirs any more
    lr       the learning rate; may be assigned to at any time
    """
    memory = ()  # names of the flat arrays an optimiser keeps besides the parameters

    def __init__(self, params, lr):
        self.params = list({id(p): p for p in _several(params)}.values())
        if not all(isinstance(p, Tensor) and p._op is None for p in self.params) or not any(p.requires_grad for p in self.params):
            raise TinygenError("An optimiser needs parameters, leaf Tensors of which at least one has requires_grad=True: "
                               "pass model.parameters().")
        if len({p.dtype for p in self.params}) > 1:
            raise TinygenError("An optimiser wants all its parameters in one dtype: make one optimiser for each.")
        if not lr >= 0:
            raise TinygenError(f"The learning rate must be 0 or more, not {lr}.")
        self.lr = lr
        self.ends = np.cumsum([0] + [p.size for p in self.params]).tolist()
        self.steps = [0] * len(self.params)  # how often each parameter was updated
        self._flatten()
        for name in self.memory:
            setattr(self, name, xp.zeros_like(self.flat))

    def _flatten(self):
        """Lay the parameters' data end to end, each keeping a view of its part."""
        self.flat = xp.concatenate([p.data.ravel() for p in self.params])
        self.views = [self.flat[start:end].reshape(p.shape) for p, start, end in zip(self.params, self.ends, self.ends[1:])]
        for p, view in zip(self.params, self.views):
            p.data = view

    def zero_grad(self):
        """Forget the gradients: the next backward() starts from none."""
        for p in self.params:
            p.grad = None

    def step(self):
        """Update every parameter that has a gradient; one without is left alone."""
        if any(p.data is not view for p, view in zip(self.params, self.views)):  # another optimiser, or the user, moved the data
            self._flatten()
        for p in self.params:
            if p.grad is not None and p.grad.shape != p.shape:
                raise TinygenError(f"A parameter of shape {p.shape} has a gradient of shape {p.grad.shape}: they must be equal.")
        for i, j in self._runs():
            self.steps[i:j] = [self.steps[i] + 1] * (j - i)
            g = xp.concatenate([p.grad.ravel() for p in self.params[i:j]])
            arrays = [self.flat] + [getattr(self, name) for name in self.memory]
            w, *memory = [a[self.ends[i]:self.ends[j]] for a in arrays]
            for piece in backend.pieces(len(g), size=OPERANDS):
                self.update(w[piece], g[piece], *[m[piece] for m in memory], t=self.steps[i])
            for p in self.params[i:j]:
                p.changed()

    def _runs(self):
        """Yield [i, j): neighbours that have gradients and were updated equally often. Normally all parameters are one run."""
        i = 0
        while i < len(self.params):
            j = i
            while j < len(self.params) and self.params[j].grad is not None and self.steps[j] == self.steps[i]:
                j += 1
            if j > i:
                yield i, j
            i = max(j, i + 1)

    def update(self, w, g, *memory, t):
        """Change the parameters w in place, given their gradient g (a copy, which may be overwritten), for the t-th time."""
        raise NotImplementedError

    def state_dict(self):
        """All that is needed to go on: the learning rate, the counts, and the flat arrays."""
        return {"lr": self.lr, "steps": np.asarray(self.steps), **{name: getattr(self, name).copy() for name in self.memory}}

    def load_state_dict(self, state):
        """Go on from the state_dict() of the same optimiser over the same parameters."""
        shapes = {"lr": (), "steps": (len(self.params),), **{name: self.flat.shape for name in self.memory}}
        for name, shape in shapes.items():
            if name not in state or np.shape(state[name]) != shape:
                raise TinygenError(f"This state does not belong to this {type(self).__name__}: its {name!r} is missing, or not of "
                                   f"shape {shape}. Make the optimiser for the same parameters as then.")
        self.lr = float(state["lr"])
        self.steps = [int(n) for n in state["steps"]]
        for name in self.memory:
            getattr(self, name)[...] = xp.asarray(state[name])


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013, as in PyTorch).

    v <- momentum v + g + weight_decay w
    w <- w - lr v
    """
    memory = ("velocity",)

    def __init__(self, params, lr, momentum=0, weight_decay=0):
        super().__init__(params, lr)
        self.momentum, self.weight_decay = momentum, weight_decay

    def update(self, w, g, v, t):
        v *= self.momentum
        v += g + self.weight_decay * w
        w -= self.lr * v


@backend.fuse
def _adam(w, g, m, v, step, beta1, beta2, eps):
    m *= beta1
    m += g
    g *= g  # step() made a copy of the gradients, which is not needed any more
    v *= beta2
    v += g
    w -= step * m / (xp.sqrt(v) + eps)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015): each number moves by lr times its mean gradient, divided by the gradient's typical size.

    m <- b1 m + g         v <- b2 v + g^2                    sums over all steps, in which old gradients count less and less
    w <- w - lr m' / (sqrt(v') + eps),   m' = m / (1 + b1 + ... + b1^(t-1)),  v' likewise: the means

    (The paper has m and v times 1 - b1 and 1 - b2; the means are the same. m is kept as `sum`, v as `sum_of_squares`.)
    """
    memory = ("sum", "sum_of_squares")

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(params, lr)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise TinygenError(f"Adam wants two betas of at least 0 and below 1, not {betas}.")
        self.betas, self.eps = betas, eps

    def update(self, w, g, m, v, t):
        n1, n2 = ((1 - beta**t) / (1 - beta) for beta in self.betas)  # the weight of all gradients in the sums: 1 + b + ... + b^(t-1)
        # m / n1 / (sqrt(v / n2) + eps), with the root of n2 taken out of the denominator
        _adam(w, g, m, v, self.lr * n2**0.5 / n1, *self.betas, self.eps * n2**0.5)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): w <- w - lr weight_decay w, apart from the gradient."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, lr, betas, eps)
        self.weight_decay = weight_decay

    def update(self, w, g, m, v, t):
        w *= 1 - self.lr * self.weight_decay
        super().update(w, g, m, v, t)


def clip_grad_norm_(params, max_norm):
    """Scale all gradients by one factor so that their joint norm is at most max_norm. Returns the norm before, a 0-d array."""
    params = [p for p in _several(params) if p.grad is not None]
    if not params:
        raise TinygenError("clip_grad_norm_ found no gradients: call it between loss.backward() and optimizer.step().")
    norm = xp.sqrt(sum((p.grad * p.grad).sum() for p in params))
    factor = xp.minimum(max_norm / (norm + 1e-6), 1)
    for p in params:
        p.grad = p.grad * factor.astype(p.grad.dtype)
    return norm


# Learning rates over time ---------------------------------------------------------------------------------------------

class Schedule:
    """Sets optimizer.lr; call step() after each optimizer.step(). factor(n) is the part of the base rate at step n."""

    def __init__(self, optimizer):
        self.optimizer, self.base_lr, self.n = optimizer, optimizer.lr, 0
        self._set()

    def _set(self):
        self.optimizer.lr = self.base_lr * self.factor(self.n)

    def step(self):
        self.n += 1
        self._set()

    def state_dict(self):
        return {"n": self.n, "base_lr": self.base_lr}

    def load_state_dict(self, state):
        self.n, self.base_lr = int(state["n"]), float(state["base_lr"])
        self._set()


class LinearWarmup(Schedule):
    """The rate grows as 1/steps, 2/steps, ..., 1 and then stays."""

    def __init__(self, optimizer, steps):
        self.total = steps
        super().__init__(optimizer)

    def factor(self, n):
        return min(1.0, (n + 1) / max(1, self.total))


class CosineLR(Schedule):
    """The factor grows linearly to 1 in `warmup` steps, then falls along half a cosine to `end` at step `steps`, counted from the
    start (Loshchilov & Hutter 2017)."""

    def __init__(self, optimizer, steps, end=0.0, warmup=0):
        self.total, self.end, self.warmup = steps, end, warmup
        super().__init__(optimizer)

    def factor(self, n):
        if n < self.warmup:
            return (n + 1) / self.warmup
        part = min(1.0, (n - self.warmup) / max(1, self.total - self.warmup))
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * part))


class EMA:
    """An exponential moving average of a model's parameters: averaged <- decay averaged + (1 - decay) current.

    ema = EMA(model, 0.999);  ema.update() after each step;  then sample from ema.model, a copy that only averages.
    Buffers such as running means are copied as they are. The first updates use the smaller decay (1 + n) / (10 + n),
    so that the random initial weights are forgotten early.
    """

    def __init__(self, model, decay=0.999):
        self.source, self.model, self.decay, self.n = model, copy.deepcopy(model).eval(), decay, 0

    def update(self):
        """Take the current parameters into the average."""
        self.n += 1
        decay = min(self.decay, (1 + self.n) / (10 + self.n))
        for average, current in zip(self.model.parameters(), self.source.parameters()):
            average.data += (1 - decay) * (current.data - average.data)
        for copied, current in zip(self.model.buffers(), self.source.buffers()):
            copied.data[...] = current.data

    def state_dict(self):
        return {"n": self.n, "model": self.model.state_dict()}

    def load_state_dict(self, state):
        self.n = int(state["n"])
        self.model.load_state_dict(state["model"])
