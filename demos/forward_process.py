"""The forward process of diffusion, which turns data into noise, and what follows without learning.

A part of ddpm.py, which learns the way back; ddim.py, conditional_ddpm.py, ddpm_images.py and
compare.py share it. Slide "Denoising diffusion probabilistic models"; the equations (1) to (4) are
in ddpm.py.

Ho et al., "Denoising diffusion probabilistic models", 2020; Nichol & Dhariwal, "Improved DDPM",
2021 (cosine schedule); Salimans & Ho, "Progressive distillation for fast sampling of diffusion
models", 2022 (v).
"""
import math

import numpy as np

import tinygen as tg
from tinygen import backend


class Diffusion:
    """The forward process: alpha_bar[t] for t = 0, ..., T."""

    def __init__(self, T=200, schedule="linear"):
        if schedule == "linear":
            beta = np.linspace(1e-4, 0.02, T) * 1000 / T        # (T,)     beta_1, ..., beta_T
        else:
            angle = (np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2
            f = np.cos(angle)**2                                # (T + 1,) f[t] / f[0] = alpha_bar_t
            beta = 1 - f[1:] / f[:-1]                           # (T,)
        self.T = T
        self.alpha_bar = np.append(1, np.cumprod(1 - np.minimum(beta, 0.999)))  # (T + 1,)
        self.table = tg.Tensor(self.alpha_bar[:, None])         # (T + 1, 1) on the device

    def alpha_bar_at(self, t):
        """alpha_bar_t as a column (N, 1), for integers t (N,) in 1, ..., T: no other is a time."""
        backend.check_index(t - 1, self.T, f"t - 1, where t is a time in 1..{self.T},")
        return self.table[t]

    def q_sample(self, x0, t, eps):
        """x_t at once, without the steps between."""
        alpha_bar = self.alpha_bar_at(t)                        # (N, 1)
        return tg.sqrt(alpha_bar) * x0 + tg.sqrt(1 - alpha_bar) * eps       # slide, eq. (2)


def posterior(alpha_bar_t, alpha_bar_s):
    """a, b and beta_tilde of q(x_s | x_t, x_0) for times s < t."""
    beta = 1 - alpha_bar_t / alpha_bar_s
    ratio = (1 - alpha_bar_s) / (1 - alpha_bar_t)
    a = math.sqrt(alpha_bar_s) * beta / (1 - alpha_bar_t)
    b = math.sqrt(1 - beta) * ratio
    return a, b, beta * ratio                                   #          slide, eq. (3)


def target(x0, eps, alpha_bar, predict):
    """What the network learns to predict."""
    v = tg.sqrt(alpha_bar) * eps - tg.sqrt(1 - alpha_bar) * x0  # (N, D)   slide, eq. (4)
    return {"eps": eps, "x0": x0, "v": v}[predict]


def to_eps(prediction, xt, alpha_bar, predict):
    """The noise in x_t that the prediction implies: (2) and (4), solved for eps."""
    from_x0 = (xt - tg.sqrt(alpha_bar) * prediction) / tg.sqrt(1 - alpha_bar)
    from_v = tg.sqrt(alpha_bar) * prediction + tg.sqrt(1 - alpha_bar) * xt
    return {"eps": prediction, "x0": from_x0, "v": from_v}[predict]
