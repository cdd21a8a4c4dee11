"""The judge of digits: it learns what there is, is the same everywhere, and tells data from noise."""
import os

import numpy as np
import pytest

import tinygen as tg
from tinygen import TinygenError, backend
from tinygen.lab import data, judge
from tinygen.lab.judge import Judge, train_classifier
from tinygen.lab.metrics import accuracy, frechet_distance, in_blocks


def quadrants(n, r):
    """Gray noise of 8 x 8 pixels, brighter in one of three corners, which is the class."""
    labels = r.integers(3, size=n)
    images = r.uniform(0, 0.6, size=(n, 1, 8, 8))
    for k, corner in enumerate([np.s_[:4, :4], np.s_[:4, 4:], np.s_[4:, :4]]):
        images[(labels == k, 0) + corner] += 0.4
    return images, labels


def test_classifier_learns_what_is_there_to_learn(library):
    r = np.random.default_rng(1)
    model = train_classifier(*quadrants(300, r), steps=60)
    images, labels = quadrants(200, r)
    assert accuracy(in_blocks(model, images, block=64), labels) > 0.98
    assert accuracy(in_blocks(model, images), (labels + 1) % 3) < 0.1
    features = in_blocks(model.features, images)
    assert features.shape == (200, 128) and features.min() == 0 and features.dtype == np.float32
    assert np.allclose(features @ backend.to_numpy(model.head.weight).T + backend.to_numpy(model.head.bias),
                       in_blocks(model, images), atol=1e-4)


def test_classifier_leaves_the_random_numbers_alone(library):
    images, labels = quadrants(40, np.random.default_rng(1))
    backend.manual_seed(5)
    backend.rng_state()  # a GPU generator starts afresh here
    expected = backend.randn((3,)).tolist()
    backend.manual_seed(5)
    one = in_blocks(train_classifier(images, labels, steps=3, batch=8), images)
    assert backend.randn((3,)).tolist() == expected
    assert (one == in_blocks(train_classifier(images, labels, steps=3, batch=8), images)).all()


def test_seed_decides_the_weights_and_the_minibatches(monkeypatch):
    images, labels = quadrants(40, np.random.default_rng(1))
    weights = lambda seed, steps: train_classifier(images, labels, steps, batch=8, seed=seed).first.weight.data
    assert (weights(0, 0) != weights(1, 0)).any()
    monkeypatch.setattr(backend, "manual_seed", lambda seed, host=False, real=backend.manual_seed: real(3, host))
    assert (weights(0, 0) == weights(1, 0)).all() and (weights(0, 3) != weights(1, 3)).any()


def test_the_learning_rate_falls_to_nothing(monkeypatch):
    rates = []

    class Watched(tg.optim.Adam):
        def step(self):
            rates.append(self.lr)
            super().step()
    monkeypatch.setattr(judge, "Adam", Watched)
    train_classifier(*quadrants(40, np.random.default_rng(1)), steps=20, lr=1e-3)
    assert rates[0] == 1e-3 and sorted(rates, reverse=True) == rates and len(rates) == 20 and rates[-1] < 1e-5


def test_classifier_is_the_same_on_every_backend(library):
    images, labels = quadrants(40, np.random.default_rng(1))
    here = in_blocks(train_classifier(images, labels, steps=5), images)
    backend.use("numpy")
    assert np.allclose(here, in_blocks(train_classifier(images, labels, steps=5), images), atol=1e-4)


def test_images_with_rows_are_moved_and_flat_ones_are_not():
    """One image of one bright pixel: what is learned about the pixels around it shows where it has been."""
    image = np.zeros((1, 1, 9, 9))
    image[0, 0, 4, 4] = 1
    for images, reached in ((image, 9), (image.reshape(1, 81), 1)):
        labels = np.array([1])
        touched = [train_classifier(images, labels, steps=steps).first.weight.data for steps in (0, 60)]
        moved = np.abs(touched[1] - touched[0]).max(axis=0) > 1e-6
        assert moved.sum() == reached and moved.reshape(9, 9)[4, 4]


@pytest.mark.parametrize("call, reason", [
    (lambda x: train_classifier(x[:, 0], np.zeros(9, int)), r"images \(N, ...\)"),
    (lambda x: train_classifier(np.zeros((9, 4), np.uint8), np.zeros(9, int)), "divide pixels of 0..255 by 255"),
    (lambda x: train_classifier(x, np.zeros(8, int)), "one integer label of at least 0 for each of 9 rows"),
    (lambda x: train_classifier(x, np.full(9, -1)), "one integer label of at least 0 for each of 9 rows"),
    (lambda x: train_classifier(x * np.inf, np.zeros(9, int)), "NaN or Inf")])
def test_what_it_refuses(call, reason):
    with pytest.raises(TinygenError, match=reason):
        call(np.random.default_rng(0).uniform(0.1, 1, size=(9, 3)))


@pytest.mark.slow
@pytest.mark.skipif("TINYGEN_DATA" not in os.environ, reason="needs MNIST: set TINYGEN_DATA to the folder that holds it")
def test_classifier_reads_97_percent_of_mnist():
    model = train_classifier(*data.images("mnist"))
    images, labels = data.images("mnist", train=False)
    assert accuracy(in_blocks(model, images), labels) >= 0.97
    features = in_blocks(model.features, images)
    assert frechet_distance(features[::2], features[1::2]) < frechet_distance(features[:5000], features[5000:]) < 100


def test_a_judge_knows_data_from_what_is_not(library):
    r = np.random.default_rng(2)
    train, test, fresh = quadrants(600, r), quadrants(400, r), quadrants(300, r)
    judged = Judge(*train, *test, steps=60, count=300)
    good, wrong = judged(*fresh), judged(fresh[0], (fresh[1] + 1) % 3)
    assert good["accuracy"] > 0.98 > 0.1 > wrong["accuracy"] and good["frechet"] == wrong["frechet"]
    assert judged.data["test_accuracy"] > 0.98 and 0.3 < good["frechet"] / judged.data["frechet_floor"] < 3
    assert judged(np.zeros_like(fresh[0]))["frechet"] > 10 * judged.data["frechet_floor"]
    with pytest.raises(TinygenError, match="300 samples with as many test images, not 200"):
        judged(fresh[0][:200])


def test_a_judge_compares_with_test_images_from_everywhere_among_them():
    """MNIST's test images are sorted: the first half is easier. A judge of 200 must not see only the first 200."""
    r = np.random.default_rng(3)
    images, labels = quadrants(800, r)
    test, test_labels = quadrants(800, r)
    test[:400] = 0
    judged = Judge(images, labels, test, test_labels, steps=5, count=200)
    blank = np.isclose(judged.real, in_blocks(judged.classifier.features, test[:1]), atol=1e-4).all(axis=1)
    assert 60 < blank.sum() < 140
