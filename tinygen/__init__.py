"""tinygen: generative neural networks from scratch. `import tinygen as tg`; README.md says what
to read first: backend.py, engine.py, ops.py, conv.py, functional.py, nn.py, optim.py."""
from . import backend
from .backend import TinygenError, manual_seed
from .engine import Tensor, debug, grad, no_grad, primitive
from .ops import (
    abs, add, add_at, astype, broadcast_to, clip, concatenate, cos, div, erf, exp, expand_dims,
    flatten, getitem, log, matmul, max, maximum, mean, min, minimum, mT, mul, neg, pad, permute,
    pow, reshape, sigmoid, sin, sqrt, squeeze, stack, std, sub, sum, tanh, var, where)
from . import methods  # the operators of Tensor, which ops.py uses when its rows are called
from .create import (
    arange, eye, full, linspace, ones, ones_like, rand, randint, randn, randn_like, randperm,
    zeros, zeros_like)
from . import functional, nn, optim
from .derive.gradcheck import GradcheckError, gradcheck
from .derive.explain import explain
from .lab.files import load, save

cat, clamp, unsqueeze, tensor = concatenate, clip, expand_dims, Tensor  # PyTorch's names
