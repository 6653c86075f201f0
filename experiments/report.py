"""Draw a study's report again from its results; this needs no model and no JAX.

python -m experiments.report --workdir runs/quickstart
python -m experiments.report --workdir runs/mine        # of experiments.evaluate
python -m experiments.report --workdir gs://bucket/runs/mnist
python -m experiments.report --workdir runs/mnist --archive results.zip

--archive FILE also writes the results into one small file without weights, to publish it. Unzipped
it is a folder of which this command draws the same claims, figures and tables. Where FILE holds
cells of the same study already, as of another machine, they are kept beside the new ones.
"""

from absl import flags
from etils import epath

from experiments import _cli
from jaxdiff import report
from jaxdiff.results_archive import add_to_archive

flags.DEFINE_string("workdir", None, "Folder of a study or an evaluation, such as runs/quickstart.")
flags.DEFINE_string("archive", None, "A .zip file to add the results to, to publish or merge them.")
FLAGS = flags.FLAGS


def main() -> None:
    if not FLAGS.workdir:
        raise ValueError(
            "--workdir is missing; give a study's folder, as --workdir runs/quickstart"
        )
    _cli.console.print(f"report: {report.write(epath.Path(FLAGS.workdir))}")
    if FLAGS.archive:
        path = epath.Path(FLAGS.archive)
        count = add_to_archive(FLAGS.workdir, path)
        size = path.stat().length / 1e6
        _cli.console.print(f"results of {count} cells or sets, {size:.2f} MB: {path}")


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
