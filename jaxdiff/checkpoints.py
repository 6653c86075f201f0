"""Checkpoints with integrity checks: Orbax writes the arrays, a SHA-256 manifest their digests.

The manifest is written last, by rename. A step without a matching manifest does not exist, and
every read compares the step with it.
"""

import dataclasses
import errno
import logging
import os
import re
from collections.abc import Collection
from typing import Any

import jax
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from jaxdiff import files, parallel

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RetentionPolicy:
    """Which checkpoints are kept when a new one is saved.

    A step that was saved out of turn, on SIGTERM, is kept only while it is the newest: after a
    resume there are those of a run without a break.

    Parameters
    ----------
    last
        Keep this many of the newest steps.
    every
        Keep multiples of this number of steps; 0 keeps none.
    log_spaced
        Keep this number of steps times 1, 2, 4, 8, ...; 0 keeps none.
    also
        Keep these steps.
    interval
        Steps from one checkpoint to the next; 0 where every step is in turn.
    end
        The last step, which is in turn too.
    """

    last: int = 2
    every: int = 0
    log_spaced: int = 0
    also: tuple[int, ...] = ()
    interval: int = 0
    end: int = 0

    def select(self, steps: list[int]) -> set[int]:
        """The steps to keep, of steps in ascending order."""
        in_turn = [step for step in steps if self._is_in_turn(step)]
        kept = {*in_turn[-self.last :], *filter(self._is_milestone, in_turn)}
        return kept | set(steps[-1:])

    def _is_in_turn(self, step: int) -> bool:
        is_planned = not self.interval or step % self.interval == 0
        return is_planned or step == self.end or step in self.also

    def _is_milestone(self, step: int) -> bool:
        if step in self.also or (self.every and step % self.every == 0):
            return True
        if not self.log_spaced or step % self.log_spaced:
            return False
        return (step // self.log_spaced).bit_count() == 1  # a power of two


def check_folder(folder: epath.PathLike) -> None:
    r"""Check that checkpoints in a folder can be restored.

    Raises
    ------
    ValueError
        Where its path has a character of a file pattern, or a backslash.
    """
    # Orbax looks for its parts by patterns: what it writes there cannot be read again.
    _check_characters(folder, "[]*?\\")


def _check_characters(folder: epath.PathLike, refused: str) -> None:
    path = str(epath.Path(folder).resolve())
    characters = " ".join(character for character in refused if character in path)
    if characters:
        raise ValueError(
            f"the path of a folder of checkpoints must have none of {' '.join(refused)}, got "
            f"{characters} in {folder}; choose another folder or rename it"
        )


def save(
    folder: epath.PathLike, step: int, state: PyTree, policy: RetentionPolicy = RetentionPolicy()
) -> None:
    """Save a state as a step, then delete the steps that the policy does not keep.

    A collective call where several processes run.

    Parameters
    ----------
    folder
        Folder of the checkpoints.
    step
        Number of the step.
    state
        Arrays in dicts, tuples and dataclasses.
    policy
        Which steps are kept.

    Raises
    ------
    ValueError
        Where the path of the folder cannot hold checkpoints.
    OSError
        Where the disk refuses; the steps that were saved before stay.
    """
    check_folder(folder)
    folder = epath.Path(folder)
    arrays = _flatten(state)
    # An interrupted save may have left an unfinished step.
    parallel.on_leader(f"forget {step}", lambda: _delete_step(folder, step))
    try:
        ocp.save(_path(folder, step), arrays)
        names = arrays.keys()
        parallel.on_leader(f"manifest {step}", lambda: _write_manifest(folder, step, names, policy))
    except (OSError, ValueError) as error:
        code = _os_error_code(error)
        if code is None:
            raise
        # Free what the unfinished step takes.
        _delete_step(folder, step)
        last = max((other for other in list_steps(folder) if other < step), default=None)
        valid = "no step is saved yet" if last is None else f"step {last} is valid"
        raise OSError(
            f"step {step} cannot be saved in {folder} ({os.strerror(code)}); {valid}, and the "
            "same command resumes from there once the disk can be written"
        ) from None


def _write_manifest(
    folder: epath.Path, step: int, names: Collection[str], policy: RetentionPolicy
) -> None:
    # A step that cannot be opened must not count as saved.
    with _this_process_alone():
        saved = ocp.metadata(_path(folder, step)).metadata
    if saved is None or saved.keys() != set(names):
        raise OSError(errno.EIO, "what was written cannot be opened again")
    files.write_json(folder / f"{step}.json", files.checksums(folder, [str(step)]))
    steps = list_steps(folder)
    # Steps beyond this one are damaged, or of devices that take other numbers of steps a call:
    # training went on from an older one.
    kept = policy.select([other for other in steps if other <= step])
    # Only now that the new step counts: until then a run would resume from the old ones.
    for other in set(steps) - kept:
        _delete_step(folder, other)


def _os_error_code(error: Exception) -> int | None:
    """The operating system's error number, None where there is none."""
    if isinstance(error, OSError):
        return error.errno
    # Orbax's writer has it in the text of a ValueError.
    match = re.search(r"os_error_code='(\d+)'", str(error))
    return int(match[1]) if match else None


def list_steps(folder: epath.PathLike) -> list[int]:
    """The steps that have a manifest, in ascending order."""
    folder = epath.Path(folder)
    if not folder.exists():
        return []
    stems = [path.stem for path in folder.iterdir() if path.suffix == ".json"]
    return sorted(int(stem) for stem in stems if stem.isdigit())


def find_corruption(folder: epath.PathLike, step: int) -> str | None:
    """What is wrong with a step, None where it is valid.

    The text names the first file that is missing, unexpected, or differs from the manifest.
    """
    folder = epath.Path(folder)
    manifest = folder / f"{step}.json"
    if not manifest.exists():
        return "it was never finished, or its manifest is missing"
    try:
        expected = files.read_json(manifest)
        actual = files.checksums(folder, [str(step)])
    except (OSError, ValueError) as error:
        return str(error)
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            return f"{name} is missing"
        # A file that the manifest lacks is corruption as well.
        if expected.get(name) != actual[name]:
            return f"{name} differs from its manifest"
    return None


def copy_step(source: epath.PathLike, step: int, target: epath.PathLike) -> None:
    """Copy a valid step to another folder of checkpoints; its manifest comes last."""
    source, target = epath.Path(source), epath.Path(target)
    _delete_step(target, step)
    for path in files.walk(source / str(step)):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        path.copy(copy)
    files.write(target / f"{step}.json", (source / f"{step}.json").read_text())


def check_step(folder: epath.PathLike, step: int) -> None:
    """Check that a step has the bytes that were saved.

    Raises
    ------
    ValueError
        Where it has not; the message names the file and the steps that are valid.
    """
    # TensorStore takes a backslash for a slash.
    _check_characters(folder, "\\")
    corruption = find_corruption(folder, step)
    if corruption is None:
        return
    others = [other for other in list_steps(folder) if other != step]
    valid = [str(other) for other in others if find_corruption(folder, other) is None]
    steps = f"(valid: {', '.join(valid) or 'none'})"
    folder = epath.Path(folder)
    if not (folder / str(step)).exists() and not (folder / f"{step}.json").exists():
        raise ValueError(f"{folder} has no checkpoint {step}; take another step {steps}")
    raise ValueError(
        f"checkpoint {step} in {folder} must be as it was saved, but {corruption}; take another "
        f"step {steps}, delete {step} and {step}.json to go on without it, or train again with "
        "experiments.sweep --redo train"
    )


def check_steps(folder: epath.PathLike) -> None:
    """Check every step that is kept, as `check_step` does."""
    for step in list_steps(folder):
        check_step(folder, step)


def latest_valid_step(folder: epath.PathLike, divisor: int = 1) -> int | None:
    """The newest valid step of those that a number divides, None where there is none.

    A warning names every newer one that is not valid.
    """
    folder = epath.Path(folder)
    started = set()
    if folder.exists():
        # A folder without a manifest is a save that was interrupted.
        started = {int(path.name) for path in folder.iterdir() if path.name.isdigit()}
    steps = {step for step in started | set(list_steps(folder)) if step % divisor == 0}
    for step in sorted(steps, reverse=True):
        corruption = find_corruption(folder, step)
        if corruption is None:
            return step
        log.warning("checkpoint %d in %s is damaged and skipped: %s", step, folder, corruption)
    return None


def restore(folder: epath.PathLike, step: int, like: PyTree) -> PyTree:
    """Restore a step with the structure, types and shardings of `like`.

    Parameters
    ----------
    folder
        Folder of the checkpoints.
    step
        Number of the step.
    like
        A state, or its shapes with shardings. The shardings that were saved are never used,
        since the run may have other devices.

    Raises
    ------
    ValueError
        Where the step differs from its manifest.
    """
    parallel.on_leader(f"check {step}", lambda: check_step(folder, step))
    flat = _flatten(like)
    shapes = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
        for name, array in flat.items()
    }
    leaves = ocp.load(_path(folder, step), shapes)
    # `flat` has the order of the tree's leaves.
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in flat])


def restore_part(folder: epath.PathLike, step: int, part: str) -> dict[str, jax.Array]:
    """One field of the saved state that is a flat dict of arrays, such as `ema`.

    The arrays are put on this process's first device. Unlike the other functions, this one may
    be called by one process of several alone.

    Raises
    ------
    ValueError
        Where the step differs from its manifest.
    """
    check_step(folder, step)
    path = _path(folder, step)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    prefix = f"{part}/"
    context = _this_process_alone()
    context.pytree.loading.partial_load = True  # the state is several times as large
    with context:
        shapes = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
            for name, leaf in ocp.metadata(path).metadata.items()
            if name.startswith(prefix)
        }
        leaves = ocp.load(path, shapes) if shapes else {}
    return {name.removeprefix(prefix): leaf for name, leaf in leaves.items()}


def _this_process_alone() -> ocp.Context:
    """Orbax's options without which it would wait for the other processes."""
    process = jax.process_index()
    context = ocp.Context()
    context.multiprocessing.primary_host = process
    context.multiprocessing.active_processes = {process}
    # Other processes may be here at the same time, and their barriers must have other names.
    context.multiprocessing.barrier_sync_key_prefix = f"process_{process}"
    return context


def _path(folder: epath.PathLike, step: int) -> epath.Path:
    """A step's folder, absolute: Orbax refuses relative paths."""
    return epath.Path(folder).resolve() / str(step)


def _flatten(tree: PyTree) -> dict[str, Any]:
    """A flat dict by path, as Orbax changes the types of nested containers."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _delete_step(folder: epath.Path, step: int) -> None:
    # The manifest goes first: without it the step does not exist.
    (folder / f"{step}.json").unlink(missing_ok=True)
    # Orbax writes under the second name, and renames the folder when it is complete.
    for path in (folder / str(step), folder / f"{step}.orbax-checkpoint-tmp"):
        if path.exists():
            path.rmtree()
