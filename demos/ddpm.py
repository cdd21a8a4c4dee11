"""Denoising diffusion: learn to see the noise in noisy data, then turn pure noise into data in many small steps.

Slide "Denoising diffusion probabilistic models". x_0 is data, x_T is noise, t = 1, ..., T; alpha_t = 1 - beta_t and
abar_t = alpha_1 ... alpha_t, so that abar_0 = 1 and abar_T is almost 0:

    one step    q(x_t | x_{t-1}) = N(sqrt(alpha_t) x_{t-1}, beta_t I)                                             (1)
    t steps     x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,   eps ~ N(0, I)                                    (2)
    back        q(x_s | x_t, x_0) = N(a x_0 + b x_t, btilde I),   s < t,   beta = 1 - abar_t / abar_s,
                a = sqrt(abar_s) beta / (1 - abar_t),   b = sqrt(1 - beta) (1 - abar_s) / (1 - abar_t),
                btilde = beta (1 - abar_s) / (1 - abar_t)                                                         (3)

    Algorithm 1, training                                  Algorithm 2, sampling
    1  repeat                                              1  x_T ~ N(0, I)
    2    x_0 ~ data                                        2  for t = T, ..., 1
    3    t ~ Uniform{1, ..., T}                            3    z ~ N(0, I) if t > 1, else z = 0
    4    eps ~ N(0, I)                                     4    x_{t-1} = (x_t - beta_t / sqrt(1 - abar_t) eps(x_t, t))
    5    step along the gradient of                                       / sqrt(alpha_t) + sigma_t z
         |eps - eps(sqrt(abar_t) x_0                       5  end for
                    + sqrt(1 - abar_t) eps, t)|^2          6  return x_0
    6  until converged

The betas 1e-4, ..., 0.02 of the paper belong to T = 1000. With T = 200 they are scaled by 1000 / T: otherwise x_T would
still contain data, while line 1 of Algorithm 2 starts from none.

    --predict   the network says eps, or x_0, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0      (4)
                each of them gives eps by (2), and the loss compares what is said. Images ask for x_0: their noise
                does not fit through 512 hidden units

sigma_t^2 in line 4 is btilde of (3); ddim.py compares it with others, and takes fewer steps, from t to any earlier s.

The best possible answer for training data x^1, ..., x^N:

    eps* = (x - sqrt(abar_t) E[x_0 | x_t = x]) / sqrt(1 - abar_t),
    E[x_0 | x] = sum_i w_i x^i,   w = softmax(-|x - sqrt(abar_t) x^i|^2 / 2 (1 - abar_t))                              (5)

Look at: samples.png (training data beside samples); strips.png (above, data become noise; below, noise becomes data: in
each column both are the same distribution); reverse.gif (the lower row as a film). The loss at each t, the score, and
other samplers for the same network are in ddim.py.

Numbers in metrics.json. loss, the mean of the last tenth; seconds of training. In the plane (data are standardised, so
that the unit is one standard deviation): sliced_w2, the distance of 10,000 samples to as many fresh data; noise_floor,
the distance of two fresh data sets of that size, what perfect samples would score, give or take chance; ratio of the
two (root mean squares over several sets of each). With --exact, as means over t: irreducible, the loss |eps - eps*|^2
of the exact solution (5), and eps_gap, the mean of |eps(x_t, t) - eps*|^2, by which the network's loss is higher (up to
sampling).

Ho et al., "Denoising diffusion probabilistic models", 2020; Nichol & Dhariwal, "Improved DDPM", 2021 (cosine schedule);
Salimans & Ho, "Progressive distillation for fast sampling of diffusion models", 2022 (v).
"""
import math

import numpy as np

import tinygen as tg
from tinygen import backend, functional as F, nn, optim
from tinygen.lab import data, metrics, plots, run


class Diffusion:
    """The forward process: alpha_bar[t] for t = 0, ..., T."""

    def __init__(self, T=200, schedule="linear"):
        f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2)**2      # (T + 1,) the cosine schedule's abar
        beta = np.linspace(1e-4, 0.02, T) * 1000 / T if schedule == "linear" else 1 - f[1:] / f[:-1]    # (T,)
        self.T, self.alpha_bar = T, np.append(1, np.cumprod(1 - np.minimum(beta, 0.999)))  # (T + 1,)
        self.table = tg.Tensor(self.alpha_bar[:, None])             # (T + 1, 1) where the data live

    def at(self, t):
        """abar_t for integers t (N,), as a column (N, 1). Only 1, ..., T are times: nothing wraps around."""
        backend.check_index(t - 1, self.T, f"t - 1, for a time t of the diffusion in 1..{self.T},")
        return self.table[t]

    def noised(self, x0, t, eps):
        return tg.sqrt(self.at(t)) * x0 + tg.sqrt(1 - self.at(t)) * eps         # (N, D)   slide, eq. (2)


class Denoiser(nn.Module):
    """A multi-layer perceptron on the point and the time."""

    def __init__(self, dim, hidden, features=32, max_period=1000.0):
        self.time = nn.SinusoidalEmbedding(features, max_period)
        sizes = [dim + features] + 4 * [hidden]
        layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.net = nn.Sequential(*layers, nn.Linear(hidden, dim))

    def forward(self, x, t):
        return self.net(tg.cat([x, self.time(t)], axis=1))          # (N, D), (N,) -> (N, D)


def target(x0, eps, abar, predict):
    """What the network is to say: slide, eq. (4)."""
    return {"eps": eps, "x0": x0, "v": tg.sqrt(abar) * eps - tg.sqrt(1 - abar) * x0}[predict]


def to_eps(said, xt, abar, predict):
    """The noise in x_t by what the network said: eq. (4) solved for eps, with the help of eq. (2)."""
    return {"eps": said, "x0": (xt - tg.sqrt(abar) * said) / tg.sqrt(1 - abar),
            "v": tg.sqrt(abar) * said + tg.sqrt(1 - abar) * xt}[predict]


def random_times(n, T):
    return tg.randint(1, T + 1, (n,))                               # (N,)     Alg. 1, line 3


def ddpm_loss(model, diffusion, x0, t, eps, predict="eps"):
    said = model(diffusion.noised(x0, t, eps), t)                   # (N, D)
    error = target(x0, eps, diffusion.at(t), predict) - said
    return (error * error).sum(axis=1).mean()                       #          Alg. 1, line 5


def posterior(abar_t, abar_s):
    """a, b and btilde of q(x_s | x_t, x_0) for times s < t."""
    beta, part = 1 - abar_t / abar_s, (1 - abar_s) / (1 - abar_t)
    return math.sqrt(abar_s) * beta / (1 - abar_t), math.sqrt(1 - beta) * part, beta * part     # slide, eq. (3)


def ddpm_step(x, eps, z, abar_t, abar_s, sigma="posterior"):
    alpha, (_, _, btilde) = abar_t / abar_s, posterior(abar_t, abar_s)
    variance = 1 - alpha if sigma == "beta" else btilde
    return (x - (1 - alpha) / math.sqrt(1 - abar_t) * eps) / math.sqrt(alpha) + math.sqrt(variance) * z  # Alg. 2, line 4


def ddim_step(x, eps, z, abar_t, abar_s, eta=0.0):
    variance = eta**2 * posterior(abar_t, abar_s)[2]
    x0 = (x - math.sqrt(1 - abar_t) * eps) / math.sqrt(abar_t)      #          eq. (2) solved for x_0
    return math.sqrt(abar_s) * x0 + math.sqrt(1 - abar_s - variance) * eps + math.sqrt(variance) * z  # ddim.py, eq. (1)


@tg.no_grad()
def sample(eps, x, diffusion, step=ddpm_step, steps=None):
    """From x = x_T to data, in `steps` steps (default T). Returns the times and the whole path, (steps + 1, N, D)."""
    times = np.linspace(diffusion.T, 0, (steps or diffusion.T) + 1).round().astype(int)   # s = t - 1, or an earlier time
    path = [x]                                                      #          Alg. 2, line 1
    for t, s in zip(times, times[1:]):                              #          Alg. 2, line 2
        z = tg.randn(*x.shape) if s > 0 else tg.zeros(*x.shape)     # (N, D)   Alg. 2, line 3
        x = step(x, eps(x, tg.full((len(x),), int(t))), z, diffusion.alpha_bar[t], diffusion.alpha_bar[s])
        path.append(x)
    return times, tg.stack(path)                                    #          Alg. 2, line 6


def exact_eps(x, t, diffusion, data):
    """The minimiser of the loss for a finite training set, eq. (5)."""
    abar = diffusion.at(t)                                          # (N, 1)
    near = tg.sqrt(abar) * (x @ data.T) - abar / 2 * (data * data).sum(axis=1)  # (N, M) without |x|^2, the same for all
    x0 = F.softmax(near / (1 - abar), axis=1) @ data                # (N, D)
    return (x - tg.sqrt(abar) * x0) / tg.sqrt(1 - abar)


def main(argv=None):
    job = run.Job("ddpm", __doc__, argv, data=(*data.TOYS, *data.IMAGES), exact=True, lr={"toys": 4e-3, "images": 1e-3},
                  steps={"toys": 8000, "images": 4000}, batch={"toys": 512, "images": 128}, flags={
                      "--T": dict(type=run.number(int, 1), default=200, help="noise levels"),
                      "--schedule": dict(choices=("linear", "cosine"), default="linear", help="how the betas grow"),
                      "--predict": dict(choices=("eps", "x0", "v"), help="what is learned (default: eps; x0 for images)")})
    args, toys = job.args, job.args.kind == "toys"
    x = data.toy(args.data, 50_000, standardize=True) if toys else 2 * data.images(
        args.data, folder=args.data_dir)[0].flatten(1) - 1          # (N, 2), or (N, 784) in [-1, 1]
    diffusion, predict = Diffusion(args.T, args.schedule), args.predict or ("eps" if toys else "x0")
    model = Denoiser(x.shape[1], hidden=128 if toys else 512)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    schedule, average = optim.CosineLR(optimizer, args.steps), optim.EMA(model, 0.999)
    batches = data.Batches(len(x), args.batch, args.seed)
    for step in job.train(model=model, optimizer=optimizer, schedule=schedule, average=average):    # Alg. 1, line 1
        x0 = x[batches[step]]                                       # (B, D)   Alg. 1, line 2
        t, eps = random_times(len(x0), args.T), tg.randn(*x0.shape)  # (B,), (B, D)   Alg. 1, lines 3 and 4
        loss = ddpm_loss(model, diffusion, x0, t, eps, predict)
        optimizer.zero_grad()
        loss.backward()                                             #          Alg. 1, line 5
        optimizer.step()
        schedule.step()
        average.update()
        job.log(loss=loss)

    eps = lambda x, t: to_eps(average.model(x, t), x, diffusion.at(t), predict)
    numbers = pictures(job, eps, x, diffusion)
    numbers |= compare_with_exact(eps, x, diffusion, 100 if args.quick else 10_000) if args.exact else {}
    job.finish(loss=job.last("loss"), **numbers)


def show(ax, x, title, color=plots.MODEL, columns=5):
    """Points of the plane, or images."""
    if x.shape[1] == 2:
        plots.scatter(plots.plane(ax, ((-3.2, 3.2), (-3.2, 3.2)), title), x, color, limit=3000)
    else:
        plots.pictures(ax, x[:columns**2], columns, title, low=-1)


@tg.no_grad()
def pictures(job, eps, x, diffusion):
    """Samples, and how they come about; returns how far those of the plane are from fresh data."""
    T, toys, count = diffusion.T, job.args.kind == "toys", 200 if job.args.quick else 10_000
    path = sample(eps, tg.randn(count if toys else 64, x.shape[1]), diffusion)[1]       # (T + 1, N, D)
    fig, (left, right) = plots.figure(1, 2, 3.6)
    show(left, x, "training data", plots.DATA, 8)
    show(right, path[-1], "samples", columns=8)
    job.picture(fig, "samples.png")

    fig, axes = plots.figure(2, 6, 2.2)
    for above, below, t in zip(axes[:6], axes[6:], [round(part * T) for part in (0, 0.05, 0.12, 0.25, 0.5, 1)]):
        abar, x0 = diffusion.alpha_bar[t], x[:path.shape[1]]
        xt = math.sqrt(abar) * x0 + math.sqrt(1 - abar) * tg.randn(*x0.shape)   # (N, D)   slide, eq. (2)
        show(above, xt, rf"data $\rightarrow$ t = {t}", plots.DATA)
        show(below, path[T - t], rf"t = {t} $\leftarrow$ noise")
    job.picture(fig, "strips.png")

    fig, (ax,) = plots.figure(1, 1, 4)
    frames = [T, 0] if job.args.quick else [*range(T, 0, -max(1, T // 40))] + [0] * 12          # t
    job.animation(fig, lambda t: (ax.clear(), show(ax, path[T - t], f"t = {t}")), frames, "reverse.gif")
    if not toys:
        return {}
    fresh = lambda n: data.toy(job.args.data, n, standardize=True)              # (n, 2)
    clouds = [path[-1]] + [sample(eps, tg.randn(count, 2), diffusion)[1][-1] for _ in range(2)]
    return metrics.beside_floor(clouds, fresh)


@tg.no_grad()
def compare_with_exact(eps, x, diffusion, count):
    """The loss of the exact solution (5), and by how much that of the network is higher."""
    t, noise = tg.Tensor(np.arange(count) * diffusion.T // count + 1), tg.randn(count, x.shape[1])     # (M,), (M, D)
    xt = diffusion.noised(x[tg.randint(0, len(x), (count,))], t, noise)         # (M, D)
    best = tg.cat([exact_eps(xt[i:i + 100], t[i:i + 100], diffusion, x) for i in range(0, count, 100)])
    error = lambda a, b: ((a - b)**2).sum(axis=1).mean().item()
    return dict(irreducible=error(best, noise), eps_gap=error(best, eps(xt, t)))


if __name__ == "__main__":
    run.main(main)
