"""The numbers that the paper prints, to stand beside ours (Hakemi, Akhtar, Hassan & Mian)."""

from collections.abc import Mapping
from typing import NamedTuple


class PaperRow(NamedTuple):
    """A line of Table 2: the training data's value, None if not printed, and each model's."""

    training: float | None
    models: tuple[float, ...]


# Table 2: CelebA, 10,000 images a model; Male is the minority, 41.68 % of the training data.
TABLE_2_MODELS = ("2", "2-large", "3", "4", "5", "6")
TABLE_2: Mapping[str, PaperRow] = {
    "minority, %": PaperRow(41.68, (40.33, 40.85, 39.18, 37.22, 30.36, 28.85)),
    "majority, %": PaperRow(58.32, (59.67, 59.15, 60.82, 62.78, 69.64, 71.15)),
    "average LPIPS x 100": PaperRow(None, (22.91, 23.26, 23.17, 25.65, 28.03, 29.12)),
}

# Table 2 again, as what depth moves: the change of the minority's logit share from "2" to "6", and
# the exponent S = logit(generated) / logit(trained) of the two.
EFFECT = -0.51
EXPONENTS = (1.17, 2.69)

# Table 3: CelebA; cosine similarity of Inception's features and Euclidean distance of pixels, for
# which the paper gives no unit.
TABLE_3_K = (1, 2, 5, 10)
TABLE_3: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "3": ((0.8751, 0.8612, 0.8567, 0.8543), (97.78, 99.89, 113.01, 116.14)),
    "4": ((0.8644, 0.8541, 0.8506, 0.8420), (106.15, 106.25, 113.11, 115.03)),
    "5": ((0.8428, 0.8355, 0.8277, 0.8265), (106.62, 106.87, 107.25, 117.01)),
    "6": ((0.8142, 0.8112, 0.8056, 0.8016), (121.41, 121.84, 129.91, 143.05)),
}
