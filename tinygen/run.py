"""Floor 5: what every demo needs and no lecture talks about: flags, progress, checkpoints, numbers on disk.

    job = run.Job("flow_matching", __doc__, argv, data=("moons", "mnist"), steps=8000, batch=256, lr=1e-3)
    for step in job.train(model=model, optimizer=optimizer):     # resumes, shows progress, saves checkpoints
        ...
        job.log(loss=loss)
    job.picture(figure, "samples.png")
    job.finish(distance=0.03)
"""
import json
import os
import shutil
import signal
import sys
import time
import zipfile

import numpy as np

from . import backend
from .backend import TinygenError, xp
from .data import IMAGES, replace_file
from .tensor import Tensor


# Files that are written whole or not at all ---------------------------------------------------------------------------

def write_atomically(path, write):
    """Call write(file) on a temporary file beside path, and rename it to path once all is on disk."""
    try:
        replace_file(path, write)
    except OSError as error:
        raise TinygenError(f"Cannot write {path}: {error.strerror}; free some space, or choose another folder with --out.") from None


def save(path, tree):
    """Write a tree of dicts and lists of arrays, Tensors, numbers, strings, booleans and None as one .npz; see load()."""
    arrays = {}

    def skeleton(x, name):
        if isinstance(x, dict) and all(isinstance(k, str) for k in x):
            return {"dict": {k: skeleton(v, f"{name}/{k}" if name else k) for k, v in x.items()}}
        if isinstance(x, (list, tuple)):
            return {"list": [skeleton(v, f"{name}/{i}") for i, v in enumerate(x)]}
        if x is None or isinstance(x, (bool, int, float, str)):
            return x
        if isinstance(x, (Tensor, xp.ndarray, np.ndarray, np.generic)) and x.dtype.kind in "fiub" and name not in arrays:
            arrays[name] = backend.to_numpy(x)
            return {"array": name}
        raise TinygenError(f"Cannot save {name or 'this'}: it is a {type(x).__name__}, and only dicts with strings as keys, lists, "
                           "arrays of numbers (each under a name of its own), Tensors, numbers and strings can be saved.")

    text = json.dumps(skeleton(tree, ""))
    write_atomically(path, lambda file: np.savez(file, **{"tree.json": text}, **{f"{k}:": v for k, v in arrays.items()}))


def load(path):
    """Read what save() wrote; arrays come back as NumPy arrays. Nothing in the file is executed."""
    try:
        with np.load(path, allow_pickle=False) as file:
            def build(x):
                if not isinstance(x, dict):
                    return x
                (kind, value), = x.items()
                if kind == "array":
                    return file[f"{value}:"]
                return {k: build(v) for k, v in value.items()} if kind == "dict" else [build(v) for v in value]
            return build(json.loads(str(file["tree.json"])))
    except FileNotFoundError:
        raise TinygenError(f"There is no file {path}: check the path, or train first to make it.") from None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise TinygenError(f"{path} is damaged or was not written by tinygen ({type(error).__name__}: {error}): "
                           "delete it and make it again.") from None


# The demo runner ------------------------------------------------------------------------------------------------------

SHEETS = 8        # pictures of samples that a run draws on its way, where it has such a picture
CHECKPOINTS = 20  # checkpoints, and lines of the log where the output is no terminal, per run


class Job:
    """One run of a demo. Parses the flags, chooses the backend, seeds the random numbers; later trains, draws, measures.

    name    of the demo, and of its folder out/NAME
    doc     the demo's docstring, shown by --help
    data    the data sets it takes, the default first
    steps, batch, lr   defaults; a dict {"toys": ..., "images": ...} where they depend on the kind of data
    quick   training steps with --quick
    exact   whether the demo can overlay the exact solution
    flags   further flags, {"--name": keywords of argparse's add_argument}; the default is added to the help

    The parsed flags are job.args, with .kind "toys" or "images"; values logged so far are job.history. The output folder
    comes into being with run.json, the flags, when training begins.
    """

    def __init__(self, name, doc, argv=None, *, data, steps, batch, lr, quick=20, exact=False, flags=None):
        self.name, self.history, self.seconds, self._pending, self.pictures = name, {}, 0.0, {}, set()
        defaults = dict(steps=steps, batch=batch, lr=lr)
        self.args = args = _parse(name, doc, argv, data, defaults, exact, flags or {})
        args.kind = "images" if args.data in IMAGES else "toys"
        for key, default in (defaults | ({"steps": quick} if args.quick else {})).items():
            if getattr(args, key) is None:
                setattr(args, key, default[args.kind] if isinstance(default, dict) else default)
        if args.backend != backend.name():
            backend.use(args.backend)
        backend.manual_seed(args.seed)
        self.folder = args.out or os.path.join("out", name)
        print(f"{name}: {args.data}, {args.steps} steps of {args.batch}, {backend.name()} -> {self.folder}/")

    def path(self, file):
        """Where a file of this run goes."""
        return os.path.join(self.folder, file)

    # Training ---------------------------------------------------------------------------------------------------------

    def train(self, show=None, **parts):
        """Yield 0, 1, ..., steps - 1. parts (anything with state_dict) are saved on the way, and restored by --resume.

        show   a function without arguments that draws a figure: SHEETS times a run it goes to samples_STEP.png

        Everything a step depends on is in the checkpoint: the parts, the random numbers, the step, the log. A run that
        was stopped at any moment and resumed ends with the very numbers of one that never stopped.
        """
        reserved = {"setup", "step", "rng", "history", "seconds"} & set(parts)
        if reserved:
            raise TinygenError(f"A part of a run cannot be called {', '.join(reserved)}: the checkpoint keeps its own things there.")
        steps, first = self.args.steps, self._restore(parts) if self.args.resume else 0
        write_atomically(self.path("run.json"), lambda f: f.write(json.dumps(vars(self.args), indent=1).encode()))
        interval = max(1, steps // CHECKPOINTS)
        interrupted = []
        previous = _on_interrupt(lambda *_: interrupted.append(True))
        start, before = time.perf_counter(), self.seconds
        try:
            for step in range(first, steps):
                yield step
                done = step + 1
                self.seconds = before + time.perf_counter() - start
                if show and (done * SHEETS // steps > step * SHEETS // steps):
                    self.picture(show(), f"samples_{done:0{len(str(steps))}d}.png")
                if done % interval == 0 or done == steps or interrupted:
                    self._collect()
                    self._save(parts, done)
                self._progress(done, steps, (done - first) / (self.seconds - before), done % interval == 0 or done == steps)
                if interrupted:
                    print(f"\nStopped after step {done}; the same command with --resume goes on from there.")
                    raise SystemExit(130)
            _refuse_diverged({name: values[-1] for name, values in self.history.items()})
            print("  trained; now the pictures and the numbers ...", flush=True)
        finally:
            _on_interrupt(previous)

    def log(self, **values):
        """Remember values of this step (0-d Tensors or numbers). Nothing is read back from a GPU until it is shown."""
        for name, value in values.items():
            self._pending.setdefault(name, []).append(value.data if isinstance(value, Tensor) else value)

    def last(self, name):
        """The mean of the last tenth of what was logged under this name."""
        values = self.history[name]
        return float(np.mean(values[-max(1, len(values) // 10):]))

    def _collect(self):
        for name, values in self._pending.items():
            self.history.setdefault(name, []).extend(np.asarray(backend.to_numpy(xp.stack([xp.asarray(v) for v in values]))).tolist())
        self._pending = {}

    def _progress(self, done, steps, rate, milestone):
        terminal = sys.stdout.isatty()
        if not milestone and not (terminal and done % max(1, int(rate / 5)) == 0):
            return
        values = "  ".join(f"{name} {np.mean(v[-100:]):.4f}" for name, v in self.history.items() if np.ndim(v) == 1)
        left = (steps - done) / rate if rate else 0
        line = f"  step {done}/{steps}  {values}  {rate:.0f} steps/s  {left:.0f} s left"
        width = shutil.get_terminal_size().columns - 1  # a longer line could not be overwritten
        print(f"\r{line[:width]:<{width}}" if terminal else line, end="" if terminal and done < steps else "\n", flush=True)

    def _setup(self):
        """The flags that a checkpoint must have been made with."""
        ignored = ("kind", "steps", "out", "resume", "data_dir", "backend", "exact", "quick")
        return {key: value for key, value in vars(self.args).items() if key not in ignored}

    def _save(self, parts, step):
        own = {"setup": self._setup(), "step": step, "seconds": self.seconds, "rng": backend.rng_state(),
               "history": {name: np.asarray(values) for name, values in self.history.items()}}
        save(self.path("checkpoint.npz"), {**own, **{name: part.state_dict() for name, part in parts.items()}})

    def _restore(self, parts):
        path = self.path("checkpoint.npz")
        state = load(path)
        saved, now = state.get("setup", {}), self._setup()
        other = [f"--{key.replace('_', '-')} {saved.get(key)}" for key in now if saved.get(key) != now[key]]
        missing = [key for key in parts if key not in state]
        if other or missing:
            raise TinygenError(f"{path} was made {'with ' + ' '.join(other) if other else 'without ' + ', '.join(missing)}: resume "
                               "with the same flags, or leave --resume out to start again.")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self.history = {name: values.tolist() for name, values in state["history"].items()}
        backend.set_rng_state(state["rng"])
        self.seconds = state["seconds"]
        print(f"  resumed at step {state['step']}")
        return state["step"]

    # Results ----------------------------------------------------------------------------------------------------------

    def picture(self, figure, file):
        """Write a matplotlib figure as a PNG of this run."""
        write_atomically(self.path(file), lambda f: figure.savefig(f, format="png"))
        self.pictures.add(file)

    def animation(self, figure, draw, frames, file, rate=10):
        """Write a GIF of this run: draw(frame) changes the figure, for each of frames; rate in pictures per second."""
        from matplotlib.animation import PillowWriter
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        temporary = self.path(f".{file}")
        FigureCanvasAgg(figure)
        writer = PillowWriter(fps=rate)
        with writer.saving(figure, temporary, dpi=80):
            for frame in frames:
                draw(frame)
                writer.grab_frame()
        os.replace(temporary, self.path(file))
        self.pictures.add(file)

    def finish(self, **metrics):
        """Print the numbers and write them to metrics.json, a flat object of floats; the seconds of training are among them."""
        metrics = {name: float(value) for name, value in {**metrics, "seconds": self.seconds}.items()}
        _refuse_diverged(metrics)
        write_atomically(self.path("metrics.json"), lambda f: f.write((json.dumps(metrics, indent=1) + "\n").encode()))
        width = max(map(len, metrics), default=0)
        print("\n".join(f"  {name:<{width}}  {value:.6g}" for name, value in metrics.items()))
        if self.pictures:
            print(f"  pictures in {self.folder}/: {', '.join(sorted(self.pictures))}")
        return metrics


def _refuse_diverged(values):
    """Raise TinygenError if any of these named numbers or arrays is not finite."""
    bad = [name for name, value in values.items() if not np.isfinite(value).all()]
    if bad:
        raise TinygenError(f"{', '.join(bad)} came out as NaN or Inf: the training has diverged, try a lower --lr "
                           "(tg.debug() finds the first bad operation).")


def number(kind, least):
    """The type of a flag that wants an int or a float of at least `least`."""
    import argparse

    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not value >= least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number of at least {least}")
        return value
    return read


def _parse(name, doc, argv, data, defaults, exact, flags):
    import argparse

    own = {key: f"{value['toys']}; images: {value['images']}" if isinstance(value, dict) else value for key, value in defaults.items()}
    parser = argparse.ArgumentParser(prog=f"python demos/{name}.py", description=doc, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=list(backend.LIBRARIES), default=backend.name(), help="where to compute")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="of all random numbers (default: %(default)s)")
    parser.add_argument("--steps", type=number(int, 1), help=f"training steps (default: {own['steps']})")
    parser.add_argument("--batch", type=number(int, 1), help=f"samples per step (default: {own['batch']})")
    parser.add_argument("--lr", type=number(float, 0), help=f"learning rate (default: {own['lr']})")
    parser.add_argument("--data", choices=data, default=data[0], help="data set (default: %(default)s)")
    parser.add_argument("--data-dir", help="folder with the files of mnist or fashion_mnist (default: $TINYGEN_DATA, else download)")
    parser.add_argument("--out", help=f"output folder (default: out/{name})")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that everything works")
    parser.add_argument("--resume", action="store_true", help="go on from checkpoint.npz in the output folder")
    if exact:
        parser.add_argument("--exact", action="store_true", help="overlay the exact solution and write the gap to metrics.json")
    for flag, keywords in flags.items():
        parser.add_argument(flag, **keywords | {"help": keywords.get("help", "") + " (default: %(default)s)" * ("default" in keywords)})
    return parser.parse_args(argv)


def _on_interrupt(handler):
    """Install a handler for Ctrl-C, returning the one before; in a thread there is none to install."""
    try:
        return signal.signal(signal.SIGINT, handler)
    except ValueError:
        return None


def main(demo):
    """Run a demo's main(); what the user can mend is said in one sentence on stderr, with exit code 2."""
    try:
        demo()
    except TinygenError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output has gone, as in `python demos/gmm.py | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
