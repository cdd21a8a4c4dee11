"""How fast is tinygen? Its training steps and those of the same models in PyTorch eager.

    python tests/benchmark.py                      # all workloads, and PyTorch if it is installed
    python tests/benchmark.py vae cfm              # some of them
    python tests/benchmark.py --rows               # each row of the calculus table, on one core
    python tests/benchmark.py --busy               # the same with two busy processes
    python tests/benchmark.py --only tinygen       # without the comparison
    python tests/benchmark.py --backend cupy       # on a GPU (PyTorch then on CUDA)

Every workload is written once and runs in both libraries, because tinygen's names are PyTorch's.
Each library runs in processes of its own, which take turns: a few steps here, a few steps there.
What counts is the median of the ratios of neighboring turns, so that what else the machine does
then falls on both. A ratio is the time of tinygen over that of PyTorch: below 1, tinygen is faster.
A second process of tinygen takes part; its ratio to the first (A/A) shows how noisy the machine is.
Not collected by pytest: a time is no test.
"""
import argparse
import ctypes
import importlib.util
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
import types

import numpy as np

import tinygen as tg
from tinygen import backend
from tinygen.lab import cores
from tinygen.lab.metrics import in_blocks

DEMOS = pathlib.Path(__file__).parent.parent / "demos"


# Libraries under the same names -------------------------------------------------------------------

def tinygen_library():
    from tinygen import functional as F, nn, optim

    def wait():
        if backend.name() == "cupy":
            backend.xp.cuda.Device().synchronize()
    return types.SimpleNamespace(
        name="tinygen", tg=tg, nn=nn, F=F, Adam=optim.Adam, randn=tg.randn, rand=tg.rand,
        randint=lambda low, high, n: tg.randint(low, high, (n,)), tensor=tg.Tensor,
        leaf=lambda x: tg.Tensor(x, requires_grad=True), wait=wait, no_grad=tg.no_grad,
        grad=lambda y, x: tg.grad(y, x, create_graph=True)[0], in_blocks=_in_blocks)


def _in_blocks(f, x):
    """One block for each core (PyTorch uses every core by itself), and one for a GPU."""
    blas = int(os.environ.get("OPENBLAS_NUM_THREADS", cores.CORES))
    n = min(blas, cores.CORES) if backend.name() == "numpy" else 1
    return in_blocks(f, x, block=math.ceil(len(x) / n), cores=n)


def torch_library(device):
    import torch

    class Module(torch.nn.Module):
        def __new__(cls, *args, **kwargs):  # tinygen's modules need no super().__init__()
            self = super().__new__(cls)
            torch.nn.Module.__init__(self)
            return self

    class SinusoidalEmbedding(Module):
        def __init__(self, dim, max_period=10000.0):
            i = torch.arange(dim // 2, device=device)
            self.w = torch.exp(i * (-math.log(max_period) / (dim // 2)))

        def forward(self, t):
            angle = t.reshape(-1, 1) * self.w
            return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)

    class SelfAttention(Module):
        def __init__(self, channels):
            self.norm = torch.nn.GroupNorm(1, channels)
            self.query = torch.nn.Linear(channels, channels)
            self.key = torch.nn.Linear(channels, channels)
            self.value = torch.nn.Linear(channels, channels)
            self.out = torch.nn.Linear(channels, channels)

        def forward(self, x):
            n, c, h, w = x.shape
            pixels = self.norm(x).reshape(n, c, h * w).mT
            q, k, v = [layer(pixels) for layer in (self.query, self.key, self.value)]
            y = torch.softmax(q @ k.mT * c**-0.5, dim=-1) @ v
            return x + self.out(y).mT.reshape(n, c, h, w)

    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_default_device(device)
    own = {c.__name__: c for c in (Module, SinusoidalEmbedding, SelfAttention)}
    return types.SimpleNamespace(
        name="torch", tg=torch, nn=types.SimpleNamespace(**{**vars(torch.nn), **own}),
        F=torch.nn.functional, Adam=torch.optim.Adam, randn=torch.randn, rand=torch.rand,
        randint=lambda low, high, n: torch.randint(low, high, (n,)), tensor=torch.tensor,
        leaf=lambda x: x.detach().requires_grad_(), no_grad=torch.no_grad,
        wait=torch.cuda.synchronize if device == "cuda" else lambda: None,
        grad=lambda y, x: torch.autograd.grad(y, x, create_graph=True)[0],
        in_blocks=lambda f, x: f(x))


def library(name, device):
    return tinygen_library() if name == "tinygen" else torch_library(device)


# The workloads: each takes a library and returns a function that makes one step -------------------

rng = np.random.default_rng(0)
IMAGES = rng.random((128, 784), dtype=np.float32)
POINTS = rng.standard_normal((512, 2), dtype=np.float32)


def mlp(lib, *sizes, activation, last=None):
    """Linear layers with an activation between them."""
    layers = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [lib.nn.Linear(a, b), activation()]
    return lib.nn.Sequential(*layers[:-1], *([last] if last else []))


def update(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def ae(lib):
    model = mlp(lib, 784, 512, 256, 32, 256, 512, 784, activation=lib.nn.ReLU)
    optimizer = lib.Adam(model.parameters())
    x = lib.tensor(IMAGES)

    def step():
        loss = lib.F.binary_cross_entropy_with_logits(model(x), x, reduction="sum")
        update(optimizer, loss / len(x))
    return step


def vae(lib):
    class VAE(lib.nn.Module):
        def __init__(self):
            self.hidden = lib.nn.Linear(784, 400)
            self.mean = lib.nn.Linear(400, 20)
            self.logvar = lib.nn.Linear(400, 20)
            self.decoder = mlp(lib, 20, 400, 784, activation=lib.nn.ReLU)

        def forward(self, x):
            h = lib.F.relu(self.hidden(x))
            mean, logvar = [layer(h) for layer in (self.mean, self.logvar)]
            z = mean + lib.tg.exp(logvar / 2) * lib.randn(len(x), 20)
            return self.decoder(z), mean, logvar

    model = VAE()
    optimizer = lib.Adam(model.parameters())
    x = lib.tensor(IMAGES)

    def step():
        logits, mean, logvar = model(x)
        kl = 0.5 * (mean**2 + lib.tg.exp(logvar) - 1 - logvar).sum()
        loss = lib.F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        update(optimizer, (loss + kl) / len(x))
    return step


def gan(lib):
    leaky = lambda: lib.nn.LeakyReLU(0.2)
    G = mlp(lib, 64, 256, 512, 784, activation=leaky, last=lib.nn.Tanh())
    D = mlp(lib, 784, 512, 256, 1, activation=leaky)
    return adversarial(lib, G, D, lib.tensor(2 * IMAGES - 1), (len(IMAGES), 64))


def adversarial(lib, G, D, real, latent):
    """One update of the discriminator and one of the generator, non-saturating."""
    optimizer_G = lib.Adam(G.parameters())
    optimizer_D = lib.Adam(D.parameters())

    def step():
        fake = G(lib.randn(*latent))
        on_real = lib.F.softplus(-D(real)).mean()
        on_fake = lib.F.softplus(D(fake.detach())).mean()
        update(optimizer_D, on_real + on_fake)
        update(optimizer_G, lib.F.softplus(-D(fake)).mean())
    return step


def wgan_gp(lib, batch=256):
    G, D = [mlp(lib, 2, 128, 128, 128, out, activation=lib.nn.ReLU) for out in (2, 1)]
    optimizer_G = lib.Adam(G.parameters())
    optimizer_D = lib.Adam(D.parameters())
    real = lib.tensor(POINTS[:batch])

    def step():
        fake = G(lib.randn(batch, 2))
        t = lib.rand(batch, 1)
        between = lib.leaf(t * real + (1 - t) * fake.detach())
        slope = lib.grad(D(between).sum(), between)
        penalty = ((lib.tg.sqrt((slope**2).sum(1) + 1e-12) - 1)**2).mean()
        update(optimizer_D, D(fake.detach()).mean() - D(real).mean() + 10 * penalty)
        update(optimizer_G, -D(G(lib.randn(batch, 2))).mean())
    return step


def ddpm(lib, batch=512):
    net = mlp(lib, 2 + 128, 128, 128, 128, 128, 2, activation=lib.nn.SiLU)
    time_features = lib.nn.SinusoidalEmbedding(128)
    optimizer = lib.Adam(net.parameters())
    x0 = lib.tensor(POINTS[:batch])
    alpha_bar = lib.tensor(np.linspace(1, 0.01, 201, dtype=np.float32))

    def step():
        t = lib.randint(1, 201, batch)
        eps = lib.randn(batch, 2)
        a = alpha_bar[t].reshape(-1, 1)
        xt = lib.tg.sqrt(a) * x0 + lib.tg.sqrt(1 - a) * eps
        prediction = net(lib.tg.concatenate([xt, time_features(t)], axis=1))
        update(optimizer, lib.F.mse_loss(prediction, eps))
    return step


def velocity(lib, width=64):
    return mlp(lib, 3, width, width, width, 2, activation=lib.nn.SELU)


def cfm(lib, batch=256, width=64):
    u = velocity(lib, width)
    x1 = lib.tensor(np.resize(POINTS, (batch, 2)))
    optimizer = lib.Adam(u.parameters())

    def step():
        x0 = lib.randn(batch, 2)
        t = lib.rand(batch, 1)
        xt = (1 - t) * x0 + t * x1
        update(optimizer, lib.F.mse_loss(u(lib.tg.concatenate([xt, t], axis=1)), x1 - x0))
    return step


def sample(lib, points=10_000, steps=100):
    u = velocity(lib)

    def euler(x):
        for i in range(steps):
            t = lib.tg.full((len(x), 1), i / steps)
            x = x + u(lib.tg.concatenate([x, t], axis=1)) / steps
        return x

    def step():
        with lib.no_grad():
            lib.in_blocks(euler, lib.randn(points, 2))
    return step


def dcgan(lib, batch=64):
    nn = lib.nn
    G = nn.Sequential(
        nn.Linear(64, 128 * 7 * 7, bias=False), nn.Unflatten(1, (128, 7, 7)),
        nn.BatchNorm2d(128), nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64), nn.ReLU(),
        nn.ConvTranspose2d(64, 1, 4, stride=2, padding=1), nn.Tanh())
    D = nn.Sequential(
        nn.Conv2d(1, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(128 * 7 * 7, 1))
    real = lib.tensor(2 * IMAGES[:batch].reshape(batch, 1, 28, 28) - 1)
    return adversarial(lib, G, D, real, (batch, 64))


def unet(lib, batch=32):
    """The U-Net of demos/unet.py, its very source, with the library's own layers."""
    lines = (DEMOS / "unet.py").read_text().splitlines()
    source = "\n".join(line for line in lines if not line.startswith(("import ", "from ")))
    names = dict(tg=lib.tg, F=lib.F, nn=lib.nn)
    exec(compile(source, "unet.py", "exec"), names)
    model = names["UNet"]()
    x1 = lib.tensor(2 * IMAGES[:batch].reshape(batch, 1, 28, 28) - 1)
    optimizer = lib.Adam(model.parameters())
    label = lib.tensor(np.arange(batch) % 10)

    def step():
        x0 = lib.randn(batch, 1, 28, 28)
        t = lib.rand(batch, 1, 1, 1)
        prediction = model((1 - t) * x0 + t * x1, t.reshape(-1), label)
        update(optimizer, lib.F.mse_loss(prediction, x1 - x0))
    return step


TRAINING = {f.__name__: f for f in (ae, vae, gan, wgan_gp, ddpm, cfm, dcgan, unet)}
WORKLOADS = TRAINING | {"sample": sample}


def overhead(lib, n=1000):
    """A chain of n products of 8 numbers, forward and backward: what an operation costs."""
    a = lib.tensor(np.full(8, 1.0001, dtype=np.float32))

    def step():
        y = lib.leaf(lib.randn(8))
        for _ in range(n):
            y = y * a
        y.sum().backward()
    return step


# The rows of the calculus table: each takes a library and its inputs ------------------------------

ROWS = {
    "add": lambda lib, a, b: a + b,
    "sub": lambda lib, a, b: a - b,
    "mul": lambda lib, a, b: a * b,
    "div": lambda lib, a, b: a / (b * b + 1),
    "x**2": lambda lib, a, b: a**2,
    "x**3": lambda lib, a, b: a**3,
    "x**0.5": lambda lib, a, b: (a * a + 1)**0.5,
    "abs": lambda lib, a, b: abs(a),
    "maximum": lambda lib, a, b: lib.tg.maximum(a, b),
    "clip": lambda lib, a, b: lib.tg.clip(a, min=-0.5, max=0.5),
    "where": lambda lib, a, b: lib.tg.where(a > 0, a, b),
    "exp": lambda lib, a, b: lib.tg.exp(a),
    "log": lambda lib, a, b: lib.tg.log(a * a + 1),
    "sqrt": lambda lib, a, b: lib.tg.sqrt(a * a + 1),
    "sin": lambda lib, a, b: lib.tg.sin(a),
    "tanh": lambda lib, a, b: lib.tg.tanh(a),
    "sigmoid": lambda lib, a, b: lib.tg.sigmoid(a),
    "sum": lambda lib, a, b: a.sum(1),
    "mean": lambda lib, a, b: a.mean(0),
    "var": lambda lib, a, b: a.var(1),
    "matmul": lambda lib, a, b: a @ b.mT[:, :128],
    "transposed view": lambda lib, a, b: a.mT * b.mT,
    "rows by index": lambda lib, a, b: a[lib.index],
    "slice": lambda lib, a, b: a[:, ::2] * 2,
    "concatenate": lambda lib, a, b: lib.tg.concatenate([a, b], axis=1),
    "pad": lambda lib, a, b: lib.F.pad(a, (1, 1)),
    "relu": lambda lib, a, b: lib.F.relu(a),
    "leaky_relu": lambda lib, a, b: lib.F.leaky_relu(a, 0.2),
    "elu": lambda lib, a, b: lib.F.elu(a),
    "selu": lambda lib, a, b: lib.F.selu(a),
    "softplus": lambda lib, a, b: lib.F.softplus(a),
    "silu": lambda lib, a, b: lib.F.silu(a),
    "gelu": lambda lib, a, b: lib.F.gelu(a, approximate="tanh"),
    "softmax": lambda lib, a, b: lib.F.softmax(a, -1),
    "log_softmax": lambda lib, a, b: lib.F.log_softmax(a, -1),
    "linear": lambda lib, a, b: lib.F.linear(a, b[:128], b[0]),
    "embedding": lambda lib, a, b: lib.F.embedding(lib.index, a),
    "layer_norm": lambda lib, a, b: lib.F.layer_norm(a, (128,), b[0], b[1]),
    "mse_loss": lambda lib, a, b: lib.F.mse_loss(a, b),
    "cross_entropy": lambda lib, a, b: lib.F.cross_entropy(a, lib.labels),
    "bce": lambda lib, a, b: lib.F.binary_cross_entropy_with_logits(a, lib.tg.sigmoid(b)),
}
IMAGE_ROWS = {
    "batch_norm": lambda lib, a, b: lib.F.batch_norm(a, None, None, training=True),
    "group_norm": lambda lib, a, b: lib.F.group_norm(a, 8),
    "conv2d": lambda lib, a, b: lib.F.conv2d(a, b[:32, :, :3, :3], None, 1, 1),
    "conv2d, stride 2": lambda lib, a, b: lib.F.conv2d(a, b[:32, :, :4, :4], None, 2, 1),
    "conv_transpose2d": lambda lib, a, b: lib.F.conv_transpose2d(a, b[:32, :, :4, :4], None, 2, 1),
    "avg_pool2d": lambda lib, a, b: lib.F.avg_pool2d(a, 2),
    "interpolate": lambda lib, a, b: lib.F.interpolate(a, scale_factor=2),
    "silu of images": lambda lib, a, b: lib.F.silu(a),
    "leaky_relu of images": lambda lib, a, b: lib.F.leaky_relu(a, 0.2),
}


def row(name):
    """Forward and backward of one row, on (4096, 128), or on images (64, 32, 16, 16)."""
    f = ROWS.get(name) or IMAGE_ROWS[name]
    shape = (4096, 128) if name in ROWS else (64, 32, 16, 16)

    def workload(lib):
        generator = np.random.default_rng(0)
        arrays = [generator.standard_normal(shape, dtype=np.float32) for _ in range(2)]
        leaves = [lib.leaf(lib.tensor(a)) for a in arrays]
        lib.index = lib.tensor(generator.integers(0, 4096, size=4096))
        lib.labels = lib.tensor(generator.integers(0, 128, size=4096))
        g = lib.tensor(generator.standard_normal(f(lib, *leaves).shape, dtype=np.float32))

        def step():
            for leaf in leaves:
                leaf.grad = None
            f(lib, *leaves).backward(g)
        return step
    return workload


# Measuring ----------------------------------------------------------------------------------------

def workload(name):
    """A workload, "op 1000" for a chain, or "row NAME"."""
    if name.startswith("row "):
        return row(name[4:])
    if name.startswith("op "):
        return lambda lib: overhead(lib, int(name[3:]))
    if name.startswith("cfm "):
        batch, width = map(int, name.split()[1:])
        return lambda lib: cfm(lib, batch, width)
    return WORKLOADS[name]


def serve(lib):
    """Answer lines "SECONDS NAME" on standard input with the mean time of a step."""
    steps = {}
    for line in sys.stdin:
        seconds, name = line.strip().split(" ", 1)
        if name not in steps:
            steps[name] = workload(name)(lib)
            steps[name]()  # not counted: compilers, caches, memory pools
        steps[name]()
        lib.wait()
        start = time.perf_counter()
        done = 0
        while done == 0 or time.perf_counter() - start < float(seconds):
            steps[name]()
            lib.wait()
            done += 1
        print((time.perf_counter() - start) / done, flush=True)


class Process:
    """A library in a process of its own, with as many threads as it likes, or with one."""

    def __init__(self, name, backend_name, one_core=False):
        self.name = name
        one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        command = [sys.executable, __file__, "--serve", name, "--backend", backend_name]
        environment = os.environ | (one if one_core else {})
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment)

    def time(self, name, seconds):
        self.process.stdin.write(f"{seconds} {name}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} stopped while it ran {name}; see its error above.")
        return float(answer)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def turns(processes, name, repeats, seconds):
    """Times of a step, (repeats, processes), forth and back; again where they spread widely."""
    times = []
    for _ in range(3):
        for i in range(repeats):
            order = range(len(processes))
            here_and_back = order if i % 2 else order[::-1]
            found = {k: processes[k].time(name, seconds) for k in here_and_back}
            times.append([found[k] for k in order])
        ratios = np.array(times)[:, 0] / np.array(times)[:, -1]
        low, high = np.quantile(ratios, [0.25, 0.75])
        if high / low < 1.1:
            break
    return np.array(times)


def ratio(times):
    """The median of the ratios of neighboring turns, of the first process to the last."""
    return statistics.median(times[:, 0] / times[:, -1])


def geometric_mean(ratios):
    return math.exp(statistics.mean(map(math.log, ratios)))


def start(libraries, args, one_core=False):
    """tinygen, tinygen again, and the other library."""
    names = libraries[:1] * 2 + libraries[1:]
    return [Process(name, args.backend, one_core) for name in names]


def compare(libraries, names, args, one_core=False):
    """A table of times, and the ratios by name."""
    processes = start(libraries, args, one_core)
    columns = "".join(f"{name:>12}" for name in libraries)
    print(f"\n{'one core each' if one_core else 'all cores':22}{columns}{'ratio':>9}{'A/A':>7}")
    ratios = {}
    for name in names:
        times = turns(processes, name, args.repeats, args.seconds)
        middle = 1e3 * np.median(times, axis=0)
        shown = [middle[0], *middle[2:]]
        again = statistics.median(times[:, 1] / times[:, 0])
        ratios[name] = ratio(times)
        print(f"{name.removeprefix('row '):22}" + "".join(f"{t:9.3f} ms" for t in shown)
              + f"{ratios[name]:9.2f}{again:7.2f}", flush=True)
    for process in processes:
        process.stop()
    values = list(ratios.values())
    if len(libraries) > 1 and len(values) > 1:
        print(f"{'geometric mean':46}{geometric_mean(values):9.2f}"
              f"   median {statistics.median(values):.2f}, largest {max(values):.2f}")
    return ratios


def operations(libraries, args):
    processes = start(libraries, args, one_core=True)
    lengths = (1000, 10_000, 100_000)
    print("\nmicroseconds per operation on 8 numbers, forward and backward, in a chain of "
          + ", ".join(f"{n:,}" for n in lengths))
    for process in processes[1:]:
        found = [min(process.time(f"op {n}", args.seconds) for _ in range(5)) / n for n in lengths]
        print(f"{process.name:>12}" + "".join(f"{1e6 * t:10.2f}" for t in found))
        process.stop()


def growth(libraries, args):
    """Time of a cfm step against the size of the batch and the width of the network."""
    processes = start(libraries, args)[1:]
    batches = [(n, 64) for n in (64, 256, 1024, 4096)]
    widths = [(256, n) for n in (32, 128, 512)]
    for title, sizes in (("batch x 64", batches), ("256 x width", widths)):
        shown = ", ".join(f"{batch} x {width}" for batch, width in sizes)
        print(f"\ncfm step in ms, {title}: {shown}")
        for process in processes:
            times = [process.time(f"cfm {b} {w}", args.seconds) for b, w in sizes]
            print(f"{process.name:>12}" + "".join(f"{1e3 * t:10.2f}" for t in times))
    for process in processes:
        process.stop()


def run_python(code, *flags):
    """What a fresh Python prints when it runs this code."""
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def import_time(repeats):
    clock = ("import time; start = time.perf_counter(); import {}; "
             "print(time.perf_counter() - start)")
    times = [[float(run_python(clock.format(name))) for name in ("numpy", "tinygen")]
             for _ in range(repeats)]
    numpy, both = 1e3 * np.median(times, axis=0)
    print(f"\nimport: numpy {numpy:.0f} ms, tinygen {both:.0f} ms (NumPy's included)")


MEMORY = """
import sys
sys.path.insert(0, {folder!r})
import benchmark as b
lib = b.library({lib!r}, "cpu")
b.warm(lib)
before = b.peak()
step = b.WORKLOADS[{name!r}](lib)
for _ in range(20):
    step()
middle = b.peak()
for _ in range({more}):
    step()
print(middle - before, b.peak() - middle)
"""


def memory(libraries, names):
    """Megabytes that 20 steps need beyond the library itself; the growth over 1,000 cfm steps."""
    print(f"\n{'peak MB':12}" + "".join(f"{lib:>12}" for lib in libraries))
    folder = str(pathlib.Path(__file__).parent)
    for name in names:
        more = 1000 if name == "cfm" else 0
        codes = [MEMORY.format(folder=folder, lib=lib, name=name, more=more) for lib in libraries]
        found = [run_python(code).split() for code in codes]
        grown = f"   after 1,000 more steps: +{float(found[0][1]):.1f} MB" if more else ""
        print(f"{name:12}" + "".join(f"{float(f[0]):12.1f}" for f in found) + grown)


def peak():
    """The most memory this process ever held, in MB (Linux; `resource` counts the parent's)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def warm(lib):
    """One small step of everything: what a library loads on first use is no model's memory."""
    w = lib.leaf(lib.randn(4, 4))
    update(lib.Adam([w]), (lib.randn(4, 4) @ w).sum())


def per_step(name):
    """Kernels started, and waits of the host, in the second step, on the backend "strict"."""
    import strict
    step = WORKLOADS[name](library("tinygen", "cpu"))
    step()
    launches, syncs = strict.count.launches, strict.count.syncs
    step()
    return strict.count.launches - launches, strict.count.syncs - syncs


def launches(names):
    """What a GPU would be asked to do, counted by the strict stand-in for CuPy."""
    import strict  # noqa: F401, makes the backend known
    before = backend.name()
    backend.use("strict")
    print("\non a GPU, per step: kernel launches, waits of the host")
    for name in names:
        print(f"{name:10}" + "".join(f"{number:10d}" for number in per_step(name)))
    backend.use(before)


# The machine --------------------------------------------------------------------------------------

def kernel():
    """The processor that OpenBLAS computes for, as it says itself."""
    here = pathlib.Path(np.__file__).parent
    for path in here.parent.glob("numpy.libs/*openblas*"):
        name = getattr(ctypes.CDLL(str(path)), "scipy_openblas_get_corename64_", None)
        if name:
            name.restype = ctypes.c_char_p
            return f"OpenBLAS for {name().decode()}"
    return "products from elsewhere"


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def refuse_brakes():
    """Products run at half the speed where these are set, and PyTorch's do not."""
    brakes = [name for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ]
    if brakes:
        unset = " ".join(f"-u {name}" for name in brakes)
        raise SystemExit(f"{' and '.join(brakes)} would slow NumPy's products down, which PyTorch "
                         f"does not use. Run instead: env {unset} python {' '.join(sys.argv)}")


def main():
    refuse_brakes()
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("workloads", nargs="*", metavar="workload",
        help=f"of {', '.join(WORKLOADS)} (default: all)")
    add("--backend", default="numpy", choices=["numpy", "cupy"])
    add("--only", choices=["tinygen", "torch"], help="measure one library alone")
    add("--repeats", type=int, default=15, help="turns of each library (default: %(default)s)")
    add("--seconds", type=float, default=0.3, help="of a turn (default: %(default)s)")
    add("--speed", action="store_true", help="the times of the workloads, and nothing else")
    add("--rows", action="store_true", help="the rows of the calculus table, on one core")
    add("--busy", action="store_true", help="with two busy processes on the machine")
    add("--serve", choices=["tinygen", "torch"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = "cuda" if args.backend == "cupy" else "cpu"
    if args.serve:
        backend.use(args.backend)
        return serve(library(args.serve, device))
    names = args.workloads or list(WORKLOADS)
    wrong = [name for name in names if name not in WORKLOADS]
    if wrong:
        parser.error(f"there is no workload {wrong[0]}; choose from {', '.join(WORKLOADS)}")
    libraries = [args.only] if args.only else ["tinygen", "torch"]
    if "torch" in libraries and not importlib.util.find_spec("torch"):
        print("PyTorch is not installed (pip install torch): tinygen is measured alone.")
        libraries.remove("torch")
    print(f"{processor()}, {cores.CORES} cores; NumPy {np.__version__}, {kernel()}; load average "
          f"{os.getloadavg()[0]:.2f}{', two busy processes' if args.busy else ''}")
    spin = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(spin) for _ in range(2 if args.busy else 0)]
    try:
        if args.rows:
            rows = [f"row {name}" for name in [*ROWS, *IMAGE_ROWS]]
            compare(libraries, rows, args, one_core=True)
            return
        compare(libraries, names, args)
        if args.backend == "numpy" and not args.busy:
            compare(libraries, names, args, one_core=True)
        if not args.speed and not args.busy:
            growth(libraries, args)
            operations(libraries, args)
            import_time(args.repeats)
            if args.backend == "numpy":
                memory(libraries, names)
                launches(list(TRAINING))
    finally:
        for process in busy:
            process.kill()


if __name__ == "__main__":
    main()
