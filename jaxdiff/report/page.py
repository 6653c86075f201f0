"""report.html: one file that opens offline, with the figures and tables that also lie beside it."""

import json
from collections.abc import Sequence
from typing import Any

import jinja2
import matplotlib as mpl
from etils import epath
from markupsafe import Markup

from jaxdiff import files
from jaxdiff.report import probe, style, tables, verdicts
from jaxdiff.report.figures import FIGURES, GATE
from jaxdiff.results import CellResult, read_cells

JUDGE = 0.95  # the classifier's own gate on held-out images


def write(workdir: epath.PathLike) -> epath.Path:
    """Draw the report of a study; the path of report.html. Raises ValueError where no cell is finished."""
    workdir = epath.Path(workdir)
    cells, study = read_cells(workdir), files.read_json(workdir / "study.json")
    figures = _figures(cells, workdir / "figures")
    shown = _tables(cells, study, workdir / "shared")
    for name, (_, _, rows) in shown.items():
        files.write(workdir / "tables" / f"{name}.csv", tables.to_csv(rows))
    environment = jinja2.Environment(loader=jinja2.PackageLoader("jaxdiff.report", "."), autoescape=True)
    environment.filters["number"] = lambda v: f"{v:.4g}" if isinstance(v, float) else v
    page = environment.get_template("page.html").render(
        study=study, cells=cells, figures=figures, tables=shown,
        failed=[c.name for c in cells if c.result.get("quality") and c.result["quality"][0]["value"] < GATE],
        judge=_judge(workdir / "shared"), JUDGE=JUDGE, GATE=GATE, seeds=len({cell.own["seed"] for cell in cells}),
        blind={cell.own["model"]: tables.in_words_of_levels(cell.own) for cell in cells},
        settings=json.dumps(study, indent=1), versions=json.dumps(cells[-1].run, indent=1),
    )  # fmt: skip
    files.write(workdir / "report.html", page)
    return workdir / "report.html"


def _judge(shared: epath.Path) -> float | None:
    """The fraction of held-out images of the two classes that the classifier calls one of them."""
    path = shared / "confusion.json"
    return files.read_json(path)["gate"]["held_out"] if path.exists() else None


def _figures(cells: Sequence[CellResult], folder: epath.Path) -> dict[str, dict[str, Any]]:
    """Each figure's title, caption and drawing, which is also written as a file of its own."""
    counts = sorted({len(cell.samples) for cell in cells})
    n, found = " or ".join(f"{c:,}" for c in counts), {}
    for name, plot in FIGURES.items():
        if not any(plot.needs(cell) for cell in cells):
            continue
        with mpl.rc_context(style.context(name)):
            svg = style.svg(plot.draw(cells), name)
        files.write(folder / f"{name}.svg", style.alone(svg))
        drawing = Markup(svg[svg.index("<svg") :])
        found[name] = {"title": plot.title, "caption": plot.caption.format(n=n), "svg": drawing,
                       "grid": name in ("samples", "sets", "nearest")}  # fmt: skip
    return found


def _tables(
    cells: Sequence[CellResult], study: dict[str, Any], shared: epath.Path
) -> dict[str, tuple[str, str, list[tables.Row]]]:
    """Each table's title, what to read it for, and rows; empty ones are left out."""
    compared, confusion = (
        files.read_json(shared / name) if (shared / name).exists() else {}
        for name in ("comparisons.json", "confusion.json")
    )
    rows = confusion.get("matrix", {}).get("convolutional", [[0]])
    tested = min((sum(row) for row in rows if sum(row)), default=0)
    trained = [cell for cell in cells if cell.metrics]
    pixels = {cell.name: cell.own.get("bottleneck", "") for cell in cells}
    found = {
        "verdicts": ("What may be concluded", "Primary claims, by rules fixed beforehand; p-values after Holm. "
                     "Everything below is exploratory.", verdicts.claims(trained, study, tested)),
        "table2": ("In the form of the paper's Table 2", "Means over seeds; the paper's rows are another dataset and another "
                   "classifier, for the form and the direction alone.", tables.table_2(trained)),
        "table3": ("In the form of the paper's Table 3", "The k-th neighbor among the training images, mean over samples. "
                   "Held-out images were never trained on: a model whose row is nearer than theirs copies.",
                   tables.table_3(cells)),
        "table3_mean": ("Table 3, mean over the first k neighbors", "The other reading of the paper's column heads.",
                        tables.table_3(cells, "mean")),
        "table3_paper": ("The paper's Table 3", "As printed; its Euclidean columns at k = 5 and 10 do not rise "
                         "with depth throughout.", tables.table_3_paper() if trained else []),
        "over_seeds": ("Shares over seeds", "The share corrected over all classes; t interval of the mean logit, seeds - 1 degrees of "
                       "freedom.", verdicts.over_seeds(trained)),
        "shares": ("Every reading of the shares", "classified: as called; corrected: for errors on test images; denoised: for "
                   "errors on held-out images that the model itself denoised; second: another architecture; bounds: every "
                   "ambiguous sample to either class.", tables.measures(cells, "share")),
        "amplification": ("Amplification on three scales", "absolute, as odds, and as the exponent S of Theorem 2 "
                          "(1: as trained; above: amplified). Which model amplifies most can depend on the scale.",
                          tables.measures(cells, "amplification")),
        "flips": ("Flips on the common noise", "Counts b and c are compared (McNemar); the two selections beside them show "
                  "what choosing on the minority does by itself. The rows of seeds are the null.", tables.flips(compared, pixels)),
        "similarity": ("Likeness of models on the same noise", "LPIPS: smaller is more alike; correlation: larger. Normal "
                       "95 % intervals over noises.", tables.similarity(compared, pixels)),
        "lpips": ("LPIPS", "Mean over pairs with jackknife intervals.", tables.measures(cells, "lpips")),
        "neighbors": ("Neighbors", "Every entry behind Table 3.", tables.measures(cells, "neighbors")),
        "memorization": ("Memorization", "memorized: d1 / d2 < 1/3 among the training images, beside held-out images; authenticity "
                         "and distance_ratio fall with copying; nearer_to_training: 0.5 without copying, against as many held-out images; "
                         "copy, spurious and generalized: as near to a training image, to another sample, or to neither, as 1 % of held-out "
                         "images are to training images.", tables.measures(cells, "memorization")),
        "checkpoints": ("Along training", "eps_loss: of training and of held-out images at the same noise at every checkpoint; eps_gap "
                        "above 0 is memorization. The rest is of a few samples each.", tables.measures(cells, "checkpoints")),
        "fidelity": ("Samples as a distribution", "PRDC, FID and KID against as many training and held-out images. Copies are best by "
                     "most of these, so read them beside memorization. FID is comparable at equal n alone; KID is unbiased.",
                     tables.measures(cells, "fidelity")),
        "effective_k": ("Effective k", "Of the soft k-NN denoiser that predicts the model best, on noised unseen images and on the "
                        "model's own path; R^2 of each denoiser on the same x_t. The controls say whether it is the training images "
                        "that explain the model.", tables.measures(cells, "effective_k")),
        "predicted": ("The share that the fitted rho predicts", "Of samples of the soft k-NN denoiser that each model is most like, from its "
                      "own training images: if depth amplifies by smoothing the retrieval, this is near what the model itself drew.",
                      tables.predicted(cells)),
        "smoothness": ("Is the energy of a deeper model smoother?", "Each model with the shallowest of the same data and seed, at the same "
                       "points; log_ratio below 0: smoother. What random weights show too is not learnt.", probe.between_models(cells)),
        "curvature": ("Curvature", "H and M = I - H / 2 of the trained energy at the pixels, beside the same network with random weights.", tables.measures(cells, "curvature")),
        "bias_variance": ("Bias and variance over models", "Eqs. 4 and 5. noise: all models of a row start from the same noises; "
                          "inverted: from what one more model made of held-out images. Unbiased for any number of models; two-way "
                          "intervals.", tables.bias_variance(compared)),
        "quality": ("Quality", "mean_eps_slope: 1 is right, near 0 is a network that cannot output the mean of eps.",
                    tables.measures(cells, "quality")),
        "training": ("Training", "", tables.training(trained)),
    }  # fmt: skip
    return {name: table for name, table in found.items() if table[2]}
