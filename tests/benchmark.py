"""How fast is tinygen? Its training steps beside those of the same models in PyTorch eager, in one process.

    python tests/benchmark.py                       # all workloads; PyTorch is compared with where it can be imported
    python tests/benchmark.py vae cfm               # some of them
    python tests/benchmark.py --backend cupy        # on a GPU (PyTorch then on CUDA)
    python tests/benchmark.py --only tinygen        # without the comparison, for example to count what a change brings

Every workload is written once and runs in both libraries, which is possible because tinygen's names are PyTorch's. The
two take turns, a few steps at a time, and what counts is the median of the ratios of neighbouring turns: what else the
machine does then falls on both. A ratio is the time of tinygen over that of PyTorch: below 1, tinygen is the faster.
Not collected by pytest: a time is no test.
"""
import argparse
import importlib.util
import math
import pathlib
import statistics
import subprocess
import sys
import time
import types

import numpy as np

import tinygen as tg
from tinygen import backend
from tinygen.lab import cores, metrics

DEMOS = pathlib.Path(__file__).parent.parent / "demos"


# Two libraries under the same names -----------------------------------------------------------------------------------

def tinygen_library():
    from tinygen import functional as F, nn, optim
    return types.SimpleNamespace(
        name="tinygen", tg=tg, nn=nn, F=F, Adam=optim.Adam, randn=lambda *shape: tg.randn(*shape), rand=lambda *shape: tg.rand(*shape),
        randint=lambda low, high, n: tg.randint(low, high, (n,)), grad=lambda y, x: tg.grad(y, x, create_graph=True)[0],
        tensor=tg.Tensor, leaf=lambda x: tg.Tensor(x, requires_grad=True), no_grad=tg.no_grad, in_blocks=_in_blocks, wait=_wait_cupy)


def _in_blocks(f, x):
    """One block for each core (PyTorch uses every core by itself), and one for a GPU."""
    cores = cores.CORES if backend.name() == "numpy" else 1
    return metrics.in_blocks(f, x, block=-(-len(x) // cores), cores=cores)


def _wait_cupy():
    if backend.name() == "cupy":
        backend.xp.cuda.Device().synchronize()


def torch_library(device):
    import torch

    class Module(torch.nn.Module):
        def __new__(cls, *args, **kwargs):  # tinygen's modules need no super().__init__()
            self = super().__new__(cls)
            torch.nn.Module.__init__(self)
            return self

    class SinusoidalEmbedding(Module):
        def __init__(self, dim, max_period=10000.0):
            self.w = torch.exp(torch.arange(dim // 2, device=device) * (-math.log(max_period) / (dim // 2)))

        def forward(self, t):
            angle = t.reshape(-1, 1) * self.w
            return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)

    class SelfAttention(Module):
        def __init__(self, channels):
            self.norm = torch.nn.GroupNorm(1, channels)
            self.query, self.key, self.value, self.out = (torch.nn.Linear(channels, channels) for _ in range(4))

        def forward(self, x):
            n, c, h, w = x.shape
            pixels = self.norm(x).reshape(n, c, h * w).mT
            q, k, v = self.query(pixels), self.key(pixels), self.value(pixels)
            return x + self.out(torch.softmax(q @ k.mT * c**-0.5, dim=-1) @ v).mT.reshape(n, c, h, w)

    torch.set_default_device(device)
    nn = types.SimpleNamespace(**{**vars(torch.nn), "Module": Module, "SinusoidalEmbedding": SinusoidalEmbedding,
                                  "SelfAttention": SelfAttention})
    return types.SimpleNamespace(
        name="torch", tg=torch, nn=nn, F=torch.nn.functional, Adam=torch.optim.Adam, randn=torch.randn, rand=torch.rand,
        randint=lambda low, high, n: torch.randint(low, high, (n,)), grad=lambda y, x: torch.autograd.grad(y, x, create_graph=True)[0],
        tensor=torch.tensor, leaf=lambda x: x.detach().requires_grad_(), no_grad=torch.no_grad, in_blocks=lambda f, x: f(x),
        wait=torch.cuda.synchronize if device == "cuda" else lambda: None)


# The workloads: each takes a library and returns a function that makes one step --------------------------------------

rng = np.random.default_rng(0)
IMAGES = rng.random((128, 784), dtype=np.float32)


def mlp(lib, *sizes, activation, last=None):
    """Linear layers with an activation between them."""
    layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (lib.nn.Linear(a, b), activation())]
    return lib.nn.Sequential(*layers[:-1], *([last] if last else []))


def update(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def ae(lib):
    model = mlp(lib, 784, 512, 256, 32, 256, 512, 784, activation=lib.nn.ReLU)
    optimizer, x = lib.Adam(model.parameters()), lib.tensor(IMAGES)

    def step():
        update(optimizer, lib.F.binary_cross_entropy_with_logits(model(x), x, reduction="sum") / len(x))
    return step


def vae(lib):
    class VAE(lib.nn.Module):
        def __init__(self):
            self.hidden, self.mean, self.logvar = lib.nn.Linear(784, 400), lib.nn.Linear(400, 20), lib.nn.Linear(400, 20)
            self.decoder = mlp(lib, 20, 400, 784, activation=lib.nn.ReLU)

        def forward(self, x):
            h = lib.F.relu(self.hidden(x))
            mean, logvar = self.mean(h), self.logvar(h)
            z = mean + lib.tg.exp(logvar / 2) * lib.randn(len(x), 20)
            return self.decoder(z), mean, logvar

    model, x = VAE(), lib.tensor(IMAGES)
    optimizer = lib.Adam(model.parameters())

    def step():
        logits, mean, logvar = model(x)
        kl = 0.5 * (mean**2 + lib.tg.exp(logvar) - 1 - logvar).sum()
        update(optimizer, (lib.F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl) / len(x))
    return step


def gan(lib):
    leaky = lambda: lib.nn.LeakyReLU(0.2)
    G = mlp(lib, 64, 256, 512, 784, activation=leaky, last=lib.nn.Tanh())
    D = mlp(lib, 784, 512, 256, 1, activation=leaky)
    return adversarial(lib, G, D, lib.tensor(2 * IMAGES - 1), (len(IMAGES), 64))


def adversarial(lib, G, D, real, latent):
    """One update of the discriminator and one of the generator, non-saturating."""
    optimizer_G, optimizer_D = lib.Adam(G.parameters()), lib.Adam(D.parameters())

    def step():
        fake = G(lib.randn(*latent))
        update(optimizer_D, lib.F.softplus(-D(real)).mean() + lib.F.softplus(D(fake.detach())).mean())
        update(optimizer_G, lib.F.softplus(-D(fake)).mean())
    return step


def wgan_gp(lib, batch=256):
    G, D = (mlp(lib, 2, 128, 128, 128, out, activation=lib.nn.ReLU) for out in (2, 1))
    optimizer_G, optimizer_D = lib.Adam(G.parameters()), lib.Adam(D.parameters())
    real = lib.tensor(rng.standard_normal((batch, 2), dtype=np.float32))

    def step():
        fake, t = G(lib.randn(batch, 2)), lib.rand(batch, 1)
        between = lib.leaf(t * real + (1 - t) * fake.detach())
        slope = lib.grad(D(between).sum(), between)
        penalty = ((lib.tg.sqrt((slope**2).sum(1) + 1e-12) - 1)**2).mean()
        update(optimizer_D, D(fake.detach()).mean() - D(real).mean() + 10 * penalty)
        update(optimizer_G, -D(G(lib.randn(batch, 2))).mean())
    return step


def ddpm(lib, batch=512):
    net = mlp(lib, 2 + 128, 128, 128, 128, 128, 2, activation=lib.nn.SiLU)
    time_features, optimizer = lib.nn.SinusoidalEmbedding(128), lib.Adam(net.parameters())
    x0, abar = lib.tensor(rng.standard_normal((batch, 2), dtype=np.float32)), lib.tensor(np.linspace(1, 0.01, 201, dtype=np.float32))

    def step():
        t, eps = lib.randint(1, 201, batch), lib.randn(batch, 2)
        a = abar[t].reshape(-1, 1)
        xt = lib.tg.sqrt(a) * x0 + lib.tg.sqrt(1 - a) * eps
        update(optimizer, lib.F.mse_loss(net(lib.tg.concatenate([xt, time_features(t)], axis=1)), eps))
    return step


def velocity(lib, width=64):
    return mlp(lib, 3, width, width, width, 2, activation=lib.nn.SELU)


def cfm(lib, batch=256, width=64):
    u, x1 = velocity(lib, width), lib.tensor(rng.standard_normal((batch, 2), dtype=np.float32))
    optimizer = lib.Adam(u.parameters())

    def step():
        x0, t = lib.randn(batch, 2), lib.rand(batch, 1)
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
    G = nn.Sequential(nn.Linear(64, 128 * 7 * 7, bias=False), nn.Unflatten(1, (128, 7, 7)), nn.BatchNorm2d(128), nn.ReLU(),
                      nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
                      nn.ConvTranspose2d(64, 1, 4, stride=2, padding=1), nn.Tanh())
    D = nn.Sequential(nn.Conv2d(1, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(64, 128, 4, stride=2, padding=1, bias=False),
                      nn.BatchNorm2d(128), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(128 * 7 * 7, 1))
    return adversarial(lib, G, D, lib.tensor(2 * IMAGES[:batch].reshape(batch, 1, 28, 28) - 1), (batch, 64))


def unet(lib, batch=32):
    """The U-Net of demos/unet.py, its very source, with the library's own layers in place of tinygen's."""
    lines = (DEMOS / "unet.py").read_text().splitlines()
    source = "\n".join(line for line in lines if not line.startswith(("import ", "from ")))
    names = dict(tg=lib.tg, F=lib.F, nn=lib.nn)
    exec(compile(source, "unet.py", "exec"), names)
    model, x1 = names["UNet"](), lib.tensor(2 * IMAGES[:batch].reshape(batch, 1, 28, 28) - 1)
    optimizer, label = lib.Adam(model.parameters()), lib.tensor(np.arange(batch) % 10)

    def step():
        x0, t = lib.randn(batch, 1, 28, 28), lib.rand(batch, 1, 1, 1)
        update(optimizer, lib.F.mse_loss(model((1 - t) * x0 + t * x1, t.reshape(-1), label), x1 - x0))
    return step


TRAINING = {f.__name__: f for f in (ae, vae, gan, wgan_gp, ddpm, cfm, dcgan, unet)}
WORKLOADS = TRAINING | {"sample": sample}


# Measuring ------------------------------------------------------------------------------------------------------------

def turn(lib, step, seconds):
    """The mean time of a step in seconds: a pause in which the other library's threads fall asleep, then as many steps as fit."""
    time.sleep(0.02)
    step()
    lib.wait()
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < seconds:
        step()
        lib.wait()
        count += 1
    return (time.perf_counter() - start) / count


def turns(libraries, workload, repeats, seconds):
    """Times of a step (repeats, libraries), the libraries taking turns."""
    steps = [workload(lib) for lib in libraries]
    for lib, step in zip(libraries, steps):
        turn(lib, step, seconds)                                    # not counted: compilers, caches, memory pools
    return np.array([[turn(lib, step, seconds) for lib, step in zip(libraries, steps)] for _ in range(repeats)])


def compare(libraries, names, repeats, seconds):
    ratios = {}
    print(f"{'workload':10}" + "".join(f"{lib.name:>14}" for lib in libraries) + (f"{'ratio':>8}" if len(libraries) > 1 else ""))
    for name in names:
        times = turns(libraries, WORKLOADS[name], repeats, seconds)
        ratios[name] = statistics.median(times[:, 0] / times[:, -1])
        print(f"{name:10}" + "".join(f"{1e3 * t:11.2f} ms" for t in np.median(times, axis=0)) +
              (f"{ratios[name]:8.2f}" if len(libraries) > 1 else ""), flush=True)
    if len(libraries) > 1:
        print(f"{'geometric mean':38}{math.exp(statistics.mean(map(math.log, ratios.values()))):8.2f}")


def growth(libraries, repeats, seconds):
    """Time of a cfm step against the size of the batch and the width of the network."""
    for fixed, name, sizes in (("width 64", "batch", (64, 256, 1024, 4096)), ("batch 256", "width", (32, 128, 512))):
        print(f"\ncfm step in ms, {fixed}:  " + "   ".join(f"{name} {size}" for size in sizes))
        times = [np.median(turns(libraries, lambda lib: cfm(lib, **{name: size}), repeats, seconds), axis=0) for size in sizes]
        for lib, column in zip(libraries, zip(*times)):
            print(f"{lib.name:>10}" + "".join(f"{1e3 * t:10.2f}" for t in column))


def overhead(libraries, repeats):
    """What an operation costs beside its arithmetic: a chain of products of 8 numbers, forward and backward, per operation."""
    print("\nmicroseconds per operation on 8 numbers, forward and backward, in a chain of 1,000, 10,000, 100,000")
    for lib in libraries:
        a = lib.tensor(np.full(8, 1.0001, dtype=np.float32))

        def chain(n):
            y = lib.leaf(lib.randn(8))
            start = time.perf_counter()
            for _ in range(n):
                y = y * a
            y.sum().backward()
            lib.wait()
            return 1e6 * (time.perf_counter() - start) / n
        print(f"{lib.name:>10}" + "".join(f"{statistics.median(chain(n) for _ in range(k)):10.2f}"
                                          for n, k in ((1000, 20 * repeats), (10_000, 2 * repeats), (100_000, 3))))


def run_python(code, *flags):
    """What a fresh Python prints when it runs this code."""
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True).stdout


def import_time(repeats):
    clock = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    times = np.array([[float(run_python(clock.format(name))) for name in ("numpy", "tinygen")] for _ in range(repeats)])
    print("\nimport: numpy {:.0f} ms, tinygen {:.0f} ms (NumPy's included)".format(*1e3 * np.median(times, axis=0)))


def memory(libraries, names):
    """Megabytes that 20 steps need beyond what the library itself takes, at the peak; and the growth over 1,000 steps of cfm."""
    print(f"\n{'peak MB':10}" + "".join(f"{lib.name:>10}" for lib in libraries))
    code = ("import sys; sys.path.insert(0, {folder!r}); import benchmark as b; lib = b.library({lib!r}, 'cpu'); b.warm(lib); "
            "before = b.peak(); step = b.WORKLOADS[{name!r}](lib); [step() for _ in range(20)]; middle = b.peak(); "
            "[step() for _ in range({more})]; print(middle - before, b.peak() - middle)")
    for name in names:
        found = [run_python(code.format(folder=str(pathlib.Path(__file__).parent), lib=lib.name, name=name, more=1000 * (name == "cfm")))
                 for lib in libraries]
        print(f"{name:10}" + "".join(f"{float(f.split()[0]):10.1f}" for f in found) +
              (f"   after 1,000 more steps: +{float(found[0].split()[1]):.1f} MB" if name == "cfm" else ""))


def peak():
    """The most memory this process has ever held, in MB (Linux; the standard module resource would count its parent's, too)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def warm(lib):
    """One small step of everything, so that what a library loads on first use is not counted as memory of a model."""
    w = lib.leaf(lib.randn(4, 4))
    update(lib.Adam([w]), (lib.randn(4, 4) @ w).sum())


def per_step(workload):
    """Kernels started, and waits of the host, in the second step of a workload, on the backend "strict"."""
    import strict
    step = WORKLOADS[workload](library("tinygen", "cpu"))
    step()
    launches, syncs = strict.count.launches, strict.count.syncs
    step()
    return strict.count.launches - launches, strict.count.syncs - syncs


def launches(names):
    """What a GPU would be asked to do: counted by the strict stand-in for CuPy, which needs none."""
    import strict  # noqa: F401, makes the backend known
    before = backend.name()
    backend.use("strict")
    print("\non a GPU, per step: kernel launches, waits of the host")
    for name in names:
        print(f"{name:10}" + "".join(f"{number:10d}" for number in per_step(name)))
    backend.use(before)


def library(name, device):
    return tinygen_library() if name == "tinygen" else torch_library(device)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"of {', '.join(WORKLOADS)} (default: all)")
    parser.add_argument("--backend", default="numpy", choices=["numpy", "cupy"])
    parser.add_argument("--only", choices=["tinygen", "torch"], help="measure one library alone")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each library (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of a turn (default: %(default)s)")
    parser.add_argument("--speed", action="store_true", help="the times of the workloads, and nothing else")
    args = parser.parse_args()
    names = args.workloads or list(WORKLOADS)
    wrong = [name for name in names if name not in WORKLOADS]
    if wrong:
        parser.error(f"there is no workload {wrong[0]}; choose from {', '.join(WORKLOADS)}")
    backend.use(args.backend)
    wanted = [args.only] if args.only else ["tinygen", "torch"]
    if "torch" in wanted and not importlib.util.find_spec("torch"):
        print("PyTorch cannot be imported here (pip install torch): tinygen is measured alone.")
        wanted.remove("torch")
    libraries = [library(name, "cuda" if args.backend == "cupy" else "cpu") for name in wanted]
    compare(libraries, names, args.repeats, args.seconds)
    if not args.speed:
        growth(libraries, 3, args.seconds)
        overhead(libraries, args.repeats)
        import_time(args.repeats)
        if args.backend == "numpy":
            memory(libraries, names)
            launches(list(TRAINING))


if __name__ == "__main__":
    main()
