"""The U-Net: an image in, an image of the same size out.

demos/ddpm_images.py and demos/flow_matching_images.py train this very network.

Slide "Different structures". On the way down the image becomes smaller and its channels more, which
brings together what is far apart. At 7 x 7 every pixel attends to every other one. On the way up
the image becomes large again. At each size the result from the way down is appended (the skips, the
bars of the U), so that fine details are not lost.

    28 x 28, 1 channel         x ---.                                           .--- result
                                     \\ halve                             double /
    14 x 14, `width`                 block ------------- skip ---------> block
                                         \\ halve                double /
    7 x 7, 2 `width`                      block -> attention -> block

Each block also receives the condition: the time as sines and cosines, and the class. The label
`classes` stands for no class. A network trained with and without class can be guided:
eps_w(x, t, y) = (1 + w) eps(x, t, y) - w eps(x, t, no class).

A block at 28 x 28 would take four times as long as one at 14 x 14. It is not needed, because the
four pixels of a 2 x 2 square, noise included, fit into `width` channels. So the first step down and
the last step up are one convolution each.

Ronneberger, Fischer & Brox, "U-Net", 2015; Ho et al., "Denoising diffusion probabilistic models",
2020, appendix B.
"""
import tinygen as tg
from tinygen import functional as F, nn


class Block(nn.Module):
    """Two convolutions and a shortcut: a block changes its input instead of replacing it.

    The condition shifts each channel.
    """

    def __init__(self, inputs, outputs, condition):
        self.first = nn.Sequential(
            nn.GroupNorm(8, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.condition = nn.Linear(condition, outputs)
        self.second = nn.Sequential(
            nn.GroupNorm(8, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Sequential()

    def forward(self, x, c):
        h = self.first(x) + self.condition(c)[:, :, None, None]     # (N, out, H, W)
        return self.shortcut(x) + self.second(h)


class UNet(nn.Module):
    """forward(x, t, label) returns images of the shape of x, (N, 1, 28, 28).

    t       times from 0 to 1, (N,)
    label   classes 0, ..., classes - 1, or `classes` for no class, (N,)
    """

    def __init__(self, width=32, classes=10, condition=128):
        wide = 2 * width
        self.time = nn.Sequential(
            nn.SinusoidalEmbedding(64, max_period=1000.0), nn.Linear(64, condition))
        self.label = nn.Embedding(classes + 1, condition)           # the last one: no class
        self.halve1 = nn.Conv2d(1, width, 4, stride=2, padding=1)
        self.down = Block(width, width, condition)
        self.halve2 = nn.Conv2d(width, wide, 4, stride=2, padding=1)
        self.middle1 = Block(wide, wide, condition)
        self.middle2 = Block(wide, wide, condition)
        self.attention = nn.SelfAttention(wide)
        self.double2 = nn.ConvTranspose2d(wide, width, 4, stride=2, padding=1)
        self.up = Block(2 * width, width, condition)
        self.double1 = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(),
            nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1))

    def forward(self, x, t, label):
        c = F.silu(self.time(1000 * t) + self.label(label))         # (N, condition)
        fine = self.down(self.halve1(x), c)                         # (N, width, 14, 14)
        h = self.middle1(self.halve2(fine), c)                      # (N, wide, 7, 7)
        h = self.middle2(self.attention(h), c)                      # (N, wide, 7, 7)
        h = self.up(tg.cat([self.double2(h), fine], axis=1), c)     # (N, width, 14, 14)
        return self.double1(h)                                      # (N, 1, 28, 28)
