"""Flow matching as a differential equation: better solvers, exact likelihoods, and the score.

Slide "Conditional flow matching", continued. Once u is learned, samples are the solution of

    dx/dt = u(x, t),   x(0) ~ N(0, I)                                                         (1)

and everything known about such equations applies. Solvers: the error at t = 1 falls with the step h
as h for Euler, h^2 for Heun, h^4 for Runge-Kutta. Likelihood: along a path the density changes by
the divergence,

    ln p(x_1) = ln N(x_0; 0, I) - integral of div u(x_t, t) dt from 0 to 1                    (2)

so the model has an explicit p(x), although it looks implicit: follow x_1 back to its noise.
Score: the velocity and the score of p_t carry the same information,

    grad ln p_t(x) = (t u(x, t) - x) / (1 - t)                                                (3)

which is why flow matching and diffusion are two views of one thing.

Look at:
    orders.png    three straight lines of slope -1, -2, -4
    density.png   p(x) of the model and the true one
    score.png     arrows that point uphill in p_t; with --exact the true ones in green

Numbers in metrics.json:
    order_euler, order_heun, order_rk4
                  fitted slopes, to compare with 1, 2, 4
    integral      of p(x) over the window (1 if the likelihood is right)
    nll           the mean of -ln p(x) on fresh data, in nats per point
    seconds       of training
    true_nll      with --exact: that of the true density on the same data
    kl            with --exact: nll - true_nll
    score_gap     with --exact: the mean of |score - true score|^2 at t = 0.5

Chen et al., "Neural ordinary differential equations", 2018; Lipman et al., "Flow matching", 2023.
"""
import math

import numpy as np

import tinygen as tg
from flow_matching import Velocity, flow_matching_loss
from tinygen import backend, functional as F, optim
from tinygen.lab import data, plots, run


def euler(f, x, t, h):
    return x + h * f(x, t)


def heun(f, x, t, h):
    k1 = f(x, t)
    k2 = f(x + h * k1, t + h)
    return x + h / 2 * (k1 + k2)


def rk4(f, x, t, h):
    k1 = f(x, t)
    k2 = f(x + h / 2 * k1, t + h / 2)
    k3 = f(x + h / 2 * k2, t + h / 2)
    k4 = f(x + h * k3, t + h)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def solve(f, x, start, end, steps, step=rk4):
    """dx/dt = f(x, t) from t = start to t = end; f takes points x (N, D) and one time t for all."""
    h = (end - start) / steps
    for i in range(steps):
        x = step(f, x, start + i * h, h).detach()
    return x


def at_one_time(u):
    return lambda x, t: u(x, tg.full((len(x), 1), t))


def divergence(f, x, t):
    """sum_i d f_i / d x_i at each of x (N, D), one backward pass for each coordinate: (N,)"""
    x = tg.Tensor(x, requires_grad=True)
    y = f(x, t)                                                 # (N, D)
    total = 0
    for i, unit in enumerate(np.eye(x.shape[1])):
        df_i, = tg.grad(y, x, tg.Tensor(unit).broadcast_to(y.shape))    # (N, D)
        total = total + df_i[:, i]                              # (N,)
    return total


def log_likelihood(f, x1, steps=40):
    """ln p(x_1) for each row. The points and the integral of (2) go back from t = 1 together."""
    def both(state, t):
        x = state[:, :-1]                                       # (N, D)
        return tg.cat([f(x, t), divergence(f, x, t).reshape(-1, 1)], axis=1)    # (N, D + 1)
    state = solve(both, tg.cat([x1, tg.zeros(len(x1), 1)], axis=1), 1.0, 0.0, steps)
    x0 = state[:, :-1]                                          # (N, D)
    minus_integral = state[:, -1]                               # (N,)     from 1 to 0
    log_normal = -0.5 * (x0 * x0).sum(axis=1) - 0.5 * x0.shape[1] * math.log(2 * math.pi)
    return log_normal + minus_integral                          # (N,)     slide, eq. (2)


def score(f, x, t):
    return (t * f(x, t) - x) * (1 / (1 - t))                    # (N, D)   slide, eq. (3)


def true_log_density(x, t=1.0):
    """ln p_t of the standardized lecture_mixture, a mixture of N(t m, t^2 S + (1 - t)^2 I)."""
    mean, covariance = data.moments("lecture_mixture")
    scale = np.sqrt(covariance.diagonal())
    terms = []
    for weight, m, S in zip(data.LECTURE_WEIGHTS, data.LECTURE_MEANS, data.LECTURE_COVARIANCES):
        V = t**2 * S / np.outer(scale, scale) + (1 - t)**2 * np.eye(2)
        d = x - tg.Tensor(t * (m - mean) / scale)               # (N, 2)
        distance = ((d @ tg.Tensor(np.linalg.inv(V))) * d).sum(axis=1)      # (N,)
        log_volume = math.log(np.linalg.det(2 * math.pi * V))
        terms.append(math.log(weight) - 0.5 * (distance + log_volume))
    return F.logsumexp(tg.stack(terms), axis=0)                 # (N,)


def main(argv=None):
    job = run.Job("flow_ode", __doc__, argv, data=("lecture_mixture",), steps=8000, batch=256,
                  lr=5e-3, exact=True)
    x = data.toy("lecture_mixture", 100_000, standardize=True)  # (N, 2)
    u = Velocity(2, hidden=64)
    optimizer = optim.Adam(u.parameters(), lr=job.args.lr)
    schedule = optim.CosineLR(optimizer, job.args.steps)
    ema = optim.EMA(u, 0.999)
    batches = data.Batches(len(x), job.args.batch, job.args.seed)
    for step in job.train(model=u, optimizer=optimizer, schedule=schedule, average=ema):
        x1 = x[batches[step]]                                   # (B, 2)
        loss = flow_matching_loss(u, x1, tg.randn(*x1.shape), tg.rand(len(x1), 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.update()
        job.log(loss=loss)
    with backend.precision("float64"):  # float32 would round the fourth order away
        u = Velocity(2, hidden=64)
        u.load_state_dict(ema.model.state_dict())
        f = at_one_time(u)
        fresh = data.toy("lecture_mixture", 200 if job.args.quick else 5000, standardize=True)
        job.finish(**orders(job, f), **density(job, f, fresh), **scores(job, f))


# Numbers and pictures -----------------------------------------------------------------------------

WINDOW = (-3.2, 3.2), (-3.2, 3.2)
CORNERS = (*WINDOW[0], *WINDOW[1])
SOLVERS = {"euler": (euler, 1), "heun": (heun, 2), "rk4": (rk4, 4)}  # name: (step, calls of u)


def orders(job, f):
    """Errors against a solution exact up to rounding, and their slope over the finer half."""
    x0 = tg.randn(200, 2)
    reference = solve(f, x0, 0.0, 1.0, 320)                     # (200, 2)
    steps = np.array([5, 10, 20, 40, 80])
    slopes = {}
    fig, (ax,) = plots.figure(1, 1, width=5, height=3.6)
    for name, color in zip(SOLVERS, (plots.MODEL, plots.DATA, plots.EXACT)):
        step, calls = SOLVERS[name]
        ends = [solve(f, x0, 0.0, 1.0, n, step) for n in steps]
        errors = [((end - reference)**2).mean().item()**0.5 for end in ends]
        order = -np.polyfit(np.log(steps[-3:]), np.log(errors[-3:]), 1)[0]
        slopes[f"order_{name}"] = order
        ax.loglog(steps * calls, errors, "o-", color=color, label=f"{name}: order {order:.2f}")
    ax.set(xlabel="evaluations of u", ylabel="error at t = 1",
           title="the same velocity, three solvers")
    ax.legend()
    job.picture(fig, "orders.png")
    return slopes


def density(job, f, fresh):
    """p(x) on a grid, its integral, and the likelihood of fresh data."""
    n = 24 if job.args.quick else 96
    points = tg.Tensor(plots.grid(WINDOW, n))                   # (n * n, 2)
    p = tg.exp(log_likelihood(f, points)).numpy().reshape(n, n)
    true = np.exp(true_log_density(points).numpy()).reshape(n, n)
    levels = np.linspace(0, true.max(), 8)[1:-1]
    fig, axes = plots.figure(1, 2, 3.6)
    for ax, values, title in zip(axes, (p, true), ("p(x) of the model", "the true p(x)")):
        plots.plane(ax, WINDOW, title)
        ax.imshow(values, origin="lower", extent=plots.pixels(WINDOW, n), cmap="Blues", vmin=0,
                  vmax=true.max())
        ax.contour(values, levels, extent=CORNERS, colors="black", linewidths=0.4)
    job.picture(fig, "density.png")
    nll = -log_likelihood(f, fresh).mean().item()
    true_nll = -true_log_density(fresh).mean().item()
    known = dict(true_nll=true_nll, kl=nll - true_nll) if job.args.exact else {}
    return dict(integral=p.sum() * (6.4 / (n - 1))**2, nll=nll, **known)


def true_score(x, t):
    """The gradient of true_log_density by x."""
    x = tg.Tensor(x, requires_grad=True)
    gradient, = tg.grad(true_log_density(x, t).sum(), x)
    return gradient                                             # (N, 2)


def scores(job, f):
    """Arrows of the score over the true density, at three times."""
    points = tg.Tensor(plots.grid(WINDOW, 16))                  # (256, 2)
    fine = tg.Tensor(plots.grid(WINDOW, 60))                    # (3600, 2)
    gaps = {}
    fig, axes = plots.figure(1, 3)
    for ax, t in zip(axes, (0.2, 0.5, 0.8)):
        p = np.exp(true_log_density(fine, t).numpy()).reshape(60, 60)
        plots.plane(ax, WINDOW, f"score at t = {t}")
        ax.contour(p, 6, extent=CORNERS, colors=plots.DATA, linewidths=0.7)
        exact = true_score(points, t) if job.args.exact else None
        plots.arrows(ax, points, score(f, points, t).detach(), exact=exact)
        if job.args.exact:
            x1 = data.toy("lecture_mixture", 2000, standardize=True)        # (2000, 2)
            xt = t * x1 + (1 - t) * tg.randn(2000, 2)           # (2000, 2)
            gaps[t] = ((score(f, xt, t) - true_score(xt, t))**2).sum(axis=1).mean().item()
    job.picture(fig, "score.png")
    return {"score_gap": gaps[0.5]} if job.args.exact else {}


if __name__ == "__main__":
    run.main(main)
