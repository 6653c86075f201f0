"""Models of the Hugging Face hub by repository id: OWNER/NAME[@REVISION][/SUBFOLDER].

What is read of a repository is fetched into the cache of huggingface_hub (HF_HOME, HF_HUB_CACHE),
and stays usable without a network.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from etils import epath

from jaxdiff import files, torch_weights

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)
# A revision with a slash is one of the hub's pull requests, or has %2F for it.
ID = re.compile(
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)"
    r"(@(?P<revision>refs/pr/\d+|[^@/]+))?"
    r"(/(?P<subfolder>[^@]+?))?/?"
)
INDEX = "model_index.json"
SCHEDULERS = ("scheduler/scheduler_config.json", "scheduler_config.json")
# All but the weights of a U-Net, of a pipeline, and of Stable Diffusion.
SMALL_FILES = (
    "config.json",
    INDEX,
    "unet/config.json",
    "unet_ema/config.json",
    "text_encoder/config.json",
    "vae/config.json",
    "tokenizer/*.json",
    "tokenizer/*.txt",
    *SCHEDULERS,
)


@dataclasses.dataclass(frozen=True)
class RepositoryId:
    """What a repository id says.

    Parameters
    ----------
    repository
        OWNER/NAME.
    revision
        A branch, a tag or a commit; None for the repository's default branch.
    subfolder
        Folder of the model in the repository; empty for the repository itself.
    """

    repository: str
    revision: str | None
    subfolder: str

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        subfolder = f"/{self.subfolder}" if self.subfolder else ""
        return f"{self.repository}{revision}{subfolder}"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A repository at one commit, in the cache.

    Parameters
    ----------
    id
        What was asked for.
    commit
        The commit's hash.
    root
        Folder of the files that were fetched.
    sizes
        Bytes of every file of the repository, by path.
    """

    id: RepositoryId
    commit: str
    root: epath.Path
    sizes: dict[str, int]

    @property
    def folder(self) -> epath.Path:
        """The folder of the model."""
        return self.root / self.id.subfolder


def parse_id(path: epath.PathLike) -> RepositoryId | None:
    """The repository id that a path is, or None.

    What is on disk is a folder, and so is what would lie in a folder that is on disk.
    """
    text = os.fspath(path)
    match = ID.fullmatch(text)
    parts = text.split("/")
    if match is None or {".", ".."} & set(parts) or epath.Path(parts[0]).exists():
        return None
    revision = match["revision"]
    return RepositoryId(
        match["repository"],
        revision.replace("%2F", "/") if revision else None,
        match["subfolder"] or "",
    )


def find_folder(path: epath.PathLike) -> epath.Path:
    """The folder of a model, of which a repository's has all but its weights.

    Parameters
    ----------
    path
        A folder, or a repository id.

    Raises
    ------
    ValueError
        Where a repository cannot be read.
    """
    repository_id = parse_id(path)
    return epath.Path(path) if repository_id is None else open_snapshot(repository_id).folder


def fetch_weights(
    path: epath.PathLike, folder: epath.Path, name: str, bin_name: str | None = None
) -> None:
    """Fetch the weights of a network, where they are a repository's.

    Parameters
    ----------
    path
        A folder, for which nothing is done, or a repository id.
    folder
        The network's folder, below that of `find_folder`.
    name, bin_name
        As in `jaxdiff.torch_weights.find_weights_files`.

    Raises
    ------
    ValueError
        Where there are none, or they cannot be fetched.
    """
    repository_id = parse_id(path)
    if repository_id is None:
        return
    snapshot = open_snapshot(repository_id)
    place = folder.relative_to(snapshot.root)
    names = [epath.Path(file).name for file in snapshot.sizes if epath.Path(file).parent == place]
    weights = torch_weights.choose_weights_file(names, name, bin_name)
    if weights is None:
        raise ValueError(
            f"{path} must have weights, {name}.safetensors or {bin_name or name}.bin, in one file "
            "or in shards, and has none; choose another repository, revision or subfolder"
        )
    _download(snapshot, [(place / weights).as_posix()])
    if weights.endswith(".json"):
        shards = torch_weights.read_index(folder, weights)
        _download(snapshot, [(place / shard).as_posix() for shard in shards])


def check_push(repository: str) -> None:
    """Check that a repository can be pushed to, as far as it is known before.

    Parameters
    ----------
    repository
        OWNER/NAME.

    Raises
    ------
    ValueError
        Where it is no such name, or nobody is logged in.
    """
    match = ID.fullmatch(repository)
    if match is None or match["revision"] or match["subfolder"]:
        raise ValueError(
            f"a model is pushed to OWNER/NAME, got {repository!r}; leave out what is more"
        )
    with connect(repository) as api:
        api.whoami()


def push(folder: epath.Path, repository: str) -> str:
    """Upload a folder's files into a repository, which is made where there is none.

    Parameters
    ----------
    folder
        A model's folder.
    repository
        OWNER/NAME.

    Returns
    -------
    address
        Where the commit is seen.

    Raises
    ------
    ValueError
        Where the hub refuses it; the folder stays as it is.
    """
    paths = list(files.walk(folder))
    size = sum(map(files.size, paths)) / 1e6
    log.info("%s: uploading %d files, %.1f MB", repository, len(paths), size)
    with connect(repository) as api:
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Upload a model of jaxdiff",
            # What an earlier model has left would be read in place of this one's.
            delete_patterns=["unet/*", "unet_ema/*", "result.json"],
        )
    return commit.commit_url


def describe(path: epath.PathLike) -> dict[str, str]:
    """The repository id and the commit that a model was read from; empty for a folder."""
    repository_id = parse_id(path)
    if repository_id is None:
        return {}
    return {"repository": str(repository_id), "commit": open_snapshot(repository_id).commit}


@functools.cache  # a process reads one commit, although a branch may move
def open_snapshot(repository_id: RepositoryId) -> Snapshot:
    """Resolve a revision to a commit, and fetch all that is read but the weights."""
    name = repository_id.repository
    with connect(str(repository_id)) as api:
        from huggingface_hub import is_offline_mode

        revision = api.resolve_revision(
            name, revision=repository_id.revision, local_files_only=is_offline_mode()
        )
        patterns = _list_small_files(repository_id.subfolder)
        root = api.snapshot_download(name, revision=revision, allow_patterns=patterns)
        sizes = _list_sizes(name, revision)
    snapshot = Snapshot(repository_id, revision.resolved, epath.Path(root), sizes)
    if not snapshot.folder.is_dir():
        raise ValueError(
            f"{repository_id} must have a config.json, or a unet/config.json, and has neither at "
            f"commit {snapshot.commit[:12]}; choose another repository, revision or subfolder"
        )
    log.info("%s at commit %s: %s", repository_id, snapshot.commit[:12], root)
    return snapshot


def _list_small_files(subfolder: str) -> list[str]:
    """Patterns of the files but weights: the model's, and its pipeline's in the folders above."""
    place = epath.Path(subfolder)
    patterns = [(place / name).as_posix() for name in SMALL_FILES]
    for parent in place.parents:
        patterns += [(parent / name).as_posix() for name in (*SCHEDULERS, INDEX)]
    return patterns


def _list_sizes(repository: str, revision: str) -> dict[str, int]:
    """Bytes of the repository's files, or of those in the cache where it has no list of them."""
    import huggingface_hub
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        tree = huggingface_hub.get_cached_repo_tree(repository, revision=revision)
    except CachedRepoTreeNotFoundError:  # an older huggingface_hub filled the cache
        root = epath.Path(
            huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True)
        )
        return {file.relative_to(root).as_posix(): files.size(file) for file in files.walk(root)}
    return {file.path: file.size for file in tree}


def _download(snapshot: Snapshot, names: Sequence[str]) -> None:
    """Fetch files into the snapshot's folder, unless they are there."""
    missing = [name for name in names if not (snapshot.root / name).exists()]
    if not missing:
        return
    absent = [name for name in missing if name not in snapshot.sizes]
    if absent:
        raise ValueError(
            f"{snapshot.id} lacks {absent[0]}, which the index beside it names; choose another "
            "revision"
        )
    size = sum(snapshot.sizes[name] for name in missing) / 1e6
    log.info("%s: fetching %s, %.1f MB", snapshot.id, ", ".join(missing), size)
    with connect(str(snapshot.id)) as api:
        api.snapshot_download(
            snapshot.id.repository, revision=snapshot.commit, allow_patterns=missing
        )


@contextlib.contextmanager
def connect(repository_id: str) -> Iterator["HfApi"]:
    """The hub's interface, within which errors are raised as a ValueError of one sentence.

    Parameters
    ----------
    repository_id
        What the sentence names.
    """
    try:
        from huggingface_hub import HfApi, constants, errors
        from huggingface_hub.errors import RevisionResolutionError
    except ImportError:
        raise ValueError(
            f"huggingface_hub 2.4 or newer must be installed for {repository_id}, which is no "
            "folder here; pip install 'jaxdiff[hub]', or give a folder"
        ) from None
    repository = repository_id.partition("@")[0]
    try:
        yield HfApi(library_name="jaxdiff")
    except errors.GatedRepoError:
        reason = (
            f"{repository} is gated: accept its terms at {constants.ENDPOINT}/{repository} "
            "and log in by `hf auth login`, or set HF_TOKEN"
        )
    except errors.RepositoryNotFoundError:
        reason = (
            f"{repository_id} must be a folder, or the id of a repository that the hub shows you, "
            "and is neither; correct it, or log in by `hf auth login` where it is private"
        )
    except errors.RevisionNotFoundError:
        reason = f"{repository_id} names a revision that {repository} lacks; choose another"
    except errors.HFValidationError as error:
        reason = f"{repository_id} is neither a folder nor a repository id ({_first_line(error)})"
    except (RevisionResolutionError, errors.LocalEntryNotFoundError):
        reason = (
            f"{repository_id} is no folder, the hub cannot be reached, and what is read of it is "
            f"not in the cache, {constants.HF_HUB_CACHE}; correct the path, or fetch it "
            "where there is a network and HF_HUB_OFFLINE is not set"
        )
    except errors.LocalTokenNotFoundError:
        reason = (
            f"nobody is logged in who could write to {repository}; run `hf auth login`, or set "
            "HF_TOKEN"
        )
    except (errors.HTTPError, errors.XetDownloadError) as error:  # the first is httpx's base too
        reason = (
            f"the hub refused {repository_id} ({_first_line(error)}); correct what it names, or "
            "try again later"
        )
    else:
        return
    raise ValueError(reason) from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
