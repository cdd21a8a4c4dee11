"""Floor 8: data: toys in the plane with exact moments, rendered digits, MNIST and Fashion-MNIST.

    x = data.toy("moons", 1000)                       # (1000, 2)
    x, labels = data.images("glyphs", limit=1000)     # (1000, 1, 28, 28) in [0, 1] and (1000,)
    batches = data.Batches(len(x), 100)
    x.data[batches[step]]                             # minibatch number step = 0, 1, 2, ...

Everything random is drawn on the host, so that the data are the same on every machine.
"""
import functools
import inspect
import math
import operator
import os
import pathlib
import sys
from math import pi

import numpy as np

from .. import backend
from ..backend import TinygenError
from ..engine import Tensor, new_tensor
from .files import cache_folder, read_idx, replace_file


def _whole(value, what, least=1):
    """value as a Python integer of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise TinygenError(f"{what} is {value!r}: pass a whole number of at least {least}.")
    return number


# Toys in the plane --------------------------------------------------------------------------------
# Each draws (x, labels) = ((n, 2) float64, (n,) int64) as NumPy arrays and stands next to its exact
# mean and covariance, noise included. Every label is equally likely unless the docstring says
# otherwise; every point is independent.

TOYS = {}  # name -> function


def _toy(covariance, mean=lambda **options: [0, 0], centers=None):
    """Declare a toy. covariance, mean and, for separate modes, centers take its options."""
    def declare(draw):
        draw.mean, draw.covariance, draw.centers = mean, covariance, centers
        TOYS[draw.__name__] = draw
        return draw
    return declare


def _normal(n):
    """n independent draws from N(0, I) in the plane."""
    return backend.host_rng().standard_normal((n, 2))


def _uniform(low, high, shape):
    """Independent draws from the uniform distribution on [low, high)."""
    return backend.host_rng().uniform(low, high, shape)


def _labels(k, n):
    """n labels 0, ..., k - 1, each equally likely."""
    return backend.host_rng().integers(k, size=n)


def _polar(radius, angle):
    """The points radius (cos angle, sin angle), angle in radians."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


@_toy(mean=lambda noise: [1 / 2, 1 / 4],
      covariance=lambda noise: noise**2 * np.eye(2) + [[3 / 4, 1 / 8 - 1 / pi],
                                                       [1 / 8 - 1 / pi, 9 / 16 - 1 / pi]])
def moons(n, noise=0.05):
    """Two half circles of radius 1, t ~ U(0, pi), plus noise * N(0, I).

    (cos t, sin t) and (1 - cos t, 1/2 - sin t)
    mean = (1/2, 1/4),   covariance = [[3/4, 1/8 - 1/pi], [1/8 - 1/pi, 9/16 - 1/pi]] + noise^2 I
    """
    moon = _labels(2, n)
    upper = _polar(1, _uniform(0, pi, n))
    return np.where(moon[:, None] == 0, upper, [1, 0.5] - upper) + noise * _normal(n), moon


def _ring(radius, std=None):
    return _polar(radius, 2 * pi * np.arange(8) / 8)


@_toy(covariance=lambda radius, std: (radius**2 / 2 + std**2) * np.eye(2),
      centers=_ring)
def eight_gaussians(n, radius=2.0, std=0.2):
    """Eight Gaussians N(c_k, std^2 I) on a circle, c_k = radius (cos, sin)(2 pi k / 8).

    mean = 0,   covariance = (radius^2 / 2 + std^2) I
    """
    mode = _labels(8, n)
    return _ring(radius)[mode] + std * _normal(n), mode


def _grid(spacing, std=None):
    return spacing * np.stack(np.divmod(np.arange(25), 5), axis=-1) - 2 * spacing


@_toy(covariance=lambda spacing, std: (2 * spacing**2 + std**2) * np.eye(2),
      centers=_grid)
def twenty_five_gaussians(n, spacing=2.0, std=0.05):
    """Twenty-five Gaussians N(c, std^2 I) on the grid c = spacing (i, j), i and j = -2, ..., 2.

    mean = 0,   covariance = (2 spacing^2 + std^2) I: a uniform draw from -2, ..., 2 has variance 2
    """
    mode = _labels(25, n)
    return _grid(spacing)[mode] + std * _normal(n), mode


@_toy(covariance=lambda radius, radial_std, tangential_std, rate: (
    radius**2 * (1 + radial_std**2 + tangential_std**2) / 2 * np.eye(2)))
def pinwheel(n, radius=2.0, radial_std=0.3, tangential_std=0.1, rate=0.25):
    """Five spiral arms, k = 0, ..., 4.

    radius * u, u = (1 + radial_std N(0, 1), tangential_std N(0, 1)) turned by 2 pi k / 5 + rate
    exp(u_1). A turn keeps |u| and five equal arms cancel, so whatever the rate:
    mean = 0,   covariance = radius^2 E|u|^2 / 2 I
                           = radius^2 (1 + radial_std^2 + tangential_std^2) / 2 I
    After Johnson et al. 2016, "Composing graphical models with neural networks" (arXiv:1603.06277).
    """
    arm = _labels(5, n)
    u = [1, 0] + [radial_std, tangential_std] * _normal(n)
    angle = 2 * pi * arm / 5 + rate * np.exp(u[:, 0])
    return radius * (u[:, :1] * _polar(1, angle) + u[:, 1:] * _polar(1, angle + pi / 2)), arm


@_toy(covariance=lambda: [[4 / 3, 1 / 4], [1 / 4, 4 / 3]])
def checkerboard(n):
    """Uniform on 8 of the 16 unit squares of [-2, 2]^2: row i and column j with i + j even.

    label = the square, row by row
    mean = 0,   covariance = [[4/3, 1/4], [1/4, 4/3]]: each coordinate alone is uniform on [-2, 2],
    and the centers c of the squares, -3/2, ..., 3/2, give
    E xy = ((sum of even c)^2 + (sum of odd c)^2) / 8 = 2/8
    """
    square = _labels(8, n)
    row, half = np.divmod(square, 2)
    corner = np.stack([2 * half + row % 2, row], axis=-1) - 2
    return corner + _uniform(0, 1, (n, 2)), square


@_toy(mean=lambda noise: [1 / pi, 1 / (3 * pi**2)],
      covariance=lambda noise: noise**2 * np.eye(2) + [
          [39 / 32 - 17 / (16 * pi**2), 3 / (8 * pi) - 1 / (3 * pi**3)],
          [3 / (8 * pi) - 1 / (3 * pi**3), 39 / 32 + 1 / (16 * pi**2) - 1 / (9 * pi**4)]])
def swiss_roll(n, noise=0.1):
    """One and a half turns of a spiral, plus noise * N(0, I); label 0.

    u (cos 2 pi u, sin 2 pi u), u ~ U(3/4, 9/4). Integrating by parts, with E u^2 = 39/16,
    E xx = 39/32 - 1/16pi^2, E yy = 39/32 + 1/16pi^2, E xy = 3/8pi and c = 3/8pi - 1/3pi^3:
    mean = (1/pi, 1/3pi^2),   covariance = [[E xx - 1/pi^2, c], [c, E yy - 1/9pi^4]] + noise^2 I
    """
    u = _uniform(3 / 4, 9 / 4, n)
    return _polar(u, 2 * pi * u) + noise * _normal(n), np.zeros(n, dtype=np.int64)


LECTURE_WEIGHTS = np.array([0.55, 0.45])                               # (2,)
LECTURE_MEANS = np.array([[-2.0, 1.0], [2.6, -1.4]])                   # (2, 2): component, axis
LECTURE_COVARIANCES = np.array([[[1.4, 0.55], [0.55, 0.9]],            # (2, 2, 2): component, axis,
                                [[1.0, -0.35], [-0.35, 1.25]]])        # axis


@_toy(mean=lambda: LECTURE_WEIGHTS @ LECTURE_MEANS,
      covariance=lambda: (np.average(LECTURE_COVARIANCES, axis=0, weights=LECTURE_WEIGHTS)
                          + np.cov(LECTURE_MEANS.T, aweights=LECTURE_WEIGHTS, ddof=0)),
      centers=lambda: LECTURE_MEANS)
def lecture_mixture(n):
    """The lecture's two Gaussians p(x) = sum_k w_k N(x; m_k, C_k), w = (0.55, 0.45). Label = k.

    The constants are LECTURE_*. With d = m_0 - m_1 = (-4.6, 2.4):
    mean = sum_k w_k m_k = (0.07, -0.08),   covariance = sum_k w_k C_k + w_0 w_1 d d^T
         = [[6.4571, -2.5874], [-2.5874, 2.4831]]
    """
    k = backend.host_rng().choice(2, size=n, p=LECTURE_WEIGHTS)
    roots = np.linalg.cholesky(LECTURE_COVARIANCES)  # z ~ N(0, I) gives L z ~ N(0, L L^T)
    return LECTURE_MEANS[k] + np.einsum("nij,nj->ni", roots[k], _normal(n)), k


def _toy_options(name, options):
    """The toy of that name, and all its options: the given ones and the defaults of the others."""
    if name not in TOYS:
        raise TinygenError(f"There is no toy {name!r}; choose one of {', '.join(TOYS)}.")
    parameters = list(inspect.signature(TOYS[name]).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters}
    for key, value in options.items():
        if key not in defaults:
            raise TinygenError(f"{name} has no option {key!r}; its options are "
                               f"{', '.join(defaults) or 'none at all'}.")
        if not isinstance(value, (int, float, np.number)) or not 0 <= value < math.inf:
            raise TinygenError(f"{key}={value!r} of {name} must be a finite number of at least 0: "
                               "fix it or leave it out.")
    return TOYS[name], defaults | options


def toy(name, n, labels=False, standardize=False, **options):
    """n points of the toy of that name: a Tensor (n, 2).

    labels        True: also their components, an int64 Tensor (n,)
    standardize   True: shifted and scaled to mean 0 and variance 1 along both axes, by the exact
                  moments
    options       those of the toy's own function, such as noise=0.1
    """
    draw, options = _toy_options(name, options)
    x, y = draw(_whole(n, f"The number of points of {name}"), **options)
    if standardize:
        mean, covariance = moments(name, **options)
        x = (x - mean) / np.sqrt(np.diagonal(covariance))
    return (Tensor(x), Tensor(y)) if labels else Tensor(x)


def moments(name, **options):
    """The exact mean (2,) and covariance (2, 2) of a toy, as float64 NumPy arrays."""
    draw, options = _toy_options(name, options)
    mean, covariance = [moment(**options) for moment in (draw.mean, draw.covariance)]
    return np.array(mean, dtype=float), np.array(covariance, dtype=float)


def centers(name, **options):
    """The centers (modes, 2) of the modes of a toy, float64 NumPy; row k belongs to label k."""
    draw, options = _toy_options(name, options)
    if draw.centers is None:
        having = [other for other in TOYS if TOYS[other].centers]
        raise TinygenError(
            f"{name} has no separate modes to count; choose one of {', '.join(having)}.")
    return np.array(draw.centers(**options), dtype=float)


# Glyphs: digits from the fonts inside matplotlib --------------------------------------------------

FONTS = (  # without the Mono ones, whose zero has a dot
    "DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSerif",
    "DejaVuSerif-Italic", "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol",
    "STIXGeneralBolIta", "cmb10", "cmr10", "cmss10", "cmtt10")
GLYPHS = {True: (20_000, 1), False: (4_000, 2)}  # train? -> number of images, seed
GLYPHS_VERSION = 1   # part of the cache's file name: raise it when the rendering changes
_SIDE = 64           # the masters are _SIDE pixels wide
_FINE = 2            # pixels of a master for each pixel of the images


def _bumps(points, centers, width):
    """Gaussian bumps exp(-(p - c)^2 / 2 width^2): (points, centers)."""
    return np.exp(-0.5 * ((points[:, None] - centers) / width)**2)


def _middle(n):
    """The places of n pixels in a row, counted from the middle."""
    return np.arange(n) - (n - 1) / 2


@functools.cache
def _masters():
    """Every font x digit, blurred, 20 pixels tall: (fonts, 10, _SIDE, _SIDE) in [0, 1].

    The resolution is _FINE times that of the images. A Gaussian of 0.6 pixels, just enough to
    sample at whole pixels afterwards, is also what shrinks and centers the digit: it is drawn so
    large that the hinting of different versions of matplotlib hardly matters.
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font
    masters = np.empty((len(FONTS), 10, _SIDE, _SIDE), dtype=np.float32)
    width = 0.6 * _FINE
    for f, name in enumerate(FONTS):
        font = FT2Font(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name + ".ttf"))
        font.set_size(400, 72)
        for digit in range(10):
            font.set_text(str(digit))
            font.draw_glyphs_to_bitmap(antialiased=True)
            ink = np.asarray(font.get_image()) / 255
            ink = ink[ink.any(axis=1)][:, ink.any(axis=0)]      # (height, width), height about 290
            step = 20 * _FINE / len(ink)                        # size of its pixels in the master
            weight = step / (width * math.sqrt(2 * pi))
            blur = [weight * _bumps(_middle(_SIDE), step * _middle(k), width) for k in ink.shape]
            # einsum and not @: so small a product is done before the threads of BLAS are awake
            narrow = np.einsum("hw,xw->hx", ink, blur[1])
            masters[f, digit] = np.einsum("hx,yh->yx", narrow, blur[0])
    return masters


def _look_up(masters, which, q):
    """Bilinear interpolation in masters[which] at q = (y, x) in pixels from the middle.

    q is (k, 2, 28, 28), the result (k, 28, 28).
    """
    q = np.clip(_FINE * q + (_SIDE - 1) / 2, 0, _SIDE - 1.01)  # the rim is black
    corner = q.astype(np.int64)
    fy, fx = (q - corner).swapaxes(0, 1)                       # (k, 28, 28) each
    at = which[:, None, None] * _SIDE**2 + corner[:, 0] * _SIDE + corner[:, 1]
    above = (1 - fx) * masters[at] + fx * masters[at + 1]
    below = (1 - fx) * masters[at + _SIDE] + fx * masters[at + _SIDE + 1]
    return (1 - fy) * above + fy * below


def glyphs(n, seed):
    """n distorted digits and what they are, in classes of equal size.

    Returns uint8 images (n, 28, 28), white on black, and int64 labels (n,). Pixel p shows the gray
    value of the master of a random font at the place
        q = A (p - center - shift) + 0.85 elastic(p),      A = stretch * rotation + slant,
    where elastic ~ N(0, 1) is a smooth random field (after Simard et al. 2003). The value is then
    steepened around a random level, which makes the pen thicker or thinner. The images depend on n
    and seed alone.
    """
    n = _whole(n, "The number of glyphs")
    rng = np.random.default_rng(_whole(seed, "The seed of the glyphs", 0))
    uniform = lambda low, high, *shape: rng.uniform(low, high, (n, *shape, 1, 1)).astype(np.float32)
    labels = rng.permutation(n) % 10
    font = rng.integers(len(FONTS), size=n)
    turn = uniform(-0.25, 0.25)                                         # radians
    slant = uniform(-0.25, 0.35)
    stretch = uniform(0.95, 1.2, 2)
    shift = uniform(-1.5, 1.5, 2)                                       # pixels
    level = uniform(0.25, 0.5)                                          # gray value
    knots = rng.standard_normal((n, 2, 5, 5), dtype=np.float32)
    bumps = _bumps(_middle(28), 27 / 4 * _middle(5), 5.0)
    bumps = (bumps / np.sqrt((bumps**2).sum(axis=1, keepdims=True))).astype(np.float32)
    pixel = _middle(28).astype(np.float32)
    masters = _masters().reshape(-1)
    images = np.empty((n, 28, 28), dtype=np.uint8)
    for i in range(0, n, 256):  # chunks that stay in the processor's cache
        s = slice(i, i + 256)
        y = pixel[:, None] - shift[s, 0]                                # (256, 28, 1)
        x = pixel - shift[s, 1]                                         # (256, 1, 28)
        sin, cos = [f(turn[s]) for f in (np.sin, np.cos)]
        down = stretch[s, 0] * (cos * y + sin * x)                      # (256, 28, 28)
        right = stretch[s, 1] * (cos * x - sin * y) + slant[s] * y
        q = np.stack([down, right], axis=1)                             # (256, 2, 28, 28)
        q += 0.85 * (bumps @ knots[s] @ bumps.T)
        gray = _look_up(masters, font[s] * 10 + labels[s], q)
        images[s] = np.clip(127.5 + 2 * 255 * (gray - level[s]), 0, 255)
    return images, labels


def _glyphs(train):
    """The standard set of glyphs, from the cache if it is there and sound."""
    n, seed = GLYPHS[train]
    path = cache_folder() / f"glyphs-{'train' if train else 'test'}-v{GLYPHS_VERSION}.npz"
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]
        sound = (n, 28, 28), np.uint8, (n,), np.int64
        if (images.shape, images.dtype, labels.shape, labels.dtype) == sound:
            return images, labels
    except Exception:  # absent or damaged, in whichever way: draw again
        pass
    images, labels = glyphs(n, seed)
    try:
        replace_file(path, lambda file: np.savez(file, images=images, labels=labels))
    except OSError:  # a cache that cannot be written only costs time
        pass
    return images, labels


# MNIST and Fashion-MNIST --------------------------------------------------------------------------

MIRRORS = {"mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
           "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"}
CHECKSUMS = {  # MD5 of the .gz files
    "mnist": {"train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
              "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
              "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
              "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c"},
    "fashion_mnist": {"train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                      "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
                      "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
                      "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310"}}
TIMEOUT = 30  # seconds without a byte before a download is given up


def _find(name, file, folder):
    """<folder>/<name>/<file> or <folder>/<file>, unzipped or .gz; None where there is neither."""
    places = [folder / name, folder]
    if folder.name in MIRRORS and folder.name != name:  # all sets have equal file names: never
        places.pop()                                    # take those of another set
    candidates = [place / (file + ending) for place in places for ending in ("", ".gz")]
    return next(filter(os.path.isfile, candidates), None)


def _download(name, file):
    """Fetch <file>.gz from the mirror into the cache folder, if its checksum is right; its path."""
    import hashlib
    import http.client
    import urllib.error
    import urllib.request
    url = f"{MIRRORS[name]}{file}.gz"
    path = cache_folder() / name / f"{file}.gz"
    content = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            total = int(response.headers.get("Content-Length") or 0)
            while block := response.read(1 << 18):
                content += block
                print(f"\r{file}.gz  {len(content) / 1e6:.1f} / {total / 1e6:.1f} MB", end="",
                      file=sys.stderr, flush=True)
        if len(content) < total:
            raise OSError(f"the connection ended after {len(content):,} of {total:,} bytes")
        checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if checksum != CHECKSUMS[name][file]:
            raise OSError(f"its checksum is {checksum} instead of {CHECKSUMS[name][file]}")
        replace_file(path, lambda part: part.write(content))
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # "404: Not Found" is an open answer as well
        raise TinygenError(f"{file}.gz could not be downloaded from {url} "
                           f"({type(error).__name__}: {error}): put it into {path.parent} by hand, "
                           "or name a folder that has it.") from error
    finally:
        print(end="\n" if content else "", file=sys.stderr)
    return path


def _idx_set(name, train, folder):
    """Images (N, 28, 28) and labels (N,) of a real set.

    They come from the folder that the user names, else from the cache, else from the mirror.
    """
    named = folder or os.environ.get("TINYGEN_DATA")
    where = pathlib.Path(os.path.expanduser(named)) if named else cache_folder()
    found = []
    for kind, axes in (("images-idx3", 3), ("labels-idx1", 1)):
        file = f"{'train' if train else 't10k'}-{kind}-ubyte"
        path = _find(name, file, where)
        if named and not path:
            raise TinygenError(f"There is no {file} or {file}.gz of {name} in the folder {named} "
                               f"or its subfolder {name}: put it there, or name no folder "
                               "(--data-dir, TINYGEN_DATA) to have it downloaded.")
        path = path or _download(name, file)
        found.append((path, read_idx(path, axes, f"{MIRRORS[name]}{file}.gz")))
    (images_path, images), (labels_path, labels) = found
    if len(images) != len(labels):
        raise TinygenError(f"{images_path} holds {len(images):,} images but {labels_path} "
                           f"{len(labels):,} labels: put the two files of one set there.")
    if labels.max() > 9:
        raise TinygenError(f"{labels_path} has a label {labels.max()}, beyond the ten classes 0 "
                           "to 9: put a sound copy there.")
    return images, labels


IMAGES = ("glyphs", "mnist", "fashion_mnist")


def images(name, train=True, folder=None, limit=None):
    """Images (N, 1, 28, 28) in [0, 1], black 0, and their labels (N,), int64 in 0..9, as Tensors.

    train    the training part (glyphs 20,000 images, the others 60,000), or the test part (4,000
             and 10,000)
    folder   where mnist and fashion_mnist lie: <folder>/<name>/ or <folder>/; else $TINYGEN_DATA,
             else they are downloaded into the cache folder. Glyphs need none
    limit    at most that many, the first ones
    """
    if name not in IMAGES:
        raise TinygenError(f"There is no image set {name!r}; choose one of {', '.join(IMAGES)}.")
    limit = None if limit is None else _whole(limit, "The limit on the number of images")
    pixels, labels = _glyphs(bool(train)) if name == "glyphs" else _idx_set(name, train, folder)
    x = backend.asarray(pixels[:limit, None]).astype(backend.default_dtype())  # travels as bytes
    return new_tensor(x / 255), new_tensor(backend.asarray(labels[:limit].astype(np.int64)))


# Minibatches --------------------------------------------------------------------------------------

class Batches:
    """batches[step] are the indices of minibatch number step = 0, 1, 2, ..., a raw integer array.

    Epoch follows epoch, each in a fresh random order in which every sample comes once; the last
    batch of an epoch is smaller where batch does not divide n. batches[step] depends on (seed,
    step) alone: a run that is resumed continues with the same minibatches without any state.
    """

    def __init__(self, n, batch, seed=0):
        self.n = _whole(n, "The number of samples")
        self.batch = _whole(batch, "The batch size")
        self.seed = _whole(seed, "The seed of the batches", 0)
        if self.batch > self.n:
            raise TinygenError(f"A batch of {self.batch} is more than the {self.n} samples: use "
                               f"--batch {self.n} or less.")
        self.per_epoch = math.ceil(self.n / self.batch)
        self._epoch = self._order = None

    def __getitem__(self, step):
        epoch, i = divmod(_whole(step, "The number of a minibatch", 0), self.per_epoch)
        if epoch != self._epoch:  # one transfer to the device for each epoch
            order = np.random.default_rng([self.seed, epoch]).permutation(self.n)
            self._order = backend.asarray(order)
            self._epoch = epoch
        return self._order[i * self.batch:(i + 1) * self.batch]
