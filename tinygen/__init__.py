"""tinygen: generative neural networks from scratch. `import tinygen as tg`, then read from the ground floor up:

    backend     where the numbers live        ops, functional   the calculus
    tensor      the engine                    nn, optim         layers and optimisers
"""
from . import backend
from .backend import TinygenError, manual_seed
from .tensor import Tensor, debug, grad, no_grad, primitive
from .ops import *
from . import functional, nn, optim
from .gradcheck import GradcheckError, gradcheck
from .run import load, save

cat = concatenate
tensor = Tensor
