"""The networks of StyleGAN, a part of stylegan.py, whose docstring has the equations.

    z -> f -> w -----+--------+--------+--------+--------+--------+
                     | A      | A      | A      | A      | A      | A     (each layer has its own A)
                     v        v        v        v        v        v
    constant ----> layer -> layer -> layer -> layer -> layer -> layer -> image
    side      7      7        7        14       14       28       28       28
    channels  64     64       64       32       32       16       16       1

The image network starts from the constant. A style only sets the scale and shift of its channels.
"""
import tinygen as tg
from tinygen import functional as F, nn

LATENT = 64
SIDES = (7, 7, 14, 14, 28, 28)              # of the images that the six layers of G make
CHANNELS = (64, 64, 32, 32, 16, 16)


def adain(y, style):
    """Adaptive instance normalization: the style sets the size and level of each channel."""
    style = style.reshape(len(style), 2, -1, 1, 1)          # (B, 2 C) -> (B, 2, C, 1, 1)
    return (1 + style[:, 0]) * F.standardize(y, axis=(2, 3)) + style[:, 1]      # slide, eq. (3)


class Layer(nn.Module):
    """A convolution, noise and AdaIN; with double, x is first made twice as large."""

    def __init__(self, inputs, outputs, latent, double):
        self.double = double
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.strength = nn.Parameter(tg.zeros(outputs, 1, 1).data)      # at first there is no noise
        self.affine = nn.Linear(latent, 2 * outputs)                    # A

    def forward(self, x, w, noise):
        if self.double:
            x = F.interpolate(x, scale_factor=2)            # (B, C, 7, 7) -> (B, C, 14, 14)
        y = self.conv(x) + self.strength * noise            # (B, C', 14, 14)
        y = F.leaky_relu(y, negative_slope=0.2)             # slide, eq. (2)
        return adain(y, self.affine(w))


class Generator(nn.Module):
    """mapping makes styles of z, synthesis makes images of styles and noise."""

    def __init__(self, latent=LATENT, channels=CHANNELS):
        mapping = []
        for _ in range(4):
            mapping += [nn.Linear(latent, latent), nn.LeakyReLU(0.2)]
        self.f = nn.Sequential(*mapping)
        for p in self.f.parameters():
            p.data = 6**0.5 * p.data            # He's initial weights, so that w is as large as z
        self.w_mean = nn.Buffer(tg.zeros(latent).data)      # follows E w in training
        self.constant = nn.Parameter(tg.randn(1, channels[0], SIDES[0], SIDES[0]).data)
        self.layers = []
        for i, outputs in enumerate(channels):
            inputs = channels[max(i - 1, 0)]                # the constant has channels[0]
            self.layers.append(Layer(inputs, outputs, latent, double=i in (2, 4)))
        self.to_image = nn.Conv2d(channels[-1], 1, 1)

    def mapping(self, z, psi=1.0):
        w = self.f(z / tg.sqrt((z * z).mean(axis=1, keepdims=True)))    # (B, 64)   slide, eq. (1)
        if self.training:
            difference = w.data.mean(axis=0) - self.w_mean.data         # (64,)
            self.w_mean.data = self.w_mean.data + 0.01 * difference
        return self.w_mean + psi * (w - self.w_mean)                    # (B, 64)   slide, eq. (5)

    def noise(self, n):
        return [tg.randn(n, 1, side, side) for side in SIDES]

    def synthesis(self, styles, noise):
        """Images for styles (B, 6, 64), one for each layer."""
        x = self.constant                                   # (1, 64, 7, 7), the same for all images
        for i, layer in enumerate(self.layers):
            x = layer(x, styles[:, i], noise[i])            # (B, C, side, side)
        return tg.tanh(self.to_image(x))                    # (B, 1, 28, 28)

    def forward(self, z, psi=1.0):
        w = self.mapping(z, psi)                            # (B, 64)
        return self.synthesis(tg.stack(len(SIDES) * [w], axis=1), self.noise(len(z)))


class Discriminator(nn.Module):
    """D also computes how much the images of a batch differ, so G cannot make only one digit."""

    def __init__(self, channels=32, hidden=128):
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, 4, stride=2, padding=1),             # (B, 32, 14, 14)
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),  # (B, 64, 7, 7)
            nn.LeakyReLU(0.2))
        self.score = nn.Sequential(
            nn.Flatten(), nn.Linear((2 * channels + 1) * 7 * 7, hidden), nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1))

    def forward(self, x):
        h = self.features(x)                                # (B, 64, 7, 7)
        # 1e-8, because a square root has no derivative at 0
        spread = tg.sqrt(tg.var(h, axis=0) + 1e-8).mean(axis=0)         # (7, 7)
        spread = tg.broadcast_to(spread, shape=(len(h), 1, 7, 7))       # (B, 1, 7, 7)
        return self.score(tg.cat([h, spread], axis=1))      # (B, 65, 7, 7) -> (B, 1)
