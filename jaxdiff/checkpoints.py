"""Checkpoints that can be trusted: Orbax writes the arrays, a SHA-256 manifest says that they are whole.

The manifest is written last, by rename. A step without a matching manifest does not exist.
"""

from collections.abc import Callable

import jax
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from jaxdiff import files


def save(folder: epath.PathLike, step: int, state: PyTree, keep: int = 2) -> None:
    """Save `state` (arrays in dicts, tuples and dataclasses) as `step`, then remove all but the newest `keep`.

    Raises OSError where the disk refuses.
    """
    folder = epath.Path(folder)
    _forget(folder, step)  # what a broken save may have left
    ocp.save(_path(folder, step), _as_dict(state))
    files.write_json(folder / f"{step}.json", files.checksums(folder, [str(step)]))
    for old in steps(folder)[:-keep]:
        _forget(folder, old)


def steps(folder: epath.PathLike) -> list[int]:
    """The steps that have a manifest, in ascending order."""
    folder = epath.Path(folder)
    names = [path.stem for path in folder.iterdir() if path.suffix == ".json"] if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def is_whole(folder: epath.PathLike, step: int) -> bool:
    """Whether every file of the step is there and has the bytes that were written."""
    folder = epath.Path(folder)
    try:
        return files.read_json(folder / f"{step}.json") == files.checksums(folder, [str(step)])
    except (OSError, ValueError):
        return False


def newest(folder: epath.PathLike, broken: Callable[[int], None] = lambda step: None) -> int | None:
    """The newest whole step, None where there is none; `broken` is told of every newer step that is not whole."""
    for step in reversed(steps(folder)):
        if is_whole(folder, step):
            return step
        broken(step)
    return None


def restore(folder: epath.PathLike, step: int, like: PyTree) -> PyTree:
    """The state of a step, with the structure, types and shardings of `like` (never those that were saved)."""
    abstract = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for n, x in _as_dict(like).items()}
    leaves = ocp.load(_path(folder, step), abstract)
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in _as_dict(like)])


def restore_part(folder: epath.PathLike, step: int, part: str) -> dict[str, jax.Array]:
    """One field of the saved state that is a flat dict of arrays (`ema`), on the default device."""
    path, device = _path(folder, step), jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    saved = ocp.metadata(path).metadata
    abstract = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device) for name, leaf in saved.items()}
    leaves = ocp.load(path, abstract)
    return {name.removeprefix(f"{part}/"): leaf for name, leaf in leaves.items() if name.startswith(f"{part}/")}


def _path(folder: epath.PathLike, step: int) -> epath.Path:
    """Orbax refuses relative paths."""
    return epath.Path(folder).resolve() / str(step)


def _as_dict(tree: PyTree) -> dict:
    """A flat dict by path: Orbax changes the types of nested containers, and a flat dict has none."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _forget(folder: epath.Path, step: int) -> None:
    (folder / f"{step}.json").unlink(missing_ok=True)  # first: without it the step does not exist
    if (folder / str(step)).exists():
        (folder / str(step)).rmtree()
