"""The networks of BigGAN, a part of biggan.py, whose docstring has the equations.

    G         z, y -> c -------------------+------+
                      |                    v      v
                   linear -> attention -> Up --> Up --> conv -> image
    side           7         7            14     28     28
    channels       64        64           32     16     1

    D         image -> conv -> Down -> Down -> f(x) -> w.f(x) + b + v_y.f(x)
    side      28       14      7       7       1
    channels  1        32      64      64      64

Up and Down are residual: a shortcut leads past their convolutions, and both results are added.
"""
import math

import numpy as np

import tinygen as tg
from tinygen import functional as F, nn

LATENT = 16


def conv(inputs, outputs, kernel=3):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)      # the side stays as it is


class Up(nn.Module):
    """A residual block of G: it doubles the side, and c conditions both its normalizations."""

    def __init__(self, inputs, outputs, conditions):
        self.norm1 = nn.ConditionalBatchNorm2d(inputs, conditions)
        self.norm2 = nn.ConditionalBatchNorm2d(outputs, conditions)
        self.conv1 = conv(inputs, outputs)
        self.conv2 = conv(outputs, outputs)
        self.skip = conv(inputs, outputs, 1)

    def forward(self, x, c):
        h = F.relu(self.norm1(x, c))                        # (B, C, H, W)       slide, eq. (2)
        h = self.conv1(F.interpolate(h, scale_factor=2))    # (B, C', 2 H, 2 W)
        h = self.conv2(F.relu(self.norm2(h, c)))            # (B, C', 2 H, 2 W)  slide, eq. (2)
        # 1x1 and interpolation commute, and the smaller image is a quarter of the work
        return F.interpolate(self.skip(x), scale_factor=2) + h


class Generator(nn.Module):
    """Attention at 7x7 compares 49^2 pairs of pixels; at 14x14 there would be 16 times as many."""

    def __init__(self, latent=LATENT, embedding=16, channels=(64, 32, 16)):
        conditions = latent + embedding
        self.first = channels[0], 7, 7
        self.embed = nn.Parameter(tg.randn(10, embedding).data)         # e_y, as large as z
        self.start = nn.Linear(conditions, math.prod(self.first))
        self.attention = nn.SelfAttention(channels[0])
        self.blocks = [Up(inputs, outputs, conditions)
                       for inputs, outputs in zip(channels, channels[1:])]
        self.end = nn.Sequential(
            nn.BatchNorm2d(channels[-1]), nn.ReLU(), conv(channels[-1], 1), nn.Tanh())

    def forward(self, z, y):
        c = tg.cat([z, y @ self.embed], axis=1)             # (B, 32)   slide, eq. (1)
        x = self.start(c).reshape(-1, *self.first)          # (B, 64, 7, 7)
        x = self.attention(x)                               # (B, 64, 7, 7)
        for block in self.blocks:
            x = block(x, c)                                 # (B, 32, 14, 14), then (B, 16, 28, 28)
        return self.end(x)                                  # (B, 1, 28, 28)


def normed(layer):
    """Spectral norm on weights whose singular values all start at 1.

    Division by the largest of them then makes none of the others small.
    """
    matrix = layer.weight.numpy().reshape(len(layer.weight), -1)        # (out, everything else)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    layer.weight.data = tg.Tensor(left @ right).data.reshape(layer.weight.shape)
    return nn.spectral_norm(layer)


class Down(nn.Module):
    """A residual block of D: it divides the side by pool."""

    def __init__(self, inputs, outputs, pool):
        self.conv1 = normed(conv(inputs, inputs))
        self.conv2 = normed(conv(inputs, outputs))
        self.skip = normed(conv(inputs, outputs, 1))
        self.pool = pool

    def forward(self, x):
        h = self.conv2(F.relu(self.conv1(F.relu(x))))       # (B, C, H, W) -> (B, C', H, W)
        shortcut = self.skip(F.avg_pool2d(x, self.pool))    # (B, C', H / pool, W / pool)
        return shortcut + F.avg_pool2d(h, self.pool)        # (B, C', H / pool, W / pool)


class Discriminator(nn.Module):
    """The first layer already halves the side, so that no block has to work at 28x28."""

    def __init__(self, first=32, last=64):
        self.net = nn.Sequential(
            normed(nn.Conv2d(1, first, 4, stride=2, padding=1)),        # (B, 32, 14, 14)
            Down(first, last, 2), Down(last, last, 1), nn.ReLU())       # (B, 64, 7, 7)
        self.score = normed(nn.Linear(last, 1))
        self.embed = normed(nn.Linear(10, last, bias=False))            # v_y

    def forward(self, x, y):
        f = self.net(x).sum(axis=(2, 3))                    # (B, 64)
        projection = (self.embed(y) * f).sum(axis=1, keepdims=True)     # (B, 1)
        return self.score(f) + projection                   # (B, 1)   slide, eq. (3)
