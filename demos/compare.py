"""All families on one page: the same data, the same minibatches, the same number of updates.

The slides' map of generative models. Explicit ones have a density p(x) that can be evaluated:

    Gaussian mixture    p(x) = sum_k pi_k N(x; mu_k, Sigma_k)                                 (1)
    normalizing flow    p(x) = N(f(x); 0, I) |det df/dx|                                      (2)
    VAE                 p(x) = integral of p(x | z) p(z) dz, bounded from below               (3)

Implicit ones only have a way to draw from it:

    GAN                 x = G(z), one step                                                    (4)
    diffusion           T small denoising steps                                               (5)
    flow matching       dx/dt = u(x, t), so a density as well, by the change along the path   (6)

Each is trained by the loss of its own demo, in turns on the very same minibatches, with networks of
about the same size and Adam. The settings are simple, so the numbers show what a family achieves
for this little work, not its best. (--lr is a factor on all learning rates.)

Look at:
    compare.png   data, then a panel for each family: samples, kind, distance, seconds, parameters,
                  steps to sample

Numbers in metrics.json:
    noise_floor   the sliced W2 of two fresh data sets of 10,000
    gmm_ratio, vae_ratio, gan_ratio, flow_ratio, ddpm_ratio, cfm_ratio
                  the sliced W2 of 10,000 samples to fresh data, over noise_floor
    gmm_seconds, vae_seconds, gan_seconds, flow_seconds, ddpm_seconds, cfm_seconds
                  the time of training
    seconds       the time of training of all together
    gmm_parameters, vae_parameters, gan_parameters, flow_parameters, ddpm_parameters, cfm_parameters
                  the size
    gmm_nll, flow_nll
                  -ln p(x) in nats per fresh point, exact
    vae_nll       an upper bound of it
    cfm_nll       the same by the divergence along the path

The demos: gmm.py, vae.py, gan.py, normalizing_flow.py, ddpm.py, flow_matching.py.
"""
import collections
import math
import time

import tinygen as tg
from ddpm import Denoiser, ddpm_loss, random_times, sample as ddpm_sample
from flow_matching import Velocity, euler, flow_matching_loss
from flow_ode import at_one_time, log_likelihood
from forward_process import Diffusion
from gan import discriminator_loss, generator_loss, mlp, r1_penalty
from gmm import negative_log_likelihood, start
from normalizing_flow import Flow
from tinygen import functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run
from vae import reparameterize

# losses(x) computes those of a minibatch, one for each optimizer in turn; sample(n) draws n samples
Family = collections.namedtuple("Family", "model lr optimizers losses sample")
STEPS = {"ddpm": 200, "cfm": 100}  # to sample; the other families need one


def gmm(x):
    model = start(x[:2000].numpy(), 12)
    return Family(model, 1e-2, [optim.Adam(model.parameters())],
                  losses=lambda x: [negative_log_likelihood(model, x)],         # eq. (1)
                  sample=lambda n: model.sample(model.draw_components(n)))


def flow(x):
    model = Flow(hidden=48, layers=8)
    return Family(model, 1e-3, [optim.Adam(model.parameters())],
                  losses=lambda x: [-model.log_prob(x).mean()],                 # eq. (2)
                  sample=lambda n: model.inverse(tg.randn(n, 2))[-1])


def vae(x):
    """The VAE of the slide for points: p(x | z) = N(decoder(z), s^2 I), with s learned."""
    encoder = mlp(2, 4)                                                         # mean and logvar
    decoder = mlp(2, 2)
    model = nn.Sequential(encoder, decoder)
    model.log_s = nn.Parameter([-2.0])      # with a large s the code would be useless at first

    def losses(x):
        h = encoder(x)                                                          # (B, 4)
        mean, logvar = h[:, :2], h[:, 2:]
        decoded = decoder(reparameterize(mean, logvar, tg.randn(*mean.shape)))  # (B, 2)
        variance = tg.exp(2 * model.log_s).broadcast_to(x.shape)
        error = F.gaussian_nll_loss(decoded, x, variance, full=True, reduction="none")
        return [(error.sum(axis=1) + F.kl_standard_normal(mean, logvar)).mean()]    # eq. (3)
    return Family(model, 1e-3, [optim.Adam(model.parameters())], losses,
                  lambda n: decoder(tg.randn(n, 2)) + tg.exp(model.log_s) * tg.randn(n, 2))


def gan(x):
    G = mlp(8, 2)
    D = mlp(2, 1)

    def losses(x):                                                              # eq. (4)
        fake = G(tg.randn(len(x), 8))
        yield discriminator_loss("non_saturating", D, x, fake) + r1_penalty(D, x)
        yield generator_loss("non_saturating", D, fake)     # after D's step
    optimizers = [optim.Adam(player.parameters(), betas=(0.5, 0.9)) for player in (D, G)]
    return Family(nn.Sequential(G, D), 3e-4, optimizers, losses, lambda n: G(tg.randn(n, 8)))


def ddpm(x):
    model = Denoiser(2, hidden=96)
    diffusion = Diffusion(STEPS["ddpm"])

    def losses(x):
        t = random_times(len(x), diffusion.T)
        return [ddpm_loss(model, diffusion, x, t, tg.randn(*x.shape))]          # eq. (5)
    return Family(model, 3e-3, [optim.Adam(model.parameters())], losses,
                  sample=lambda n: ddpm_sample(model, tg.randn(n, 2), diffusion)[1][-1])


def cfm(x):
    u = Velocity(2, hidden=128)

    def losses(x):
        x0 = tg.randn(*x.shape)
        return [flow_matching_loss(u, x, x0, tg.rand(len(x), 1))]               # eq. (6)
    return Family(u, 5e-3, [optim.Adam(u.parameters())], losses,
                  sample=lambda n: euler(u, tg.randn(n, 2), STEPS["cfm"])[-1])


def main(argv=None):
    job = run.Job("compare", __doc__, argv, data=DATA, steps=4000, batch=256, lr=1.0)
    x = data.toy(job.args.data, 50_000, standardize=True)       # (N, 2)
    families = {make.__name__: make(x) for make in (gmm, vae, gan, flow, ddpm, cfm)}
    batches = data.Batches(len(x), job.args.batch, job.args.seed)
    for step in job.train(**parts(families)):
        decay = job.args.lr * 0.5 * (1 + math.cos(math.pi * step / job.args.steps))
        for name, family in families.items():
            start_time = time.perf_counter()
            for optimizer, loss in zip(family.optimizers, family.losses(x[batches[step]])):
                optimizer.lr = family.lr * decay
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            job.log(**{f"{name}_seconds": time.perf_counter() - start_time})
    job.finish(**measure(job, families, x))


# Numbers and pictures -----------------------------------------------------------------------------

DATA = ("moons", "pinwheel", "checkerboard", "swiss_roll", "eight_gaussians")
KINDS = {
    "gmm": ("Gaussian mixture, K = 12", "explicit p(x)"),
    "vae": ("VAE", "explicit, a bound"),
    "gan": ("GAN", "no p(x)"),
    "flow": ("normalizing flow", "explicit p(x)"),
    "ddpm": ("diffusion (DDPM)", "no p(x)"),
    "cfm": ("flow matching", "p(x) through the ODE")}


def parts(families):
    """What a checkpoint holds."""
    return {f"{name} {i}": part for name, family in families.items()
            for i, part in enumerate([family.model, *family.optimizers])}


def measure(job, families, x):
    """Draw a panel for each family, and return its numbers."""
    count = 500 if job.args.quick else 10_000
    fresh = [data.toy(job.args.data, count, standardize=True) for _ in range(60)]
    window = plots.limits(x, margin=0.3)
    fig, axes = plots.figure(2, 4, width=2.7, height=3.6)
    axes[7].set_visible(False)
    plots.scatter(plots.plane(axes[0], window, job.args.data), x, plots.DATA, size=1)
    work = f"{job.args.steps} updates of {job.args.batch}\nfor every family"
    axes[0].set_xlabel(work, fontsize=10)
    numbers = {}
    for ax, (name, family) in zip(axes[1:], families.items()):
        with tg.no_grad():
            clouds = [family.sample(count) for _ in range(3)]
        sets = iter(fresh)                                      # the same data for all
        found = metrics.beside_floor(clouds, lambda n: next(sets))
        own = dict(ratio=found["ratio"], seconds=sum(job.history[f"{name}_seconds"]),
                   parameters=sum(p.size for p in family.model.parameters()))
        own |= nll(name, family, fresh[0][:2000])
        title, kind = KINDS[name]
        plots.scatter(plots.plane(ax, window, title), clouds[0], plots.MODEL, size=1)
        ax.set_xlabel(caption(kind, STEPS.get(name, 1), **own), fontsize=10)
        numbers |= {f"{name}_{key}": value for key, value in own.items()}
        numbers["noise_floor"] = found["noise_floor"]           # the same for all
    job.picture(fig, "compare.png")
    return numbers


def nll(name, family, x):
    """The mean of -ln p(x) where there is a density: most explicit models have it as their loss."""
    if name == "cfm":
        return dict(nll=-log_likelihood(at_one_time(family.model), x).mean().item())
    return dict(nll=family.losses(x)[0].item()) if name in ("gmm", "vae", "flow") else {}


def caption(kind, steps, ratio, seconds, parameters, nll=None):
    nats = "" if nll is None else f", {nll:.2f} nats"
    draw = "1 step to sample" if steps == 1 else f"{steps} steps to sample"
    return (f"{kind}{nats}\ndistance {ratio:.1f} x floor\n"
            f"{seconds:.0f} s, {parameters:,} parameters\n{draw}")


if __name__ == "__main__":
    run.main(main)
