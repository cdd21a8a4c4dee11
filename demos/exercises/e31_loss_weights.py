"""e31. Diffusion: eps-loss, x_0-loss and v-loss.

With x_t fixed, a prediction x0_hat implies an eps_hat and a v_hat (e21). So the three losses are
one loss with three weights. Derive the two factors in
    |eps - eps_hat|^2 = eps_weight |x_0 - x0_hat|^2,
    |v - v_hat|^2     = v_weight   |x_0 - x0_hat|^2.

    alpha_bar    (M,)
    return       eps_weight (M,),  v_weight (M,)

x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps,
v   = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0.

Used in demos/ddpm.py: ddpm_loss, where --predict chooses one of the three
Paper first: 10 minutes
"""
import numpy as np


def loss_weights(alpha_bar):
    raise NotImplementedError("e31: return eps_weight, v_weight, shape of alpha_bar")
