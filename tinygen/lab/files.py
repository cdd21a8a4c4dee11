"""Floor 7: files that are written whole or not at all, and read only if they are sound."""
import json
import math
import os
import pathlib
import zipfile

import numpy as np

from .. import backend
from ..backend import TinygenError, xp
from ..engine import Tensor


def cache_folder():
    """Where rendered and downloaded data are kept.

    $TINYGEN_CACHE, else $XDG_CACHE_HOME/tinygen, else ~/.cache/tinygen
    """
    own, common = os.environ.get("TINYGEN_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(os.path.expanduser(own or os.path.join(common, "tinygen")))


def replace_file(path, write):
    """Let write(file) fill a new file next to `path`, and rename it once all is on disk."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # two processes do not collide
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path, write):
    """replace_file() for the output of a run: what goes wrong is one sentence."""
    try:
        replace_file(path, write)
    except OSError as error:
        raise TinygenError(f"Cannot write {path}: {error.strerror}; free some space, or choose "
                           "another folder with --out.") from None


# Trees of arrays ----------------------------------------------------------------------------------

def save(path, tree):
    """Write a tree as one .npz; see load().

    tree   dicts and lists of arrays, Tensors, numbers, strings, booleans and None
    """
    arrays = {}

    def skeleton(x, name):
        if isinstance(x, dict) and all(isinstance(k, str) for k in x):
            return {"dict": {k: skeleton(v, f"{name}/{k}" if name else k) for k, v in x.items()}}
        if isinstance(x, (list, tuple)):
            return {"list": [skeleton(v, f"{name}/{i}") for i, v in enumerate(x)]}
        if x is None or isinstance(x, (bool, int, float, str)):
            return x
        if isinstance(x, (Tensor, xp.ndarray, np.ndarray, np.generic)):
            if x.dtype.kind in "fiub" and name not in arrays:
                arrays[name] = backend.to_numpy(x)
                return {"array": name}
        raise TinygenError(f"Cannot save {name or 'this'}: it is a {type(x).__name__}, and only "
                           "dicts with strings as keys, lists, arrays of numbers (each under a "
                           "name of its own), Tensors, numbers and strings can be saved.")

    members = {"tree.json": json.dumps(skeleton(tree, ""))}
    members |= {f"{name}:": array for name, array in arrays.items()}
    write_atomically(path, lambda file: np.savez(file, **members))


def load(path):
    """Read what save() wrote. Arrays come back as NumPy arrays. Nothing in the file is executed."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return _built(json.loads(str(file["tree.json"])), file)
    except FileNotFoundError:
        raise TinygenError(
            f"There is no file {path}: check the path, or train first to make it.") from None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError,
            NotImplementedError, zipfile.BadZipFile) as error:
        raise TinygenError(f"{path} is damaged or was not written by tinygen "
                           f"({type(error).__name__}: {error}): delete it and make it again."
                           ) from None


def _built(x, file):
    """The tree of a skeleton, with the arrays of the file."""
    if not isinstance(x, dict):
        return x
    (kind, value), = x.items()
    if kind == "array":
        return file[f"{value}:"]
    if kind == "dict":
        return {k: _built(v, file) for k, v in value.items()}
    return [_built(v, file) for v in value]


# IDX, the format of MNIST -------------------------------------------------------------------------

def read_idx(path, axes, source):
    """The bytes of an IDX file, gzipped or not, as a uint8 array of that many axes.

    IDX: two zero bytes, the type of the entries (8 = unsigned byte), the number of axes, the length
    of each axis as a big-endian 32-bit integer, then the entries in C order.

    source   where a sound copy is found, for the error
    """
    import gzip  # here, because most runs read no such file
    import zlib

    def refuse(why):
        raise TinygenError(f"{path} {why}: put a sound copy of {source} in its place.")

    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        refuse(f"cannot be read ({type(error).__name__}: {error})")
    if content[:2] != b"\0\0" or len(content) < 4:
        first = content[:4].hex(" ") or "nothing"
        refuse(f"is not an IDX file (it begins with {first} instead of 00 00)")
    if content[2:4] != bytes([8, axes]):
        refuse(f"holds entries of type {content[2]} on {content[3]} axes instead of unsigned "
               f"bytes (8) on {axes}")
    start = 4 + 4 * axes
    if len(content) < start:
        refuse("ends within its header")
    shape = tuple(np.frombuffer(content, dtype=">u4", count=axes, offset=4).tolist())
    if shape[0] < 1 or shape[1:] != (28, 28)[:axes - 1]:
        refuse(f"holds an array of shape {shape} instead of images of 28 x 28 pixels or at least "
               "one label")
    needed = start + math.prod(shape)
    if len(content) != needed:
        what = "cut short" if len(content) < needed else "too long"
        refuse(f"is {what}: the shape {shape} needs {needed:,} bytes, not {len(content):,}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
