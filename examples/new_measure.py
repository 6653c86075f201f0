"""A measure of one's own: the mean brightness of samples against depth.

In a study: config.plugins = ("examples.new_measure",); in experiments.evaluate:
--plugins examples.new_measure.
"""

from jaxdiff.estimates import Estimate
from jaxdiff.measures.registry import AgainstDepth, measure


@measure(
    "brightness",
    title="Brightness",
    caption="Mean pixel of [0, 1]. Look for depths whose samples are brighter than the data.",
    needs=("samples", "train"),
    topic="samples",
    figure=AgainstDepth("samples", "mean brightness, %", scale=100.0, reference="training_data"),
)
def brightness(artifacts):
    estimates = []
    sets = {"samples": artifacts.samples, "training_data": artifacts.train.images}
    for name, images in sets.items():
        means = images.mean(axis=(1, 2, 3)) / 255.0
        estimates.append(Estimate.mean(means.tolist(), "images", name))
    return estimates
