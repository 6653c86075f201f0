"""Training a cell: from its data to checkpoints and metrics.jsonl."""

import json
import time
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from flax import nnx

from jaxdiff import checkpoints, files, models, parallel, training
from jaxdiff.datasets import digits
from jaxdiff.study.cells import Cell
from jaxdiff.study.draw import Progress
from jaxdiff.unet import UNet, UNetConfig, abstract, functional, parameters


def train(
    cell: Cell, folder: epath.Path, split: digits.Split, progress: Progress, profile: epath.Path | None = None
) -> None:
    """Train to the end from the newest whole checkpoint; writes checkpoints and metrics.jsonl."""
    s, diffusion = cell.settings["train"], cell.settings["diffusion"]
    mesh, saved = parallel.data_mesh(s["batch"]), folder / "checkpoints"
    keep = {k: s[k] for k in ("learning_rate", "warmup", "weight_decay", "clip")}
    optimizer = training.adamw(s["steps"], **keep)
    params = parameters(models.load(s["init"]).unet if s["init"] else UNet(cell.unet, rngs=nnx.Rngs(cell.seed)))
    state = training.init_state(params, optimizer, mesh)
    broken = lambda step: progress("train", step, s["steps"], f"checkpoint {step} is damaged and not used")  # noqa: E731
    if (start := checkpoints.newest(saved, broken)) is not None:
        state = checkpoints.restore(saved, start, state)
    train_step = training.make_train_step(
        training_apply(cell.unet), optimizer, models.schedule(diffusion), mesh,
        prediction=diffusion["prediction"], ema=s["ema"], seed=cell.seed,
    )  # fmt: skip
    wanted = s["steps_per_call"] or (1 if jax.default_backend() == "cpu" else 32)
    k = training.steps_per_call(wanted, s["steps"], s["checkpoint_every"])
    run = training.fit(train_step, state, split.images, mesh, steps=s["steps"], batch=s["batch"], k=k, seed=cell.seed)
    if profile is not None:
        run = profiled(run, profile)
    log = MetricsLog(folder / "metrics.jsonl", start or 0, s["log_every"], s["batch"])
    for step, (state, metrics) in enumerate(run, start=0):
        reached = min((start or 0) + (step + 1) * k, s["steps"])
        log.write(metrics)
        progress("train", log.last, s["steps"], log.note)
        if reached == s["steps"] > log.last:
            continue  # the generator's last yield brings the last metrics: save after those are seen
        if reached % s["checkpoint_every"] == 0 or reached == s["steps"]:
            checkpoints.save(saved, reached, state)


def training_apply(config: UNetConfig) -> training.Apply:
    """The U-Net as training calls it; the keys are used where it has dropout."""
    net = functional(abstract(config))
    return lambda params, xt, t, keys: net(params, xt, t, None, keys if config.dropout else None)


class MetricsLog:
    """metrics.jsonl: one line each `every` steps; lines past the step from which a run goes on are dropped."""

    def __init__(self, path: epath.Path, start: int, every: int, batch: int):
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= start]
        files.write(path, "".join(line + "\n" for line in kept))
        self.path, self.every, self.batch = path, every, batch
        self.last, self.note, self.marked = start, "compiling", (start, time.time())

    def write(self, metrics: list[training.Metrics]) -> None:
        """Append the lines that are due. Raises ValueError where the loss is no longer finite."""
        due = []
        for record in metrics:
            self.last = int(record["step"])
            if not np.isfinite(record["loss"]):
                raise ValueError(f"the loss is {record['loss']} at step {self.last}; lower train.learning_rate")
            if self.last % self.every == 0:
                due.append(record)
        if due:
            (step, then), now = self.marked, time.time()
            rate = (self.last - step) * self.batch / max(now - then, 1e-9)
            self.marked, self.note = (self.last, now), f"loss {due[-1]['loss']:.4f}, {rate:,.0f} images/s"
            with self.path.open("a") as file:
                file.writelines(json.dumps(record | {"images_per_second": round(rate, 1)}) + "\n" for record in due)


def profiled(run: Iterator, folder: epath.Path) -> Iterator:
    """The same iterator, with calls 3 to 8 recorded for TensorBoard or Perfetto (after compilation)."""
    i = 0
    for i, item in enumerate(run):
        if i == 3:
            jax.profiler.start_trace(str(folder))
        yield item
        if i == 8:
            break
    if i >= 3:  # a run of fewer calls is recorded to its end
        jax.profiler.stop_trace()
    yield from run
