"""A reading: one quantity of a model at single points, as probe.json holds it. No JAX."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdiff.estimates import Estimate

Values = Float[np.ndarray, " points"]

SIGNIFICANT_DIGITS = 7  # float32 has no more
ESTIMATE_LABELS = ("weights", "t", "level", "reading", "rank", "tau")


@dataclasses.dataclass(frozen=True)
class Reading:
    """One quantity of a model at each point where it was probed.

    Parameters
    ----------
    reading
        Group of quantities that it belongs to, such as "decoder".
    name
        Quantity, such as "total".
    values
        The quantity at each point, nan where it is undefined; a single value where it belongs to
        no point.
    errors
        Error of each value; None where there is none.
    labels
        What else tells this reading from others of its name: weights ("trained" or "random"),
        t, level, rank, tau. A proportion has its interval here as well: low, high and n.
    """

    reading: str
    name: str
    values: Values
    errors: Values | None = None
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def measured(
        cls, reading: str, name: str, values: Any, errors: Any = None, **labels: Any
    ) -> "Reading":
        """A reading of computed arrays, with the digits that are written to files."""
        if errors is not None:
            errors = _round(np.broadcast_to(errors, np.shape(values)))
        return cls(reading, name, _round(values), errors, labels)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Reading":
        """Read a row of probe.json."""
        fields = ("reading", "name", "values", "errors")
        labels = {key: value for key, value in row.items() if key not in fields}
        errors = np.array(row["errors"], np.float64) if "errors" in row else None
        values = np.array(row["values"], np.float64)
        return cls(row["reading"], row["name"], values, errors, labels)

    def to_json(self) -> dict[str, Any]:
        """The row of probe.json; what is undefined is null."""
        row = {
            "reading": self.reading,
            "name": self.name,
            **self.labels,
            "values": _to_list(self.values),
        }
        return row if self.errors is None else row | {"errors": _to_list(self.errors)}

    def labeled(self, **labels: Any) -> "Reading":
        """The same reading with more labels."""
        return dataclasses.replace(self, labels={**labels, **self.labels})

    @functools.cached_property
    def _keys(self) -> dict[str, Any]:
        return {"reading": self.reading, "name": self.name, **self.labels}

    def matches(self, **labels: Any) -> bool:
        """Whether the reading has these labels; ``reading`` and ``name`` count as labels."""
        return all(self._keys.get(key) == value for key, value in labels.items())

    def summarize(self) -> Estimate:
        """The median over the points, with the 10 % and 90 % quantiles as the interval."""
        defined = self.values[np.isfinite(self.values)]
        labels = {key: self._keys.get(key, "") for key in ESTIMATE_LABELS}
        if not len(defined):
            median = low = high = None
        else:
            low, median, high = np.quantile(defined, [0.1, 0.5, 0.9]).tolist()
        estimate = Estimate(median, n=len(defined), name=self.name, labels=labels)
        if "low" in self.labels:  # a proportion
            return dataclasses.replace(
                estimate,
                low=self.labels["low"],
                high=self.labels["high"],
                n=self.labels["n"],
                method="Wilson 95 %",
            )
        if len(self.values) == 1:
            return estimate
        method = "10 to 90 % of points"
        if self._largest_error > 0:
            method += f", error at most {self._largest_error:.1e}"
        return dataclasses.replace(estimate, low=low, high=high, method=method)

    @property
    def _largest_error(self) -> float:
        errors = np.array([0.0]) if self.errors is None else self.errors
        return float(np.max(errors, where=np.isfinite(errors), initial=0.0))


def _round(values: Any) -> Values:
    """To the digits that are written; nan where a value is not finite."""
    return np.array(
        [
            float(f"{x:.{SIGNIFICANT_DIGITS}g}") if np.isfinite(x) else np.nan
            for x in np.ravel(values)
        ],
        np.float64,
    )


def _to_list(values: Values) -> list[float | None]:
    return [float(x) if np.isfinite(x) else None for x in values]
