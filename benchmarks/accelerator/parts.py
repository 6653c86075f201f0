"""The parts of the benchmark: which workers are compared, and what is recorded of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from benchmarks.accelerator.neighbors_data import share_equal
from benchmarks.accelerator.plans import Figures, Plan, Side
from benchmarks.accelerator.sizes import FULL, TINY, Sizes, Task
from benchmarks.curvature_task import CurvatureTask
from benchmarks.turns import Answer
from benchmarks.unet_task import UNetTask
from jaxdiff.planning.chips import CHIPS

PACKAGE = "benchmarks.accelerator"
SEARCH_SECONDS = 4.0  # roughly, of all queries
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
What = Literal["train", "sample"]


def peak_flops(device: str, dtype: str) -> float | None:
    """FLOP/s of a device at most; None where it is not known."""
    chip = CHIPS.get(device)
    if chip is None:
        return None
    flops = chip.flops / chip.devices
    # A TPU multiplies float32 in bfloat16 by default, a GPU in TF32 at half the rate.
    return flops if dtype == "bfloat16" or device.startswith("TPU") else flops / 2


def describe_rates(figures: Figures, unit: str) -> Answer:
    """A worker's rate, median and range; or why there is none."""
    if not figures.rounds:
        return {"missing": figures.missing or "no time was left"}
    answer = {
        unit: figures.rate,
        "range": [min(figures.rates), max(figures.rates)],
        "compiled_after_s": figures.ready,
    }
    if figures.missing:
        answer["missing"] = figures.missing
    return answer | {
        name: figures.warm[name]
        for name in ("device", "device_peak_mb", "largest")
        if name in figures.warm
    }


def compare_rates(figures: Mapping[str, Figures], unit: str) -> Answer:
    """The rates of every worker."""
    return {name: describe_rates(side, unit) for name, side in figures.items()}


@dataclasses.dataclass(frozen=True)
class Parts:
    """Builds the plan of each part.

    Parameters
    ----------
    folder
        Of files that workers exchange.
    tiny
        Whether the sizes are a CPU's.
    profiles
        Folder of profiles of our train steps; empty for none.
    """

    folder: str
    tiny: bool
    profiles: str = ""

    def place_profile(self, model: str) -> str:
        """Folder of the profile of a model's train step; empty where none is asked for."""
        return f"{self.profiles}/train_{model}" if self.profiles else ""

    @property
    def sizes(self) -> Sizes:
        return TINY if self.tiny else FULL

    def task(self, **options: Any) -> dict[str, Any]:
        return dataclasses.asdict(Task(tiny=self.tiny, folder=self.folder, **options))

    def health(self) -> Plan:
        def entry(figures: Mapping[str, Figures]) -> Answer:
            worker = figures["health"]
            answer = dict(worker.compiled)
            for rates in worker.rounds:
                answer |= rates
            return answer | ({"missing": worker.missing} if worker.missing else {})

        sides = {"health": Side(f"{PACKAGE}.health", self.task())}
        return Plan(("health",), sides, entry, turns=1, seconds=3.0, is_timed=False)

    def parity(self) -> list[Plan]:
        def entry(figures: Mapping[str, Figures]) -> Answer:
            (worker,) = figures.values()
            return worker.compiled or {"missing": worker.missing}

        sides = {
            "outputs and gradients": Side(f"{PACKAGE}.parity", self.task()),
            "steps": Side(f"{PACKAGE}.steps", self.task()),
            "deterministic steps": Side(
                f"{PACKAGE}.steps", self.task(deterministic=True), xla_flags=DETERMINISTIC
            ),
        }
        return [Plan(("parity", name), {name: side}, entry) for name, side in sides.items()]

    def unet(self, what: What, model: str, folder: str) -> Plan:
        """Training or sampling of a model, beside diffusers with PyTorch."""
        sizes = self.sizes
        tf32 = "float32" if self.tiny else "TF32"
        tuned = "channels_last" if self.tiny else "compile"

        def side(is_peer: bool, dtype: Any, **options: Any) -> Side:
            settings = {"steps_per_call": 1, "compile": False, **options}
            task = UNetTask(
                what, folder, sizes.batch, dtype=dtype, seconds=sizes.seconds, **settings
            )
            module = "benchmarks.unet_torch" if is_peer else "benchmarks.unet_jax"
            return Side(module, dataclasses.asdict(task), is_peer)

        best = {"compile": not self.tiny, "tuned": True}
        peers = {
            "torch eager bfloat16": side(True, "bfloat16"),
            f"torch {tuned} bfloat16": side(True, "bfloat16", **best),
            f"torch {tuned} {tf32}": side(True, "float32", **best),
        }
        if what == "sample":
            ours = {
                "jaxdiff bfloat16": side(False, "bfloat16"),
                f"jaxdiff {tf32}": side(False, "float32"),
            }
            pair = None
        else:
            k = sizes.steps_per_call
            ours = {
                f"jaxdiff bfloat16 K={k}": side(False, "bfloat16", steps_per_call=k),
                "jaxdiff bfloat16 K=1": side(False, "bfloat16", profile=self.place_profile(model)),
                f"jaxdiff {tf32} K=1": side(False, "float32"),
            }
            pair = (f"jaxdiff bfloat16 K={k}", "jaxdiff bfloat16 K=1")
        sides = ours | peers

        def entry(figures: Mapping[str, Figures]) -> Answer:
            return describe_unet(sides, figures, sizes.batch, pair)

        return Plan((what, model), sides, entry, sizes.turns, sizes.seconds, pair=pair)

    def neighbors(self) -> Plan:
        sides = {
            "jaxdiff": Side(f"{PACKAGE}.neighbors_jax", self.task()),
            "torch float32": Side(f"{PACKAGE}.neighbors_torch", self.task(), is_peer=True),
            "torch TF32": Side(f"{PACKAGE}.neighbors_torch", self.task(tf32=True), is_peer=True),
        }

        def entry(figures: Mapping[str, Figures]) -> Answer:
            answer = compare_rates(figures, "queries_per_second")
            for name in ("torch float32", "torch TF32"):
                file = name.replace(" ", "_").lower()
                answer[name]["equal_indices"] = share_equal(self.folder, file, "jaxdiff")
            return answer

        seconds = self.sizes.seconds if self.tiny else SEARCH_SECONDS
        return Plan(("neighbors",), sides, entry, turns=2, seconds=seconds)

    def lpips(self) -> Plan:
        sides = {
            "jaxdiff float32": Side(f"{PACKAGE}.lpips_jax", self.task()),
            "jaxdiff TF32": Side(f"{PACKAGE}.lpips_jax", self.task(tf32=True)),
            "torch float32": Side(f"{PACKAGE}.lpips_torch", self.task(), is_peer=True),
            "torch TF32": Side(f"{PACKAGE}.lpips_torch", self.task(tf32=True), is_peer=True),
        }

        def entry(figures: Mapping[str, Figures]) -> Answer:
            return compare_rates(figures, "images_per_second")

        return Plan(("lpips",), sides, entry, turns=2, seconds=self.sizes.seconds)

    def probe(self, folder: str) -> Plan:
        """Products of the Jacobian of a denoiser, beside torch.func."""
        sizes = self.sizes
        sides = {}
        for is_peer, name in ((False, "jaxdiff"), (True, "torch.func")):
            for tf32, precision in ((False, "float32"), (True, "TF32")):
                task = CurvatureTask(
                    folder,
                    sizes.probed_pixels,
                    sizes.points,
                    sizes.products,
                    seconds=sizes.seconds,
                    tf32=tf32,
                )
                module = "benchmarks.curvature_torch" if is_peer else "benchmarks.curvature_jax"
                side = Side(module, dataclasses.asdict(task), is_peer)
                sides[f"{name} {precision}"] = side

        def entry(figures: Mapping[str, Figures]) -> Answer:
            return compare_rates(figures, "products_per_second")

        return Plan(("probe",), sides, entry, sizes.turns, sizes.seconds)


def describe_unet(
    sides: Mapping[str, Side],
    figures: Mapping[str, Figures],
    batch: int,
    pair: tuple[str, str] | None,
) -> Answer:
    """Rates, milliseconds a step and shares of the device's peak."""
    answer = compare_rates(figures, "images_per_second")
    # Our count of the model's arithmetic serves both sides.
    flops = max((side.warm.get("flops", 0.0) for side in figures.values()), default=0.0)
    for name, side in sides.items():
        rate = answer[name].get("images_per_second")
        if not rate:
            continue
        answer[name]["ms_per_step"] = 1e3 * batch / rate
        if not flops:
            continue
        answer[name]["tflops"] = rate * flops / 1e12
        peak = peak_flops(answer[name].get("device", ""), side.task["dtype"])
        if peak:
            answer[name]["share_of_peak"] = rate * flops / peak
    if pair and all(figures[name].together for name in pair):
        rates = [figures[name].together or 0.0 for name in pair]
        alone = max(figures[name].rate for name in pair)
        answer["two at once"] = {
            "images_per_second": sum(rates),
            "each": rates,
            "ratio_to_one_alone": sum(rates) / alone,
        }
    if flops:
        answer["gflop_per_image"] = flops / 1e9
    return answer
