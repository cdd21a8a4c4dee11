"""Data against their closed forms; files against every way to be damaged, missing or incomplete."""
import gzip
import hashlib
import http.server
import itertools
import os
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

import tinygen as tg
from tinygen import TinygenError, backend
from tinygen.lab import data

OWN = os.environ.get("TINYGEN_DATA")  # the folder of the user's real sets, if there is one


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder and no data folder."""
    monkeypatch.setenv("TINYGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TINYGEN_DATA", raising=False)
    return tmp_path / "cache"


def one_sentence(error, *parts):
    """The text of the error is one sentence, and all the parts are in it."""
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text, text
    for part in parts:
        assert str(part) in text, (part, text)


# Toys ---------------------------------------------------------------------------------------------

def weighted(points, weights=None, noise=0.0):
    """Mean and covariance of weighted points, with independent noise in x and in y."""
    cov = np.cov(points.T, aweights=weights, ddof=0)
    return np.average(points, axis=0, weights=weights), cov + noise**2 * np.eye(2)


def midpoints(low, high, n):
    return low + (high - low) * (np.arange(n) + 0.5) / n


def quadrature(name):
    """Mean and covariance of a toy at its default options, from its definition alone.

    By the midpoint rule or Gauss-Hermite quadrature.
    """
    if name == "moons":
        t = midpoints(0, np.pi, 100_000)
        upper = np.stack([np.cos(t), np.sin(t)], 1)
        lower = np.stack([1 - np.cos(t), 0.5 - np.sin(t)], 1)
        return weighted(np.concatenate([upper, lower]), noise=0.05)
    if name == "swiss_roll":
        u = midpoints(0.75, 2.25, 100_000)
        angle = 2 * np.pi * u
        return weighted(np.stack([u * np.cos(angle), u * np.sin(angle)], 1), noise=0.1)
    if name == "eight_gaussians":
        r = 2**0.5
        ring = [[2, 0], [r, r], [0, 2], [-r, r], [-2, 0], [-r, -r], [0, -2], [r, -r]]
        return weighted(np.array(ring), noise=0.2)
    if name == "twenty_five_gaussians":
        grid = np.array(list(itertools.product([-4, -2, 0, 2, 4], repeat=2)))
        return weighted(grid, noise=0.05)
    if name == "pinwheel":
        z, w = np.polynomial.hermite_e.hermegauss(60)
        arms = 2 * np.pi * np.arange(5) / 5
        a, b, arm = np.meshgrid(1 + 0.3 * z, 0.1 * z, arms, indexing="ij")      # (60, 60, 5)
        turned = 2 * (a + 1j * b) * np.exp(1j * (arm + 0.25 * np.exp(a)))
        points = np.stack([turned.real.ravel(), turned.imag.ravel()], 1)
        return weighted(points, np.einsum("i,j,k->ijk", w, w, np.ones(5)).ravel())
    side = midpoints(-12, 12, 600)
    x, y = np.meshgrid(side, side)
    points = np.stack([x.ravel(), y.ravel()], 1)
    if name == "checkerboard":
        inside = (abs(points) < 2).all(1) & (np.floor(points).sum(1) % 2 == 0)
        return weighted(points[inside], noise=0.04 / 12**0.5)   # the spread within a cell of 0.04
    density = 0
    for w, m, c in zip(data.LECTURE_WEIGHTS, data.LECTURE_MEANS, data.LECTURE_COVARIANCES):
        d = points - m
        squared = np.einsum("ni,ij,nj->n", d, np.linalg.inv(c), d)
        density += w / np.sqrt(np.linalg.det(c)) * np.exp(-0.5 * squared)
    return weighted(points, density)


@pytest.mark.parametrize("name", data.TOYS)
def test_the_closed_form_of_the_moments_is_right(name):
    mean, cov = data.moments(name)
    assert mean.shape == (2,)
    assert cov.shape == (2, 2)
    assert mean.dtype == cov.dtype == np.float64
    for value, reference in zip((mean, cov), quadrature(name)):
        np.testing.assert_allclose(value, reference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", data.TOYS)
def test_samples_have_the_moments(name):
    """Each of the five numbers within 4.5 standard errors, estimated from the samples."""
    n = 200_000
    with backend.precision("float64"):
        x = data.toy(name, n).numpy()
    mean, cov = data.moments(name)
    d = x - mean
    for i, j in ((0, 0), (0, 1), (1, 1)):
        products = d[:, i] * d[:, j]
        assert abs(products.mean() - cov[i, j]) < 4.5 * products.std() / n**0.5
    assert (abs(d.mean(axis=0)) < 4.5 * (np.diag(cov) / n)**0.5).all()


@pytest.mark.parametrize("name, options", [
    ("moons", dict(noise=0.7)),
    ("swiss_roll", dict(noise=0.7)),
    ("eight_gaussians", dict(radius=1.0, std=0.6)),
    ("twenty_five_gaussians", dict(spacing=0.5, std=0.6)),
    ("pinwheel", dict(radius=1.5, radial_std=0.1, tangential_std=0.4, rate=2)),
])
def test_moments_follow_the_options(name, options):
    with backend.precision("float64"):
        x = data.toy(name, 100_000, **options).numpy()
    mean, cov = data.moments(name, **options)
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(x.T), cov, atol=0.03)


@pytest.mark.parametrize("name, k", [
    ("moons", 2), ("eight_gaussians", 8), ("twenty_five_gaussians", 25), ("pinwheel", 5),
    ("checkerboard", 8), ("swiss_roll", 1), ("lecture_mixture", 2)])
def test_labels(name, k):
    n = 50_000
    x, y = data.toy(name, n, labels=True)
    assert x.shape == (n, 2)
    assert x.dtype == np.float32
    assert y.shape == (n,)
    assert y.dtype == np.int64
    fractions = np.bincount(y.numpy(), minlength=k) / n
    expected = data.LECTURE_WEIGHTS if name == "lecture_mixture" else np.full(k, 1 / k)
    assert len(fractions) == k
    assert (abs(fractions - expected) < 4.5 * (expected / n)**0.5).all()


@pytest.mark.parametrize("name, std", [("eight_gaussians", 0.2), ("twenty_five_gaussians", 0.05)])
def test_modes_are_distinct_and_round_with_the_right_width(name, std):
    """Against the usual bugs.

    A variance taken for a standard deviation, a doubled mode, one noise for both axes.
    """
    x, y = (t.numpy() for t in data.toy(name, 100_000, labels=True))
    c = data.centers(name)
    apart = np.linalg.norm(c[:, None] - c, axis=-1) + 1e9 * np.eye(len(c))
    assert apart.min() > 7 * std
    two_nearest = np.sort(apart, axis=1)[:, :2]
    np.testing.assert_allclose(two_nearest, apart.min())  # every mode has two neighbors
    d = x - c[y]
    np.testing.assert_allclose(np.cov(d.T), std**2 * np.eye(2), atol=0.02 * std**2)


@pytest.mark.parametrize("name", [
    "moons", "swiss_roll", "eight_gaussians", "twenty_five_gaussians"])
def test_the_noise_differs_in_x_and_y(name):
    option = "std" if "gaussians" in name else "noise"
    x = data.toy(name, 20_000, **{option: 1000.0}).numpy()
    assert abs(np.corrcoef(x.T)[0, 1]) < 4.5 / 20_000**0.5


def test_the_shapes_of_the_toys():
    x, y = data.TOYS["moons"](1000, noise=0)
    middle = np.where(y[:, None] == 0, [0, 0], [1, 0.5])
    np.testing.assert_allclose(np.linalg.norm(x - middle, axis=1), 1)
    assert (x[y == 0, 1] >= 0).all()
    assert (x[y == 1, 1] <= 0.5).all()

    x, y = data.TOYS["checkerboard"](5000)
    corners = np.floor(x).astype(int)
    squares = {tuple(corner) for corner in corners}
    assert len(squares) == 8
    assert all((i + j) % 2 == 0 for i, j in squares)
    assert all(-2 <= min(i, j) <= max(i, j) < 2 for i, j in squares)
    for k in range(8):
        assert len(np.unique(corners[y == k], axis=0)) == 1

    x, y = data.TOYS["swiss_roll"](1000, noise=0)
    r = np.linalg.norm(x, axis=1)
    angle = np.arctan2(x[:, 1], x[:, 0])
    np.testing.assert_allclose(np.cos(2 * np.pi * r - angle), 1)

    x, y = data.TOYS["pinwheel"](1000, radius=1, tangential_std=0, radial_std=0.2, rate=0.5)
    u = (x @ [1, 1j]) * np.exp(-2j * np.pi * y / 5)  # the arms turned onto each other
    np.testing.assert_allclose(u, abs(u) * np.exp(0.5j * np.exp(abs(u))))

    x, y = data.TOYS["pinwheel"](1000, radius=1, tangential_std=0.2, radial_std=0, rate=0.5)
    u = (x @ [1, 1j]) * np.exp(-2j * np.pi * y / 5 - 0.5j * np.e)
    np.testing.assert_allclose(u.real, 1)
    assert abs(u.imag.std() - 0.2) < 0.02


@pytest.mark.parametrize("name", data.TOYS)
def test_toys_are_the_same_for_the_same_seed(name, library):
    def draw(seed):
        tg.manual_seed(seed)
        return data.toy(name, 10).numpy()
    first = draw(1)
    np.testing.assert_array_equal(first, draw(1))
    assert (first != draw(2)).any()
    backend.use("numpy")
    np.testing.assert_array_equal(first, draw(1))  # the same numbers on every backend


@pytest.mark.parametrize("call, parts", [
    (lambda: data.toy("moon", 5), ["'moon'", "moons, eight_gaussians"]),
    (lambda: data.moments("moon"), ["'moon'", "moons"]),
    (lambda: data.toy("moons", 0), ["moons is 0", "at least 1"]),
    (lambda: data.toy("moons", -3), ["-3"]),
    (lambda: data.toy("moons", 2.5), ["2.5"]),
    (lambda: data.toy("moons", float("nan")), ["nan"]),
    (lambda: data.toy("moons", "9"), ["'9'"]),
    (lambda: data.toy("moons", 9, std=1), ["'std'", "noise"]),
    (lambda: data.toy("checkerboard", 9, std=1), ["'std'", "none"]),
    (lambda: data.toy("moons", 9, noise=-1), ["noise=-1"]),
    (lambda: data.toy("moons", 9, noise=float("nan")), ["noise=nan"]),
    (lambda: data.toy("moons", 9, noise="big"), ["noise='big'"]),
    (lambda: data.centers("swiss_roll"), ["swiss_roll", "eight_gaussians, twenty_five_gaussians"]),
    (lambda: data.images("minst"), ["'minst'", "glyphs, mnist, fashion_mnist"]),
    (lambda: data.images("glyphs", limit=0), ["limit", "0"]),
    (lambda: data.images("glyphs", limit=float("nan")), ["nan"]),
    (lambda: data.glyphs(0, 0), ["glyphs is 0"]),
    (lambda: data.glyphs(5, -1), ["seed", "-1"]),
    (lambda: data.Batches(0, 1), ["samples is 0"]),
    (lambda: data.Batches(10, 0), ["batch size is 0"]),
    (lambda: data.Batches(10, 11), ["11", "10"]),
    (lambda: data.Batches(10, 5, seed=-1), ["seed", "-1"]),
    (lambda: data.Batches(10, 5)[-1], ["-1"]),
    (lambda: data.Batches(10, 5)[0:2], ["slice"]),
])
def test_refusals(call, parts):
    with pytest.raises(TinygenError) as error:
        call()
    one_sentence(error, *parts)


# Glyphs -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def sets():
    """The standard training and test glyphs, rendered once."""
    return data.glyphs(*data.GLYPHS[True]), data.glyphs(*data.GLYPHS[False])


def test_glyphs_look_like_mnist(sets):
    for (x, y), n in zip(sets, (20_000, 4_000)):
        assert x.shape == (n, 28, 28)
        assert x.dtype == np.uint8
        assert y.dtype == np.int64
        assert (np.bincount(y) == n // 10).all()

        assert 0.1 < x.mean() / 255 < 0.2                           # white on black
        assert (np.median(x, axis=(1, 2)) == 0).all()
        brightest = x.max(axis=(1, 2))
        assert brightest.min() > 120
        assert (brightest == 255).mean() > 0.98
        assert ((x > 0) & (x < 255)).mean() > 0.1                   # antialiased

        rows = x.max(axis=2) > 127                                  # which rows have ink
        columns = x.max(axis=1) > 127
        height = 28 - rows.argmax(axis=1) - rows[:, ::-1].argmax(axis=1)
        assert abs(height.mean() - 20) < 1
        assert height.std() > 0.5
        for ink in (rows, columns):
            off_center = (ink * (np.arange(28) - 13.5)).sum() / ink.sum()
            assert abs(off_center) < 0.3
            assert (ink[:, 0] | ink[:, -1]).mean() < 0.02           # seldom cut off


def test_glyphs_are_legible_and_varied(sets):
    """Class means recognize most test digits (for MNIST 0.82), nearest neighbors nearly all."""
    (x, y), (test, answers) = [(x.reshape(len(x), -1) / np.float32(255), y) for x, y in sets]
    means = np.stack([x[y == k].mean(axis=0) for k in range(10)])
    distance = lambda a, b: (b**2).sum(axis=1) - 2 * a @ b.T  # squared, up to |a|^2
    by_means = distance(test, means).argmin(axis=1)
    by_neighbors = y[distance(test[:1000], x).argmin(axis=1)]
    assert 0.7 < (by_means == answers).mean() < 0.9
    assert (by_neighbors == answers[:1000]).mean() > 0.96
    between = np.linalg.norm(means[:, None] - means, axis=-1)[~np.eye(10, dtype=bool)]
    assert between.min() > 1.5  # sampling error of a class mean: about 0.2
    within = np.mean([x[y == k].var(axis=0).sum() for k in range(10)])
    assert within > 0.6 * x.var(axis=0).sum()  # most of the variation is not the class
    assert len(np.unique(x, axis=0)) == len(x)


def test_every_font_and_digit_counts():
    masters = data._masters()
    flat = masters.reshape(len(data.FONTS) * 10, -1)
    assert len(data.FONTS) >= 15
    assert masters.shape[:2] == (len(data.FONTS), 10)
    assert (flat.max(axis=1) > 0.9).all()
    assert flat.min() >= 0
    assert flat.max() < 1.01
    # the rim is black, because places outside are read as the rim
    assert (masters[:, :, [0, -1]] < 1e-3).all()
    assert (masters[:, :, :, [0, -1]] < 1e-3).all()
    gaps = ((flat[:, None] - flat)**2).sum(axis=-1) + 1e9 * np.eye(len(flat))
    assert gaps.min() > 1


def test_glyphs_depend_on_the_seed_alone(sets):
    images, labels = data.glyphs(300, 5)
    tg.manual_seed(9)
    tg.randn(7)
    np.random.seed(3)
    again, labels_again = data.glyphs(300, 5)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert (images != data.glyphs(300, 6)[0]).any()
    train, test = ({image.tobytes() for image in x} for x, _ in sets)
    assert not train & test


def small(monkeypatch):
    """Small standard sets; returns a list of the sizes that were rendered."""
    sizes = []
    render = data.glyphs

    def counted(n, seed):
        sizes.append(n)
        return render(n, seed)
    monkeypatch.setattr(data, "GLYPHS", {True: (60, 1), False: (30, 2)})
    monkeypatch.setattr(data, "glyphs", counted)
    return sizes


def test_the_cache_of_glyphs(cache, monkeypatch):
    rendered = small(monkeypatch)
    first, _ = data.images("glyphs")
    assert rendered == [60]
    assert first.shape == (60, 1, 28, 28)
    again, _ = data.images("glyphs")
    assert rendered == [60]
    np.testing.assert_array_equal(first.numpy(), again.numpy())
    assert data.images("glyphs", train=False)[0].shape == (30, 1, 28, 28)
    assert rendered == [60, 30]
    names = sorted(p.name for p in cache.iterdir())
    assert names == ["glyphs-test-v1.npz", "glyphs-train-v1.npz"]


def test_a_damaged_cache_is_rendered_again(cache, monkeypatch):
    rendered = small(monkeypatch)
    good = data.images("glyphs")[0].numpy()
    path = cache / "glyphs-train-v1.npz"
    raw = path.read_bytes()
    flipped = bytearray(raw)
    flipped[2000] ^= 255
    images = np.zeros((60, 28, 28))
    np.savez(cache / "floats.npz", images=images, labels=np.zeros(60, dtype=np.int64))
    np.savez(cache / "no_labels.npz", images=images.astype(np.uint8))
    damaged = [b"", raw[:1000], raw[:-1], bytes(flipped), b"not a zip" * 99, raw[1:],
               (cache / "floats.npz").read_bytes(), (cache / "no_labels.npz").read_bytes()]
    for i, content in enumerate(damaged):
        path.write_bytes(content)
        np.testing.assert_array_equal(data.images("glyphs")[0].numpy(), good)
        assert len(rendered) == i + 2
        assert path.read_bytes() == raw  # written again as well
    path.unlink()
    path.mkdir()
    np.testing.assert_array_equal(data.images("glyphs")[0].numpy(), good)


def test_an_unwritable_cache_is_no_error(cache, monkeypatch):
    small(monkeypatch)
    cache.write_text("a file where the folder should be")
    assert data.images("glyphs")[0].shape == (60, 1, 28, 28)
    cache.unlink()

    def disk_is_full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "replace", disk_is_full)
    assert data.images("glyphs")[0].shape == (60, 1, 28, 28)
    assert list(cache.iterdir()) == []


def test_the_cache_folder(monkeypatch):
    assert str(data.cache_folder()) == os.environ["TINYGEN_CACHE"]
    monkeypatch.delenv("TINYGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert data.cache_folder().parts[1:] == ("somewhere", "tinygen")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert data.cache_folder().parts[1:] == ("home", "someone", ".cache", "tinygen")


def test_images_on_every_backend(library, monkeypatch):
    small(monkeypatch)
    x, y = data.images("glyphs", limit=7)
    assert isinstance(x, tg.Tensor)
    assert x.shape == (7, 1, 28, 28)
    assert x.dtype == np.float32
    assert y.shape == (7,)
    assert y.dtype == np.int64
    assert x.numpy().min() == 0
    assert x.numpy().max() == 1
    assert data.images("glyphs", limit=10**6)[0].shape[0] == 60
    with backend.precision("float64"):
        assert data.images("glyphs")[0].dtype == np.float64


# IDX files of the user ----------------------------------------------------------------------------

TRAIN, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array, kind=8):
    """The bytes of an IDX file; kind 8 means unsigned bytes."""
    array = np.asarray(array, dtype=np.uint8)
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes()


PIXELS = np.random.default_rng(0).integers(256, size=(20, 28, 28))
DIGITS = np.arange(20) % 10
GOOD = {TRAIN: idx(PIXELS), LABELS: idx(DIGITS)}


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("inside", [".", "mnist"])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_in_a_folder(tmp_path, inside, zipped, monkeypatch):
    files = GOOD
    if zipped:
        files = {name + ".gz": gzip.compress(raw) for name, raw in GOOD.items()}
    write(tmp_path / "d" / inside, files)
    x, y = data.images("mnist", folder=str(tmp_path / "d"))
    np.testing.assert_allclose(x.numpy()[:, 0] * 255, PIXELS, rtol=1e-6)
    np.testing.assert_array_equal(y.numpy(), DIGITS)
    monkeypatch.setenv("TINYGEN_DATA", str(tmp_path / "d"))
    x, y = data.images("mnist", limit=3)
    assert x.shape == (3, 1, 28, 28)
    assert y.numpy().tolist() == [0, 1, 2]


@pytest.mark.parametrize("file, content, parts", [
    (TRAIN, idx(PIXELS)[:-1], ["cut short", "(20, 28, 28)", "15,696", "15,695"]),
    (TRAIN, idx(PIXELS) + b"\0", ["too long"]),
    (TRAIN, idx(PIXELS)[:10], ["header"]),
    (TRAIN, b"", ["not an IDX file", "nothing"]),
    (TRAIN, b"\0\0", ["not an IDX file"]),
    (TRAIN, b"<!DOCTYPE html>", ["not an IDX file", "3c 21 44 4f"]),
    (TRAIN, idx(PIXELS, kind=13), ["type 13", "unsigned bytes"]),
    (TRAIN, idx(DIGITS), ["1 axes", "on 3"]),
    (TRAIN, idx(PIXELS[:, :14]), ["(20, 14, 28)", "28 x 28"]),
    (TRAIN, idx(PIXELS[:0]), ["(0, 28, 28)"]),
    (TRAIN, bytes([0, 0, 8, 3]) + b"\xff" * 12, ["(4294967295, 4294967295, 4294967295)"]),
    (TRAIN, gzip.compress(idx(PIXELS))[:-100], ["cannot be read", "EOFError"]),
    (TRAIN, gzip.compress(idx(PIXELS))[:-8] + b"\0" * 8, ["cannot be read", "CRC"]),
    (TRAIN, b"\x1f\x8b\x08" + b"?" * 99, ["cannot be read"]),
    (TRAIN, gzip.compress(idx(PIXELS)[:5000]), ["cut short"]),
    (TRAIN, idx(PIXELS[:19]), ["19 images", "20 labels", LABELS]),
    (LABELS, idx(DIGITS[:-1]), ["20 images", "19 labels", TRAIN]),
    (LABELS, idx(PIXELS), ["3 axes", "on 1"]),
    (LABELS, idx(DIGITS + 1), ["label 10"]),
    (LABELS, idx(DIGITS[:0]), ["(0,)"]),
])
def test_damaged_files_are_named(tmp_path, file, content, parts):
    write(tmp_path, GOOD | {file: content})
    with pytest.raises(TinygenError) as error:
        data.images("mnist", folder=tmp_path)
    one_sentence(error, tmp_path / file, *parts)


def test_a_named_folder_without_the_files_is_an_error(tmp_path, cache, monkeypatch):
    """Nothing is downloaded unasked, and no set is taken for another."""
    monkeypatch.setattr(data, "_download", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(TinygenError) as error:
        data.images("mnist", folder=tmp_path / "absent")
    one_sentence(error, TRAIN, tmp_path / "absent")
    write(tmp_path / "mnist", {TRAIN: GOOD[TRAIN]})
    monkeypatch.setenv("TINYGEN_DATA", str(tmp_path))
    with pytest.raises(TinygenError) as error:
        data.images("mnist")
    one_sentence(error, LABELS, tmp_path)
    with pytest.raises(TinygenError) as error:
        data.images("fashion_mnist", folder=tmp_path / "mnist")
    one_sentence(error, TRAIN, "fashion_mnist")
    with pytest.raises(TinygenError) as error:
        data.images("mnist", train=False)
    one_sentence(error, "t10k-images-idx3-ubyte")


@pytest.mark.skipif(not OWN or not os.path.isdir(OWN), reason="no folder TINYGEN_DATA")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_real_sets(name):
    folder = data.pathlib.Path(OWN)
    if not data._find(name, TRAIN, folder):
        pytest.skip(f"no {name} there")
    for train, n in ((True, 60_000), (False, 10_000)):
        x, y = data.images(name, train=train, folder=OWN)
        assert x.shape == (n, 1, 28, 28)
        assert y.shape == (n,)
        assert set(y.numpy().tolist()) == set(range(10))
        assert x.numpy().min() == 0
        assert x.numpy().max() == 1
        if name == "mnist":
            mean = 0.1307 if train else 0.1325  # the well-known numbers
            labels = [5, 0, 4, 1, 9] if train else [7, 2, 1, 0, 4]
            assert abs(float(x.mean().numpy()) - mean) < 1e-3
            assert y.numpy()[:5].tolist() == labels


# Downloads, from a server on this machine ---------------------------------------------------------

class Server(http.server.BaseHTTPRequestHandler):
    """Sends files[path] = (status, body, declared length)."""
    files, asked = {}, []

    def do_GET(self):
        self.asked.append(self.path)
        status, body, length = self.files.get(self.path, (404, b"", 0))
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(monkeypatch):
    """A mirror of a small mnist on this machine; gives the class that holds files and requests."""
    zipped = {name: gzip.compress(raw, mtime=0) for name, raw in GOOD.items()}
    checksums = {name: hashlib.md5(raw).hexdigest() for name, raw in zipped.items()}
    Server.files = {f"/{name}.gz": (200, raw, len(raw)) for name, raw in zipped.items()}
    Server.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setitem(data.MIRRORS, "mnist", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setitem(data.CHECKSUMS, "mnist", checksums)
    yield Server
    server.shutdown()
    thread.join()
    server.server_close()


def everything(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_download_once_then_from_the_cache(mirror, cache, capsys):
    x, y = data.images("mnist")
    np.testing.assert_allclose(x.numpy()[:, 0] * 255, PIXELS, rtol=1e-6)
    np.testing.assert_array_equal(y.numpy(), DIGITS)
    assert everything(cache) == [TRAIN + ".gz", LABELS + ".gz"]
    assert mirror.asked == [f"/{TRAIN}.gz", f"/{LABELS}.gz"]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 2
    assert TRAIN + ".gz  0.0 / 0.0 MB" in err
    data.images("mnist")
    assert len(mirror.asked) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("spoil, parts", [
    (lambda status, body, length: (404, b"", 0), ["404"]),
    (lambda status, body, length: (503, b"", 0), ["503"]),
    (lambda status, body, length: (200, body[:20], length), ["20 of"]),     # the connection breaks
    (lambda status, body, length: (200, body[:20], None), ["checksum"]),    # with no length known
    (lambda status, body, length: (200, body[:20], 20), ["checksum"]),      # a short file there
    (lambda status, body, length: (200, body[:-1] + b"?", length), ["checksum"]),
    (lambda status, body, length: (200, b"<html>", 6), ["checksum"]),
    (lambda status, body, length: (200, b"", 0), ["checksum"]),
])
def test_a_failed_download_leaves_nothing(mirror, cache, spoil, parts):
    good = mirror.files[f"/{LABELS}.gz"]
    mirror.files[f"/{LABELS}.gz"] = spoil(*good)
    with pytest.raises(TinygenError) as error:
        data.images("mnist")
    one_sentence(error, LABELS + ".gz", cache / "mnist", *parts)
    assert everything(cache) == [TRAIN + ".gz"]  # the first one was complete
    mirror.files[f"/{LABELS}.gz"] = good
    assert data.images("mnist")[0].shape == (20, 1, 28, 28)
    assert len(mirror.asked) == 3


def test_no_connection(mirror, cache, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setitem(data.MIRRORS, "mnist", f"http://127.0.0.1:{port}/")
    with pytest.raises(TinygenError) as error:
        data.images("mnist")
    one_sentence(error, TRAIN + ".gz", cache / "mnist", "URLError")
    assert everything(cache) == []


def test_a_silent_server(mirror, cache, monkeypatch):
    monkeypatch.setattr(data, "TIMEOUT", 0.2)
    release = threading.Event()
    monkeypatch.setattr(mirror, "do_GET", lambda self: release.wait(10))
    try:
        with pytest.raises(TinygenError) as error:
            data.images("mnist")
    finally:
        release.set()
    one_sentence(error, TRAIN + ".gz", "timed out", cache / "mnist")
    assert everything(cache) == []


def test_an_interrupted_download_leaves_nothing(mirror, cache, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr(data.os, "replace", interrupt)  # at the last moment
    with pytest.raises(KeyboardInterrupt):
        data.images("mnist")
    assert everything(cache) == []


def test_a_download_that_cannot_be_kept(mirror, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(TinygenError) as error:
        data.images("mnist")
    one_sentence(error, TRAIN + ".gz", cache)


def test_the_addresses_and_checksums():
    assert set(data.MIRRORS) == set(data.CHECKSUMS) == {"mnist", "fashion_mnist"}
    sums = [c for table in data.CHECKSUMS.values() for c in table.values()]
    assert len(set(sums)) == 8
    assert all(len(c) == 32 and int(c, 16) for c in sums)
    for address in data.MIRRORS.values():
        assert address.startswith("http")
        assert address.endswith("/")


# Minibatches --------------------------------------------------------------------------------------

@pytest.mark.parametrize("n, batch", [(10, 3), (12, 4), (5, 5), (7, 1), (1, 1), (9, 8)])
def test_every_epoch_is_a_permutation(n, batch, library):
    batches = data.Batches(n, batch)
    assert batches.per_epoch == -(-n // batch)
    epochs = []
    for epoch in range(4):
        steps = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
        parts = [backend.to_numpy(batches[step]) for step in steps]
        assert all(len(part) == batch for part in parts[:-1])
        assert len(parts[-1]) == (n % batch or batch)
        order = np.concatenate(parts)
        assert order.dtype == np.int64
        assert sorted(order) == list(range(n))
        epochs.append(order)
    if n >= 5:
        assert len({tuple(order) for order in epochs}) == 4


def test_batches_need_no_state(library):
    """A minibatch depends neither on those before it, nor on the object, nor on other draws."""
    batches = data.Batches(50, 7, seed=3)
    one = [backend.to_numpy(batches[step]) for step in range(40)]
    tg.manual_seed(5)
    tg.randn(3)
    resumed = data.Batches(50, 7, seed=3)
    for step in [23, 24, 39, 0, 8, 7, np.int64(6)]:
        np.testing.assert_array_equal(backend.to_numpy(resumed[step]), one[step])
    assert (backend.to_numpy(data.Batches(50, 7, seed=4)[0]) != one[0]).any()
    iterated = list(itertools.islice(batches, 3))
    assert len(iterated) == 3
    for batch, expected in zip(iterated, one):
        np.testing.assert_array_equal(backend.to_numpy(batch), expected)


def test_batches_index_arrays_where_they_live(library, monkeypatch):
    x = tg.arange(20)
    moved = []
    asarray = backend.asarray

    def counted(*args):
        moved.append(args)
        return asarray(*args)
    monkeypatch.setattr(backend, "asarray", counted)
    batches = data.Batches(20, 6)
    seen = np.concatenate([backend.to_numpy(x.data[batches[step]]) for step in range(8)])
    assert sorted(seen) == sorted([*range(20)] * 2)
    assert len(moved) == 2  # one transfer per epoch


# Imports ------------------------------------------------------------------------------------------

def test_importing_data_is_cheap():
    """Neither matplotlib nor the modules of the network and of compression come with it."""
    code = ("import sys, numpy; before = set(sys.modules); import tinygen.lab.data; "
            "heavy = {'matplotlib', 'urllib.request', 'http.client', 'gzip', 'ssl', 'cupy'}; "
            "print(sorted((set(sys.modules) - before) & heavy))")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env=os.environ | {"TINYGEN_BACKEND": "numpy"})
    assert ran.stdout.strip() == "[]", ran.stderr
