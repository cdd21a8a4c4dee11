"""Flow matching as a differential equation: better solvers, exact likelihoods, and the score.

Slide "Conditional flow matching", continued. Once u is learned, samples are the solution of

    dx/dt = u(x, t),   x(0) ~ N(0, I)                                                               (1)

and everything known about such equations applies. Solvers: the error at t = 1 falls with the step h as h for Euler,
h^2 for Heun, h^4 for Runge-Kutta. Likelihood: along a path the density changes by the divergence,

    ln p(x_1) = ln N(x_0; 0, I) - integral of div u(x_t, t) dt from 0 to 1                          (2)

so this implicit-looking model has an explicit p(x), found by following x_1 back to its noise. Score: the velocity and
the score of p_t carry the same information,

    grad ln p_t(x) = (t u(x, t) - x) / (1 - t)                                                      (3)

which is why flow matching and diffusion are two views of one thing.

Look at: orders.png (three straight lines of slope -1, -2, -4); density.png (p(x) of the model beside the true one);
score.png (arrows that point uphill in p_t; green, with --exact: the true ones).

Numbers in metrics.json: order_euler, order_heun, order_rk4 (fitted slopes, to compare with 1, 2, 4); integral of p(x)
over the window (1 if the likelihood is right); nll on fresh data, in nats per point. With --exact: true_nll of the true
density on the same data, and kl = nll - true_nll; score_gap, the mean |score - true score|^2 at t = 0.5. And the seconds
of training.

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


SOLVERS = {"euler": (euler, 1), "heun": (heun, 2), "rk4": (rk4, 4)}  # name: (step, evaluations of u per step)


def solve(f, x, start, end, steps, step=rk4):
    """dx/dt = f(x, t) from t = start to t = end, with f(x, t) for one time t and points x (N, D)."""
    h = (end - start) / steps
    for i in range(steps):
        x = step(f, x, start + i * h, h).detach()
    return x


def at_one_time(u):
    return lambda x, t: u(x, tg.full((len(x), 1), t))


def divergence(f, x, t):
    """sum_i d f_i / d x_i at each of x (N, D), one backward pass for each coordinate: (N,)"""
    x = tg.Tensor(x, requires_grad=True)
    y = f(x, t)                                                     # (N, D)
    rows = np.eye(x.shape[1])
    return sum(tg.grad(y, x, tg.Tensor(row).broadcast_to(y.shape))[0][:, i] for i, row in enumerate(rows))


def log_likelihood(f, x1, steps=40):
    """ln p(x_1) for each row, eq. (2): the points and the integral of div f are followed from t = 1 to t = 0 together."""
    def both(state, t):                                             # (N, D + 1)
        x = state[:, :-1]
        return tg.cat([f(x, t), divergence(f, x, t).reshape(-1, 1)], axis=1)
    state = solve(both, tg.cat([x1, tg.zeros(len(x1), 1)], axis=1), 1.0, 0.0, steps)
    x0, minus_integral = state[:, :-1], state[:, -1]                # from 1 to 0: minus the integral from 0 to 1
    log_normal = -0.5 * (x0 * x0).sum(axis=1) - 0.5 * x0.shape[1] * math.log(2 * math.pi)
    return log_normal + minus_integral                              # (N,)    slide, eq. (2)


def score(f, x, t):
    return (t * f(x, t) - x) * (1 / (1 - t))                        # (N, D)  slide, eq. (3)


def true_log_density(x, t=1.0):
    """ln p_t of the lecture's mixture, standardised as the training data are: a mixture of N(t m, t^2 S + (1 - t)^2 I)."""
    mean, covariance = data.moments("lecture_mixture")
    scale = np.sqrt(covariance.diagonal())
    terms = []
    for weight, m, S in zip(data.LECTURE_WEIGHTS, data.LECTURE_MEANS, data.LECTURE_COVARIANCES):
        V = t**2 * S / np.outer(scale, scale) + (1 - t)**2 * np.eye(2)
        d = x - tg.Tensor(t * (m - mean) / scale)                   # (N, 2)
        distance = ((d @ tg.Tensor(np.linalg.inv(V))) * d).sum(axis=1)
        terms.append(math.log(weight) - 0.5 * (distance + math.log(np.linalg.det(2 * math.pi * V))))
    return F.logsumexp(tg.stack(terms), axis=0)                     # (N,)


def main(argv=None):
    job = run.Job("flow_ode", __doc__, argv, data=("lecture_mixture",), steps=8000, batch=256, lr=5e-3, exact=True)
    x = data.toy("lecture_mixture", 100_000, standardize=True)         # (N, 2)
    u = Velocity(2, hidden=64)
    optimizer = optim.Adam(u.parameters(), lr=job.args.lr)
    schedule, average = optim.CosineLR(optimizer, job.args.steps), optim.EMA(u, 0.999)
    batches = data.Batches(len(x), job.args.batch, job.args.seed)
    for step in job.train(model=u, optimizer=optimizer, schedule=schedule, average=average):
        x1 = x[batches[step]]                                       # (B, 2)
        loss = flow_matching_loss(u, x1, tg.randn(*x1.shape), tg.rand(len(x1), 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update()
        job.log(loss=loss)

    with backend.precision("float64"):  # the fourth order disappears in float32's rounding
        exact_weights = Velocity(2, hidden=64)
        exact_weights.load_state_dict(average.model.state_dict())
        f = at_one_time(exact_weights)
        fresh = data.toy("lecture_mixture", 200 if job.args.quick else 5000, standardize=True)
        job.finish(**orders(job, f), **density(job, f, fresh), **scores(job, f))


def orders(job, f):
    """Errors against a solution that is exact to rounding; the slope over the finer half is the order."""
    x0 = tg.randn(200, 2)
    reference = solve(f, x0, 0.0, 1.0, 320)
    fig, (ax,) = plots.figure(1, 1, width=5, height=3.6)
    slopes, steps = {}, np.array([5, 10, 20, 40, 80])
    for (name, (step, evaluations)), color in zip(SOLVERS.items(), (plots.MODEL, plots.DATA, plots.EXACT)):
        errors = [((solve(f, x0, 0.0, 1.0, n, step) - reference)**2).mean().item()**0.5 for n in steps]
        slopes[f"order_{name}"] = -np.polyfit(np.log(steps[-3:]), np.log(errors[-3:]), 1)[0]
        ax.loglog(steps * evaluations, errors, "o-", color=color, label=f"{name}: order {slopes[f'order_{name}']:.2f}")
    ax.set(xlabel="evaluations of u", ylabel="error at t = 1", title="the same velocity, three solvers")
    ax.legend()
    job.picture(fig, "orders.png")
    return slopes


def density(job, f, fresh):
    """p(x) on a grid, its integral, and the likelihood of fresh data."""
    window, n = ((-3.2, 3.2), (-3.2, 3.2)), 24 if job.args.quick else 96
    points = tg.Tensor(plots.grid(window, n))                       # (n * n, 2)
    p = tg.exp(log_likelihood(f, points)).numpy().reshape(n, n)
    fig, axes = plots.figure(1, 2, 3.6)
    true = np.exp(true_log_density(points).numpy()).reshape(n, n)
    for ax, values, title in zip(axes, (p, true), ("p(x) of the model", "the true p(x)")):
        plots.plane(ax, window, title).imshow(values, origin="lower", extent=plots.pixels(window, n), cmap="Blues", vmin=0,
                                              vmax=true.max())
        ax.contour(*[np.linspace(*side, n) for side in window], values, np.linspace(0, true.max(), 8)[1:-1], colors="black", linewidths=0.4)
    job.picture(fig, "density.png")
    nll, true_nll = -log_likelihood(f, fresh).mean().item(), -true_log_density(fresh).mean().item()
    known = dict(true_nll=true_nll, kl=nll - true_nll) if job.args.exact else {}
    return dict(integral=p.sum() * (6.4 / (n - 1))**2, nll=nll, **known)


def scores(job, f):
    window = ((-3.2, 3.2), (-3.2, 3.2))
    points, gap = tg.Tensor(plots.grid(window, 16), requires_grad=True), {}
    fig, axes = plots.figure(1, 3)
    for ax, t in zip(axes, (0.2, 0.5, 0.8)):
        truth, = tg.grad(true_log_density(points, t).sum(), points)
        axis = np.linspace(*window[0], 60)
        p = np.exp(true_log_density(tg.Tensor(plots.grid(window, 60)), t).numpy()).reshape(60, 60)
        plots.plane(ax, window, f"score at t = {t}").contour(axis, axis, p, 6, colors=plots.DATA, linewidths=0.7)
        plots.arrows(ax, points.detach(), score(f, points, t).detach(), exact=truth if job.args.exact else None)
        if job.args.exact:
            x = t * data.toy("lecture_mixture", 2000, standardize=True) + (1 - t) * tg.randn(2000, 2)
            x = tg.Tensor(x, requires_grad=True)
            truth, = tg.grad(true_log_density(x, t).sum(), x)
            gap |= {"score_gap": ((score(f, x, t) - truth)**2).sum(axis=1).mean().item()} if t == 0.5 else {}
    job.picture(fig, "score.png")
    return gap


if __name__ == "__main__":
    run.main(main)
