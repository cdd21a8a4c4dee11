"""The judge of digits: it learns, is the same on every backend, and tells data from noise."""
import os

import numpy as np
import pytest

import tinygen as tg
from tinygen import TinygenError, backend
from tinygen.lab import data
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
    assert features.shape == (200, 128)
    assert features.dtype == np.float32
    assert features.min() == 0
    logits = features @ model.head.weight.numpy().T + model.head.bias.numpy()
    assert np.allclose(logits, in_blocks(model, images), atol=1e-4)


def test_classifier_leaves_the_random_numbers_alone(library):
    images, labels = quadrants(40, np.random.default_rng(1))
    backend.manual_seed(5)
    backend.rng_state()  # the generator of a GPU starts here
    expected = backend.randn((3,)).tolist()
    backend.manual_seed(5)
    one = in_blocks(train_classifier(images, labels, steps=3, batch=8), images)
    assert backend.randn((3,)).tolist() == expected
    again = in_blocks(train_classifier(images, labels, steps=3, batch=8), images)
    assert (one == again).all()


def test_seed_decides_the_weights_and_the_minibatches(monkeypatch):
    images, labels = quadrants(40, np.random.default_rng(1))
    manual_seed = backend.manual_seed

    def weights(seed, steps):
        return train_classifier(images, labels, steps, batch=8, seed=seed).first.weight.data
    assert (weights(0, 0) != weights(1, 0)).any()
    monkeypatch.setattr(backend, "manual_seed", lambda seed, host=False: manual_seed(3, host))
    assert (weights(0, 0) == weights(1, 0)).all()
    assert (weights(0, 3) != weights(1, 3)).any()


def test_the_learning_rate_falls_to_nothing(monkeypatch):
    rates = []

    class Watched(tg.optim.Adam):
        def step(self):
            rates.append(self.lr)
            super().step()
    monkeypatch.setattr("tinygen.lab.judge.Adam", Watched)
    train_classifier(*quadrants(40, np.random.default_rng(1)), steps=20, lr=1e-3)
    assert len(rates) == 20
    assert rates[0] == 1e-3
    assert rates[-1] < 1e-5
    assert sorted(rates, reverse=True) == rates


def test_classifier_is_the_same_on_every_backend(library):
    images, labels = quadrants(40, np.random.default_rng(1))
    here = in_blocks(train_classifier(images, labels, steps=5), images)
    backend.use("numpy")
    there = in_blocks(train_classifier(images, labels, steps=5), images)
    assert np.allclose(here, there, atol=1e-4)


def test_images_with_rows_are_moved_and_flat_ones_are_not():
    """One image of one bright pixel: weights change where that pixel has been."""
    image = np.zeros((1, 1, 9, 9))
    image[0, 0, 4, 4] = 1
    labels = np.array([1])
    for images, reached in ((image, 9), (image.reshape(1, 81), 1)):
        before = train_classifier(images, labels, steps=0).first.weight.data
        after = train_classifier(images, labels, steps=60).first.weight.data
        changed = np.abs(after - before).max(axis=0) > 1e-6
        assert changed.sum() == reached
        assert changed.reshape(9, 9)[4, 4]


@pytest.mark.parametrize("call, reason", [
    (lambda x: train_classifier(x[:, 0], np.zeros(9, int)), r"images \(N, ...\)"),
    (lambda x: train_classifier(np.zeros((9, 4), np.uint8), np.zeros(9, int)),
     "divide pixels of 0..255 by 255"),
    (lambda x: train_classifier(x, np.zeros(8, int)),
     "one integer label of at least 0 for each of 9 rows"),
    (lambda x: train_classifier(x, np.full(9, -1)),
     "one integer label of at least 0 for each of 9 rows"),
    (lambda x: train_classifier(x * np.inf, np.zeros(9, int)), "NaN or Inf"),
])
def test_what_it_refuses(call, reason):
    with pytest.raises(TinygenError, match=reason):
        call(np.random.default_rng(0).uniform(0.1, 1, size=(9, 3)))


@pytest.mark.slow
@pytest.mark.skipif("TINYGEN_DATA" not in os.environ,
                    reason="needs MNIST: set TINYGEN_DATA to the folder that holds it")
def test_classifier_reads_97_percent_of_mnist():
    model = train_classifier(*data.images("mnist"))
    images, labels = data.images("mnist", train=False)
    assert accuracy(in_blocks(model, images), labels) >= 0.97
    features = in_blocks(model.features, images)
    mixed = frechet_distance(features[::2], features[1::2])
    halves = frechet_distance(features[:5000], features[5000:])
    assert mixed < halves < 100


def test_a_judge_tells_data_from_what_is_not(library):
    r = np.random.default_rng(2)
    train = quadrants(600, r)
    test = quadrants(400, r)
    images, labels = quadrants(300, r)
    judge = Judge(*train, *test, steps=60, count=300)
    good = judge(images, labels)
    wrong = judge(images, (labels + 1) % 3)
    blank = judge(np.zeros_like(images))
    floor = judge.data["frechet_floor"]
    assert judge.data["test_accuracy"] > 0.98
    assert good["accuracy"] > 0.98
    assert wrong["accuracy"] < 0.1
    assert good["frechet"] == wrong["frechet"]
    assert 0.3 < good["frechet"] / floor < 3
    assert blank["frechet"] > 10 * floor
    with pytest.raises(TinygenError, match="300 samples with as many test images, not 200"):
        judge(images[:200])


def test_a_judge_compares_with_test_images_from_all_of_the_set():
    """The first half of MNIST's test images is easier: a judge of 200 needs others as well."""
    r = np.random.default_rng(3)
    images, labels = quadrants(800, r)
    test, test_labels = quadrants(800, r)
    test[:400] = 0
    judge = Judge(images, labels, test, test_labels, steps=5, count=200)
    of_blank = in_blocks(judge.classifier.features, test[:1])
    blank = np.isclose(judge.real, of_blank, atol=1e-4).all(axis=1)
    assert 60 < blank.sum() < 140
