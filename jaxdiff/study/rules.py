"""Checks of settings across sections; each raises a ValueError that says what to change."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from jaxdiff import hub
from jaxdiff.cells.train_step import retention_policy
from jaxdiff.datasets.registry import DATASET_NAMES_HELP, find_registration, is_dataset_name
from jaxdiff.features.extractors import EXTRACTORS
from jaxdiff.features.perceptual import SMALLEST
from jaxdiff.settings import NAMED_CLAIMS, StudySettings, TrainSettings
from jaxdiff.study.variants import train_settings
from jaxdiff.trackers import check_trackers

ALONG_TRAINING = ("equal_loss", "training_time")  # claims that need early checkpoints
MIN_COMPARED_SEEDS = 4  # two of either role
MIN_INVERTED_SEEDS = 3  # one encodes, and two decode
NAME = re.compile(r"\w[\w.+-]*")


def _check_name(study: StudySettings) -> None:
    if not NAME.fullmatch(study.name):
        raise ValueError(
            f"config.name is {study.name!r}; it names the folder runs/NAME, so write letters, "
            "digits and . _ + - alone"
        )


def _check_model_names(study: StudySettings) -> None:
    for name in study.models:
        # A name begins the names of folders; Orbax and --cells take brackets for patterns.
        if not NAME.fullmatch(name):
            raise ValueError(
                f"config.models holds the name {name!r}; a name is letters, digits and . _ + - "
                "alone, as '2-wide', since it begins the names of folders"
            )


def _check_model_seeds(study: StudySettings) -> None:
    for model, seeds in study.model_seeds.items():
        if model not in study.models:
            raise ValueError(
                f"config.model_seeds names {model!r}; the models are {', '.join(study.models)}"
            )
        are_seeds = isinstance(seeds, tuple) and set(seeds) <= set(study.seeds)
        if not seeds or not are_seeds:
            raise ValueError(
                f"config.model_seeds[{model!r}] is {seeds!r}; it is a tuple of some of "
                f"config.seeds, {study.seeds}"
            )


def _check_primary_seeds(study: StudySettings) -> None:
    if study.model_seeds and not study.primary:
        raise ValueError(
            "config.model_seeds is set and config.primary is not; name the two models of the "
            "primary claim, which are trained on all seeds"
        )
    for model in study.primary:
        if model in study.model_seeds:
            raise ValueError(
                f"config.model_seeds holds {model!r}, a model of config.primary, which is trained "
                "on all seeds; take it out"
            )


def _check_classes(study: StudySettings) -> None:
    classes = study.data.classes
    if len(classes) != 2 or classes[0] == classes[1]:
        raise ValueError(f"config.data.classes is {classes}; two different classes are needed")


def _check_others(study: StudySettings) -> None:
    data = study.data
    if len({*data.classes, *data.others}) < len(data.classes) + len(data.others):
        raise ValueError(
            f"config.data.others is {data.others}; name classes other than {data.classes}, each "
            "once"
        )
    if bool(data.others) != (0 < data.others_share < 1):
        raise ValueError(
            f"config.data.others is {data.others} and config.data.others_share "
            f"{data.others_share}; set both, the share between 0 and 1, or neither"
        )
    if data.others and any(len(shares) == 4 for shares in data.proportions):
        raise ValueError(
            f"config.data.others is {data.others} and config.data.proportions holds shares of "
            "groups; take one of them out"
        )


def _check_proportions(study: StudySettings) -> None:
    for shares in study.data.proportions:
        is_tuple = isinstance(shares, tuple) and len(shares) in (2, 4)
        if not is_tuple or not all(_is_share(share) for share in shares):
            raise ValueError(
                f"config.data.proportions holds {shares!r}; each entry is the shares of the two "
                "classes, as (0.8, 0.2), or of the four groups, numbers from 0 to 1"
            )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _check_source(study: StudySettings) -> None:
    data = study.data
    if not is_dataset_name(data.source):
        raise ValueError(f"config.data.source is {data.source!r}; choose {DATASET_NAMES_HELP}")
    if data.dir and not epath.Path(data.dir).exists():
        raise ValueError(f"config.data.dir is {data.dir}, which does not exist")


def _check_groups(study: StudySettings) -> None:
    data = study.data
    has_groups = data.group or find_registration(data.source).default_group
    grouped = any(isinstance(mix, tuple) and len(mix) == 4 for mix in data.proportions)
    if grouped and not has_groups:
        raise ValueError(
            "config.data.proportions holds four shares; set config.data.group to the attribute "
            "of the groups"
        )


def _check_sampling_steps(study: StudySettings) -> None:
    levels = study.diffusion.steps
    if study.sample.steps > levels:
        raise ValueError(
            f"config.sample.steps is {study.sample.steps}; there are only {levels} noise levels"
        )


def _check_common(study: StudySettings) -> None:
    if study.sample.common == 1:
        raise ValueError(
            "config.sample.common is 1; at least 2 samples can be compared, or 0 draws none"
        )


def _check_spaces(study: StudySettings) -> None:
    spaces = study.measures.spaces
    if "pixels" not in spaces:
        raise ValueError(f"config.measures.spaces is {spaces}; pixels must be among them")
    for name in spaces:
        if name not in EXTRACTORS:
            names = ", ".join(EXTRACTORS)
            raise ValueError(f"config.measures.spaces holds {name!r}; choose among {names}")
    if "inception" in spaces and not study.measures.inception:
        raise ValueError(
            "config.measures.spaces holds 'inception'; give its weights file as "
            "config.measures.inception"
        )


def _check_paths(study: StudySettings) -> None:
    paths = {
        "measures.inception": study.measures.inception,
        "measures.weights_dir": study.measures.weights_dir,
        "train.init": study.train.init if hub.parse_id(study.train.init) is None else "",
    }
    for key, path in paths.items():
        if path and not epath.Path(path).exists():
            raise ValueError(f"config.{key} is {path}, which does not exist")


def tracker_names(study: StudySettings) -> tuple[str, ...]:
    """The trackers that a study is shown by."""
    names = [*study.track, "tensorboard"] if study.train.tensorboard else study.track
    return tuple(dict.fromkeys(names))


def _check_trackers(study: StudySettings) -> None:
    check_trackers(tracker_names(study))


def _check_accumulate(study: StudySettings) -> None:
    train = study.train
    if train.batch % train.accumulate:
        raise ValueError(
            f"config.train.accumulate is {train.accumulate}; it must divide train.batch, "
            f"{train.batch}"
        )


def _check_lengths(study: StudySettings) -> None:
    """Check that the warm-up fits, and that runs of several lengths can share a stem."""
    trains = [train_settings(study, model) for model in study.models]
    for train in trains:
        if train.keep_every % train.checkpoint_every:
            raise ValueError(
                f"config.train.keep_every is {train.keep_every}; it must be a multiple of "
                f"checkpoint_every, {train.checkpoint_every}, since only checkpoints can be kept"
            )
        rising = train.warmup_steps or round(train.warmup * train.steps)
        if rising > train.stem_steps:
            key = "warmup_steps" if train.warmup_steps else "warmup"
            raise ValueError(
                f"config.train.{key} is {getattr(train, key)}, {rising} steps, and the rate falls "
                f"from step {train.stem_steps} of {train.steps} on; take fewer"
            )
    if len({train.steps for train in trains}) == 1 or not trains[0].cooldown_steps:
        return
    if not trains[0].warmup_steps:
        raise ValueError(
            "config.train.schedule is wsd and there are several lengths of training, which share "
            "their first steps only where these are warmed up alike; set config.train.warmup_steps"
        )
    for train in trains:
        if train.stem_steps % train.checkpoint_every:
            raise ValueError(
                f"the cooldown of {train.steps} steps begins at step {train.stem_steps}, where a "
                "longer training must have a checkpoint; choose a config.train.checkpoint_every "
                f"that divides it, got {train.checkpoint_every}"
            )


def _check_parallel(study: StudySettings) -> None:
    if study.parallel.cells > 1 and study.train.shard_params:
        raise ValueError(
            f"config.parallel.cells is {study.parallel.cells} and config.train.shard_params splits "
            "each cell over all devices; leave one of them out"
        )


def _check_primary(study: StudySettings) -> None:
    if study.primary and not _is_pair(study.primary, study):
        names = ", ".join(study.models)
        raise ValueError(
            f"config.primary is {study.primary}; name the shallow and the deep model, of {names}"
        )


def _check_secondary(study: StudySettings) -> None:
    for claim in study.secondary:
        if claim not in NAMED_CLAIMS and not _is_pair(claim, study):
            raise ValueError(
                f"config.secondary holds {claim!r}; each entry must be two of the models "
                f"{', '.join(study.models)}, or one of {', '.join(NAMED_CLAIMS)}"
            )
    _check_named_claims(study)
    for pair in study.secondary:
        if pair not in NAMED_CLAIMS:
            _check_common_seeds(study, pair)


def _check_named_claims(study: StudySettings) -> None:
    """Check that the cells will have what the named claims are made of."""
    measures = study.measures
    if "lpips" in study.secondary and measures.lpips == "none":
        raise ValueError(
            "config.secondary holds 'lpips', and config.measures.lpips is none; choose a network"
        )
    along_training = [name for name in ALONG_TRAINING if name in study.secondary]
    if not along_training:
        return
    name = along_training[0]
    if not measures.checkpoints:
        raise ValueError(
            f"config.secondary holds {name!r}, which needs samples of early checkpoints; set "
            "config.measures.checkpoints to their number"
        )
    if measures.share == "loss_corrected":
        raise ValueError(
            f"config.secondary holds {name!r}, and early checkpoints have no loss_corrected share; "
            "choose another config.measures.share"
        )
    for model in study.models:
        _check_kept_checkpoints(study, name, train_settings(study, model))


def _check_kept_checkpoints(study: StudySettings, claim: str, train: TrainSettings) -> None:
    kept = kept_steps(train)
    if len(kept) < 2:
        raise ValueError(
            f"config.secondary holds {claim!r}, and only the last checkpoint stays; set "
            "train.keep_log_spaced, keep_every or keep_last"
        )
    if "training_time" in study.secondary and train.steps / 4 not in kept:
        raise ValueError(
            "config.secondary holds 'training_time', which needs the checkpoint at a quarter of "
            f"train.steps, and those at {', '.join(map(str, kept))} stay; set train.keep_every, or "
            "keep_log_spaced with steps of 4, 8, 16, ... times checkpoint_every"
        )


def kept_steps(train: TrainSettings) -> list[int]:
    """The steps whose checkpoints are there at the end of a training."""
    every = train.checkpoint_every
    steps = [*range(every, train.steps, every), train.steps]
    return sorted(retention_policy(train).select(steps))


def _check_common_seeds(study: StudySettings, models: Sequence[str]) -> None:
    """Check that models which are compared have enough seeds in common, half of either role."""
    limits = [study.model_seeds[model] for model in models if model in study.model_seeds]
    seeds = [seed for seed in study.seeds if all(seed in limit for limit in limits)]
    odd = sum(seed % 2 for seed in seeds)
    is_balanced = not study.data.alternate or 2 * odd == len(seeds)
    if limits and (len(seeds) < MIN_COMPARED_SEEDS or not is_balanced):
        raise ValueError(
            f"config.model_seeds leaves {' and '.join(models)} the seeds "
            f"{', '.join(map(str, seeds)) or 'none'} in common; a comparison needs at least "
            f"{MIN_COMPARED_SEEDS}, as many even as odd"
        )


def _is_pair(pair: Any, study: StudySettings) -> bool:
    is_two = isinstance(pair, tuple) and len(pair) == 2 and pair[0] != pair[1]
    return is_two and all(isinstance(model, str) and model in study.models for model in pair)


def _check_look(study: StudySettings) -> None:
    if not study.look:
        return
    roles = 2 if study.data.alternate else 1
    # The plan is made for twice as many seeds, and a study may gain more later (`planned`).
    is_half = 2 * study.look <= len(study.seeds)
    odd = sum(seed % 2 for seed in study.seeds[: study.look])
    is_balanced = roles == 1 or 2 * odd == study.look
    # A role needs two seeds for an interval.
    if not is_half or not is_balanced or study.look < 2 * roles:
        raise ValueError(
            f"config.look is {study.look} and there are {len(study.seeds)} seeds; the look is "
            f"after half of them, at least {2 * roles}, with as many even as odd seeds"
        )


def _check_lpips_size(study: StudySettings) -> None:
    network = study.measures.lpips
    size = study.data.size
    smallest = SMALLEST.get(network, 1)
    if size < smallest:
        alternative = "vgg" if size >= SMALLEST["vgg"] else "none"
        raise ValueError(
            f"config.measures.lpips is {network}, which needs {smallest} px; config.data.size is "
            f"{size}, so choose {alternative}"
        )


def _check_inverted(study: StudySettings) -> None:
    roles = 2 if study.data.alternate else 1
    most = max(len([s for s in study.seeds if s % roles == role]) for role in range(roles))
    if study.measures.inverted and most < MIN_INVERTED_SEEDS:
        raise ValueError(
            f"config.measures.inverted is {study.measures.inverted}; it needs "
            f"{MIN_INVERTED_SEEDS} seeds of one majority, and config.seeds has {most}"
        )


RULES: tuple[Callable[[StudySettings], None], ...] = (
    _check_name,
    _check_model_names,
    _check_model_seeds,
    _check_classes,
    _check_others,
    _check_proportions,
    _check_source,
    _check_groups,
    _check_sampling_steps,
    _check_common,
    _check_spaces,
    _check_paths,
    _check_trackers,
    _check_accumulate,
    _check_lengths,
    _check_parallel,
    _check_primary,
    _check_primary_seeds,
    _check_secondary,
    _check_look,
    _check_lpips_size,
    _check_inverted,
)
