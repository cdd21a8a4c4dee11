"""The Dirac GAN: why training two networks against each other is unstable, in two numbers.

Slide "Generative adversarial networks", the smallest case. All data are the point 0 and all samples the point theta:

    players     G(z) = theta,   D(x) = sigmoid(psi x),   the best G being theta = 0                                 (1)
    objective   min over theta, max over psi of   V = ln D(0) + ln(1 - D(theta)) = -ln 2 - softplus(psi theta)      (2)
    slopes      dV/dtheta = -s psi,   dV/dpsi = -s theta,   s = sigmoid(psi theta), near the solution 1/2           (3)

So theta is driven by psi and psi by -theta, as in a pendulum: the two circle around the solution. With h the size of a
step, the step near (0, 0) multiplies (theta, psi) by a matrix whose eigenvalue of largest modulus says what becomes of it:

    both at once     1 +- i h/2                         modulus sqrt(1 + h^2/4) > 1: outwards in a spiral           (4)
    alternately      of modulus 1 while h < 4           around and around, never arriving                           (5)
    with R1          1 + h lambda,  lambda = -g/2 +- sqrt(g^2/4 - 1/4),  for a small h: modulus < 1, inwards        (6)

where R1 adds g/2 E |dD/dx|^2 at the data, here g/2 psi^2, to the loss of D: friction for the pendulum. A real GAN does
the same in more dimensions; the losses and the penalty here are those of gan.py, and

    python demos/dirac_gan.py --compare     trains it with each of its losses, and without R1: one table

Look at: phase.png (theta and psi over training on the arrows of (3); start: dot, solution: cross); phase.gif (the same in
motion: the sample theta overshoots the datum 0 again and again).

Numbers in metrics.json: growth_simultaneous, growth_alternating, growth_r1, by how much the distance to the solution
grows per step, on average from first to last step; seconds of training. With --exact the largest modulus of an
eigenvalue beside each: exact_simultaneous, exact_alternating, exact_r1, and the largest gap. (The exact ones belong to
small distances.) With --compare: the numbers of gan.py, each after the name of its loss.

Mescheder et al., "Which training methods for GANs do actually converge?", 2018.
"""
import sys

import numpy as np

import gan
import tinygen as tg
from gan import discriminator_loss, generator_loss, r1_penalty
from tinygen import nn
from tinygen.lab import plots, run

RULES = {"simultaneous": dict(simultaneous=True), "alternating": {}, "r1": dict(weight=0.3)}


class Players(nn.Module):
    """Both players, a number each: G(z) = theta for every z, and the score of D(x) is psi x."""

    def __init__(self, theta, psi):
        self.theta, self.psi = nn.Buffer([[theta]]), nn.Buffer([[psi]])     # (1, 1), (1, 1)


def slope_D(theta, psi, weight):
    """What D descends: the derivative of its loss by psi. All data are 0."""
    psi, data = tg.Tensor(psi.data, requires_grad=True), tg.zeros(1, 1)
    D = lambda x: psi * x                                               # eq. (1)
    loss = discriminator_loss("minimax", D, data, theta)                # eq. (2): -V
    return tg.grad(loss + weight / 2 * r1_penalty(D, data), psi)[0]     # eq. (3): -dV/dpsi, and friction


def slope_G(theta, psi):
    """What G descends: the derivative of its loss by theta."""
    theta = tg.Tensor(theta.data, requires_grad=True)
    return tg.grad(generator_loss("minimax", lambda x: psi * x, theta), theta)[0]   # eq. (3): dV/dtheta


def update(theta, psi, h, simultaneous=False, weight=0.0):
    """One step of both players: G answers the new D, or, if simultaneous, the old one."""
    new_psi = psi - h * slope_D(theta, psi, weight)
    return theta - h * slope_G(theta, psi if simultaneous else new_psi), new_psi


def modulus(h, simultaneous=False, weight=0.0):
    """The largest modulus of the eigenvalues of a step near (theta, psi) = (0, 0)."""
    to_G, to_D = np.array([[1, h / 2], [0, 1]]), np.array([[1, 0], [-h / 2, 1 - h * weight]])  # one player alone
    step = to_G + to_D - np.eye(2) if simultaneous else to_G @ to_D                            # eq. (4); (5), (6)
    return np.abs(np.linalg.eigvals(step)).max()


def main(argv=None):
    job = run.Job("dirac_gan", __doc__, argv, data=("point",), steps=300, batch=1, lr=0.2, exact=True, flags={
        "--compare": dict(action="store_true", help="train gan.py with each loss, and without R1, and print a table")})
    if job.args.compare:
        return compare(job, sys.argv[1:] if argv is None else argv)
    h = job.args.lr
    players = {rule: Players(1.0, 0.0) for rule in RULES}
    for step in job.train(**players):
        for rule, player in players.items():
            job.log(**{f"{rule}_theta": player.theta.sum(), f"{rule}_psi": player.psi.sum()})
            player.theta.data, player.psi.data = [new.data for new in update(player.theta, player.psi, h, **RULES[rule])]

    paths = {rule: np.stack([job.history[f"{rule}_theta"], job.history[f"{rule}_psi"]], axis=1) for rule in RULES}
    distance = {rule: np.linalg.norm(path, axis=1) for rule, path in paths.items()}
    growth = {rule: (d[-1] / d[0])**(1 / max(1, len(d) - 1)) for rule, d in distance.items()}
    draw(job, paths, h)
    numbers = {f"growth_{rule}": value for rule, value in growth.items()}
    if job.args.exact:
        exact = {rule: modulus(h, **how) for rule, how in RULES.items()}
        numbers |= {f"exact_{rule}": value for rule, value in exact.items()}
        numbers["gap"] = max(abs(growth[rule] - exact[rule]) for rule in RULES)
    job.finish(**numbers)


def draw(job, paths, h):
    window = ((-2.2, 2.2), (-2.2, 2.2))
    points = plots.grid(window, 15)                                     # (225, 2): theta, psi
    s = 1 / (1 + np.exp(-points.prod(axis=1, keepdims=True)))
    fates = ["spirals out" if m > 1 + 1e-9 else "spirals in" if m < 1 - 1e-9 else "circles"
             for m in (modulus(h, **how) for how in RULES.values())]
    titles = [f"{name}: {fate}" for name, fate in zip(("both at once", "alternately", "alternately, with R1"), fates)]

    def panels(fig, axes):
        for ax, path, title, rule in zip(axes, paths.values(), titles, RULES):
            plots.plane(ax, window, title)
            friction = [0, RULES[rule].get("weight", 0)] * points
            plots.arrows(ax, points, points[:, ::-1] * [1, -1] * s - friction, color="#cccccc")
            ax.plot(0, 0, "x", color=plots.EXACT, markersize=9, markeredgewidth=2, zorder=4)
            ax.plot(*path[0], "o", color=plots.NOISE, zorder=4)
            ax.set(xlabel="theta: where the sample is", ylabel="psi: slope of D")

    fig, axes = plots.figure(1, 3, 3.4)
    panels(fig, axes)
    for ax, path in zip(axes, paths.values()):
        ax.plot(*path.T, color=plots.MODEL)
    job.picture(fig, "phase.png")

    fig, axes = plots.figure(1, 3, 3.4)
    panels(fig, axes)
    lines = [ax.plot([], [], color=plots.MODEL)[0] for ax in axes]
    ends = [ax.plot([], [], "o", color=plots.MODEL, zorder=5)[0] for ax in axes]

    def move(step):
        for line, end, path in zip(lines, ends, paths.values()):
            line.set_data(*path[:step + 1].T)
            end.set_data(*path[step:step + 1].T)
    job.animation(fig, move, range(0, job.args.steps, max(1, job.args.steps // 60)), "phase.gif", rate=10)


def compare(job, argv):
    """The real GAN of gan.py with each loss, and with the plain objective: a row of numbers each."""
    rest = [flag for flag in argv if flag != "--compare"]
    rows = {loss: ["--loss", loss] for loss in gan.LOSSES} | {"minimax_without_R1": ["--loss", "minimax", "--r1", "0"]}
    found = {name: gan.main([*rest, *flags, "--out", job.path(name)]) for name, flags in rows.items()}
    columns = ("modes", "high_quality", "spread", "reverse_kl", "seconds")
    for name, row in [("", columns), *((name, [f"{numbers[c]:.4g}" for c in columns]) for name, numbers in found.items())]:
        print(f"  {name:<20}", *(f"{cell:>12}" for cell in row))
    job.finish(**{f"{name}_{key}": value for name, numbers in found.items() for key, value in numbers.items()})


if __name__ == "__main__":
    run.main(main)
