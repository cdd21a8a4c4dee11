"""Backpropagation: matrix products, losses, normalization, convolution (e01 to e09)."""
import numpy as np

from _grading import Exercise
from _numerics import gradient, log_sigmoid, logsumexp, sigmoid, slope


def softmax(z, axis=-1):
    p = np.exp(z - z.max(axis, keepdims=True))
    return p / p.sum(axis, keepdims=True)


def naive_softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def one_hot(rng, n, k):
    return np.eye(k)[rng.integers(k, size=n)]


FAR = np.array([[1000., -1000., 0., 999.],       # exp overflows
                [-800., -1000., -801., -900.]])  # exp underflows


class e01_matmul_vjp(Exercise):
    against = "numerical derivative of sum(G * (X @ W))"

    def returns(X, W, G):
        return {"dX": X.shape, "dW": W.shape}

    def draw(rng):
        for n, d, k in [(3, 4, 2), (4, 4, 4)]:  # with squares, a missing transpose raises nothing
            yield rng.normal(size=(n, d)), rng.normal(size=(d, k)), rng.normal(size=(n, k))

    def check(f, X, W, G):
        dX, dW = f(X, W, G)
        yield "dX", dX, gradient(lambda X: (G * (X @ W)).sum(), X)
        yield "dW", dW, gradient(lambda W: (G * (X @ W)).sum(), W)

    slips = {
        "Your answer does not depend on G. A change of Y_nk changes the loss "
        "G_nk times as much: multiply by the upstream gradient.":
            lambda X, W, G: (np.ones_like(G) @ W.T, X.T @ np.ones_like(G)),
        "A transpose is missing. Write the shapes under the factors: "
        "G is (N, K), so W, which is (D, K), must be transposed.":
            lambda X, W, G: (G @ W, X @ G),
        "dW must have the shape of W, (D, K), but yours is (K, D). Which factor comes first?":
            lambda X, W, G: (G @ W.T, G.T @ X),
        "The two results are swapped: return dX first, then dW.":
            lambda X, W, G: (X.T @ G, G @ W.T),
        "dW is averaged over the rows. Every sample adds its own "
        "contribution to dW: sum, do not divide by N.":
            lambda X, W, G: (G @ W.T, X.T @ G / len(X)),
    }


def repeated_axes(b, g):
    """The axes of g along which an entry of b is used several times."""
    extra = g.ndim - b.ndim
    return tuple(range(extra)) + tuple(extra + i for i, size in enumerate(b.shape) if size == 1)


class e02_mul_vjp_b(Exercise):
    against = "numerical derivative of sum(g * (a * b)) in every entry of b"

    def returns(a, b, g):
        return {"db": b.shape}

    def draw(rng):
        for a, b in [((4, 3), (3,)), ((4, 3), (4, 1)), ((2, 4, 3), (4, 1)), ((4, 3), (1, 3)),
                     ((4, 3), ()), ((4, 3), (4, 3)), ((1, 3), (4, 1))]:
            shape = np.broadcast_shapes(a, b)
            yield rng.normal(size=a), np.asarray(rng.normal(size=b)), rng.normal(size=shape)

    def check(f, a, b, g):
        yield "db", f(a, b, g), gradient(lambda b: (g * (a * b)).sum(), b)

    slips = {
        "You average over the axes along which b was repeated. "
        "Every use of b adds its own contribution: sum instead.":
            lambda a, b, g: (g * a).mean(repeated_axes(b, g)).reshape(b.shape),
        "An axis of size 1 is lost. If b is (4, 1), so is its gradient: sum with "
        "keepdims=True over the axes of size 1, or reshape to b.shape at the end.":
            lambda a, b, g: (g * a).sum(repeated_axes(b, g)),
        "The gradient must have the shape of b. NumPy repeated b to "
        "fit a: undo this by summing over the repeated axes.":
            lambda a, b, g: g * a,
        "The factor a is missing: y = a b grows by a when b grows by 1.":
            lambda a, b, g: g.sum(repeated_axes(b, g)).reshape(b.shape),
        "You differentiated with respect to a: in db the factor is a, not b.":
            lambda a, b, g: (g * b).sum(repeated_axes(b, g)).reshape(b.shape),
    }


class e03_ce_grad(Exercise):
    against = "numerical derivative of the mean over n of -sum_k y[n, k] log softmax(z)[n, k]"

    def returns(z, y):
        return {"dz": z.shape}

    def draw(rng):
        yield 2 * rng.normal(size=(5, 3)), one_hot(rng, 5, 3)
        yield 2 * rng.normal(size=(4, 4)), one_hot(rng, 4, 4)
        yield FAR, one_hot(rng, 2, 4)

    def check(f, z, y):
        yield "dz", f(z, y), gradient(lambda z: -(y * (z - logsumexp(z))).sum() / len(y), z)

    slips = {
        "The loss is a mean over the N rows: your answer is too large by a factor N.":
            lambda z, y: softmax(z) - y,
        "That is only the diagonal of the softmax Jacobian, p(1-p). All "
        "logits of a row share one normalizer, so the off-diagonal terms "
        "-p_i p_j count as well. The full result is simpler than yours.":
            lambda z, y: -y * (1 - softmax(z)) / len(z),
        "That is the gradient of a squared error after a sigmoid. "
        "With log p in the loss, the factor p(1-p) cancels.":
            lambda z, y: (softmax(z) - y) * softmax(z) * (1 - softmax(z)) / len(z),
        "exp overflows for large logits: subtract the maximum of each row "
        "first, which does not change the softmax.":
            lambda z, y: (naive_softmax(z) - y) / len(z),
        "Your softmax runs over the samples (axis 0). Rows are samples: normalize over axis 1.":
            lambda z, y: (softmax(z, 0) - y) / len(z),
        "The sign is wrong: raising the logit of the true class must lower the loss.":
            lambda z, y: (y - softmax(z)) / len(z),
        "You divide by N K. The loss is a sum over the K classes and a mean over the N rows only.":
            lambda z, y: (softmax(z) - y) / z.size,
    }


class e08_bernoulli_grad(Exercise):
    against = "numerical derivative of x log s(a) + (1 - x) log(1 - s(a)), entry by entry"

    def returns(x, a):
        return {"da": x.shape}

    def draw(rng):
        yield rng.integers(2, size=(4, 3)).astype(float), 3 * rng.normal(size=(4, 3))
        yield rng.random(size=(2, 5)), 3 * rng.normal(size=(2, 5))  # gray pixels
        yield np.array([[0., 1., 0., 1., 0.5]]), np.array([[800., 800., -800., -800., 0.]])

    def check(f, x, a):
        yield "da", f(x, a), slope(lambda a: x * log_sigmoid(a) + (1 - x) * log_sigmoid(-a), a)

    slips = {
        "That is the derivative with respect to p = s(a). Continue with the "
        "chain rule to the logit a: dp/da = p(1-p), and most of it cancels.":
            lambda x, a: (x - sigmoid(a)) / (sigmoid(a) * (1 - sigmoid(a))),
        "There is a factor p(1-p) too many: the one from the sigmoid "
        "cancels against 1/(p(1-p)) from the log.":
            lambda x, a: (x - sigmoid(a)) * sigmoid(a) * (1 - sigmoid(a)),
        "The sign is wrong: this is the gradient of the loss. The exercise asks for "
        "that of the log-likelihood, which grows with a wherever x = 1.":
            lambda x, a: sigmoid(a) - x,
        "exp(a) overflows at a = 800 and inf/inf is nan: write "
        "the sigmoid with exp(-|a|), or with tanh(a/2).":
            lambda x, a: x - np.exp(a) / (1 + np.exp(a)),
        "Nothing is averaged here: the exercise asks for the derivative "
        "of each entry's own term, without 1/N.":
            lambda x, a: (x - sigmoid(a)) / len(x),
    }


class e09_gaussian_grad(Exercise):
    against = "numerical derivative of log N(x; mean, exp(logvar)), entry by entry"

    def returns(x, mean, logvar):
        return {"dmean": x.shape, "dlogvar": x.shape}

    def draw(rng):
        yield tuple(rng.normal(size=(3, 4, 2)))
        yield np.array([[0.3, -2.]]), np.array([[0.3, 5.]]), np.array([[-6., 4.]])

    def check(f, x, mean, logvar):
        def log_likelihood(mean, logvar):
            return -0.5 * (np.log(2 * np.pi) + logvar + (x - mean) ** 2 * np.exp(-logvar))

        dmean, dlogvar = f(x, mean, logvar)
        yield "dmean", dmean, slope(lambda m: log_likelihood(m, logvar), mean)
        yield "dlogvar", dlogvar, slope(lambda s: log_likelihood(mean, s), logvar)

    slips = {
        "The normalizer gives the log-density a term -logvar/2, whose derivative is -1/2. "
        "Without it, a larger variance would always be better.":
            lambda x, m, s: ((x - m) / np.exp(s), 0.5 * (x - m) ** 2 / np.exp(s)),
        "You read logvar as log sigma. Here logvar = log sigma^2, so the variance is exp(logvar).":
            lambda x, m, s: ((x - m) / np.exp(2 * s), -1 + (x - m) ** 2 / np.exp(2 * s)),
        "Your answer is too large by a factor 2: the 1/2 in front of the "
        "square cancels the 2 from its derivative.":
            lambda x, m, s: (2 * (x - m) / np.exp(s), -1 + (x - m) ** 2 / np.exp(s)),
        "The sign is wrong: this is the gradient of the loss -log N. The exercise asks for "
        "that of the log-likelihood, which grows when the mean moves toward x.":
            lambda x, m, s: ((m - x) / np.exp(s), 0.5 - 0.5 * (x - m) ** 2 / np.exp(s)),
        "That is the derivative with respect to the variance "
        "itself. Continue to logvar: d var / d logvar = var.":
            lambda x, m, s: ((x - m) / np.exp(s),
                             -0.5 / np.exp(s) + 0.5 * (x - m) ** 2 / np.exp(2 * s)),
    }


class e04_softmax_vjp(Exercise):
    against = "numerical derivative of sum(g * softmax(z))"

    def returns(z, g):
        return {"dz": z.shape}

    def draw(rng):
        yield 2 * rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
        yield 2 * rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
        yield FAR, rng.normal(size=(2, 4))

    def check(f, z, g):
        yield "dz", f(z, g), gradient(lambda z: (g * np.exp(z - logsumexp(z))).sum(), z)

    slips = {
        "That is only the diagonal of the Jacobian. Raising one logit also lowers "
        "every OTHER probability of its row: dp_i/dz_j = -p_i p_j for i != j.":
            lambda z, g: g * softmax(z) * (1 - softmax(z)),
        "You subtract the plain mean of g. Which weights does the "
        "Jacobian give to the entries of g?":
            lambda z, g: softmax(z) * (g - g.mean(1, keepdims=True)),
        "The bracket is right, but each entry must still be multiplied by its own probability.":
            lambda z, g: g - (softmax(z) * g).sum(1, keepdims=True),
        "Take the weighted sum over a row (axis=1, keepdims=True): "
        "the samples are independent of each other.":
            lambda z, g: softmax(z) * (g - (softmax(z) * g).sum(0)),
        "exp overflows for large logits: subtract the maximum of each row "
        "first, which does not change the softmax.":
            lambda z, g: naive_softmax(z) * (g - (naive_softmax(z) * g).sum(1, keepdims=True)),
        "Your answer contains g only in the sum. Differentiate "
        "p_i itself as well: that gives the term p_i g_i.":
            lambda z, g: -softmax(z) * (softmax(z) * g).sum(1, keepdims=True),
    }


def layernorm(x, g, gamma, axis=1, mean=True, variance=True, eps=1e-5, ddof=0):
    """dx path by path, with room for slips."""
    s = np.sqrt(x.var(axis, keepdims=True, ddof=ddof) + eps)
    xhat = (x - x.mean(axis, keepdims=True)) / s
    h = g * gamma
    paths = h
    if mean:
        paths = paths - h.mean(axis, keepdims=True)
    if variance:
        paths = paths - xhat * (h * xhat).mean(axis, keepdims=True)
    return paths / s


class e05_layernorm_dx(Exercise):
    against = "numerical derivative of sum(g * (gamma * (x - mu) / sqrt(var + 1e-5)))"

    def returns(x, g, gamma):
        return {"dx": x.shape}

    def draw(rng):
        for n, d in [(3, 5), (4, 4)]:
            yield rng.normal(size=(n, d)), rng.normal(size=(n, d)), 1 + rng.random(d)
        x = np.array([[2., 2., 2., 2.], [0., 1., 0., -3.]])  # the first row has variance 0
        yield x, rng.normal(size=(2, 4)), 1 + rng.random(4)

    def check(f, x, g, gamma):
        def loss(x):
            centered = x - x.mean(1, keepdims=True)
            s = np.sqrt((centered ** 2).mean(1, keepdims=True) + 1e-5)
            return (g * gamma * centered / s).sum()

        yield "dx", f(x, g, gamma), gradient(loss, x)

    slips = {
        "You treat mu and the variance as constants. Both depend on "
        "every x_j of the row: two terms are missing.":
            lambda x, g, gamma: layernorm(x, g, gamma, mean=False, variance=False),
        "The path through the mean is there, but the path through the variance is missing.":
            lambda x, g, gamma: layernorm(x, g, gamma, variance=False),
        "The path through the variance is there, but the path through the mean is missing.":
            lambda x, g, gamma: layernorm(x, g, gamma, mean=False),
        "You normalize over the batch. Layer norm takes mean and "
        "variance over the features of one row (axis=1).":
            lambda x, g, gamma: layernorm(x, g, gamma, axis=0),
        "gamma is missing: the gradient that reaches xhat is g * gamma.":
            lambda x, g, gamma: layernorm(x, g, 1),
        "gamma scales each feature before the means are taken: start "
        "from h = g * gamma instead of multiplying at the end.":
            lambda x, g, gamma: gamma * layernorm(x, g, 1),
        "The small constant is missing: the statement divides by sqrt(var + 1e-5).":
            lambda x, g, gamma: layernorm(x, g, gamma, eps=0),
        "The variance is biased here: divide the sum of squares by D, not by D - 1.":
            lambda x, g, gamma: layernorm(x, g, gamma, ddof=1),
    }


def batchnorm(x, g, gamma, frozen=False, ddof=0, variance=True, eps=1e-5, raw=False, mean=False):
    """The three gradients, with room for slips."""
    s = np.sqrt(x.var(0, ddof=ddof) + eps)
    xhat = (x - x.mean(0)) / s
    h = g * gamma
    paths = h
    if not frozen:
        paths = paths - h.mean(0)
        if variance:
            paths = paths - xhat * (h * xhat).mean(0)
    n = len(x) if mean else 1
    return paths / s, (g * (x if raw else xhat)).sum(0) / n, g.sum(0) / n


class e06_batchnorm_vjp(Exercise):
    against = "numerical derivative of sum(g * (gamma * (x - mu) / sqrt(var + 1e-5) + beta))"

    def returns(x, g, gamma):
        return {"dx": x.shape, "dgamma": gamma.shape, "dbeta": gamma.shape}

    def draw(rng):
        for n, d in [(5, 3), (4, 4)]:
            yield rng.normal(size=(n, d)), rng.normal(size=(n, d)), 1 + rng.random(d)
        x = np.array([[2., 0.], [2., 1.], [2., -3.]])  # the first column has variance 0
        yield x, rng.normal(size=(3, 2)), 1 + rng.random(2)

    def check(f, x, g, gamma):
        def loss(x, gamma, beta):
            centered = x - x.mean(0)
            s = np.sqrt((centered ** 2).mean(0) + 1e-5)
            return (g * (gamma * centered / s + beta)).sum()

        dx, dgamma, dbeta = f(x, g, gamma)
        yield "dx", dx, gradient(lambda x: loss(x, gamma, 0), x)
        yield "dgamma", dgamma, gradient(lambda gamma: loss(x, gamma, 0), gamma)
        yield "dbeta", dbeta, gradient(lambda beta: loss(x, gamma, beta), 0 * gamma)

    slips = {
        "That is the gradient in evaluation mode. In training, mean and variance are "
        "computed from this batch, so every sample affects every other one.":
            lambda x, g, gamma: batchnorm(x, g, gamma, frozen=True),
        "The variance is biased here: divide the sum of squares by N, not by N - 1.":
            lambda x, g, gamma: batchnorm(x, g, gamma, ddof=1),
        "dgamma and dbeta are sums over the batch, not means: gamma is used once for each sample.":
            lambda x, g, gamma: batchnorm(x, g, gamma, mean=True),
        "The path through the mean is there, but dx still lacks the path through the variance.":
            lambda x, g, gamma: batchnorm(x, g, gamma, variance=False),
        "gamma multiplies the normalized xhat, not x: dgamma = sum of g * xhat.":
            lambda x, g, gamma: batchnorm(x, g, gamma, raw=True),
        "gamma is missing in dx: the gradient that reaches xhat is g * gamma.":
            lambda x, g, gamma: batchnorm(x, g, 1 + 0 * gamma),
        "dgamma and dbeta are swapped: return dx, dgamma, dbeta.":
            lambda x, g, gamma: [batchnorm(x, g, gamma)[i] for i in (0, 2, 1)],
        "The small constant is missing: the statement divides by sqrt(var + 1e-5).":
            lambda x, g, gamma: batchnorm(x, g, gamma, eps=0),
    }


def conv(x, w):
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows[:, :, ::2, ::2], w)


def conv_vjp(x, w, g, flip=1, overwrite=False, shift=1, crop=True, mean=False):
    """Both gradients, with room for slips."""
    xp = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    dxp = np.zeros(xp.shape)
    dw = np.zeros(w.shape)
    rows, cols = g.shape[2:]
    for i in range(2):
        for j in range(3):
            window = np.s_[:, :, i:i + 2 * rows:2, j:j + 2 * cols:2]
            dw[:, :, i, j] = np.einsum("nohw,nchw->oc", g, xp[window])
            part = np.einsum("nohw,oc->nchw", g, w[:, :, ::flip, ::flip][:, :, i, j])
            dxp[window] = part if overwrite else dxp[window] + part
    dx = dxp[:, :, shift:shift + x.shape[2], shift:shift + x.shape[3]] if crop else dxp
    return dx, dw / len(x) if mean else dw


class e07_conv2d_vjp(Exercise):
    against = ("the adjoint identity sum(g * conv(u, w)) = sum(dx * u) for all unit images u; "
               "the same for w")

    def returns(x, w, g):
        return {"dx": x.shape, "dw": w.shape}

    def draw(rng):
        for n, c, o, (h, width), out in [(2, 4, 5, (5, 6), (3, 3)), (3, 1, 2, (4, 7), (3, 4))]:
            shapes = [(n, c, h, width), (o, c, 2, 3), (n, o, *out)]
            yield tuple(rng.normal(size=shape) for shape in shapes)

    def check(f, x, w, g):
        dx, dw = f(x, w, g)
        units = np.eye(x[0].size).reshape(-1, *x[0].shape)
        yield "dx", dx, np.einsum("nohw,uohw->nu", g, conv(units, w)).reshape(x.shape)
        units = np.eye(w.size).reshape(-1, *w.shape)
        yield "dw", dw, np.array([(g * conv(x, u)).sum() for u in units]).reshape(w.shape)

    slips = {
        "The kernel is flipped. The forward pass is a cross-correlation, and every output "
        "adds its gradient back to its own window: in this form nothing is flipped.":
            lambda x, w, g: conv_vjp(x, w, g, flip=-1),
        "Windows overlap: a pixel that was read several times "
        "receives several contributions. Use += instead of =.":
            lambda x, w, g: conv_vjp(x, w, g, overwrite=True),
        "dx is still padded. Cut off one row and one column "
        "on every side: the padding is not part of x.":
            lambda x, w, g: conv_vjp(x, w, g, crop=False),
        "dx is shifted: the padding is on all sides, so x begins "
        "at row 1, column 1 of the padded image.":
            lambda x, w, g: conv_vjp(x, w, g, shift=0),
        "dw is averaged over the batch. Every sample and every position "
        "adds its own contribution: sum instead.":
            lambda x, w, g: conv_vjp(x, w, g, mean=True),
    }
