"""Floor 5: how good are the samples? Distances between two clouds of points, sorted by increasing complexity.

All are computed in float64 on the host, from Tensors or arrays of either backend: samples x (n, d) and y (m, d), one
per row, n and m need not be equal. A distance between finite samples is not 0 even when both come from the data, so
print noise_floor() beside each, or use beside_floor().

                      0 only if equal                what it sees                      unit
    mode_statistics   no                             which modes are hit, how sharply  none
    sliced_w2         yes                            everything, along lines           that of x
    gaussian_w2       no: if these are equal         mean and covariance               that of x
    frechet_distance  no: if these are equal         the same of features              features squared
    energy_distance   yes                            everything                        that of x
    mmd               yes                            what is as wide as the bandwidth  none
"""
import math

import numpy as np

from . import backend, functional as F
from .backend import TinygenError, xp
from .nn import Linear, Module
from .optim import Adam, CosineLR
from .tensor import Tensor, no_grad

TILE = 512  # points per side of a block of pairwise distances: 2 MiB of float64, which stays in the cache


def _host(asker, x):
    """x as a NumPy array on the host, or one sentence on why `asker` cannot judge it."""
    x = np.asarray(backend.to_numpy(x))
    if x.dtype.kind not in "fiub":
        raise TinygenError(f"{asker} wants numbers, not an array of dtype {x.dtype}.")
    if x.size == 0:
        raise TinygenError(f"{asker} was given no samples: an array of shape {x.shape} is empty.")
    bad = x.size - np.isfinite(x).sum()
    if bad:
        raise TinygenError(f"{asker} found NaN or Inf in {bad} of the {x.size} numbers of an array of shape {x.shape}: the "
                           "training or the sampler has diverged, look at the samples before their score.")
    return x


def _samples(asker, *arrays, ndim=2, least=1):
    """The arrays in float64, checked to be comparable."""
    arrays = [_host(asker, x) for x in arrays]
    want = {1: "one number per sample, (n,): x.reshape(-1) makes a column fit",
            2: "one sample per row, (n, d): x.reshape(len(x), -1) makes numbers and images fit"}[ndim]
    for x in arrays:
        if x.ndim != ndim:
            raise TinygenError(f"{asker} cannot take an array of shape {x.shape}, it wants {want}.")
        if len(x) < least:
            raise TinygenError(f"{asker} needs at least {least} samples to estimate from, not {len(x)}.")
    if len({x.shape[1:] for x in arrays}) > 1:
        raise TinygenError(f"{asker} compares samples of equal dimension d, not arrays of shape "
                           f"{' and '.join(str(x.shape) for x in arrays)}.")
    return [x.astype(np.float64) for x in arrays]


def noise_floor(metric, draw, n, repeats=3):
    """The median over `repeats` of metric(draw(n), draw(n)): what a perfect generator would score.

    metric   a function of two samples that returns one number, such as sliced_w2
    draw     a function n -> n fresh samples of the data; the random numbers it uses are its own business
    """
    if repeats < 1:
        raise TinygenError(f"noise_floor wants at least one repeat, not {repeats}.")
    return float(np.median([metric(draw(n), draw(n)) for _ in range(repeats)]))


def accuracy(logits, labels):
    """The part of the rows of logits (n, classes) whose largest entry stands at labels (n,), integers. Between 0 and 1."""
    logits, = _samples("accuracy", logits)
    labels = _host("accuracy", labels)
    if labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        raise TinygenError(f"accuracy wants one integer label per row of the logits {logits.shape}, not labels of shape "
                           f"{labels.shape} and dtype {labels.dtype}.")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise TinygenError(f"accuracy of {logits.shape[1]} classes found labels from {labels.min()} to {labels.max()}.")
    return float((logits.argmax(axis=1) == labels).mean())


def mode_statistics(samples, centres, std, threshold=3.0):
    """How many modes of a mixture are found, how sharply, and how evenly, as a dict of three floats.

    samples (n, d);   centres (K, d), the means of equally likely components of standard deviation std

    high_quality   the part of the samples closer than threshold * std to their nearest centre. Perfect samples in two
                   dimensions reach 1 - e^(-threshold^2 / 2) = 0.98889, not 1
    modes          how many centres are nearest to at least one high-quality sample; at most K
    reverse_kl     KL(q || uniform) = ln K - H(q), in nats; q: how the high-quality samples share out among the centres.
                   0 is even, ln K - ln k is k modes evenly; without any high-quality sample it is set to ln K, the worst

    Srivastava et al. 2017 (VEEGAN); the shares as in the program of Lin et al. 2018 (PacGAN), which counts high-quality
    samples only. Both use 2,500 samples, and modes and reverse_kl depend on the number.
    """
    samples, centres = _samples("mode_statistics", samples, centres)
    if not (std > 0 and threshold > 0):
        raise TinygenError(f"mode_statistics wants std > 0 and threshold > 0, not {std} and {threshold}.")
    distance = np.sqrt(_squared_distances(samples, centres))                      # (n, K)
    good = distance.min(axis=1) < threshold * std                                 # (n,)
    counts = np.bincount(distance.argmin(axis=1)[good], minlength=len(centres))   # (K,)
    q = counts[counts > 0] / max(good.sum(), 1)
    return {"modes": float(len(q)), "high_quality": float(good.mean()),
            "reverse_kl": max(float(math.log(len(centres)) + (q * np.log(q)).sum()), 0.0)}


# Wasserstein distances: move one pile of sand onto the other, at the least cost ----------------------------------------

def _plan(n, m):
    """Optimal transport between n and m sorted points on the line: indices i, j, and the mass that moves from i to j.

    The k-th smallest goes to the k-th smallest. A point of x weighs 1/n and one of y 1/m, so both piles are cut
    wherever either ends. In units of 1/(n m) all cuts are integers: nothing is interpolated or rounded.
    """
    cuts = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    return (cuts - 1) // m, (cuts - 1) // n, np.diff(cuts, prepend=0) / (n * m)


def wasserstein_1d(x, y, p=2):
    """W_p = (integral over u = 0..1 of |Fx^-1(u) - Fy^-1(u)|^p)^(1/p) of samples x (n,) and y (m,), exactly.

    F^-1 are the quantile functions: on the line the best plan keeps the order (Villani 2003, section 2.2).
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
        # W2 is a periodic function of the angle, which equal steps integrate much better than random ones; u and -u
        # give the same, so half a turn is enough
        angle = np.arange(count) * (math.pi / count)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # d at a time at right angles to each other: each is uniform but for its sign, which makes no difference
    frames = np.random.default_rng(seed).standard_normal((-(-count // d), d, d))
    return np.linalg.qr(frames)[0].swapaxes(1, 2).reshape(-1, d)[:count]


def sliced_w2(x, y, directions=256, seed=0):
    """Sliced Wasserstein distance sqrt(mean over unit vectors u of W2(<u, x>, <u, y>)^2): the root, in the unit of x.

    directions   how many u: equally spaced in two dimensions, orthogonal frames drawn from `seed` in more
    seed         of its own generator, so that training sees the same random numbers with and without

    Each W2 is exact. Moving a distribution by a vector v gives |v| / sqrt(d), so values of different d do not compare.
    Rabin et al. 2011, Bonneel et al. 2015; orthogonal frames: Rowland et al. 2019.
    """
    x, y = _samples("sliced_w2", x, y)
    if directions < 1:
        raise TinygenError(f"sliced_w2 wants at least one direction, not {directions}.")
    u = _directions(x.shape[1], directions, seed)                                 # (directions, d)
    i, j, mass = _plan(len(x), len(y))
    squared = [mass @ (np.sort(a)[i] - np.sort(b)[j])**2 for a, b in zip(u @ x.T, u @ y.T)]
    return float(np.sqrt(np.mean(squared)))


def beside_floor(clouds, draw, sets=60):
    """How far samples are from fresh data, beside how far fresh data are from each other: {"sliced_w2", "noise_floor", "ratio"}.

    clouds   samples (n, d) of a model, or a list of several draws of them
    draw     a function n -> n fresh samples of the data;   sets   how many of these to draw

    Distances of finite samples vary: of one pair each, the ratio of perfect samples is anything from 0.4 to 2.4. Both numbers
    are therefore root mean squares over all pairs (of a cloud and a set; of two sets), by 64 directions. What is left is the
    chance in the clouds: for two moons a standard deviation of the ratio of 0.2 with one cloud, 0.06 with five.
    """
    clouds = _samples("beside_floor", *(clouds if isinstance(clouds, list) else [clouds]))
    if sets < 2 or len({len(x) for x in clouds}) != 1:
        raise TinygenError(f"beside_floor wants clouds of one size and at least 2 sets of data, not {[len(x) for x in clouds]} and {sets}.")
    n, middle = len(clouds[0]), clouds[0].mean(axis=0)                            # far from the origin digits would cancel
    u = _directions(clouds[0].shape[1], 64, seed=0)                               # (64, d)

    def fresh():
        x = _samples("beside_floor", clouds[0], draw(n))[1]
        if len(x) != n:
            raise TinygenError(f"beside_floor asked draw for {n} samples and got {len(x)}: it must give as many as it is asked for.")
        return x

    def moments(xs):
        """Mean and mean square of what the xs look like: along a line, W2 of n and n points is the RMS difference once sorted."""
        total, squares, count = 0.0, 0.0, 0
        for x in xs:
            sorted_ = np.sort(u @ (x - middle).T, axis=1)                         # (64, n)
            total, squares, count = total + sorted_, squares + np.mean(sorted_**2), count + 1
        return total / count, squares / count
    c, c2 = moments(clouds)
    d, d2 = moments(fresh() for _ in range(sets))
    # over all pairs the mean of |c_i - d_j|^2 and of |d_i - d_j|^2, i != j, which is twice the variance
    squares = c2 + d2 - 2 * np.mean(c * d), 2 * (d2 - np.mean(d * d)) * sets / (sets - 1)
    distance, floor = np.sqrt(np.maximum(squares, 0))                             # rounding may go below 0
    if not floor > 1e-6 * np.sqrt(d2):
        raise TinygenError("beside_floor found no difference between sets of fresh data: draw must give new ones each time.")
    return {"sliced_w2": float(distance), "noise_floor": float(floor), "ratio": float(distance / floor)}


def assignment(cost):
    """The permutation p that pairs row i with column p[i] at the least total cost sum_i cost[i, p[i]]: int array (n,).

    cost   (n, n), any finite numbers. Exact: shortest augmenting paths with dual prices (Jonker & Volgenant 1987), O(n^3).
    With cost = squared distances it is the optimal transport plan between two samples of n points.
    """
    cost = _host("assignment", cost).astype(np.float64)
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise TinygenError(f"assignment pairs equally many rows and columns, cost has shape {cost.shape}.")
    n = len(cost)
    u, v = np.zeros(n), cost.min(axis=0)                    # prices: cost[i, j] - u[i] - v[j] >= 0, and 0 on pairs
    row_of, column_of = np.full(n, -1), np.full(n, -1)
    for free in range(n):                                   # find a column for one more row
        shortest, came_from, open_ = np.full(n, np.inf), np.full(n, free), np.ones(n, bool)
        row, length = free, 0.0
        while row >= 0:                                     # Dijkstra over columns, until an unpaired one is reached
            through = length + cost[row] - u[row] - v
            closer = open_ & (through < shortest)
            shortest[closer], came_from[closer] = through[closer], row
            column = np.where(open_, shortest, np.inf).argmin()
            length, row = shortest[column], row_of[column]
            open_[column] = row < 0
        closed = ~open_
        u[free] += length
        u[row_of[closed]] += length - shortest[closed]
        v[closed] -= length - shortest[closed]
        while row != free:                                  # hand the columns along the path over
            row = came_from[column]
            row_of[column] = row
            column, column_of[row] = column_of[row], column
    return column_of


def optimal_pairs(x, y, group=64):
    """The order of x in which x[order] is paired with y at the least total squared distance within groups: int array (n,).

    x, y    samples (n, d). Groups of `group` neighbours are matched exactly, for the time grows with its cube
    """
    x, y = _samples("optimal_pairs", x, y)
    if len(x) != len(y) or group < 1:
        raise TinygenError(f"optimal_pairs wants equally many of both, in groups of at least 1, not {len(x)} and {len(y)} in groups of {group}.")
    starts = range(0, len(x), group)
    return np.concatenate([i + assignment(((y[i:i + group, None] - x[i:i + group])**2).sum(axis=2)) for i in starts])


def _root(covariance):
    """The symmetric square root of a covariance matrix, singular or not."""
    values, vectors = np.linalg.eigh(covariance)
    if np.abs(covariance - covariance.T).max() > 1e-5 * np.abs(covariance).max() or values[0] < -1e-5 * values[-1]:
        raise TinygenError(f"A covariance matrix is symmetric and has no negative eigenvalue; this one of shape "
                           f"{covariance.shape} has the smallest eigenvalue {values[0]:.3g}, or is not symmetric.")
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def _bures_squared(mean1, cov1, mean2, cov2):
    # tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) is the least |C1^1/2 - Q C2^1/2|^2 over orthogonal Q, attained by the polar
    # factor of C1^1/2 C2^1/2 (Bhatia et al. 2019). As a sum of squares it is never negative and keeps all digits, where
    # the differences of traces cancel and the roots of tiny eigenvalues lose half of theirs
    root1, root2 = _root(cov1), _root(cov2)
    left, _, right = np.linalg.svd(root1 @ root2)
    return ((mean1 - mean2)**2).sum() + ((root1 - left @ right @ root2)**2).sum()


def bures_w2(mean1, cov1, mean2, cov2):
    """W2 between N(m1, C1) and N(m2, C2): sqrt(|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)).

    means (d,), covariances (d, d), possibly singular. The root, in the unit of the samples. Gelbrich 1990.
    """
    mean1, cov1, mean2, cov2 = [_host("bures_w2", a).astype(np.float64) for a in (mean1, cov1, mean2, cov2)]
    d = mean1.size
    if not (mean1.shape == mean2.shape == (d,) and cov1.shape == cov2.shape == (d, d)):
        raise TinygenError(f"bures_w2 wants means (d,) and covariances (d, d), not {mean1.shape}, {cov1.shape}, "
                           f"{mean2.shape} and {cov2.shape}.")
    return float(np.sqrt(_bures_squared(mean1, cov1, mean2, cov2)))


def _moments(x):
    return x.mean(axis=0), np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1])  # the unbiased covariance, over n - 1


def gaussian_w2(x, y):
    """bures_w2 of the fitted means and (unbiased) covariances: 0 does not mean equal, but more than 0 means different."""
    x, y = _samples("gaussian_w2", x, y, least=2)
    return float(np.sqrt(_bures_squared(*_moments(x), *_moments(y))))


def frechet_distance(features1, features2):
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) of a classifier's features (n, d) and (m, d): gaussian_w2 SQUARED.

    Heusel et al. 2017 (FID), there with the 2,048 features of Inception; numbers from other features do not compare,
    nor do numbers from other n: the value falls with n. Needs more samples than features, better ten times as many.
    """
    x, y = _samples("frechet_distance", features1, features2)
    if min(len(x), len(y)) <= x.shape[1]:
        raise TinygenError(f"frechet_distance of {x.shape[1]} features needs more samples than that, not {len(x)} and "
                           f"{len(y)}, or the covariances are singular and the result is mostly noise.")
    return float(_bures_squared(*_moments(x), *_moments(y)))


# Distances from all pairs ---------------------------------------------------------------------------------------------

def _squared_distances(a, b):
    """|a_i - b_j|^2 for all pairs: (n, d), (m, d) -> (n, m)"""
    a, b = a - b.mean(axis=0), b - b.mean(axis=0)  # far from the origin the long squares would cancel digits
    return np.maximum((a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T, 0)  # rounding may go below 0


def _mean_over_pairs(f, a, b=None):
    """The mean of f(|a_i - b_j|^2) over all pairs, or over i != j within a; in tiles, so that memory stays small.

    Leaving out i = j makes it an unbiased estimate of E f(|A - A'|^2) for independent A, A' (a U-statistic).
    """
    total = 0.0
    for i in range(0, len(a), TILE):
        for j in range(i if b is None else 0, len(a if b is None else b), TILE):
            values = f(_squared_distances(a[i:i + TILE], (a if b is None else b)[j:j + TILE]))
            if b is None and i == j:
                np.fill_diagonal(values, 0)
            total += values.sum() * (2 if b is None and i < j else 1)
    return total / (len(a) * (len(a) - 1 if b is None else len(b)))


def energy_distance(x, y):
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, estimated without bias, so slightly negative values occur. In the unit of x.

    X' and Y' are independent copies. On the line it is 2 * integral (F - G)^2. Szekely & Rizzo 2013.
    """
    x, y = _samples("energy_distance", x, y, least=2)
    return float(2 * _mean_over_pairs(np.sqrt, x, y) - _mean_over_pairs(np.sqrt, x) - _mean_over_pairs(np.sqrt, y))


def mmd(x, y, bandwidth=None):
    """SQUARED maximum mean discrepancy E k(X, X') + E k(Y, Y') - 2 E k(X, Y), estimated without bias: may be negative.

    k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2)). None takes the median distance between points of both samples together
    (at most 500 of each); to compare several models, give all of them one bandwidth. Gretton et al. 2012, eq. (3).
    """
    x, y = _samples("mmd", x, y, least=2)
    if bandwidth is None:
        pick = np.random.default_rng(0)
        some = np.concatenate([a[pick.permutation(len(a))[:500]] for a in (x, y)])
        bandwidth = math.sqrt(np.median(_squared_distances(some, some)[np.triu_indices(len(some), 1)]))
    if not bandwidth > 0:
        raise TinygenError(f"mmd wants a bandwidth above 0, not {bandwidth}: pass one, about as wide as what should be seen "
                           "(the median distance is 0 when most points coincide).")

    def kernel(squared):
        return np.exp(squared * (-0.5 / bandwidth**2))
    return float(_mean_over_pairs(kernel, x) + _mean_over_pairs(kernel, y) - 2 * _mean_over_pairs(kernel, x, y))


# A judge of digits ----------------------------------------------------------------------------------------------------

class Classifier(Module):
    """A small classifier of images with pixels in [0, 1]: (N, 28, 28), (N, 1, 28, 28) or (N, 784) -> logits (N, 10)."""

    def __init__(self, inputs=784, hidden=256, features=128, classes=10):
        self.first, self.second = Linear(inputs, hidden), Linear(hidden, features)
        self.head = Linear(features, classes)

    def features(self, x):
        """What the classifier looks at: (N, 128) numbers >= 0, for frechet_distance."""
        x = x if isinstance(x, Tensor) else Tensor(x)
        return F.relu(self.second(F.relu(self.first(x.reshape(x.shape[0], -1)))))

    def forward(self, x):
        return self.head(self.features(x))


def train_classifier(images, labels, steps=3000, batch=128, lr=3e-3, seed=0):
    """A Classifier trained on images (N, ..., H, W) or (N, D) with pixels in [0, 1] and integer labels (N,).

    Images with rows and columns are moved by up to one pixel at each step, which saves a fifth of the errors on MNIST.
    All random numbers are drawn by NumPy from `seed`, so that the judge is the same on every backend. Those of the
    caller are put back as backend.rng_state() found them.
    """
    images, labels = _host("train_classifier", images), _host("train_classifier", labels)
    if images.ndim < 2 or images.dtype.kind != "f":
        raise TinygenError(f"train_classifier wants images (N, ...) with pixels in [0, 1], not {images.shape} "
                           f"{images.dtype}: divide pixels of 0..255 by 255.")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise TinygenError(f"train_classifier wants one integer label >= 0 per image, not labels of shape {labels.shape} "
                           f"and dtype {labels.dtype} for {len(images)} images.")
    images, labels = Tensor(images), Tensor(labels)  # to the device, once
    rng, state = np.random.default_rng(seed), backend.rng_state()
    try:
        backend.manual_seed(seed, host=True)
        model = Classifier(images.size // len(images), classes=int(labels.data.max()) + 1)
    finally:
        backend.set_rng_state(state)
    optimizer = Adam(model.parameters(), lr)
    schedule = CosineLR(optimizer, steps)
    for _ in range(steps):
        index = xp.asarray(rng.integers(len(images), size=batch))
        x = images.data[index]                                                    # (batch, ..., H, W)
        if x.ndim > 2:
            x = xp.roll(x, tuple(rng.integers(-1, 2, size=2).tolist()), axis=(-2, -1))
        loss = F.cross_entropy(model(Tensor(x)), Tensor(labels.data[index]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@no_grad()
def in_blocks(f, x, block=1000, cores=1):
    """f(x) as a NumPy array, `block` rows at a time and without recording: in_blocks(classifier.features, images).

    cores   how many blocks to work on at a time, such as backend.CORES; with more than 1 f must draw no random numbers
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    if len(x) == 0 or block < 1:
        raise TinygenError(f"in_blocks needs at least one row, and one in a block, not x of shape {x.shape} in blocks of {block}.")
    blocks = [x.data[i:i + block] for i in range(0, len(x), block)]
    return np.concatenate(backend.on_cores(lambda rows: backend.to_numpy(f(Tensor(rows))), blocks, cores))


def spread_within_classes(images, labels):
    """How various images (N, ...) of one class are: the root mean squared distance of a number to the mean of its class."""
    images, labels = _host("spread_within_classes", images), _host("spread_within_classes", labels)
    if labels.shape != images.shape[:1]:
        raise TinygenError(f"spread_within_classes wants one label per image, not labels of shape {labels.shape} for {len(images)} images.")
    return np.sqrt(np.mean([images[labels == y].var(axis=0).mean() for y in np.unique(labels)]))


class Judge:
    """What a classifier, trained here on the training images, sees in samples: are they what was asked for, and how far from data?

    images, labels             to train on, pixels in [0, 1]; see train_classifier
    test, test_labels          to compare with

    judge(samples, asked)      {"agreement": part of samples given the label they were asked for, "frechet": Frechet distance
                               of samples to as many test images in the classifier's features}; without asked no agreement
    judge.data                 {"classifier_accuracy": the ceiling of agreement, "noise_floor": that of frechet, the distance
                               of as many training images to the same test images}

    count   how many samples will be judged at a time: as many test images, drawn at random, are what they are compared
            with (the first test images of MNIST are easier than the rest); default: all

    Frechet distances in other features (Inception) do not compare; nor do those of different numbers of samples.
    """

    def __init__(self, images, labels, test, test_labels, steps=3000, count=None):
        self.count = min(count or len(test), len(test), len(images))
        self.classifier = train_classifier(images, labels, steps)
        rng = np.random.default_rng(0)
        self.real, fresh = (in_blocks(self.classifier.features, x)[rng.permutation(len(x))[:self.count]]
                            for x in (test, images))                              # (count, 128) each
        self.data = dict(classifier_accuracy=accuracy(in_blocks(self.classifier, test), test_labels),
                         noise_floor=frechet_distance(fresh, self.real))

    def __call__(self, samples, asked=None):
        if len(samples) != self.count:
            raise TinygenError(f"This judge compares {self.count} samples with as many test images, not {len(samples)}: "
                               "make it with count=len(samples).")
        distance = frechet_distance(in_blocks(self.classifier.features, samples), self.real)
        return dict(frechet=distance) if asked is None else dict(
            agreement=accuracy(in_blocks(self.classifier, samples), asked), frechet=distance)
