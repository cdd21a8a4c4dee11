"""Floor 6: layers, sorted by increasing complexity. A Module holds Parameters and computes."""
import copy
import math

import numpy as np

from . import backend, functional as F
from .backend import TinygenError, xp
from .engine import Tensor, raw
from .ops import axis_number, concatenate, cos, exp, sin


class Parameter(Tensor):
    """A Tensor that is trained: parameters() finds it, optimizers give it new data."""

    def __init__(self, data, requires_grad=True):
        super().__init__(data, requires_grad)


class Buffer(Tensor):
    """A Tensor that belongs to the state of a Module but is not trained, such as a running mean."""


def _parts(value):
    """The named parts of a Module, list or dict, in order of construction."""
    if isinstance(value, Module):
        return value.named_children()
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, (list, tuple)) else ()


def _walk(value, name="", above=()):
    """Yield (dotted name, object) for every Module, Parameter and Buffer inside value, in order."""
    if any(value is module for module in above):
        return  # a module that holds its parent
    if isinstance(value, (Module, Parameter, Buffer)):
        yield name, value
    for key, part in _parts(value):
        yield from _walk(part, f"{name}.{key}" if name else str(key), above + (value,))


class Module:
    """Base of all layers and models.

    Assign Parameters and Modules, also in lists and dicts, and define forward().
    """
    training = True

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def __setattr__(self, name, value):
        if isinstance(getattr(self, name, None), Parameter):
            if isinstance(value, Tensor) and not isinstance(value, Parameter):
                raise TypeError(f"Assigning a plain Tensor to {name} would lose a Parameter: write "
                                f"module.{name}.data = ... to change its values, or assign a new "
                                "nn.Parameter.")
        super().__setattr__(name, value)

    def forward(self, *args, **kwargs):
        raise NotImplementedError(
            f"{type(self).__name__} has no forward(): define what it computes.")

    def named_children(self):
        """(name, value) of what was assigned, in order."""
        return vars(self).items()

    def named_parameters(self):
        """[(dotted name, Parameter)] in order of construction; a shared one by its first name."""
        found = {}
        for name, p in _walk(self):
            if isinstance(p, Parameter):
                found.setdefault(p, name)
        return [(name, p) for p, name in found.items()]

    def parameters(self):
        """All Parameters, in order of construction."""
        return [p for _, p in self.named_parameters()]

    def buffers(self):
        """All Buffers, in order of construction."""
        return [x for _, x in _walk(self) if isinstance(x, Buffer)]

    def modules(self):
        """This Module and every one inside it."""
        return [m for _, m in _walk(self) if isinstance(m, Module)]

    def train(self, mode=True):
        """Set the training mode, in which dropout drops and batch norm uses the batch."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """Leave the training mode."""
        return self.train(False)

    def state_dict(self):
        """{dotted name: raw array} of parameters and buffers, as they are now."""
        return {name: x.data for name, x in _walk(self) if isinstance(x, Tensor)}

    def load_state_dict(self, state):
        """Take over the values of a state_dict(). All keys and shapes must fit, or none changes."""
        own = {name: x for name, x in _walk(self) if isinstance(x, Tensor)}
        state = {name: value if hasattr(value, "dtype") else np.asarray(value)
                 for name, value in state.items()}
        wrong = [f"{name} is missing" for name in own if name not in state]
        wrong += [f"{name} is unknown here" for name in state if name not in own]
        wrong += [f"{name} has shape {state[name].shape} instead of {x.shape}"
                  for name, x in own.items() if name in state and state[name].shape != x.shape]
        wrong += [f"{name} holds {x.dtype}" for name, x in state.items()
                  if x.dtype.kind not in "fiub"]
        if wrong:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise TinygenError(f"This state does not belong to this {type(self).__name__}: "
                               f"{'; '.join(wrong[:5])}{more}. Build the model with the sizes it "
                               "was saved with.")
        for name, x in own.items():
            x.data = xp.array(raw(state[name]), dtype=x.dtype)

    def __repr__(self):
        inner = "".join(f"\n({name}): {getattr(part, '__name__', part)}"
                        for name, part in self.named_children()
                        if isinstance(part, (Module, list)) or callable(part))
        text = f"{type(self).__name__}({self.extra_repr()}" + inner.replace("\n", "\n  ")
        return text + ("\n)" if inner else ")")

    def extra_repr(self):
        """What __repr__ shows between the parentheses: numbers, and the shapes of Parameters."""
        shown = (int, float, str, tuple, Parameter, type(None))
        return ", ".join(f"{name}={getattr(value, 'shape', value)}" for name, value
                         in vars(self).items() if isinstance(value, shown) and name != "training")


# Nothing to learn: activations and shapes ---------------------------------------------------------

class ReLU(Module):
    forward = staticmethod(F.relu)


class Tanh(Module):
    forward = staticmethod(F.tanh)


class Sigmoid(Module):
    forward = staticmethod(F.sigmoid)


class Softplus(Module):
    forward = staticmethod(F.softplus)


class SiLU(Module):
    forward = staticmethod(F.silu)


class SELU(Module):
    forward = staticmethod(F.selu)


class ELU(Module):
    def __init__(self, alpha=1.0):
        self.alpha = alpha

    def forward(self, x):
        return F.elu(x, alpha=self.alpha)


class LeakyReLU(Module):
    def __init__(self, negative_slope=0.01):
        self.negative_slope = negative_slope

    def forward(self, x):
        return F.leaky_relu(x, negative_slope=self.negative_slope)


class GELU(Module):
    def __init__(self, approximate="none"):
        self.approximate = approximate

    def forward(self, x):
        return F.gelu(x, self.approximate)


class Softmax(Module):
    def __init__(self, axis=-1):
        self.axis = axis

    def forward(self, x):
        return F.softmax(x, axis=self.axis)


class Flatten(Module):
    """(N, C, H, W) -> (N, C H W)"""

    def forward(self, x):
        return x.flatten(1)


class Unflatten(Module):
    """(N, C H W) -> (N, C, H, W): Unflatten(1, (C, H, W)) makes axis 1 into several."""

    def __init__(self, axis, unflattened_size):
        self.axis = axis
        self.unflattened_size = tuple(unflattened_size)

    def forward(self, x):
        axis = axis_number(self.axis, x.ndim)
        return x.reshape(x.shape[:axis] + self.unflattened_size + x.shape[axis + 1:])


class Dropout(Module):
    """In training, zero each number with probability p and scale the rest by 1/(1 - p)."""

    def __init__(self, p=0.5):
        self.p = p

    def forward(self, x):
        return F.dropout(x, self.p, self.training)


class SinusoidalEmbedding(Module):
    """Times (N,) as features (N, dim): [sin(w_i t), cos(w_i t)], i = 0, ..., dim / 2 - 1.

    w_i = max_period^(-2 i / dim). High frequencies separate nearby times, low ones the early from
    the late (Vaswani et al. 2017).
    """

    def __init__(self, dim, max_period=10000.0):
        if dim % 2:
            raise TinygenError("SinusoidalEmbedding pairs sines with cosines, so dim must be even, "
                               f"not {dim}.")
        self.dim = dim
        self.max_period = max_period

    def forward(self, t):
        half = self.dim // 2
        t = t if isinstance(t, Tensor) else Tensor(t)
        w = exp(Tensor(xp.arange(half) * (-math.log(self.max_period) / half)))      # (half,)
        angle = t.reshape(-1, 1) * w                                                # (N, half)
        return concatenate([sin(angle), cos(angle)], axis=1)                        # (N, dim)


# Containers ---------------------------------------------------------------------------------------

class Sequential(Module):
    """Modules, or plain functions, applied one after the other."""

    def __init__(self, *layers):
        if not all(callable(layer) for layer in layers):
            raise TypeError("Sequential takes layers one by one: Sequential(a, b), or "
                            "Sequential(*[a, b]) for a list.")
        self.layers = list(layers)

    def named_children(self):
        """The layers are called "0", "1", ..., so that names are PyTorch's: "0.weight"."""
        others = [(name, x) for name, x in vars(self).items() if name != "layers"]
        return [*enumerate(self.layers), *others]

    def __getitem__(self, i):
        return self.layers[i]

    def __len__(self):
        return len(self.layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class ModuleList(Module, list):
    """A list of Modules that is a Module. (A plain list inside a Module is found as well.)"""

    def named_children(self):
        return [*enumerate(self), *vars(self).items()]


# Layers with parameters ---------------------------------------------------------------------------

def _uniform(shape, bound):
    return Parameter((2 * backend.rand(shape) - 1) * bound)


class Linear(Module):
    """y = x W^T + b;   weight (out_features, in_features), bias (out_features,)

    Both start as draws from U(-1/sqrt(in), 1/sqrt(in)).
    """

    def __init__(self, in_features, out_features, bias=True):
        bound = in_features**-0.5 if in_features else 0
        self.weight = _uniform((out_features, in_features), bound)
        self.bias = _uniform((out_features,), bound) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A learned vector for each integer below num_embeddings: (...,) -> (..., embedding_dim)"""

    def __init__(self, num_embeddings, embedding_dim):
        self.weight = Parameter(backend.randn((num_embeddings, embedding_dim)))

    def forward(self, index):
        return F.embedding(index, self.weight)


class LayerNorm(Module):
    """Standardize each sample over its last axes, then y weight + bias (Ba et al. 2016)."""

    def __init__(self, normalized_shape, eps=1e-5):
        self.normalized_shape = normalized_shape
        self.eps = eps
        self.weight = Parameter(xp.ones(normalized_shape))
        self.bias = Parameter(xp.zeros(normalized_shape))

    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class GroupNorm(Module):
    """Standardize each sample over groups of channels, then y weight + bias (Wu & He 2018)."""

    def __init__(self, num_groups, num_channels, eps=1e-5):
        self.num_groups = num_groups
        self.eps = eps
        self.weight = Parameter(xp.ones(num_channels))
        self.bias = Parameter(xp.zeros(num_channels))

    def forward(self, x):
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class BatchNorm1d(Module):
    """Standardize each feature over the batch, then y weight + bias (Ioffe & Szegedy 2015).

    In training the statistics are the batch's, and running_mean and running_var follow them; after
    .eval() those are used.
    """
    axes = (2, 3)  # (N, C) or (N, C, L)

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        self.eps = eps
        self.momentum = momentum
        self.weight = Parameter(xp.ones(num_features)) if affine else None
        self.bias = Parameter(xp.zeros(num_features)) if affine else None
        self.running_mean = Buffer(xp.zeros(num_features))
        self.running_var = Buffer(xp.ones(num_features))
        self.num_batches_tracked = Buffer(xp.asarray(0))

    def forward(self, x):
        channels = len(self.running_mean)
        if x.ndim not in self.axes or x.shape[1] != channels:
            raise TinygenError(f"{type(self).__name__} over {channels} channels cannot take x of "
                               f"shape {x.shape}: axis 1 holds the channels, and there are "
                               f"{' or '.join(map(str, self.axes))} axes.")
        if self.training:
            self.num_batches_tracked.data = self.num_batches_tracked.data + 1
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                            self.training, self.momentum, self.eps)


class BatchNorm2d(BatchNorm1d):
    """BatchNorm for images (N, C, H, W)."""
    axes = (4,)


class ConditionalBatchNorm2d(Module):
    """BatchNorm whose scale and shift depend on a condition, such as the class (BigGAN).

    forward(x, c), images x (N, C, H, W) and conditions c (N, num_conditions):
    y = (1 + A c) standardized x + B c   (de Vries et al. 2017)
    """

    def __init__(self, num_features, num_conditions, eps=1e-5, momentum=0.1):
        self.norm = BatchNorm2d(num_features, eps, momentum, affine=False)
        self.scale = Linear(num_conditions, num_features)
        self.shift = Linear(num_conditions, num_features)

    def forward(self, x, c):
        scale = self.scale(c).reshape(x.shape[:2] + (1, 1))             # (N, C, 1, 1)
        shift = self.shift(c).reshape(x.shape[:2] + (1, 1))
        return F.scale_shift(self.norm(x), 1 + scale, shift)


class Conv2d(Module):
    """Images (N, in, H, W) -> (N, out, OH, OW);   weight (out, in, kh, kw), bias (out,)

    Both start as draws from U(-1, 1) / sqrt(in kh kw).
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, bias=True):
        kernel = F.pair(kernel_size)
        bound = (in_channels * math.prod(kernel))**-0.5
        self.stride = stride
        self.padding = padding
        self.weight = _uniform((out_channels, in_channels) + kernel, bound)
        self.bias = _uniform((out_channels,), bound) if bias else None

    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class ConvTranspose2d(Module):
    """The adjoint of Conv2d, which makes images larger;   weight (in, out, kh, kw), bias (out,)

    Both start as draws from U(-1, 1) / sqrt(out kh kw).
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0,
                 output_padding=0, bias=True):
        kernel = F.pair(kernel_size)
        bound = (out_channels * math.prod(kernel))**-0.5
        self.stride = stride
        self.padding = padding
        self.output_padding = output_padding
        self.weight = _uniform((in_channels, out_channels) + kernel, bound)
        self.bias = _uniform((out_channels,), bound) if bias else None

    def forward(self, x):
        return F.conv_transpose2d(x, self.weight, self.bias, self.stride, self.padding,
                                  self.output_padding)


class SelfAttention(Module):
    """Every pixel attends to every other: y = x + out(softmax(q k^T / sqrt(C)) v).

    q, k, v are linear in norm(x). Images (N, C, H, W) -> (N, C, H, W) (Vaswani et al. 2017; on
    images Zhang et al. 2019). The output map starts at zero, so the layer begins as the identity.
    """

    def __init__(self, channels):
        self.norm = GroupNorm(1, channels)
        self.query = Linear(channels, channels)
        self.key = Linear(channels, channels)
        self.value = Linear(channels, channels)
        self.out = Linear(channels, channels)
        self.out.weight.data = xp.zeros_like(self.out.weight.data)
        self.out.bias.data = xp.zeros_like(self.out.bias.data)

    def forward(self, x):
        n, c, h, w = x.shape
        pixels = self.norm(x).reshape(n, c, h * w).mT                   # (N, HW, C)
        q, k, v = [layer(pixels) for layer in (self.query, self.key, self.value)]
        attention = F.softmax(q @ k.mT * c**-0.5, axis=-1)              # (N, HW, HW)
        return x + self.out(attention @ v).mT.reshape(n, c, h, w)


class SpectralNorm(Module):
    """A layer whose weight is divided by its largest singular value (Miyato et al. 2018).

    The weight counts as a matrix (out, everything else). A Linear then stretches no input, and a
    convolution of stride 1 by at most sqrt(kh kw).

    Power iteration tracks the singular value: v <- W^T u / |W^T u|, u <- W v / |W v|, 15 steps at
    the start and one in each forward pass in training. Then sigma = u^T W v, with u and v held
    constant in the gradient.
    """

    def __init__(self, layer):
        self.layer = layer
        matrix = layer.weight.data.reshape(len(layer.weight), -1)
        self.u = Buffer(backend.randn(matrix.shape[:1]))
        self.v = Buffer(backend.randn(matrix.shape[1:]))
        for _ in range(15):  # close enough to be used before the first training pass
            self._track(matrix)

    def _track(self, matrix):
        """One step of power iteration."""
        v = matrix.T @ self.u.data
        self.v.data = v / xp.sqrt((v * v).sum() + 1e-12)
        u = matrix @ self.v.data
        size = xp.sqrt((u * u).sum() + 1e-12)
        self.u.data = xp.where(size > 2e-6, u / size, self.u.data)  # zeros must not stay for ever

    def forward(self, x):
        weight = self.layer.weight
        matrix = weight.reshape(len(weight), -1)                        # (out, everything else)
        if self.training:
            self._track(matrix.data)
        u, v = [raw(vector).reshape(-1, 1) for vector in (self.u, self.v)]      # constants
        sigma = (matrix @ v * u).sum()
        normal = copy.copy(self.layer)                      # the layer itself keeps its Parameter
        object.__setattr__(normal, "weight", weight / sigma)
        return normal(x)


def spectral_norm(layer):
    """Wrap a layer that has a weight (Linear, Conv2d, Embedding) in SpectralNorm."""
    return SpectralNorm(layer)
