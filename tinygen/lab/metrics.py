"""Floor 8: how good are the samples? Distances between two clouds of points.

They are sorted by increasing complexity. All are computed in float64 on the host, from Tensors or
arrays of either backend: samples x (n, d) and y (m, d), one a row, n and m need not be equal. A
distance between finite samples is not 0 even when both come from the data, so print noise_floor()
next to each, or use beside_floor().

                      0 only if equal                what it sees                      unit
    mode_statistics   no                             which modes, how sharply          none
    sliced_w2         yes                            everything, along lines           that of x
    gaussian_w2       no: if these are equal         mean and covariance               that of x
    frechet_distance  no: if these are equal         the same of features              features^2
    energy_distance   yes                            everything                        that of x
    mmd               yes                            what is as wide as the bandwidth  none
"""
import math

import numpy as np

from .. import backend
from ..backend import TinygenError
from ..engine import Tensor, no_grad
from .cores import on_cores

TILE = 512  # points on a side of a block of pairwise distances: 2 MB of float64 stay in the cache


def host(caller, x):
    """x as a NumPy array on the host, or one sentence on why `caller` cannot use it."""
    x = np.asarray(backend.to_numpy(x))
    if x.dtype.kind not in "fiub":
        raise TinygenError(f"{caller} needs numbers, not an array of dtype {x.dtype}.")
    if x.size == 0:
        raise TinygenError(f"{caller} got no samples: an array of shape {x.shape} is empty.")
    bad = x.size - np.isfinite(x).sum()
    if bad:
        raise TinygenError(f"{caller} found NaN or Inf in {bad} of the {x.size} numbers of an "
                           f"array of shape {x.shape}: the training or the sampler has diverged, "
                           "look at the samples before their score.")
    return x


def check_labels(caller, x, labels):
    """labels on the host, one integer for each row of x."""
    labels = host(caller, labels)
    if labels.shape != x.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise TinygenError(f"{caller} needs one integer label of at least 0 for each of {len(x)} "
                           f"rows, not labels of shape {labels.shape} and dtype {labels.dtype} "
                           f"that begin at {labels.min()}.")
    return labels


def _samples(caller, *arrays, ndim=2, least=1):
    """The arrays in float64, checked to be comparable."""
    arrays = [host(caller, x) for x in arrays]
    need = "one sample a row, (n, d): x.reshape(len(x), -1) makes numbers and images fit"
    if ndim == 1:
        need = "one number a sample, (n,): x.reshape(-1) makes a column fit"
    for x in arrays:
        if x.ndim != ndim:
            raise TinygenError(
                f"{caller} cannot take an array of shape {x.shape}, it needs {need}.")
        if len(x) < least:
            raise TinygenError(
                f"{caller} needs at least {least} samples to estimate from, not {len(x)}.")
    if len({x.shape[1:] for x in arrays}) > 1:
        raise TinygenError(f"{caller} compares samples of equal dimension d, not arrays of shape "
                           f"{' and '.join(str(x.shape) for x in arrays)}.")
    return [x.astype(np.float64) for x in arrays]


@no_grad()
def in_blocks(f, x, block=1000, cores=1):
    """f(x) as a NumPy array, `block` rows at a time and without recording.

    in_blocks(classifier.features, images). cores is how many blocks to work on at a time, such as
    cores.CORES; with more than 1 f must draw no random numbers.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    if len(x) == 0 or block < 1:
        raise TinygenError("in_blocks needs at least one row, and one in a block, not x of shape "
                           f"{x.shape} in blocks of {block}.")
    blocks = [x.data[i:i + block] for i in range(0, len(x), block)]
    results = on_cores(lambda rows: backend.to_numpy(f(Tensor(rows))), blocks, cores)
    return np.concatenate(results)


def noise_floor(metric, draw, n, repeats=3):
    """The median over `repeats` of metric(draw(n), draw(n)): what a perfect generator would score.

    metric   a function of two samples that returns one number, such as sliced_w2
    draw     a function n -> n fresh samples of the data; it draws its own random numbers
    """
    if repeats < 1:
        raise TinygenError(f"noise_floor needs at least one repeat, not {repeats}.")
    return float(np.median([metric(draw(n), draw(n)) for _ in range(repeats)]))


def accuracy(logits, labels):
    """The fraction of rows of logits (n, classes) whose largest entry stands at the label (n,)."""
    logits, = _samples("accuracy", logits)
    labels = check_labels("accuracy", logits, labels)
    if labels.max() >= logits.shape[1]:
        raise TinygenError(f"accuracy of {logits.shape[1]} classes found labels from "
                           f"{labels.min()} to {labels.max()}.")
    return float((logits.argmax(axis=1) == labels).mean())


def spread_within_classes(images, labels):
    """How varied the images (N, ...) of a class are: the RMS distance to its mean, of a pixel."""
    images = host("spread_within_classes", images)
    labels = check_labels("spread_within_classes", images, labels)
    return np.sqrt(np.mean([images[labels == y].var(axis=0).mean() for y in np.unique(labels)]))


def mode_statistics(samples, centers, std, threshold=3.0):
    """How many modes of a mixture are found, how sharply, how evenly, as a dict of three floats.

    samples (n, d);   centers (K, d), the means of equally likely components of standard deviation
    std

    high_quality   the fraction of the samples closer than threshold * std to their nearest center.
                   Perfect samples in two dimensions reach 1 - e^(-threshold^2 / 2) = 0.98889, not 1
    modes          how many centers are nearest to at least one high-quality sample; at most K
    reverse_kl     KL(q || uniform) = ln K - H(q), in nats; q: how the high-quality samples share
                   out among the centers. 0 is even, ln K - ln k is k modes evenly; without any
                   high-quality sample it is set to ln K, the worst

    Srivastava et al. 2017 (VEEGAN); the shares as in the program of Lin et al. 2018 (PacGAN), which
    counts high-quality samples only. Both use 2,500 samples; modes and reverse_kl depend on that.
    """
    samples, centers = _samples("mode_statistics", samples, centers)
    if not (std > 0 and threshold > 0):
        raise TinygenError(
            f"mode_statistics needs std > 0 and threshold > 0, not {std} and {threshold}.")
    distance = np.sqrt(_squared_distances(samples, centers))            # (n, K)
    good = distance.min(axis=1) < threshold * std                       # (n,)
    nearest = distance.argmin(axis=1)[good]
    counts = np.bincount(nearest, minlength=len(centers))               # (K,)
    q = counts[counts > 0] / max(good.sum(), 1)
    reverse_kl = math.log(len(centers)) + (q * np.log(q)).sum()
    return {"modes": float(len(q)), "high_quality": float(good.mean()),
            "reverse_kl": max(float(reverse_kl), 0.0)}


# Wasserstein distances: move one pile of sand onto the other, at the least cost -------------------

def _plan(n, m):
    """Optimal transport between n and m sorted points on the line: indices i, j, and the mass.

    The k-th smallest goes to the k-th smallest. A point of x weighs 1/n and one of y 1/m, so both
    piles are cut wherever either ends. In units of 1/(n m) all cuts are integers: nothing is
    interpolated or rounded.
    """
    cuts = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    return (cuts - 1) // m, (cuts - 1) // n, np.diff(cuts, prepend=0) / (n * m)


def wasserstein_1d(x, y, p=2):
    """W_p = (integral over u = 0..1 of |Fx^-1(u) - Fy^-1(u)|^p)^(1/p), exactly, of x (n,), y (m,).

    F^-1 are the quantile functions: on the line the best plan keeps the order (Villani 2003,
    section 2.2).
    """
    if not 1 <= p < math.inf:
        raise TinygenError(f"W_p is a distance for finite p >= 1, not for p = {p}.")
    x, y = _samples("wasserstein_1d", x, y, ndim=1)
    i, j, mass = _plan(len(x), len(y))
    return float((mass @ np.abs(np.sort(x)[i] - np.sort(y)[j])**p)**(1 / p))


def _directions(d, count, seed):
    """`count` unit vectors, (count, d), that spread evenly over the sphere."""
    if d == 1:
        return np.ones((1, 1))
    if d == 2:
        # W2 is a periodic function of the angle, which equal steps integrate much better than
        # random ones; u and -u give the same, so half a turn is enough
        angle = np.arange(count) * (math.pi / count)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # d at a time at right angles: each is uniform except for its sign, which makes no difference
    frames = np.random.default_rng(seed).standard_normal((math.ceil(count / d), d, d))
    return np.linalg.qr(frames)[0].swapaxes(1, 2).reshape(-1, d)[:count]


def sliced_w2(x, y, directions=256, seed=0):
    """Sliced Wasserstein distance: sqrt(mean over unit vectors u of W2(<u, x>, <u, y>)^2).

    directions   how many u: equally spaced in two dimensions, orthogonal frames drawn from `seed`
                 in more
    seed         of its own generator, so that training sees the same random numbers with and
                 without

    In the unit of x. Each W2 is exact. Moving a distribution by a vector v gives |v| / sqrt(d), so
    values of different d do not compare. Rabin et al. 2011, Bonneel et al. 2015; orthogonal frames:
    Rowland et al. 2019.
    """
    x, y = _samples("sliced_w2", x, y)
    if directions < 1:
        raise TinygenError(f"sliced_w2 needs at least one direction, not {directions}.")
    u = _directions(x.shape[1], directions, seed)                       # (directions, d)
    i, j, mass = _plan(len(x), len(y))
    squared = [mass @ (np.sort(a)[i] - np.sort(b)[j])**2 for a, b in zip(u @ x.T, u @ y.T)]
    return float(np.sqrt(np.mean(squared)))


def beside_floor(clouds, draw, sets=60):
    """How far samples are from fresh data, and how far fresh data are from each other.

    Returns {"sliced_w2", "noise_floor", "ratio"}.

    clouds   samples (n, d) of a model, or a list of several draws of them
    draw     a function n -> n fresh samples of the data
    sets     how many of these to draw

    Distances of finite samples vary: from one pair each, the ratio of perfect samples is anything
    from 0.4 to 2.4. Both numbers are therefore root mean squares over all pairs (of a cloud and a
    set; of two sets), by 64 directions. What is left is the chance in the clouds: for two moons a
    standard deviation of the ratio of 0.2 with one cloud, 0.06 with five.
    """
    clouds = _samples("beside_floor", *(clouds if isinstance(clouds, list) else [clouds]))
    n = len(clouds[0])
    if sets < 2 or any(len(x) != n for x in clouds):
        raise TinygenError("beside_floor needs clouds of one size and at least 2 sets of data, not "
                           f"{[len(x) for x in clouds]} and {sets}.")
    middle = clouds[0].mean(axis=0)                     # far from the origin digits would cancel
    u = _directions(clouds[0].shape[1], 64, seed=0)                     # (64, d)

    def fresh():
        x = _samples("beside_floor", clouds[0], draw(n))[1]
        if len(x) != n:
            raise TinygenError(f"beside_floor asked draw for {n} samples and got {len(x)}: it must "
                               "give as many as it is asked for.")
        return x

    def moments(xs):
        """Mean and mean square of the sorted xs: on a line, W2 is the RMS difference of these."""
        count, total, squares = 0, 0.0, 0.0
        for x in xs:
            shadow = np.sort(u @ (x - middle).T, axis=1)                # (64, n)
            count += 1
            total = total + shadow
            squares += np.mean(shadow**2)
        return total / count, squares / count
    c, c2 = moments(clouds)
    d, d2 = moments(fresh() for _ in range(sets))
    # Over all pairs, the mean of |c_i - d_j|^2, and that of |d_i - d_j|^2 for i != j, which is
    # twice the variance; rounding may go below 0
    distance = math.sqrt(max(c2 + d2 - 2 * np.mean(c * d), 0))
    floor = math.sqrt(max(2 * (d2 - np.mean(d * d)) * sets / (sets - 1), 0))
    if not floor > 1e-6 * math.sqrt(d2):
        raise TinygenError("beside_floor found no difference between sets of fresh data: draw must "
                           "give new ones each time.")
    return {"sliced_w2": distance, "noise_floor": floor, "ratio": distance / floor}


def assignment(cost):
    """The permutation p that pairs row i with column p[i] at the least total cost: int array (n,).

    cost   (n, n), any finite numbers. Exact: shortest augmenting paths with dual prices (Jonker &
           Volgenant 1987), O(n^3). With squared distances it is the optimal transport plan between
           two samples of n points.
    """
    cost = host("assignment", cost).astype(np.float64)
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise TinygenError(
            f"assignment pairs equally many rows and columns, cost has shape {cost.shape}.")
    n = len(cost)
    u = np.zeros(n)                         # prices: cost[i, j] - u[i] - v[j] >= 0, and 0 on pairs
    v = cost.min(axis=0)
    row_of = np.full(n, -1)
    column_of = np.full(n, -1)
    for free in range(n):                   # find a column for one more row
        shortest = np.full(n, np.inf)
        came_from = np.full(n, free)
        unseen = np.ones(n, bool)
        row, length = free, 0.0
        while row >= 0:                     # Dijkstra over columns, until one is unpaired
            through = length + cost[row] - u[row] - v
            closer = unseen & (through < shortest)
            shortest[closer], came_from[closer] = through[closer], row
            column = np.where(unseen, shortest, np.inf).argmin()
            length, row = shortest[column], row_of[column]
            unseen[column] = row < 0
        seen = ~unseen
        u[free] += length
        u[row_of[seen]] += length - shortest[seen]
        v[seen] -= length - shortest[seen]
        while row != free:                  # hand the columns along the path over
            row = came_from[column]
            row_of[column] = row
            column, column_of[row] = column_of[row], column
    return column_of


def optimal_pairs(x, y, group=64):
    """The order in which x[order] is paired with y at the least total squared distance: ints (n,).

    x, y    samples (n, d). Groups of `group` neighbors are matched exactly, because the time grows
            as group^3
    """
    x, y = _samples("optimal_pairs", x, y)
    if len(x) != len(y):
        raise TinygenError(f"optimal_pairs needs as many x as y, got {len(x)} and {len(y)}.")
    if group < 1:
        raise TinygenError(f"optimal_pairs needs groups of at least 1, not {group}.")
    order = []
    for i in range(0, len(x), group):
        difference = y[i:i + group, None] - x[i:i + group]              # (group, group, d)
        order.append(i + assignment((difference**2).sum(axis=2)))
    return np.concatenate(order)


def _root(covariance):
    """The symmetric square root of a covariance matrix, singular or not."""
    values, vectors = np.linalg.eigh(covariance)
    asymmetry = np.abs(covariance - covariance.T).max()
    if asymmetry > 1e-5 * np.abs(covariance).max() or values[0] < -1e-5 * values[-1]:
        raise TinygenError("A covariance matrix is symmetric and has no negative eigenvalue; this "
                           f"one of shape {covariance.shape} has the smallest eigenvalue "
                           f"{values[0]:.3g}, or is not symmetric.")
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def _bures_squared(mean1, cov1, mean2, cov2):
    # tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) is the least |C1^1/2 - Q C2^1/2|^2 over orthogonal Q,
    # attained by the polar factor of C1^1/2 C2^1/2 (Bhatia et al. 2019). As a sum of squares it is
    # never negative and keeps all digits, where the differences of traces cancel and the roots of
    # tiny eigenvalues lose half of theirs
    root1, root2 = map(_root, (cov1, cov2))
    left, _, right = np.linalg.svd(root1 @ root2)
    return ((mean1 - mean2)**2).sum() + ((root1 - left @ right @ root2)**2).sum()


def bures_w2(mean1, cov1, mean2, cov2):
    """W2 between N(m1, C1) and N(m2, C2), in the unit of the samples. Gelbrich 1990.

    sqrt(|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2))

    means (d,), covariances (d, d), possibly singular.
    """
    arrays = [host("bures_w2", a).astype(np.float64) for a in (mean1, cov1, mean2, cov2)]
    d = arrays[0].size
    if [a.shape for a in arrays] != [(d,), (d, d), (d,), (d, d)]:
        raise TinygenError("bures_w2 needs means (d,) and covariances (d, d), not "
                           f"{', '.join(str(a.shape) for a in arrays)}.")
    return float(np.sqrt(_bures_squared(*arrays)))


def _moments(x):
    """The mean, and the unbiased covariance, over n - 1."""
    return x.mean(axis=0), np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1])


def gaussian_w2(x, y):
    """bures_w2 of the fitted means and (unbiased) covariances: above 0 means different."""
    x, y = _samples("gaussian_w2", x, y, least=2)
    return float(np.sqrt(_bures_squared(*_moments(x), *_moments(y))))


def frechet_distance(features1, features2):
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) of features (n, d), (m, d): gaussian_w2 SQUARED.

    Heusel et al. 2017 (FID), there with the 2,048 features of Inception; numbers from other
    features do not compare, nor do numbers from other n: the value falls with n. Needs more samples
    than features, better ten times as many.
    """
    x, y = _samples("frechet_distance", features1, features2)
    if min(len(x), len(y)) <= x.shape[1]:
        raise TinygenError(f"frechet_distance of {x.shape[1]} features needs more samples than "
                           f"that, not {len(x)} and {len(y)}, or the covariances are singular and "
                           "the result is mostly noise.")
    return float(_bures_squared(*_moments(x), *_moments(y)))


# Distances from all pairs -------------------------------------------------------------------------

def _squared_distances(a, b):
    """|a_i - b_j|^2 for all pairs: (n, d), (m, d) -> (n, m)"""
    a, b = a - b.mean(axis=0), b - b.mean(axis=0)  # far from the origin digits would cancel
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)
    return np.maximum(squares - 2 * a @ b.T, 0)  # rounding may go below 0


def _tiles(n):
    return [slice(i, i + TILE) for i in range(0, n, TILE)]


def _mean_between(f, a, b):
    """The mean of f(|a_i - b_j|^2) over all pairs, in tiles, so that memory stays small."""
    total = sum(f(_squared_distances(a[i], b[j])).sum()
                for i in _tiles(len(a)) for j in _tiles(len(b)))
    return total / (len(a) * len(b))


def _mean_within(f, a):
    """The mean of f(|a_i - a_j|^2) over i != j.

    Leaving out i = j makes it an unbiased estimate of E f(|A - A'|^2) for independent A, A' (a
    U-statistic).
    """
    total = 0.0
    for i in _tiles(len(a)):
        values = f(_squared_distances(a[i], a[i]))
        np.fill_diagonal(values, 0)
        later = sum(f(_squared_distances(a[i], a[j])).sum()
                    for j in _tiles(len(a)) if j.start > i.start)
        total += values.sum() + 2 * later
    return total / (len(a) * (len(a) - 1))


def energy_distance(x, y):
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, without bias, so it may be slightly negative.

    In the unit of x. X' and Y' are independent copies. On the line it is 2 * integral (F - G)^2.
    Szekely & Rizzo 2013.
    """
    x, y = _samples("energy_distance", x, y, least=2)
    between = _mean_between(np.sqrt, x, y)
    return float(2 * between - _mean_within(np.sqrt, x) - _mean_within(np.sqrt, y))


def mmd(x, y, bandwidth=None):
    """SQUARED maximum mean discrepancy E k(X, X') + E k(Y, Y') - 2 E k(X, Y); may be negative.

    k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2)), estimated without bias. None takes the median
    distance between points of both samples together (at most 500 of each); to compare several
    models, give all of them one bandwidth. Gretton et al. 2012, eq. (3).
    """
    x, y = _samples("mmd", x, y, least=2)
    if bandwidth is None:
        pick = np.random.default_rng(0)
        some = np.concatenate([a[pick.permutation(len(a))[:500]] for a in (x, y)])
        pairs = _squared_distances(some, some)[np.triu_indices(len(some), 1)]
        bandwidth = math.sqrt(np.median(pairs))
    if not bandwidth > 0:
        raise TinygenError(f"mmd needs a bandwidth above 0, not {bandwidth}: pass one, about as "
                           "wide as what should be seen (the median distance is 0 when most points "
                           "coincide).")

    def kernel(squared):
        return np.exp(squared * (-0.5 / bandwidth**2))
    within = _mean_within(kernel, x) + _mean_within(kernel, y)
    return float(within - 2 * _mean_between(kernel, x, y))
