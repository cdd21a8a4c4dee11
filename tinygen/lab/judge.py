"""Floor 9: a judge of digits: a small classifier, and what it measures in samples."""
import numpy as np

from .. import backend, functional as F
from ..backend import TinygenError, xp
from ..engine import Tensor
from ..nn import Linear, Module
from ..optim import Adam, CosineLR
from .metrics import accuracy, check_labels, frechet_distance, host, in_blocks


class Classifier(Module):
    """Images (N, 28, 28), (N, 1, 28, 28) or (N, 784) with pixels in [0, 1] -> logits (N, 10)."""

    def __init__(self, inputs=784, hidden=256, features=128, classes=10):
        self.first = Linear(inputs, hidden)
        self.second = Linear(hidden, features)
        self.head = Linear(features, classes)

    def features(self, x):
        """(N, 128) numbers >= 0, for frechet_distance."""
        x = x if isinstance(x, Tensor) else Tensor(x)
        return F.relu(self.second(F.relu(self.first(x.reshape(x.shape[0], -1)))))

    def forward(self, x):
        return self.head(self.features(x))


def train_classifier(images, labels, steps=3000, batch=128, lr=3e-3, seed=0):
    """A Classifier trained on images (N, ..., H, W) or (N, D) in [0, 1] and their labels (N,).

    Images with rows and columns are moved by up to one pixel at each step, which saves a fifth of
    the errors on MNIST. All random numbers are drawn by NumPy from `seed`, so that the judge is the
    same on every backend. Those of the caller are put back as backend.rng_state() found them.
    """
    images = host("train_classifier", images)
    labels = check_labels("train_classifier", images, labels)
    if images.ndim < 2 or images.dtype.kind != "f":
        raise TinygenError("train_classifier needs images (N, ...) with pixels in [0, 1], not "
                           f"{images.shape} {images.dtype}: divide pixels of 0..255 by 255.")
    images, labels = map(Tensor, (images, labels))  # to the device, once
    rng = np.random.default_rng(seed)
    state = backend.rng_state()
    try:
        backend.manual_seed(seed, host=True)
        model = Classifier(images.size // len(images), classes=int(labels.data.max()) + 1)
    finally:
        backend.set_rng_state(state)
    optimizer = Adam(model.parameters(), lr)
    schedule = CosineLR(optimizer, steps)
    for _ in range(steps):
        index = xp.asarray(rng.integers(len(images), size=batch))
        x = images.data[index]                                          # (batch, ..., H, W)
        if x.ndim > 2:
            x = xp.roll(x, tuple(rng.integers(-1, 2, size=2).tolist()), axis=(-2, -1))
        loss = F.cross_entropy(model(Tensor(x)), Tensor(labels.data[index]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


class Judge:
    """What a classifier sees in samples: are they what was asked for, how far from data are they?

    images, labels           to train the classifier on, pixels in [0, 1]; see train_classifier
    test, test_labels        to compare with

    judge(samples, asked)    {"accuracy": the fraction of samples taken for the label they were
                             asked for, "frechet": the Frechet distance of samples to as many test
                             images in the classifier's features}; without asked no accuracy
    judge.data               {"test_accuracy": the ceiling of accuracy, "frechet_floor": the
                             distance of as many training images to the same test images}

    count   how many samples will be judged at a time. As many test images, drawn at random, are
            what they are compared with (the first ones of MNIST are easier); default: all

    Frechet distances in other features (Inception) do not compare; nor do those of different
    numbers of samples.
    """

    def __init__(self, images, labels, test, test_labels, steps=3000, count=None):
        self.count = min(count or len(test), len(test), len(images))
        self.classifier = train_classifier(images, labels, steps)
        rng = np.random.default_rng(0)
        self.real = self.features(test)[rng.permutation(len(test))[:self.count]]     # (count, 128)
        fresh = self.features(images)[rng.permutation(len(images))[:self.count]]
        self.data = dict(test_accuracy=accuracy(in_blocks(self.classifier, test), test_labels),
                         frechet_floor=frechet_distance(fresh, self.real))

    def features(self, images):
        return in_blocks(self.classifier.features, images)

    def __call__(self, samples, asked=None):
        if len(samples) != self.count:
            raise TinygenError(f"This judge compares {self.count} samples with as many test "
                               f"images, not {len(samples)}: make it with count=len(samples).")
        distance = dict(frechet=frechet_distance(self.features(samples), self.real))
        if asked is None:
            return distance
        return dict(accuracy=accuracy(in_blocks(self.classifier, samples), asked), **distance)
