"""Draw a study's report again from its results; this needs no model and no JAX.

python -m experiments.report --workdir runs/quickstart
python -m experiments.report --workdir runs/mine        # of experiments.evaluate
python -m experiments.report --workdir gs://bucket/runs/mnist
"""

from absl import flags
from etils import epath

from experiments import _cli
from jaxdiff import report

flags.DEFINE_string("workdir", None, "Folder of a study or an evaluation, such as runs/quickstart.")
FLAGS = flags.FLAGS


def main() -> None:
    if not FLAGS.workdir:
        raise ValueError(
            "--workdir is missing; give a study's folder, as --workdir runs/quickstart"
        )
    _cli.console.print(f"report: {report.write(epath.Path(FLAGS.workdir))}")


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
