"""Auto-encoder: squeeze an image through a few numbers and rebuild it; when all is linear, this is PCA.

Slide "Auto-encoders: a non-linear PCA":

    code            z = encoder(x),   x^ = decoder(z),   z shorter than x                           (1)
    loss            E |x - x^|^2, summed over pixels                                                (2)
    linear case     encoder V, decoder W: the least loss is sum_{j > k} lambda_j                    (3)
                    and W (W^T W)^-1 W^T = U U^T                                                    (4)

lambda_1 >= lambda_2 >= ... are the eigenvalues of the covariance of the data and U the first k eigenvectors: the best
linear code of k numbers is PCA, up to an invertible matrix between V and W (Baldi & Hornik 1989). PCA is computed here by
linear algebra, the linear auto-encoder by gradient descent that knows nothing of it, and they meet. A deep encoder and
decoder bend the plane of PCA and get much closer to the data with as many numbers.

Three networks that share nothing are trained side by side, all with Adam and a learning rate that falls to 0, so that
the noise of the minibatches dies out and the linear one arrives: deep, deep with a code of two numbers, and linear.

Look at: reconstructions.png (test images, rebuilt by the deep auto-encoder and by PCA from as many numbers); loss.png
(the linear auto-encoder lands on the dashed line of PCA, the deep one falls through it); codes.png (two numbers per
image, by rank, coloured by class: PCA heaps the classes onto each other, the deep code parts many without having seen a
label); random_codes.png (decoded: codes of test images; z ~ N(0, I), which are no digits, because nothing in (2) says
where the codes should lie; and draws from a Gaussian that was fitted to the codes afterwards, a second model, with
which many are digits and others fall to pieces. So an auto-encoder alone is NOT a generative model; vae.py trains it so
that N(0, I) is where the codes lie).

Numbers in metrics.json, all of them squared errors summed over the pixels of an image, mean over images. On test images:
deep_error, pca_error and linear_error with --code numbers (30), improvement = 1 - deep_error / pca_error; deep2_error
and pca2_error with two. On training images: linear_train, eigenvalue_sum, the right side of (3), and linear_gap =
linear_train / eigenvalue_sum - 1; projector_gap, the mean squared sine of the angles between the two subspaces of (4),
0 if they are equal (it is the slower of the two: where lambda_k and lambda_k+1 are close, one direction is as good as
the other). And seconds of training. On MNIST, PCA with 30 numbers gives 13.87 and Hinton & Salakhutdinov's much larger,
longer trained network 3.00.

Baldi & Hornik, "Neural networks and principal component analysis", 1989; Hinton & Salakhutdinov, "Reducing the
dimensionality of data with neural networks", 2006.
"""

import numpy as np

import tinygen as tg
from tinygen import nn, optim
from tinygen.lab import data, plots, run


class AutoEncoder(nn.Module):
    """784-512-128-k-128-512-784; pixels are between 0 and 1, so the last layer is a sigmoid."""

    def __init__(self, code, pixels=784, wide=512, narrow=128):
        self.encoder = nn.Sequential(nn.Linear(pixels, wide), nn.ELU(), nn.Linear(wide, narrow), nn.ELU(),
                                     nn.Linear(narrow, code))
        self.decoder = nn.Sequential(nn.Linear(code, narrow), nn.ELU(), nn.Linear(narrow, wide), nn.ELU(),
                                     nn.Linear(wide, pixels), nn.Sigmoid())


class LinearAutoEncoder(nn.Module):
    """z = V (x - mean), x^ = W z + mean."""

    def __init__(self, code, mean):
        self.v, self.w = nn.Linear(len(mean), code, bias=False), nn.Linear(code, len(mean), bias=False)
        self.mean = nn.Buffer(mean)

    def encoder(self, x):
        return self.v(x - self.mean)                                # (B, 784) -> (B, k)

    def decoder(self, z):
        return self.w(z) + self.mean                                # (B, k) -> (B, 784)


def squared_error(model, x):
    """The loss: a sum over pixels, a mean over images."""
    error = model.decoder(model.encoder(x)) - x                     # (B, 784)              slide, eq. (1)
    return (error * error).sum(axis=1).mean()                       #                       slide, eq. (2)


def pca(x):
    """The mean, the eigenvalues of the covariance, largest first, and the eigenvectors as columns, in float64."""
    x = x.numpy().astype(np.float64)
    centred = x - x.mean(axis=0)
    eigenvalues, u = np.linalg.eigh(centred.T @ centred / len(x))   # (784,), (784, 784)
    return x.mean(axis=0), eigenvalues[::-1], u[:, ::-1]


def project(x, mean, u):
    """PCA as an auto-encoder: the point nearest to x in the plane through the mean, spanned by the columns of u."""
    return mean + (x.numpy() - mean) @ u @ u.T                      # (N, 784)


def projector_gap(w, u):
    """|W (W^T W)^-1 W^T - U U^T|^2 / 2k, the mean squared sine of the angles between both column spaces, eq. (4)."""
    q, _ = np.linalg.qr(w)                                          # an orthonormal basis, (784, k)
    return 1 - ((u.T @ q)**2).sum() / u.shape[1]


def main(argv=None):
    job = run.Job("autoencoder", __doc__, argv, data=data.IMAGES, steps=3000, batch=128, lr=3e-3,
                  flags={"--code": dict(type=run.number(int, 1), default=30, help="numbers per image")})
    args = job.args
    if args.code >= 784:
        raise tg.TinygenError(f"--code must be less than the 784 pixels, not {args.code}.")
    limit = 1000 if args.quick else None
    train, _ = data.images(args.data, folder=args.data_dir, limit=limit)
    test, labels = data.images(args.data, train=False, folder=args.data_dir, limit=limit)
    train, test = train.flatten(1), test.flatten(1)                 # (N, 784) in [0, 1]

    deep, deep2, linear = AutoEncoder(args.code), AutoEncoder(2), LinearAutoEncoder(args.code, train.mean(axis=0))
    optimizer = optim.Adam(deep.parameters() + deep2.parameters() + linear.parameters(), lr=args.lr)
    schedule = optim.CosineLR(optimizer, args.steps)
    batches = data.Batches(len(train), args.batch, args.seed)
    for step in job.train(deep=deep, deep2=deep2, linear=linear, optimizer=optimizer, schedule=schedule):
        x = train[batches[step]]                                    # (B, 784)
        errors = [squared_error(model, x) for model in (deep, deep2, linear)]
        optimizer.zero_grad()
        sum(errors).backward()                                      # no weight is in two of them: each gets its own gradient
        optimizer.step()
        schedule.step()
        job.log(deep=errors[0], deep2=errors[1], linear=errors[2])

    mean, eigenvalues, u = pca(train)
    numbers = compare(deep, deep2, linear, train, test, mean, eigenvalues, u[:, :args.code])
    numbers["pca2_error"] = ((project(test, mean, u[:, :2]) - test.numpy())**2).sum(axis=1).mean()
    pictures(job, deep, deep2, test, labels, mean, u, numbers)
    job.finish(**numbers)


@tg.no_grad()
def compare(deep, deep2, linear, train, test, mean, eigenvalues, u):
    """All errors, and how near the linear auto-encoder came to PCA."""
    deep_error, deep2_error, linear_error = [squared_error(model, test).item() for model in (deep, deep2, linear)]
    pca_error = ((project(test, mean, u) - test.numpy())**2).sum(axis=1).mean()
    linear_train, eigenvalue_sum = squared_error(linear, train).item(), eigenvalues[u.shape[1]:].sum()       # eq. (3)
    return dict(deep_error=deep_error, pca_error=pca_error, linear_error=linear_error, deep2_error=deep2_error,
                improvement=1 - deep_error / pca_error, linear_train=linear_train, eigenvalue_sum=eigenvalue_sum,
                linear_gap=linear_train / eigenvalue_sum - 1, projector_gap=projector_gap(linear.w.weight.numpy(), u))


@tg.no_grad()
def pictures(job, deep, deep2, test, labels, mean, u, numbers):
    code, x = job.args.code, test[:16]
    fig, axes = plots.figure(3, 1, width=9, height=0.85)
    plots.pictures(axes[0], x, 16, "test images")
    plots.pictures(axes[1], deep.decoder(deep.encoder(x)), 16,
                   f"deep auto-encoder, {code} numbers: squared error {numbers['deep_error']:.1f}")
    plots.pictures(axes[2], project(x, mean, u[:, :code]), 16,
                   f"PCA, {code} numbers: squared error {numbers['pca_error']:.1f}")
    job.picture(fig, "reconstructions.png")

    fig, (ax,) = plots.figure(1, 1, width=6, height=3.5)
    plots.curve(ax, job.history["linear"], "linear auto-encoder", plots.DATA)
    plots.curve(ax, job.history["deep"], "deep auto-encoder", plots.MODEL)
    ax.axhline(numbers["eigenvalue_sum"], color=plots.EXACT, linestyle="--", label="PCA: sum of the other eigenvalues")
    ax.set(title=f"squared error of {code} numbers per image", ylim=(0, 3 * numbers["eigenvalue_sum"]))
    ax.legend()
    job.picture(fig, "loss.png")

    fig, (left, right) = plots.figure(1, 2, 5)
    for ax, codes, title in ((left, (test.numpy() - mean) @ u[:, :2], f"PCA, two numbers: squared error {numbers['pca2_error']:.1f}"),
                             (right, deep2.encoder(test).numpy(), f"deep, two numbers: squared error {numbers['deep2_error']:.1f}")):
        plots.classes(ax, codes.argsort(axis=0).argsort(axis=0), labels, title)     # ranks: no place is crowded
    job.picture(fig, "codes.png")

    codes = deep.encoder(test).numpy()                              # (N, k)
    root = np.linalg.cholesky(np.cov(codes.T).reshape(code, code) + 1e-6 * np.eye(code))
    draws = tg.Tensor(codes.mean(axis=0)) + tg.randn(64, code) @ tg.Tensor(root.T)    # (64, k)
    fig, axes = plots.figure(1, 3, 4)
    for ax, z, title in zip(axes, (tg.Tensor(codes[:64]), tg.randn(64, code), draws),
                            ("decoded codes of test images", "decoded z ~ N(0, I)", "decoded draws of a Gaussian fitted to codes")):
        plots.pictures(ax, deep.decoder(z), 8, title)
    job.picture(fig, "random_codes.png")


if __name__ == "__main__":
    run.main(main)
