"""The claims that a study plans, built from its finished cells. No JAX."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from jaxdiff.analysis.along_training import read_at_equal_loss, read_early_and_late
from jaxdiff.analysis.claim import Claim
from jaxdiff.analysis.contrasts import (
    Arm,
    BlockedMean,
    FinishedSeeds,
    ReadPair,
    SampleReading,
    build_arm,
    build_contrast,
    find_finished,
    find_share,
    logit_share,
    mean_gate,
    read_final,
    to_mix,
)
from jaxdiff.analysis.plan import Plan, is_trained_on
from jaxdiff.analysis.queries import format_mix
from jaxdiff.analysis.verdicts import (
    BOUNDS_CONFIDENCE,
    LOST_RATIO,
    MIN_ALIGNMENT_SEEDS,
    Verdict,
    explain_few_test_images,
    judge_contrast,
    judge_equivalence,
    judge_sign,
)
from jaxdiff.estimates import EXACT_TRIALS, Estimate, bounded_logit
from jaxdiff.results import CellInfo, CellResult, DataKey


@dataclasses.dataclass(frozen=True)
class _SeedValues:
    """What two models are compared by, seed by seed.

    Parameters
    ----------
    of_seeds, majorities
        A value for each finished seed, and the class that has its majority.
    undefined
        Cells without the value.
    planned
        The planned seeds.
    data
        The training data in words.
    """

    of_seeds: list[Any]
    majorities: list[int]
    undefined: tuple[str, ...]
    planned: Sequence[int]
    data: str


@dataclasses.dataclass(frozen=True)
class PlannedClaims:
    """The planned cells of a study, from which claims are built."""

    cells: Sequence[CellResult]
    plan: Plan
    test_images: int
    diverged: Sequence[CellInfo]

    def secondary_claims(self, seeds: Sequence[int]) -> list[Claim]:
        """Planned pairs, each mix alone, and models against their training data.

        There are none where the training data have no minority.
        """
        shallow, deep = self.plan.primary_pair(self.cells)
        data = self.plan.data_with_minority(self.cells)
        if not data:
            return []
        claims = [self.claim_change(*pair, seeds) for pair in self.plan.secondary]
        if shallow != deep:
            claims += [self.claim_named(name, shallow, deep, seeds) for name in self.plan.named]
        if len(data) > 1 and shallow != deep:
            claims += [self.claim_change(shallow, deep, seeds, [key]) for key in data]
        claims.append(self.claim_against_data(deep, seeds, data))
        return claims + [self.claim_alignment(shallow, seeds, key) for key in data]

    def claim_named(self, name: str, shallow: str, deep: str, seeds: Sequence[int]) -> Claim:
        """A claim of `jaxdiff.settings.NAMED_CLAIMS` about two models."""
        if name == "equal_loss":
            claim = self.claim_change(shallow, deep, seeds, read_pair=read_at_equal_loss)
            assert claim.contrast is not None
            condition = "at equal loss of unseen images"
            contrast = dataclasses.replace(claim.contrast, condition=condition)
            name = f"{claim.claim}, {contrast.condition}"
            return dataclasses.replace(claim, claim=name, contrast=contrast)
        claim_of_name = {"training_time": self.claim_training_time, "lpips": self.claim_lpips}
        return claim_of_name[name](shallow, deep, seeds)

    def claim_training_time(self, shallow: str, deep: str, seeds: Sequence[int]) -> Claim:
        """The last three quarters of training move the share further than depth does."""
        models = (shallow, deep)
        values = self._compare(shallow, deep, seeds, _read_pair_early_and_late)
        # [seed, mix, model, early or late, logit share or gate]
        num_mixes = len(self.plan.data_with_minority(self.cells))
        table = np.array(values.of_seeds).reshape(len(values.of_seeds), num_mixes, 2, 2, 2)
        logit_shares = table[..., 0].mean(axis=1)  # over the mixes
        # Each [seed, model].
        early, late = np.moveaxis(logit_shares, -1, 0)
        shallow_late, deep_late = late.T
        by_training = (late - early).mean(axis=1)
        by_depth = deep_late - shallow_late
        # A change's size is that of its mean over seeds, whose sign is the data's.
        signs = [
            np.sign(BlockedMean.of(changes.tolist(), values.majorities).value)
            for changes in (by_training, by_depth)
        ]
        differences = signs[0] * by_training - signs[1] * by_depth
        # [model, early or late, mix, seed, logit share or gate]
        by_model = table.transpose(2, 3, 1, 0, 4)
        arms = []
        for model, (early_readings, late_readings) in zip(models, by_model, strict=True):
            arms.append(_build_arm(f"{model} at a quarter of training", early_readings))
            arms.append(_build_arm(model, late_readings))
        return self._claim_above_zero(
            "training moves the minority's share further than depth does",
            "size of the logit share's change over the last three quarters of training, mean of "
            f"models {shallow} and {deep}, minus the size of its change from {shallow} to {deep}",
            models,
            dataclasses.replace(values, of_seeds=differences.tolist()),
            arms,
            is_share=True,
        )

    def claim_lpips(self, shallow: str, deep: str, seeds: Sequence[int]) -> Claim:
        """The deep model's samples differ more from one another, at the training data's mix."""
        values = self._compare(shallow, deep, seeds, _lpips_change)
        changes = [float(np.mean(by_mix)) for by_mix in values.of_seeds]
        data = self.plan.data_with_minority(self.cells)
        final = build_contrast(self.cells, shallow, deep, seeds, data)
        return self._claim_above_zero(
            f"samples of model {deep} differ more from one another than those of model {shallow}",
            "change of LPIPS at the training data's mix",
            (shallow, deep),
            dataclasses.replace(values, of_seeds=changes),
            final.arms,
        )

    def _compare(
        self,
        shallow: str,
        deep: str,
        seeds: Sequence[int],
        compare: Callable[[CellResult, CellResult], Any],
    ) -> "_SeedValues":
        """What `compare` makes of two models, by seed and training data."""
        data = self.plan.data_with_minority(self.cells)
        seeds = self._select_seeds(seeds, (shallow, deep), data)
        finished = find_finished(self.cells, (shallow, deep), seeds, data, find_share)
        undefined = list(finished.undefined)
        of_seeds = []
        majorities = []
        for seed, majority in finished.majorities().items():
            rows = finished.cells[seed]
            compared = [compare(a, b) for a, b in rows]
            missing = [
                f"{a.name} and {b.name}"
                for (a, b), v in zip(rows, compared, strict=True)
                if v is None
            ]
            undefined += missing
            if not missing:
                of_seeds.append(compared)
                majorities.append(majority)
        return _SeedValues(of_seeds, majorities, tuple(undefined), seeds, _format_data(data))

    def _claim_above_zero(
        self,
        claim: str,
        quantity: str,
        models: Sequence[str],
        values: "_SeedValues",
        arms: Sequence[Arm],
        is_share: bool = False,
    ) -> Claim:
        """A claim that is supported above 0; one about shares is widened as contrasts are."""
        mean = BlockedMean.of(values.of_seeds, values.majorities)
        shifts = [abs(arm.shift(LOST_RATIO)) for arm in arms] if is_share else []
        widening = max(shifts, default=0.0)

        def rule(alpha: float) -> Verdict:
            interval = mean.estimate(1 - alpha)
            assert interval.low is not None
            assert interval.high is not None
            return judge_sign(interval.low - widening, interval.high + widening)

        return Claim(
            claim,
            values.data,
            quantity,
            mean,
            rule,
            len(values.planned),
            gates={arm.model: arm.gate for arm in arms},
            why=self._explain_missing(values.undefined, models, values.planned),
            undefined=values.undefined,
        )

    def claim_change(
        self,
        shallow: str,
        deep: str,
        seeds: Sequence[int],
        data: Sequence[DataKey] | None = None,
        read_pair: ReadPair = read_final,
    ) -> Claim:
        """One model draws fewer of the minority than another; pooled, the seed as unit."""
        if data is None:
            data = self.plan.data_with_minority(self.cells)
        seeds = self._select_seeds(seeds, (shallow, deep), data)
        contrast = build_contrast(self.cells, shallow, deep, seeds, data, read_pair)
        mean = contrast.mean

        def rule(alpha: float) -> Verdict:
            interval = mean.estimate(1 - alpha)
            assert interval.low is not None
            assert interval.high is not None
            return judge_contrast(interval.low, interval.high, contrast.widening(LOST_RATIO))

        return Claim(
            f"model {deep} draws fewer of the minority than model {shallow}",
            _format_data(data),
            "change of the logit share",
            mean,
            rule,
            len(seeds),
            gates={arm.model: arm.gate for arm in contrast.arms},
            why=self._explain_missing(contrast.undefined, (shallow, deep), seeds),
            undefined=contrast.undefined,
            contrast=contrast,
        )

    def claim_against_data(
        self, model: str, seeds: Sequence[int], data: Sequence[DataKey]
    ) -> Claim:
        """A model draws fewer of the minority than it was shown, by the bounds of its share."""
        seeds = self._select_seeds(seeds, (model,), data)
        finished = find_finished(self.cells, (model,), seeds, data, _find_bounds)
        upper = _mean_of_bounds(finished, 1)
        lower = _mean_of_bounds(finished, -1)

        def rule(alpha: float) -> Verdict:
            # Each verdict holds even where the ambiguous samples all speak against it.
            high = upper.estimate(1 - alpha).high
            low = lower.estimate(1 - alpha).low
            if high is not None and high < 0:
                return "supported"
            return "contradicted" if low is not None and low > 0 else "undecided"

        return Claim(
            f"model {model} draws fewer of the minority than it was shown",
            _format_data(data),
            "logit, generated minus trained, every ambiguous sample counted for the minority",
            upper,
            rule,
            len(seeds),
            why=self._explain_missing(finished.undefined, (model,), seeds),
            undefined=finished.undefined,
        )

    def claim_alignment(self, model: str, seeds: Sequence[int], key: DataKey) -> Claim:
        """A model draws the minority as often as it was shown it."""
        seeds = self._select_seeds(seeds, (model,), [key])
        finished = find_finished(self.cells, (model,), seeds, [key], find_share)
        members = [cell for rows in finished.cells.values() for (cell,) in rows]
        mean = BlockedMean.of([logit_share(cell) for cell in members], _majorities(members))
        trained = to_mix(key).proportions[1]

        def rule(alpha: float) -> Verdict:
            interval = mean.estimate(1 - alpha).map(expit)
            assert interval.low is not None
            assert interval.high is not None
            return judge_equivalence(interval.low, interval.high, trained)

        why = self._explain_missing(finished.undefined, (model,), seeds)
        if not why and mean.n < MIN_ALIGNMENT_SEEDS:
            why = f"a margin of 2 points takes {MIN_ALIGNMENT_SEEDS} seeds: read the interval alone"
        return Claim(
            f"model {model} draws the trained share, within 2 points",
            _format_data([key]),
            "minority share, at 90 %",
            mean,
            rule,
            len(seeds),
            gates={model: mean_gate(members)},
            why=why,
            undefined=finished.undefined,
            # Both one-sided tests at 5 % (`judge_equivalence`), outside Holm's family.
            alpha=0.10,
            to_unit=expit,
        )

    def _select_seeds(
        self, seeds: Sequence[int], models: Sequence[str], data: Sequence[DataKey]
    ) -> list[int]:
        """The seeds of the models, without those of which one has diverged on these data."""
        diverged = {
            info.seed
            for info in self.diverged
            if info.model in models and is_trained_on(info, data)
        }
        planned = set(self.plan.seeds_of(models)) - diverged
        return [seed for seed in seeds if seed in planned]

    def _explain_missing(
        self, undefined: Sequence[str], models: Sequence[str], seeds: Sequence[int]
    ) -> str:
        """Why nothing can be concluded whatever the values are; empty where something can.

        Parameters
        ----------
        undefined
            Cells without the value.
        models
            The models that are compared.
        seeds
            The planned seeds of which none of them has diverged.
        """
        if undefined:
            return f"what is compared is undefined for {', '.join(undefined)}"
        why = self.plan.explain_roles(models)
        if not why and not seeds:
            why = "for every planned seed, the training of at least one model diverged"
        if not why and self.plan.alternate and len({seed % 2 for seed in seeds}) < 2:
            why = "only seeds of one role are left, since models of the others have diverged"
        return why or explain_few_test_images(self.test_images)


def _format_data(data: Sequence[DataKey]) -> str:
    return "; ".join(format_mix(to_mix(key)) for key in data)


def _majorities(cells: Sequence[CellResult]) -> list[int]:
    return [cell.info.majority for cell in cells]


def _mean_of_bounds(finished: FinishedSeeds, sign: int) -> BlockedMean:
    """The mean over seeds of one extreme (1 the upper, -1 the lower), minus the trained logit."""
    values = []
    for rows in finished.cells.values():
        by_mix = [_bound_less_trained(cell, sign) for (cell,) in rows]
        values.append(sum(by_mix) / len(by_mix))
    return BlockedMean.of(values, list(finished.majorities().values()))


def _find_bounds(cell: CellResult) -> Estimate | None:
    """The bounds of a cell's share; None where no sample is of the two classes."""
    bounds = cell.find("share", "bounds", confidence=BOUNDS_CONFIDENCE)
    return None if bounds is None or bounds.value is None else bounds


def _bound_less_trained(cell: CellResult, sign: int) -> float:
    """The logit of an extreme share (1 the upper, -1 the lower), minus the trained logit."""
    bounds = _find_bounds(cell)
    assert bounds is not None
    assert bounds.n is not None
    # The value counts half of the ambiguous samples for the minority.
    extreme = float(bounds) + sign * bounds.labels["ambiguous"] / (2 * bounds.n)
    trained = bounded_logit(cell.info.proportions[1], EXACT_TRIALS)
    return bounded_logit(extreme, bounds.n) - trained


def _read_pair_early_and_late(shallow: CellResult, deep: CellResult) -> Any:
    """The readings of both models, early and late; None where one is missing."""
    readings = [read_early_and_late(shallow), read_early_and_late(deep)]
    return None if None in readings else readings


def _build_arm(model: str, readings: np.ndarray) -> Arm:
    """An arm from its readings [mix, seed, logit share or gate]."""
    return build_arm(model, [[SampleReading(*row) for row in of_mix] for of_mix in readings])


def _lpips_change(shallow: CellResult, deep: CellResult) -> float | None:
    first = shallow.find("lpips", "at_training_mix")
    second = deep.find("lpips", "at_training_mix")
    if first is None or second is None or first.value is None or second.value is None:
        return None
    return second.value - first.value
