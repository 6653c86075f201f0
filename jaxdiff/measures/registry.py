"""The registry of measures: one function, and all that a study needs to know of it.

A measure is added by one decorated function in one file. From the decorator follow when it is
made (and made again), its entries in result.json, its table, its figure and its section of the
report, in a study and in experiments.evaluate alike.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from jaxdiff.estimates import Estimate
from jaxdiff.measures.artifacts import Artifacts

if TYPE_CHECKING:
    from jaxdiff.settings import MeasureSettings

Topic = Literal[
    "shares", "diversity", "samples", "memorization", "mechanism", "quality", "training"
]
Compute = Callable[[Artifacts], list[Estimate]]


@dataclasses.dataclass(frozen=True)
class AgainstDepth:
    """A figure: one estimate of every model, with its interval, against the model's depth.

    Parameters
    ----------
    estimate
        Name of the estimate that is drawn.
    label
        Label of the vertical axis.
    scale
        Factor between the estimate and the axis.
    reference
        Name of the estimate that is drawn as a dashed line; "trained" is the minority's share of
        the training data, "" draws none.
    """

    estimate: str
    label: str
    scale: float = 1.0
    reference: str = ""


@dataclasses.dataclass(frozen=True)
class Measure:
    """A function of artifacts and all that a study needs to know of it.

    Parameters
    ----------
    name
        Section of result.json.
    compute
        Returns the section's estimates.
    title, caption
        Heading of the report's section, and what to read it for.
    needs, optional
        Attributes of `Artifacts`, or names of other measures, that it reads; it runs where
        nothing of ``needs`` is missing.
    settings
        Keys of ``config.measures`` that it depends on.
    outputs
        Files that it writes beside its estimates.
    topic
        Part of the report that it stands in.
    figure
        How it is drawn, where a table is not enough.
    table
        Name of its CSV file; by default its own.
    enabled
        Whether the settings ask for it.
    """

    name: str
    compute: Compute
    title: str
    caption: str
    needs: tuple[str, ...]
    optional: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    topic: Topic = "quality"
    figure: AgainstDepth | None = None
    table: str = ""
    enabled: Callable[["MeasureSettings"], bool] = lambda settings: True

    def describe(self) -> dict[str, Any]:
        """What the report needs to know, as JSON holds it."""
        figure = None if self.figure is None else dataclasses.asdict(self.figure)
        return {
            "name": self.name,
            "title": self.title,
            "caption": self.caption,
            "topic": self.topic,
            "table": self.table or self.name,
            "figure": figure,
        }


MEASURES: dict[str, Measure] = {}


def measure(name: str, **fields: Any) -> Callable[[Compute], Compute]:
    """Register a function from `Artifacts` to estimates as the measure `name`.

    Parameters
    ----------
    name
        Section of result.json; lower case with underscores.
    **fields
        The other fields of `Measure`.

    Raises
    ------
    ValueError
        Where another module has registered the name.
    """

    def register(compute: Compute) -> Compute:
        registered = MEASURES.get(name)
        if registered is not None and registered.compute.__module__ != compute.__module__:
            raise ValueError(
                f"measure {name!r} of {compute.__module__} is also in "
                f"{registered.compute.__module__}; choose another name"
            )
        MEASURES[name] = Measure(name, compute, **fields)
        return compute

    return register


def load_measures() -> dict[str, Measure]:
    """Import every module of jaxdiff.measures; all registered measures, in report order."""
    package = importlib.import_module("jaxdiff.measures")
    for module in pkgutil.iter_modules(package.__path__, "jaxdiff.measures."):
        importlib.import_module(module.name)
    return in_order(MEASURES.values())


def in_order(measures: Iterable[Measure]) -> dict[str, Measure]:
    """The measures by name, each one after those that it needs.

    Raises
    ------
    ValueError
        Where measures need each other.
    """
    waiting = {measure.name: measure for measure in measures}
    names = set(waiting)
    ordered: dict[str, Measure] = {}
    while waiting:
        # A measure may have the name of an artifact that it needs, as "checkpoints" does.
        ready = [
            item
            for item in waiting.values()
            if not (set(item.needs) & names) - ordered.keys() - {item.name}
        ]
        if not ready:
            raise ValueError(f"the measures {', '.join(sorted(waiting))} need each other")
        for item in ready:
            ordered[item.name] = waiting.pop(item.name)
    return ordered
