"""The Dirac GAN: why training two networks against each other is unstable, in two numbers.

Slide "Generative adversarial networks", the smallest case. All data are the point 0 and all samples
the point theta:

    players     G(z) = theta,   D(x) = sigmoid(psi x),   the best G being theta = 0           (1)
    objective   min over theta, max over psi of                                               (2)
                V = ln D(0) + ln(1 - D(theta)) = -ln 2 - softplus(psi theta)
    gradients   dV/dtheta = -s psi,   dV/dpsi = -s theta,                                     (3)
                s = sigmoid(psi theta), near the solution 1/2

So psi drives theta and -theta drives psi, as in a pendulum: the two circle around the solution.
Near (0, 0) a step of size h multiplies (theta, psi) by a matrix. Its eigenvalue of largest modulus
decides what becomes of them:

    both at once   1 +- i h/2                   modulus sqrt(1 + h^2/4) > 1: a spiral outward (4)
    alternately    of modulus 1 while h < 4     around and around, never arriving             (5)
    with R1        1 + h lambda                 for a small h modulus < 1: a spiral inward    (6)
                   lambda = -g/2 +- sqrt(g^2/4 - 1/4)

where R1 adds g/2 E |dD/dx|^2 at the data, here g/2 psi^2, to the loss of D: friction for the
pendulum. A real GAN does the same in more dimensions. The losses and the penalty here are those of
gan.py, and

    python demos/dirac_gan.py --compare

trains gan.py with each of its losses and without R1, and prints one table.

Look at:
    phase.png   theta and psi during training, on the arrows of (3); start: dot, solution: cross
    phase.gif   the same in motion: the sample theta overshoots the datum 0 again and again

Numbers in metrics.json:
    growth_simultaneous   by how much the distance to the solution grows per step, on average from
                          first to last step, with both players at once
    growth_alternating    the same, alternately
    growth_r1             the same, alternately and with R1
    seconds               of training
    exact_simultaneous    with --exact: the largest modulus of an eigenvalue, to which the growth
                          tends at small distances
    exact_alternating     the same, alternately
    exact_r1              the same, alternately and with R1
    gap                   with --exact: the largest difference between growth and modulus

With --compare they are the numbers of gan.py, each after the name of its loss.

Mescheder et al., "Which training methods for GANs do actually converge?", 2018.
"""
import sys

import numpy as np

import gan
import tinygen as tg
from gan import discriminator_loss, generator_loss, r1_penalty
from tinygen import nn
from tinygen.lab import plots, run

START = 1.0, 0.0  # theta, psi
RULES = {"simultaneous": dict(simultaneous=True), "alternating": {}, "r1": dict(weight=0.3)}


class Players(nn.Module):
    """Both players, a number each: G(z) = theta for every z, and the score of D(x) is psi x."""

    def __init__(self, theta, psi):
        self.theta = nn.Buffer([[theta]])                       # (1, 1)
        self.psi = nn.Buffer([[psi]])                           # (1, 1)


def gradient_D(theta, psi, weight):
    """What D descends: the derivative of its loss by psi. All data are 0."""
    psi = tg.Tensor(psi.data, requires_grad=True)
    real = tg.zeros(1, 1)
    D = lambda x: psi * x                                               # eq. (1)
    loss = discriminator_loss("minimax", D, real, theta)                # eq. (2): -V
    friction = weight / 2 * r1_penalty(D, real)
    return tg.grad(loss + friction, psi)[0]                             # eq. (3): -dV/dpsi


def gradient_G(theta, psi):
    """What G descends: the derivative of its loss by theta."""
    theta = tg.Tensor(theta.data, requires_grad=True)
    loss = generator_loss("minimax", lambda x: psi * x, theta)          # eq. (2)
    return tg.grad(loss, theta)[0]                                      # eq. (3): dV/dtheta


def update(theta, psi, h, simultaneous=False, weight=0.0):
    """One step of both players: G meets the new D, or, if simultaneous, the old one."""
    new_psi = psi - h * gradient_D(theta, psi, weight)
    opponent = psi if simultaneous else new_psi
    new_theta = theta - h * gradient_G(theta, opponent)
    return new_theta, new_psi


def modulus(h, simultaneous=False, weight=0.0):
    """The largest modulus of the eigenvalues of a step near (theta, psi) = (0, 0)."""
    step_G = np.array([[1, h / 2], [0, 1]])                             # of G alone
    step_D = np.array([[1, 0], [-h / 2, 1 - h * weight]])               # of D alone
    if simultaneous:
        step = step_G + step_D - np.eye(2)                              # eq. (4)
    else:
        step = step_G @ step_D                                          # eq. (5), (6)
    return np.abs(np.linalg.eigvals(step)).max()


def main(argv=None):
    job = run.Job("dirac_gan", __doc__, argv, data=("point",), exact=True, steps=300, batch=1,
                  lr=0.2, flags=FLAGS)
    if job.args.compare:
        return compare(job, sys.argv[1:] if argv is None else argv)
    h = job.args.lr
    players = {rule: Players(*START) for rule in RULES}
    for step in job.train(**players):
        for rule, player in players.items():
            job.log(**{f"{rule}_theta": player.theta.sum(), f"{rule}_psi": player.psi.sum()})
            theta, psi = update(player.theta, player.psi, h, **RULES[rule])
            player.theta.data = theta.data
            player.psi.data = psi.data
    paths = {rule: np.stack([job.history[f"{rule}_theta"], job.history[f"{rule}_psi"]], axis=1)
             for rule in RULES}                                         # (steps, 2) each
    draw(job, paths, h)
    job.finish(**measure(job, paths, h))


# Numbers and pictures -----------------------------------------------------------------------------

FLAGS = {"--compare": dict(action="store_true", help="train gan.py with each loss, and without R1, "
                                                     "and print a table")}
WINDOW = (-2.2, 2.2), (-2.2, 2.2)


def measure(job, paths, h):
    """By how much the distance to (0, 0) grows per step; with --exact also the moduli."""
    numbers, gaps = {}, []
    for rule, path in paths.items():
        distance = np.linalg.norm(path, axis=1)                         # (steps,)
        growth = (distance[-1] / distance[0])**(1 / max(1, len(distance) - 1))
        numbers[f"growth_{rule}"] = growth
        if job.args.exact:
            exact = modulus(h, **RULES[rule])
            numbers[f"exact_{rule}"] = exact
            gaps.append(abs(growth - exact))
    return numbers | ({"gap": max(gaps)} if gaps else {})


def fate(h, rule):
    """What the modulus predicts."""
    largest = modulus(h, **RULES[rule])
    if abs(largest - 1) <= 1e-9:
        return "circles"
    return "spirals out" if largest > 1 else "spirals in"


def panels(h):
    """A figure with a panel for each rule: the arrows of eq. (3), start and solution."""
    points = plots.grid(WINDOW, 15)                                     # (225, 2): theta, psi
    s = 1 / (1 + np.exp(-points.prod(axis=1, keepdims=True)))           # (225, 1)
    fig, axes = plots.figure(1, 3, 3.4)
    names = "both at once", "alternately", "alternately, with R1"
    for ax, rule, name in zip(axes, RULES, names):
        plots.plane(ax, WINDOW, f"{name}: {fate(h, rule)}")
        friction = [0, RULES[rule].get("weight", 0)] * points
        arrows = points[:, ::-1] * [1, -1] * s - friction
        plots.arrows(ax, points, arrows, color="#cccccc")
        ax.plot(0, 0, "x", color=plots.EXACT, markersize=9, markeredgewidth=2, zorder=4)
        ax.plot(*START, "o", color=plots.NOISE, zorder=4)
        ax.set(xlabel="theta: where the sample is", ylabel="psi: slope of D")
    return fig, axes


def draw(job, paths, h):
    fig, axes = panels(h)
    for ax, path in zip(axes, paths.values()):
        ax.plot(*path.T, color=plots.MODEL)
    job.picture(fig, "phase.png")

    fig, axes = panels(h)
    lines = [ax.plot([], [], color=plots.MODEL)[0] for ax in axes]
    ends = [ax.plot([], [], "o", color=plots.MODEL, zorder=5)[0] for ax in axes]

    def move(step):
        for line, end, path in zip(lines, ends, paths.values()):
            line.set_data(*path[:step + 1].T)
            end.set_data(*path[step:step + 1].T)
    frames = range(0, job.args.steps, max(1, job.args.steps // 60))
    job.animation(fig, move, frames, "phase.gif", rate=10)


def compare(job, argv):
    """Train gan.py with each loss, and with the plain objective; print a row of numbers each."""
    rest = [flag for flag in argv if flag != "--compare"]
    rows = {loss: ["--loss", loss] for loss in gan.LOSSES}
    rows["minimax_without_R1"] = ["--loss", "minimax", "--r1", "0"]
    found = {name: gan.main([*rest, *flags, "--out", job.path(name)])
             for name, flags in rows.items()}
    columns = "modes", "high_quality", "spread", "reverse_kl", "seconds"
    print(f"  {'':<20}", *(f"{column:>12}" for column in columns))
    numbers = {}
    for name, row in found.items():
        print(f"  {name:<20}", *(f"{row[column]:>12.4g}" for column in columns))
        numbers |= {f"{name}_{key}": value for key, value in row.items()}
    job.finish(**numbers)


if __name__ == "__main__":
    run.main(main)
