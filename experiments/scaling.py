"""Fit scaling laws to the held-out losses of finished studies; this needs no model and no JAX.

  python -m experiments.scaling --workdir runs/scaling_demo
  python -m experiments.scaling --workdir gs://bucket/runs/scaling_pod --out runs/law
  python -m experiments.scaling --workdir runs/widths --workdir runs/lengths --out runs/law

The studies need config.measures.held_out and several widths and lengths of training (config.axes);
configs/scaling_demo.py is a small example. Writes scaling.json, tables/*.csv, figures/*.svg and
scaling.html: the law of the loss in size and images, its prediction of the largest size and the
longest runs, the best size at given compute, the time until memorization, and amplification at
equal loss. What the points do not determine is refused, with the reason.
"""

from absl import flags
from etils import epath
from rich.table import Column, Table

from experiments import _cli
from jaxdiff.report import scaling_page
from jaxdiff.scaling.cells import read_scaling_cells
from jaxdiff.scaling.fits import ScalingFits, fit_study

flags.DEFINE_multi_string(
    "workdir", None, "Folder of a finished study, such as runs/scaling_demo; may be repeated."
)
flags.DEFINE_string("out", None, "Output folder; by default scaling/ in the first --workdir.")
FLAGS = flags.FLAGS


# The first numbers that people look for; the rest is in the report.
PRINTED = (
    "law", "alpha", "beta", "allocation", "depth_effect", "relative_error", "exponent", "kappa"
)  # fmt: skip


def numbers_table(fits: ScalingFits) -> Table:
    """A line for each of the first numbers: its value with the interval, or why there is none."""
    table = Table("fit", "number", "at", Column("value", overflow="fold"), box=None)
    for fit, numbers in fits.numbers().items():
        for number in numbers:
            if number.name in PRINTED:
                places = ", ".join(f"{key} {_shorten(x)}" for key, x in number.labels.items())
                table.add_row(fit, number.name, places, str(number.answer))
    return table


def _shorten(label: object) -> str:
    return f"{label:.4g}" if isinstance(label, float) else str(label)


def main() -> None:
    _cli.check_required("workdir")
    workdirs = [epath.Path(path) for path in FLAGS.workdir]
    fits = fit_study(read_scaling_cells(workdirs))
    page = scaling_page.write(fits, FLAGS.out or workdirs[0] / "scaling")
    cells = fits.cells
    _cli.console.print(
        f"{len(cells.points)} models fitted, {len(cells.other_rates)} of other learning rates, "
        f"{len(cells.without_loss)} without a held-out loss, {len(cells.diverged)} diverged"
    )
    _cli.console.print(numbers_table(fits))
    for limit in fits.limits:
        _cli.console.print(limit)
    _cli.console.print(f"report: {page}")


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
