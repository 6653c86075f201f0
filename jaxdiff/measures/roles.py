"""The two classes whose share is studied, and how much of the training data each class is."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Roles:
    """The two classes of a share, and the other classes of the training data.

    Parameters
    ----------
    majority, minority
        The two classes.
    trained
        The minority's share among the training images of the two, 0..1.
    others
        Further classes of the training data.
    others_share
        What they have of all training images together, the same each, 0..1.
    """

    majority: int
    minority: int
    trained: float
    others: tuple[int, ...] = ()
    others_share: float = 0.0

    @property
    def classes(self) -> tuple[int, int]:
        """The two of the share, majority first."""
        return self.majority, self.minority

    @property
    def trained_classes(self) -> tuple[int, ...]:
        """All classes of the training data, the two of the share first."""
        return *self.classes, *self.others

    @property
    def mix(self) -> dict[int, float]:
        """Share of each class in the training data."""
        rest = 1.0 - self.others_share
        two = {self.majority: rest * (1.0 - self.trained), self.minority: rest * self.trained}
        return two | {label: self.others_share / len(self.others) for label in self.others}
