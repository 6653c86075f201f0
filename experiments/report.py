"""Draw a study's report again from its results; this needs no model and no JAX.

python -m experiments.report --workdir runs/quickstart
python -m experiments.report --workdir runs/mine        # of experiments.evaluate
python -m experiments.report --workdir gs://bucket/runs/mnist --archive results.tar.xz

--archive FILE also adds the results to a small file without weights, to publish them or to collect
the cells of machines that share no disk. Unpacked, it is a folder of which this command draws the
same claims, tables and figures; models of different machines are not compared on the same noise.
"""

from absl import flags
from etils import epath

from experiments import _cli
from jaxdiff import files, report
from jaxdiff.results_archive import SUFFIX, add_to_archive

flags.DEFINE_string("workdir", None, "Folder of a study or an evaluation, such as runs/quickstart.")
flags.DEFINE_string("archive", None, f"A file, NAME{SUFFIX}, that the results are added to.")
FLAGS = flags.FLAGS


def main() -> None:
    if not FLAGS.workdir:
        raise ValueError(
            "--workdir is missing; give a study's folder, as --workdir runs/quickstart"
        )
    archive = _cli.output_file("archive", SUFFIX) if FLAGS.archive else None
    _cli.console.print(f"report: {report.write(epath.Path(FLAGS.workdir))}")
    if archive is not None:
        count = add_to_archive(FLAGS.workdir, archive)
        megabytes = files.size(archive) / 1e6
        _cli.console.print(f"archive: {archive}, {count} results, {megabytes:.2f} MB")


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
