"""Floor 6: optimizers, sorted by increasing complexity.

An update is a formula: arrays in, new arrays out. Nothing is changed in place, so results computed
before a step can still be differentiated, and a state dict stays what it was.
"""
import copy
import math

import numpy as np

from .backend import TinygenError, xp
from .engine import Tensor
from .speed import fuse


def _several(params):
    """Parameters to iterate over. (A single Tensor would iterate over its rows.)"""
    return [params] if isinstance(params, Tensor) or not hasattr(params, "__iter__") else params


class Optimizer:
    """Common to all: the parameters, how often each was updated, and what is remembered of each.

    A subclass defines update(w, g, *memory, t) -> (w, *memory): new arrays for a parameter w with
    gradient g that is updated for the t-th time.

    params   an iterable of Tensors with requires_grad=True, such as model.parameters()
    lr       the learning rate; may be assigned to at any time
    """
    names = ()  # of the arrays that an optimizer remembers of each parameter

    def __init__(self, params, lr):
        self.params = list(dict.fromkeys(_several(params)))  # each once
        leaves = all(isinstance(p, Tensor) and p.op is None for p in self.params)
        if not leaves or not any(p.requires_grad for p in self.params):
            raise TinygenError("An optimizer needs parameters, leaf Tensors of which at least one "
                               "has requires_grad=True: pass model.parameters().")
        if not lr >= 0:
            raise TinygenError(f"The learning rate must be 0 or more, not {lr}.")
        self.lr = lr
        self.steps = [0] * len(self.params)
        self.state = [[xp.zeros_like(p.data) for _ in self.names] for p in self.params]

    def zero_grad(self):
        """Forget the gradients: the next backward() starts from none."""
        for p in self.params:
            p.grad = None

    def step(self):
        """Update every parameter that has a gradient."""
        for p in self.params:
            if p.grad is not None and p.grad.shape != p.shape:
                raise TinygenError(f"A parameter of shape {p.shape} has a gradient of shape "
                                   f"{p.grad.shape}: they must be equal.")
        for i, p in enumerate(self.params):
            if p.grad is not None:
                self.steps[i] += 1
                p.data, *self.state[i] = self.update(p.data, p.grad, *self.state[i], self.steps[i])

    def state_dict(self):
        """All that is needed to continue: the learning rate, the counts, and what is remembered."""
        remembered = {name: [m[k] for m in self.state] for k, name in enumerate(self.names)}
        return {"lr": self.lr, "steps": np.asarray(self.steps), **remembered}

    def load_state_dict(self, state):
        """Continue from the state_dict() of the same optimizer over the same parameters."""
        shape = lambda x: [np.shape(a) for a in x] if isinstance(x, list) else np.shape(x)
        for name, own in self.state_dict().items():
            if name not in state or shape(state[name]) != shape(own):
                raise TinygenError(
                    f"This state does not fit this {type(self).__name__}: its {name!r} is missing, "
                    f"or not of shape {shape(own)}. Make the optimizer for the parameters of then.")
        self.lr = float(state["lr"])
        self.steps = [int(n) for n in state["steps"]]
        self.state = [[xp.array(state[name][i], dtype=p.dtype) for name in self.names]
                       for i, p in enumerate(self.params)]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013, as in PyTorch).

    v <- momentum v + g + weight_decay w
    w <- w - lr v
    """
    names = ("velocity",)

    def __init__(self, params, lr, momentum=0, weight_decay=0):
        super().__init__(params, lr)
        self.momentum = momentum
        self.weight_decay = weight_decay

    def update(self, w, g, v, t):
        v = self.momentum * v + g + self.weight_decay * w
        return w - self.lr * v, v


@fuse
def adam(w, g, m, v, lr, beta1, beta2, eps, correction1, correction2):
    """One step of Adam: (w, m, v) after it. Kingma & Ba 2015, Algorithm 1."""
    m = beta1 * m + (1 - beta1) * g          # moving average of the gradient
    v = beta2 * v + (1 - beta2) * (g * g)    # and of its square; both start at 0, hence m', v'
    return w - lr * (m / correction1) / ((v / correction2)**0.5 + eps), m, v


class Adam(Optimizer):
    """Adam: each number moves by lr times its mean gradient, over the gradient's typical size.

    m <- beta1 m + (1 - beta1) g         m' = m / (1 - beta1^t)
    v <- beta2 v + (1 - beta2) g^2       v' = v / (1 - beta2^t)
    w <- w - lr m' / (sqrt(v') + eps)
    """
    names = ("m", "v")

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(params, lr)
        if np.shape(betas) != (2,) or not all(0 <= beta < 1 for beta in betas):
            raise TinygenError(f"Adam needs two betas of at least 0 and below 1, not {betas}.")
        self.betas = betas
        self.eps = eps

    def update(self, w, g, m, v, t):
        beta1, beta2 = self.betas
        return adam(w, g, m, v, self.lr, beta1, beta2, self.eps, 1 - beta1**t, 1 - beta2**t)


class AdamW(Adam):
    """Adam after w <- w - lr weight_decay w: decoupled weight decay (Loshchilov & Hutter 2019)."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, lr, betas, eps)
        self.weight_decay = weight_decay

    def update(self, w, g, m, v, t):
        return super().update(w * (1 - self.lr * self.weight_decay), g, m, v, t)


def clip_grad_norm_(params, max_norm):
    """Scale all gradients by one factor so that their joint norm is at most max_norm.

    Returns the norm before, a 0-d array.
    """
    params = [p for p in _several(params) if p.grad is not None]
    if not params:
        raise TinygenError("clip_grad_norm_ found no gradients: call it between loss.backward() "
                           "and optimizer.step().")
    norm = xp.sqrt(sum((p.grad * p.grad).sum() for p in params))
    factor = xp.minimum(max_norm / (norm + 1e-6), 1)
    for p in params:
        p.grad = p.grad * factor.astype(p.grad.dtype)
    return norm


class EMA:
    """An exponential moving average of a model: averaged <- decay averaged + (1 - decay) current.

    ema = EMA(model, 0.999);  ema.update() after each step;  then sample from ema.model, a copy.
    Buffers such as running means are copied as they are. The first updates use the smaller decay
    (1 + n) / (10 + n), so that the random initial weights are forgotten early.
    """

    def __init__(self, model, decay=0.999):
        self.source = model
        self.model = copy.deepcopy(model).eval()
        self.decay = decay
        self.n = 0

    def update(self):
        """Take the current parameters into the average."""
        self.n += 1
        decay = min(self.decay, (1 + self.n) / (10 + self.n))
        for average, current in zip(self.model.parameters(), self.source.parameters()):
            average.data = average.data + (1 - decay) * (current.data - average.data)
        for copied, current in zip(self.model.buffers(), self.source.buffers()):
            copied.data = current.data

    def state_dict(self):
        return {"n": self.n, "model": self.model.state_dict()}

    def load_state_dict(self, state):
        self.n = int(state["n"])
        self.model.load_state_dict(state["model"])


# Learning rates over time -------------------------------------------------------------------------

class Schedule:
    """Sets optimizer.lr; call step() after each optimizer.step().

    factor(n) is the fraction of the base rate at step n, of `steps` steps.
    """

    def __init__(self, optimizer, steps):
        self.optimizer = optimizer
        self.steps = steps
        self.base_lr = optimizer.lr
        self.move_to(0)

    def move_to(self, n):
        """Set the rate of step n."""
        self.n = n
        self.optimizer.lr = self.base_lr * self.factor(n)

    def step(self):
        self.move_to(self.n + 1)

    def state_dict(self):
        return {"n": self.n, "base_lr": self.base_lr}

    def load_state_dict(self, state):
        self.base_lr = float(state["base_lr"])
        self.move_to(int(state["n"]))


class LinearWarmup(Schedule):
    """The rate grows as 1/steps, 2/steps, ..., 1 and then stays."""

    def factor(self, n):
        return min(1.0, (n + 1) / max(1, self.steps))


class CosineLR(Schedule):
    """The factor falls from 1 along half a cosine to `end` at step `steps`, counted from the start.

    In the first `warmup` steps it grows linearly to 1 (Loshchilov & Hutter 2017).
    """

    def __init__(self, optimizer, steps, end=0.0, warmup=0):
        self.end = end
        self.warmup = warmup
        super().__init__(optimizer, steps)

    def factor(self, n):
        if n < self.warmup:
            return (n + 1) / self.warmup
        fraction = min(1.0, (n - self.warmup) / max(1, self.steps - self.warmup))
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * fraction))
