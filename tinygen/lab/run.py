"""Floor 9: what every demo needs and no lecture talks about: flags, progress, checkpoints, numbers.

    job = run.Job("flow_matching", __doc__, argv, data=("moons", "mnist"), steps=8000, batch=256,
                  lr=1e-3)
    for step in job.train(model=model, optimizer=optimizer):    # resumes, shows progress, saves
        ...
        job.log(loss=loss)
    job.picture(figure, "samples.png")
    job.finish(distance=0.03)
"""
import argparse
import json
import math
import os
import shutil
import signal
import sys
import time

import numpy as np

from .. import backend
from ..backend import TinygenError, xp
from ..engine import raw
from .data import IMAGES
from .files import load, save, write_atomically

SHEETS = 8        # pictures of samples that a run draws on its way, where it has such a picture
CHECKPOINTS = 20  # in a run; as many lines of the log, where the output is no terminal


class Job:
    """One run of a demo: it parses the flags, chooses the backend, seeds the random numbers.

    name    of the demo, and of its folder out/NAME
    doc     the demo's docstring, shown by --help
    data    the data sets it takes, the default first
    steps, batch, lr   defaults; a dict {"toys": ..., "images": ...} where they depend on the data
    quick   training steps with --quick
    exact   whether the demo can overlay the exact solution
    flags   further flags, {"--name": keywords of argparse's add_argument}; the default is added to
            the help

    The parsed flags are job.args, with .kind "toys" or "images"; values logged so far are
    job.history. The output folder is made, with run.json (the flags), when training begins.
    """

    def __init__(self, name, doc, argv=None, *, data, steps, batch, lr, quick=20, exact=False,
                 flags=None):
        self.name = name
        self.history = {}
        self.seconds = 0.0
        self.pictures = set()
        self._pending = {}
        defaults = dict(steps=steps, batch=batch, lr=lr)
        self.args = args = _parse(name, doc, argv, data, defaults, exact, flags or {})
        args.kind = "images" if args.data in IMAGES else "toys"
        if args.quick:
            defaults["steps"] = quick
        for key, default in defaults.items():
            if getattr(args, key) is None:
                setattr(args, key, default[args.kind] if isinstance(default, dict) else default)
        if args.backend != backend.name():
            backend.use(args.backend)
        backend.manual_seed(args.seed)
        self.folder = args.out or os.path.join("out", name)
        print(f"{name}: {args.data}, {args.steps} steps of {args.batch}, {backend.name()} -> "
              f"{self.folder}/")

    def path(self, file):
        """Where a file of this run is written."""
        return os.path.join(self.folder, file)

    # Training

    def train(self, show=None, **parts):
        """Yield 0, 1, ..., steps - 1. parts (anything with state_dict) are saved and resumed.

        show   a function without arguments that draws a figure: SHEETS times a run it is written
               to samples_STEP.png

        Everything that a step depends on is in the checkpoint: the parts, the random numbers, the
        step, the log. A run that was stopped at any moment and resumed ends with the very numbers
        of one that never stopped.
        """
        reserved = {"setup", "step", "rng", "history", "seconds"} & set(parts)
        if reserved:
            raise TinygenError(f"A part of a run cannot be called {', '.join(reserved)}: the "
                               "checkpoint keeps its own things there.")
        steps = self.args.steps
        first = self._restore(parts) if self.args.resume else 0
        self._write("run.json", vars(self.args))
        interval = max(1, steps // CHECKPOINTS)
        interrupted = []
        previous = _on_interrupt(lambda *_: interrupted.append(True))
        start, before = time.perf_counter(), self.seconds
        try:
            for step in range(first, steps):
                yield step
                done = step + 1
                milestone = done % interval == 0 or done == steps
                self.seconds = before + time.perf_counter() - start
                if show and done * SHEETS // steps > step * SHEETS // steps:
                    self.picture(show(), f"samples_{done:0{len(str(steps))}d}.png")
                if milestone or interrupted:
                    self._collect()
                    self._save(parts, done)
                rate = (done - first) / (self.seconds - before)
                self._progress(done, steps, rate, milestone)
                if interrupted:
                    print(f"\nStopped after step {done}; the same command with --resume continues "
                          "from there.")
                    raise SystemExit(130)
            refuse_diverged({name: values[-1] for name, values in self.history.items()})
            print("  trained; now the pictures and the numbers ...", flush=True)
        finally:
            _on_interrupt(previous)

    def log(self, **values):
        """Remember values of this step, 0-d Tensors or numbers; the host does not wait for them."""
        for name, value in values.items():
            self._pending.setdefault(name, []).append(raw(value))

    def last(self, name):
        """The mean of the last tenth of what was logged under this name."""
        values = self.history[name]
        return float(np.mean(values[-max(1, len(values) // 10):]))

    def _collect(self):
        for name, values in self._pending.items():
            values = backend.to_numpy(xp.stack([xp.asarray(v) for v in values]))
            self.history.setdefault(name, []).extend(values.tolist())
        self._pending = {}

    def _progress(self, done, steps, rate, milestone):
        terminal = sys.stdout.isatty()
        if not milestone and not (terminal and done % max(1, int(rate / 5)) == 0):
            return
        values = "  ".join(f"{name} {np.mean(v[-100:]):.4f}" for name, v in self.history.items()
                           if np.ndim(v) == 1)
        left = (steps - done) / rate if rate else 0
        line = f"  step {done}/{steps}  {values}  {rate:.0f} steps/s  {left:.0f} s left"
        if terminal:
            width = shutil.get_terminal_size().columns - 1  # a longer line is not overwritten
            end = "\n" if done == steps else ""
            print(f"\r{line[:width]:<{width}}", end=end, flush=True)
        else:
            print(line, flush=True)

    # Checkpoints

    def _setup(self):
        """The flags that a checkpoint must have been made with."""
        ignored = ("kind", "steps", "out", "resume", "data_dir", "backend", "exact", "quick")
        return {key: value for key, value in vars(self.args).items() if key not in ignored}

    def _save(self, parts, step):
        history = {name: np.asarray(values) for name, values in self.history.items()}
        own = {"setup": self._setup(), "step": step, "seconds": self.seconds,
               "rng": backend.rng_state(), "history": history}
        states = {name: part.state_dict() for name, part in parts.items()}
        save(self.path("checkpoint.npz"), own | states)

    def _restore(self, parts):
        path = self.path("checkpoint.npz")
        state = load(path)
        now = self._setup()
        saved = state.get("setup", {})
        other = [f"--{key.replace('_', '-')} {saved.get(key)}" for key in now
                 if saved.get(key) != now[key]]
        missing = [key for key in parts if key not in state]
        if other or missing:
            how = f"with {' '.join(other)}" if other else f"without {', '.join(missing)}"
            raise TinygenError(f"{path} was made {how}: resume with the same flags, or leave "
                               "--resume out to start again.")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self.history = {name: values.tolist() for name, values in state["history"].items()}
        backend.set_rng_state(state["rng"])
        self.seconds = state["seconds"]
        print(f"  resumed at step {state['step']}")
        return state["step"]

    # Results

    def _write(self, file, numbers):
        content = json.dumps(numbers, indent=1) + "\n"
        write_atomically(self.path(file), lambda f: f.write(content.encode()))

    def picture(self, figure, file):
        """Write a matplotlib figure as a PNG of this run."""
        write_atomically(self.path(file), lambda f: figure.savefig(f, format="png"))
        self.pictures.add(file)

    def animation(self, figure, draw, frames, file, rate=10):
        """Write a GIF: draw(frame) changes the figure, for each of frames; rate is per second."""
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
        """Print the numbers and write them to metrics.json, a flat object of floats.

        The seconds of training are among them.
        """
        metrics = {name: float(value)
                   for name, value in {**metrics, "seconds": self.seconds}.items()}
        refuse_diverged(metrics)
        self._write("metrics.json", metrics)
        width = max(map(len, metrics))
        print("\n".join(f"  {name:<{width}}  {value:.6g}" for name, value in metrics.items()))
        if self.pictures:
            print(f"  pictures in {self.folder}/: {', '.join(sorted(self.pictures))}")
        return metrics


def refuse_diverged(values):
    """Raise TinygenError if any of these named numbers or arrays is not finite."""
    bad = [name for name, value in values.items() if not np.isfinite(value).all()]
    if bad:
        raise TinygenError(f"{', '.join(bad)} came out as NaN or Inf: the training has diverged, "
                           "try a lower --lr (tg.debug() finds the first bad operation).")


# Flags --------------------------------------------------------------------------------------------

def number(kind, least):
    """The type of a flag that needs an int or a float of at least `least`."""
    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not value >= least:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} of at least {least}")
        return value
    return read


def _parse(name, doc, argv, data, defaults, exact, flags):
    own = {key: f"{value['toys']}; images: {value['images']}" if isinstance(value, dict) else value
           for key, value in defaults.items()}
    parser = argparse.ArgumentParser(prog=f"python demos/{name}.py", description=doc,
                                     allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--backend", choices=list(backend.LIBRARIES), default=backend.name(),
        help="where to compute")
    add("--seed", type=number(int, 0), default=0, help="of all random numbers (default: 0)")
    add("--steps", type=number(int, 1), help=f"training steps (default: {own['steps']})")
    add("--batch", type=number(int, 1), help=f"samples per step (default: {own['batch']})")
    add("--lr", type=number(float, 0), help=f"learning rate (default: {own['lr']})")
    add("--data", choices=data, default=data[0], help="data set (default: %(default)s)")
    add("--data-dir", help="folder with the files of mnist or fashion_mnist (default: "
                           "$TINYGEN_DATA, else download)")
    add("--out", help=f"output folder (default: out/{name})")
    add("--quick", action="store_true", help="a few seconds, to see that everything works")
    add("--resume", action="store_true", help="continue from checkpoint.npz in the output folder")
    if exact:
        add("--exact", action="store_true",
            help="overlay the exact solution and write the gap to metrics.json")
    for flag, keywords in flags.items():
        text = keywords.get("help", "") + (" (default: %(default)s)" if "default" in keywords
                                           else "")
        add(flag, **keywords | {"help": text})
    return parser.parse_args(argv)


def _on_interrupt(handler):
    """Install a handler for Ctrl-C, returning the one before; in a thread there is none."""
    try:
        return signal.signal(signal.SIGINT, handler)
    except ValueError:
        return None


def main(demo):
    """Run a demo's main(). Errors the user can fix are printed in a sentence, with exit code 2."""
    try:
        demo()
    except TinygenError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output is gone, as in `python demos/gmm.py | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
