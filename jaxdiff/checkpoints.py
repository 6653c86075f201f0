"""Checkpoints that can be trusted: Orbax writes the arrays, a SHA-256 manifest says that they are whole.

The manifest is written last, by rename. A step without a matching manifest does not exist.
"""

import dataclasses
import logging
import os
import re

import jax
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from jaxdiff import files, parallel

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which steps stay when a new one is saved: the newest `last`, multiples of `every` (0: none), and, where
    `log_spaced` is set (0: none), that many steps times 1, 2, 4, 8, ..."""

    last: int = 2
    every: int = 0
    log_spaced: int = 0

    def __call__(self, steps: list[int]) -> set[int]:
        doubled = {self.log_spaced << i for i in range(64)} if self.log_spaced else set()
        return {
            s
            for s in steps
            if s in steps[-self.last :] or s in doubled or (self.every and s % self.every == 0)
        }


def save(folder: epath.PathLike, step: int, state: PyTree, keep: Keep = Keep()) -> None:
    """Save `state` (arrays in dicts, tuples and dataclasses) as `step`, then remove what `keep` does not name.

    A collective call where several processes run. Raises OSError where the disk refuses; the steps that were there stay.
    """
    folder = epath.Path(folder)
    parallel.by_leader(
        f"forget {step}", lambda: _forget(folder, step)
    )  # what a broken save may have left
    try:
        ocp.save(_path(folder, step), _as_dict(state))
        parallel.by_leader(f"manifest {step}", lambda: _finish(folder, step, keep))
    except (OSError, ValueError) as error:
        code = _os_error(error)
        if code is None:
            raise
        _forget(folder, step)
        last = max(steps(folder), default=None)
        whole = "no step is saved yet" if last is None else f"step {last} is whole"
        raise OSError(
            f"step {step} cannot be saved in {folder} ({os.strerror(code)}); {whole}, and the same command goes on from "
            "there once the disk can be written"
        ) from None


def _finish(folder: epath.Path, step: int, keep: Keep) -> None:
    files.write_json(folder / f"{step}.json", files.checksums(folder, [str(step)]))
    there = steps(folder)
    for old in set(there) - keep(there):
        _forget(folder, old)


def _os_error(error: Exception) -> int | None:
    """The operating system's error number; Orbax's writer has it in the text of a ValueError."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else None


def steps(folder: epath.PathLike) -> list[int]:
    """The steps that have a manifest, in ascending order."""
    folder = epath.Path(folder)
    names = (
        [path.stem for path in folder.iterdir() if path.suffix == ".json"]
        if folder.exists()
        else []
    )
    return sorted(int(name) for name in names if name.isdigit())


def damage(folder: epath.PathLike, step: int) -> str | None:
    """What is wrong with a step, naming the first file that is missing, new, or has other bytes than its manifest says."""
    folder = epath.Path(folder)
    if not (folder / f"{step}.json").exists():
        return "it was never finished, or its manifest is missing"
    try:
        wanted, found = (
            files.read_json(folder / f"{step}.json"),
            files.checksums(folder, [str(step)]),
        )
    except (OSError, ValueError) as error:
        return str(error)
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if wanted.get(name) != found[name]:
            return f"{name} has other bytes than its manifest says"
    return None


def newest(folder: epath.PathLike) -> int | None:
    """The newest whole step, None where there is none; every newer step that is not whole is named by a warning."""
    folder = epath.Path(folder)
    begun = (
        {int(path.name) for path in folder.iterdir() if path.name.isdigit()}
        if folder.exists()
        else set()
    )
    for step in sorted(begun | set(steps(folder)), reverse=True):
        found = damage(folder, step)
        if found is None:
            return step
        log.warning(
            "the checkpoint of step %d in %s is damaged and not used: %s", step, folder, found
        )
    return None


def restore(folder: epath.PathLike, step: int, like: PyTree) -> PyTree:
    """The state of a step, with the structure, types and shardings of `like` (never those that were saved)."""
    abstract = {
        n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        for n, x in _as_dict(like).items()
    }
    leaves = ocp.load(_path(folder, step), abstract)
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in _as_dict(like)])


def restore_part(folder: epath.PathLike, step: int, part: str) -> dict[str, jax.Array]:
    """One field of the saved state that is a flat dict of arrays (`ema`), on this process's first device.

    Unlike the other calls it may be made by one process of several alone.
    """
    path, device = _path(folder, step), jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    with ocp.Context(multiprocessing_options=alone):
        saved = ocp.metadata(path).metadata
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
            for name, leaf in saved.items()
        }
        leaves = ocp.load(path, abstract)
    return {
        name.removeprefix(f"{part}/"): leaf
        for name, leaf in leaves.items()
        if name.startswith(f"{part}/")
    }


def _path(folder: epath.PathLike, step: int) -> epath.Path:
    """Orbax refuses relative paths."""
    return epath.Path(folder).resolve() / str(step)


def _as_dict(tree: PyTree) -> dict:
    """A flat dict by path: Orbax changes the types of nested containers, and a flat dict has none."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _forget(folder: epath.Path, step: int) -> None:
    (folder / f"{step}.json").unlink(missing_ok=True)  # first: without it the step does not exist
    for place in (folder / str(step), folder / f"{step}.orbax-checkpoint-tmp"):
        if place.exists():
            place.rmtree()
