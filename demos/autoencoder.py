"""Auto-encoder: squeeze an image through a few numbers and rebuild it; if all is linear, it is PCA.

Slide "Auto-encoders: a non-linear PCA":

    code            z = encoder(x),   x^ = decoder(z),   z shorter than x                     (1)
    loss            E |x - x^|^2, summed over pixels                                          (2)
    linear case     encoder V, decoder W: the least loss is sum_{j > k} lambda_j              (3)
                    and W (W^T W)^-1 W^T = U U^T                                              (4)

lambda_1 >= lambda_2 >= ... are the eigenvalues of the covariance of the data and U the first k
eigenvectors. The best linear code of k numbers is PCA, up to an invertible matrix between V and W
(Baldi & Hornik 1989). PCA is computed here by linear algebra. The linear auto-encoder is trained by
gradient descent, without PCA, and both arrive at the same plane. A deep encoder and decoder bend
this plane and get much closer to the data with as many numbers.

Three networks are trained at once: a deep one, a deep one with a code of two numbers, and a linear
one. They share no weights. The learning rate of Adam falls to 0, so that the noise of the
minibatches dies out and the linear one converges.

Look at:
    reconstructions.png  test images, rebuilt by the deep auto-encoder and by PCA from as many
                         numbers
    loss.png             the linear auto-encoder reaches the dashed line of PCA, the deep one falls
                         below it
    codes.png            two numbers per image, by rank, colored by class: PCA puts the classes on
                         top of each other, the deep code separates many without any label
    random_codes.png     what three kinds of codes decode to: see below

The codes of test images decode to digits, but z ~ N(0, I) does not, because nothing in (2)
determines where the codes lie. Draws from a Gaussian that is fitted to the codes afterwards, a
second model, give many digits, but others fall to pieces. So an auto-encoder alone is NOT a
generative model. vae.py trains it so that the codes lie where N(0, I) is.

Numbers in metrics.json (squared errors summed over the pixels of an image, mean over images). On
test images:
    deep_error      of the deep auto-encoder with --code numbers (30)
    pca_error       of PCA with as many
    linear_error    of the linear auto-encoder with as many
    improvement     1 - deep_error / pca_error
    deep2_error     of the deep auto-encoder with two numbers
    pca2_error      of PCA with two numbers
On training images:
    linear_train    of the linear auto-encoder
    eigenvalue_sum  the right side of (3)
    linear_gap      linear_train / eigenvalue_sum - 1
    projector_gap   the mean squared sine of the angles between the two subspaces of (4), 0 if they
                    are equal; it converges more slowly than the loss, because where lambda_k and
                    lambda_k+1 are close, one direction is as good as the other
    seconds         of training

On MNIST, PCA with 30 numbers gives 13.87, and the much larger network of Hinton & Salakhutdinov,
trained for longer, 3.00.

Baldi & Hornik, "Neural networks and principal component analysis", 1989; Hinton & Salakhutdinov,
"Reducing the dimensionality of data with neural networks", 2006.
"""
import numpy as np

import tinygen as tg
from tinygen import nn, optim
from tinygen.lab import data, plots, run


class AutoEncoder(nn.Module):
    """784-512-128-k-128-512-784; the last layer is a sigmoid, because pixels are in [0, 1]."""

    def __init__(self, code, pixels=784, wide=512, narrow=128):
        self.encoder = nn.Sequential(
            nn.Linear(pixels, wide), nn.ELU(), nn.Linear(wide, narrow), nn.ELU(),
            nn.Linear(narrow, code))
        self.decoder = nn.Sequential(
            nn.Linear(code, narrow), nn.ELU(), nn.Linear(narrow, wide), nn.ELU(),
            nn.Linear(wide, pixels), nn.Sigmoid())


class LinearAutoEncoder(nn.Module):
    """z = V (x - mean), x^ = W z + mean."""

    def __init__(self, code, mean):
        self.v = nn.Linear(len(mean), code, bias=False)
        self.w = nn.Linear(code, len(mean), bias=False)
        self.mean = nn.Buffer(mean)

    def encoder(self, x):
        return self.v(x - self.mean)                        # (B, 784) -> (B, k)

    def decoder(self, z):
        return self.w(z) + self.mean                        # (B, k) -> (B, 784)


def squared_error(model, x):
    """The loss: a sum over pixels, a mean over images."""
    error = model.decoder(model.encoder(x)) - x             # (B, 784)   slide, eq. (1)
    return (error * error).sum(axis=1).mean()               #            slide, eq. (2)


def pca(x):
    """The mean, the eigenvalues of the covariance, largest first, and the eigenvectors as columns.

    All in float64.
    """
    x = x.numpy().astype(np.float64)
    centered = x - x.mean(axis=0)                                    # (N, 784)
    eigenvalues, u = np.linalg.eigh(centered.T @ centered / len(x))  # (784,), (784, 784)
    return x.mean(axis=0), eigenvalues[::-1], u[:, ::-1]


def project(x, mean, u):
    """PCA as an auto-encoder: the point of a plane that is closest to x.

    The plane goes through the mean and is spanned by the columns of u.
    """
    return mean + (x.numpy() - mean) @ u @ u.T              # (N, 784)


def projector_gap(w, u):
    """|W (W^T W)^-1 W^T - U U^T|^2 / 2k of eq. (4).

    This is the mean squared sine of the angles between both column spaces.
    """
    q, _ = np.linalg.qr(w)                                  # (784, k)   an orthonormal basis
    return 1 - ((u.T @ q)**2).sum() / u.shape[1]


def main(argv=None):
    job = run.Job("autoencoder", __doc__, argv, data=data.IMAGES, steps=3000, batch=128, lr=3e-3,
                  flags=FLAGS)
    args = job.args
    if args.code >= 784:
        raise tg.TinygenError("--code needs fewer numbers than the 784 pixels of an image, but got "
                              f"{args.code}.")
    limit = 1000 if args.quick else None
    train, _ = data.images(args.data, folder=args.data_dir, limit=limit)
    test, labels = data.images(args.data, train=False, folder=args.data_dir, limit=limit)
    train = train.flatten(1)                                # (N, 784) in [0, 1]
    test = test.flatten(1)                                  # (N, 784)
    deep = AutoEncoder(args.code)
    deep2 = AutoEncoder(2)
    linear = LinearAutoEncoder(args.code, train.mean(axis=0))
    parameters = deep.parameters() + deep2.parameters() + linear.parameters()
    optimizer = optim.Adam(parameters, lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    batches = data.Batches(len(train), args.batch, args.seed)
    for step in job.train(deep=deep, deep2=deep2, linear=linear, optimizer=optimizer,
                          schedule=schedule):
        x = train[batches[step]]                            # (B, 784)
        errors = [squared_error(model, x) for model in (deep, deep2, linear)]
        optimizer.zero_grad()
        sum(errors).backward()                              # no weight is in two of the errors
        optimizer.step()
        schedule.step()
        job.log(deep=errors[0], deep2=errors[1], linear=errors[2])
    mean, eigenvalues, u = pca(train)
    numbers = compare(deep, deep2, linear, train, test, mean, eigenvalues, u)
    pictures(job, deep, deep2, test, labels, mean, u, numbers)
    job.finish(**numbers)


# Numbers and pictures -----------------------------------------------------------------------------

FLAGS = {"--code": dict(type=run.number(int, 1), default=30, help="numbers per image")}


def pca_error(x, mean, u):
    return ((project(x, mean, u) - x.numpy())**2).sum(axis=1).mean()


@tg.no_grad()
def compare(deep, deep2, linear, train, test, mean, eigenvalues, u):
    """All errors, and how close the linear auto-encoder came to PCA."""
    k = linear.w.weight.shape[1]
    numbers = dict(deep_error=squared_error(deep, test).item(),
                   pca_error=pca_error(test, mean, u[:, :k]),
                   linear_error=squared_error(linear, test).item(),
                   deep2_error=squared_error(deep2, test).item(),
                   pca2_error=pca_error(test, mean, u[:, :2]),
                   linear_train=squared_error(linear, train).item(),
                   eigenvalue_sum=eigenvalues[k:].sum(),    # eq. (3)
                   projector_gap=projector_gap(linear.w.weight.numpy(), u[:, :k]))
    numbers["improvement"] = 1 - numbers["deep_error"] / numbers["pca_error"]
    numbers["linear_gap"] = numbers["linear_train"] / numbers["eigenvalue_sum"] - 1
    return numbers


@tg.no_grad()
def pictures(job, deep, deep2, test, labels, mean, u, numbers):
    code = job.args.code
    x = test[:16]
    fig, axes = plots.figure(3, 1, width=9, height=0.85)
    plots.pictures(axes[0], x, 16, "test images")
    plots.pictures(axes[1], deep.decoder(deep.encoder(x)), 16, f"deep auto-encoder, {code} "
                   f"numbers: squared error {numbers['deep_error']:.1f}")
    plots.pictures(axes[2], project(x, mean, u[:, :code]), 16, f"PCA, {code} numbers: "
                   f"squared error {numbers['pca_error']:.1f}")
    job.picture(fig, "reconstructions.png")

    fig, (ax,) = plots.figure(1, 1, width=6, height=3.5)
    plots.curve(ax, job.history["linear"], "linear auto-encoder", plots.DATA)
    plots.curve(ax, job.history["deep"], "deep auto-encoder", plots.MODEL)
    ax.axhline(numbers["eigenvalue_sum"], color=plots.EXACT, linestyle="--",
               label="PCA: sum of the other eigenvalues")
    ax.set(title=f"squared error of {code} numbers per image",
           ylim=(0, 3 * numbers["eigenvalue_sum"]))
    ax.legend()
    job.picture(fig, "loss.png")

    fig, (left, right) = plots.figure(1, 2, 5)
    ranks = lambda codes: codes.argsort(axis=0).argsort(axis=0)     # no place is crowded
    plots.classes(left, ranks((test.numpy() - mean) @ u[:, :2]), labels,
                  f"PCA, two numbers: squared error {numbers['pca2_error']:.1f}")
    plots.classes(right, ranks(deep2.encoder(test).numpy()), labels,
                  f"deep, two numbers: squared error {numbers['deep2_error']:.1f}")
    job.picture(fig, "codes.png")

    codes = deep.encoder(test).numpy()                                    # (N, k)
    covariance = np.cov(codes.T).reshape(code, code) + 1e-6 * np.eye(code)
    root = tg.Tensor(np.linalg.cholesky(covariance))                      # (k, k)
    fitted = tg.Tensor(codes.mean(axis=0)) + tg.randn(64, code) @ root.T  # (64, k)
    fig, axes = plots.figure(1, 3, 4)
    kinds = (("codes of test images", tg.Tensor(codes[:64])),
             ("z ~ N(0, I)", tg.randn(64, code)),
             ("draws of a Gaussian fitted to codes", fitted))
    for ax, (name, z) in zip(axes, kinds):
        plots.pictures(ax, deep.decoder(z), 8, f"decoded {name}")
    job.picture(fig, "random_codes.png")


if __name__ == "__main__":
    run.main(main)
