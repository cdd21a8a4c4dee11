"""tinygen: generative neural networks from scratch. `import tinygen as tg`, then read from the ground floor up:

    backend     where the numbers live        ops, functional   the calculus
    tensor      the engine                    nn, optim         layers and optimisers
"""
from . import backend
from .backend import TinygenError, manual_seed
from .tensor import Tensor, debug, grad, no_grad, primitive
from .ops import (abs, add, arange, astype, broadcast_to, clip, concatenate, cos, div, erf, exp, expand_dims, eye, flatten, full,
                  getitem, linspace, log, matmul, max, maximum, mean, min, minimum, mT, mul, neg, ones, ones_like, pad, permute, pow,
                  rand, randint, randn, randn_like, randperm, reshape, scatter_add, sigmoid, sin, sqrt, squeeze, stack, std, sub, sum,
                  tanh, var, where, zeros, zeros_like)
from . import functional, nn, optim
from .gradcheck import GradcheckError, gradcheck
from .explain import explain
from .run import load, save

cat, clamp, unsqueeze, tensor = concatenate, clip, expand_dims, Tensor  # PyTorch's names
