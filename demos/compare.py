"""All families of the lecture on one page: the same data, the same minibatches, the same number of updates.

The slides' map of generative models. Explicit ones have a density p(x) that can be evaluated,

    Gaussian mixture    p(x) = sum_k pi_k N(x; mu_k, Sigma_k)                                       (1)
    normalizing flow    p(x) = N(f(x); 0, I) |det df/dx|                                            (2)
    VAE                 p(x) = integral of p(x | z) p(z) dz, known through a lower bound            (3)

implicit ones only have a way to draw from it:

    GAN                 x = G(z), one step                                                          (4)
    diffusion           T small denoising steps                                                     (5)
    flow matching       dx/dt = u(x, t), so a density too, by the change along the path             (6)

Each is trained by the loss of its own demo, in turns on the very same minibatches, with networks of about the same
size and Adam. Simple settings, so the numbers say what a family gives for this little work, not what it can do at
best. (--lr is a factor on all learning rates.)

Look at: compare.png (data, then a panel for each family: samples, kind, distance, seconds, parameters, steps to sample).

Numbers in metrics.json: sliced W2 of 10,000 samples to fresh data, over noise_floor, the distance of two fresh data sets:
gmm_ratio, vae_ratio, gan_ratio, flow_ratio, ddpm_ratio, cfm_ratio. Time of training: gmm_seconds, vae_seconds, gan_seconds,
flow_seconds, ddpm_seconds, cfm_seconds, and seconds in all. Size: gmm_parameters, vae_parameters, gan_parameters,
flow_parameters, ddpm_parameters, cfm_parameters. And -ln p(x) in nats per fresh point where there is a density: gmm_nll
and flow_nll, exact; vae_nll, an upper bound; cfm_nll, by the divergence along the path.

The demos: gmm.py, vae.py, gan.py, normalizing_flow.py, ddpm.py, flow_matching.py.
"""
import math
import time

import tinygen as tg
from ddpm import Denoiser, Diffusion, ddpm_loss, random_times, sample as ddpm_sample
from flow_matching import Velocity, euler, flow_matching_loss
from flow_ode import at_one_time, log_likelihood
from gan import discriminator_loss, generator_loss, mlp, r1_penalty
from gmm import negative_log_likelihood, start
from normalizing_flow import Flow
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run
from vae import reparameterize


class Family:
    """One model with its optimiser: loss(x) of a minibatch, sample(n), and what is said about it."""
    density, steps = "no p(x)", 1

    def __init__(self, model, *optimizers):
        self.model, self.optimizers = model, optimizers
        self.rates = [optimizer.lr for optimizer in optimizers]

    def update(self, x):
        descend(self.optimizers[0], self.loss(x))

    def nll(self, x):
        """-ln p(x) per point, where there is a density; for most explicit models it is what they are trained by."""
        return self.loss(x).item() if self.density.startswith("explicit") else None


def descend(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def with_adam(model, lr):
    return model, optim.Adam(model.parameters(), lr)


class Mixture(Family):
    title, density = "Gaussian mixture, K = 12", "explicit p(x)"

    def __init__(self, x):
        super().__init__(*with_adam(start(x[:2000].numpy(), 12), 1e-2))

    def loss(self, x):
        return negative_log_likelihood(self.model, x)               # eq. (1)

    def sample(self, n):
        return self.model.sample(self.model.draw_components(n))


class FlowFamily(Family):
    title, density = "normalizing flow", "explicit p(x)"

    def __init__(self, x):
        super().__init__(*with_adam(Flow(hidden=48, layers=8), 1e-3))

    def loss(self, x):
        return -self.model.log_prob(x).mean()                       # eq. (2)

    def sample(self, n):
        return self.model.inverse(tg.randn(n, 2))[-1]


class PlaneVAE(Family):
    """The VAE of the slide for points: p(x | z) = N(decoder(z), s^2 I), with s learned."""
    title, density = "VAE", "explicit, a bound"

    def __init__(self, x):
        model = nn.Sequential(mlp(2, 4), mlp(2, 2))                 # encoder: mean and logvar; decoder
        model.log_s = nn.Parameter([-2.0])                         # a large s would make the code useless at first
        super().__init__(*with_adam(model, 1e-3))

    def loss(self, x):
        h = self.model[0](x)                                        # (B, 4)
        mean, logvar = h[:, :2], h[:, 2:]
        decoded = self.model[1](reparameterize(mean, logvar, tg.randn(*mean.shape)))
        variance = tg.exp(2 * self.model.log_s).broadcast_to(x.shape)
        error = F.gaussian_nll_loss(decoded, x, variance, full=True, reduction="none").sum(axis=1)
        return (error + F.kl_standard_normal(mean, logvar)).mean()  # eq. (3)

    def sample(self, n):
        return self.model[1](tg.randn(n, 2)) + tg.exp(self.model.log_s) * tg.randn(n, 2)


class AdversarialFamily(Family):
    title = "GAN"

    def __init__(self, x):
        G, D = model = nn.Sequential(mlp(8, 2), mlp(2, 1))
        super().__init__(model, *[optim.Adam(player.parameters(), 3e-4, betas=(0.5, 0.9)) for player in (G, D)])

    def update(self, x):                                            # eq. (4): D, then G
        (G, D), (for_G, for_D) = self.model, self.optimizers
        fake = G(tg.randn(len(x), 8))
        descend(for_D, discriminator_loss("non_saturating", D, x, fake) + r1_penalty(D, x))
        descend(for_G, generator_loss("non_saturating", D, fake))

    def sample(self, n):
        return self.model[0](tg.randn(n, 8))


class DiffusionFamily(Family):
    title, steps = "diffusion (DDPM)", 200

    def __init__(self, x):
        super().__init__(*with_adam(Denoiser(2, hidden=96), 3e-3))
        self.diffusion = Diffusion(T=self.steps)

    def loss(self, x):
        return ddpm_loss(self.model, self.diffusion, x, random_times(len(x), self.steps), tg.randn(*x.shape))       # eq. (5)

    def sample(self, n):
        return ddpm_sample(self.model, tg.randn(n, 2), self.diffusion)[1][-1]


class FlowMatchingFamily(Family):
    title, density, steps = "flow matching", "p(x) through the ODE", 100

    def __init__(self, x):
        super().__init__(*with_adam(Velocity(2, hidden=128), 5e-3))

    def loss(self, x):
        return flow_matching_loss(self.model, x, tg.randn(*x.shape), tg.rand(len(x), 1))    # eq. (6)

    def sample(self, n):
        return euler(self.model, tg.randn(n, 2), self.steps)[-1]

    def nll(self, x):
        return -log_likelihood(at_one_time(self.model), x).mean().item()


FAMILIES = dict(gmm=Mixture, vae=PlaneVAE, gan=AdversarialFamily, flow=FlowFamily, ddpm=DiffusionFamily, cfm=FlowMatchingFamily)


def main(argv=None):
    job = run.Job("compare", __doc__, argv, data=("moons", "pinwheel", "checkerboard", "swiss_roll", "eight_gaussians"), steps=4000,
                  batch=256, lr=1.0, exact=False)
    x = data.toy(job.args.data, 50_000, standardize=True)           # (N, 2)
    families = {name: family(x) for name, family in FAMILIES.items()}
    batches = data.Batches(len(x), job.args.batch, job.args.seed)
    parts = {f"{name} {i}": part for name, family in families.items() for i, part in enumerate([family.model, *family.optimizers])}
    for step in job.train(**parts):
        for name, family in families.items():
            for optimizer, rate in zip(family.optimizers, family.rates):    # half a cosine for all; --lr scales them all
                optimizer.lr = rate * job.args.lr * 0.5 * (1 + math.cos(math.pi * step / job.args.steps))
            start_time = time.perf_counter()
            family.update(x[batches[step]])
            job.log(**{f"{name}_seconds": time.perf_counter() - start_time})

    count = 500 if job.args.quick else 10_000
    fresh = [data.toy(job.args.data, count, standardize=True) for _ in range(60)]
    numbers, window = {}, plots.limits(x, margin=0.3)
    fig, axes = plots.figure(2, 4, width=2.7, height=3.6)
    axes[7].set_visible(False)
    plots.scatter(plots.plane(axes[0], window, job.args.data), x, plots.DATA, size=1)
    axes[0].set_xlabel(f"{job.args.steps} updates of {job.args.batch}\nfor every family", fontsize=10)
    for ax, (name, family) in zip(axes[1:], families.items()):
        with tg.no_grad():
            clouds = [family.sample(count) for _ in range(3)]
        sets = iter(fresh)                                          # the same data for all
        found = metrics.beside_floor(clouds, lambda n: next(sets))
        ratio, numbers["noise_floor"] = found["ratio"], found["noise_floor"]
        size, seconds = sum(p.size for p in family.model.parameters()), sum(job.history[f"{name}_seconds"])
        numbers |= {f"{name}_ratio": ratio, f"{name}_seconds": seconds, f"{name}_parameters": size}
        nll = family.nll(fresh[0][:2000])
        numbers, nats = (numbers, "") if nll is None else (numbers | {f"{name}_nll": nll}, f", {nll:.2f} nats")
        plots.scatter(plots.plane(ax, window, family.title), clouds[0], plots.MODEL, size=1)
        ax.set_xlabel(f"{family.density}{nats}\ndistance {ratio:.1f} x floor\n{seconds:.0f} s, {size:,} parameters\n"
                      f"{family.steps} step{'s' * (family.steps > 1)} to sample", fontsize=10)
    job.picture(fig, "compare.png")
    job.finish(**numbers)


if __name__ == "__main__":
    run.main(main)
