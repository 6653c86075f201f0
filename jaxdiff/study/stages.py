"""The stages of a cell, each one short function from files to files.

A stage is done when its record names the inputs that it would have now and its outputs still have the bytes that it
wrote. A stage that is done is skipped, so running the same command again resumes.
"""

import functools
import importlib.metadata
import json
import platform
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from jaxdiff import checkpoints, files, models, parallel, results, samplers, training
from jaxdiff.datasets import digits
from jaxdiff.datasets.images import to_uint8
from jaxdiff.features import classifier
from jaxdiff.measures import shares
from jaxdiff.study.cells import Cell
from jaxdiff.unet import Params, UNet, abstract, functional, parameter_count, parameters

# (what is being done, how much of it is done, of how much, a note such as the loss)
Progress = Callable[[str, int, int, str], None]
BANK = 0x6E6F6973  # sets the keys of a seed's noise bank apart from those of its training


def stage(
    folder: epath.Path, name: str, inputs: Any, outputs: tuple[str, ...], make: Callable[[], None]
) -> dict[str, str]:
    """Run `make` unless the stage is done; the checksums of its outputs, which are the inputs of later stages."""
    record, wanted = folder / "stages" / f"{name}.json", files.fingerprint(inputs)
    if record.exists():
        done = files.read_json(record)
        try:
            if done["inputs"] == wanted and files.checksums(folder, outputs) == done["outputs"]:
                return done["outputs"]
        except OSError:
            pass  # an output is gone: make it again
    make()
    sums = files.checksums(folder, outputs)
    files.write_json(record, {"inputs": wanted, "outputs": sums})
    return sums


def run_cell(cell: Cell, workdir: epath.Path, progress: Progress, profile: bool = False) -> None:
    """Train, sample, classify and measure one cell under workdir/cells, skipping what is done.

    Raises ValueError where the folder holds a cell of the same name with other settings.
    """
    folder, s = workdir / "cells" / cell.name, cell.settings
    claim(folder / "config.json", s)
    splits = functools.cache(lambda: load_data(cell, workdir / "shared" / "data"))
    judge = shared_classifier(cell, workdir / "shared", splits, progress)
    trained = {key: s[key] for key in s if key not in ("sample", "classifier")}
    started = time.time()
    final = f"checkpoints/{s['train']['steps']}"
    stage(folder, "train", trained, (final,),
          lambda: train(cell, folder, splits()["train"], progress, workdir / "profile" if profile else None))  # fmt: skip
    bank = {"trained": trained, "sample": s["sample"]}
    drawn = stage(folder, "sample", bank, ("samples.npz",), lambda: sample(cell, folder, progress))
    called = stage(folder, "classify", {"samples": drawn, "judge": judge}, ("classes.npz",),
                   lambda: classify(folder, workdir / "shared"))  # fmt: skip
    stage(folder, "measure", {"called": called, "settings": s}, ("result.json",),
          lambda: measure(cell, folder, workdir / "shared"))  # fmt: skip
    if not (folder / "run.json").exists():
        files.write_json(folder / "run.json", environment() | {"seconds": round(time.time() - started, 1)})


def claim(path: epath.Path, settings: dict[str, Any], fixed: Callable[[dict], dict] = lambda s: s) -> None:
    """Write the settings that a folder is for. Raises ValueError, naming the difference, where `fixed` of those there differs."""
    if path.exists():
        there, here = fixed(files.read_json(path)), fixed(settings)
        if there != here:
            raise ValueError(
                f"{path.parent} was made with other settings ({difference(there, here)}); "
                "choose another --workdir or remove that folder"
            )
    files.write_json(path, settings)


def difference(there: Any, here: Any, at: str = "config") -> str:
    """The first place where two JSON values differ, in words."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            if there.get(key) != here.get(key):
                return difference(there.get(key), here.get(key), f"{at}.{key}")
    return f"{at} is {json.dumps(there)} there and {json.dumps(here)} here"


def load_data(cell: Cell, folder: epath.Path) -> dict[str, digits.Split]:
    """The splits of a cell's dataset. Seeds take the disjoint parts in turn, then reshuffle."""
    data = cell.settings["data"]
    turn, part = divmod(cell.seed, data["parts"])
    counts = {c: cell.counts[c] for c in sorted(cell.counts)}
    return digits.load(
        folder,
        counts,
        part=part,
        parts=data["parts"],
        seed=turn,
        size=data["size"],
        channels=data["channels"],
    )


def shared_classifier(
    cell: Cell, folder: epath.Path, splits: Callable[[], dict[str, digits.Split]], progress: Progress
) -> dict[str, str]:
    """The classifier and its confusion matrix on digits it never saw, made once for a study."""

    def make() -> None:
        progress("classifier", 0, cell.settings["classifier"]["steps"], "")
        seen, test, held_out = (splits()[name] for name in ("classifier", "classifier_test", "held_out"))
        params = classifier.train(seen.images, seen.labels, steps=cell.settings["classifier"]["steps"])
        matrix = shares.confusion_matrix(test.labels, classifier.classify(params, test.images)[0], 11)
        classes = [cell.majority, cell.minority]
        mine = np.isin(held_out.labels, classes)
        called = classifier.classify(params, held_out.images)[0]
        gate = {"held_out": float(np.isin(called[mine], classes).mean()),
                "other_digits": float(np.isin(called[~mine], classes).mean())}  # fmt: skip
        results.write_npz(folder / "classifier.npz", **{k: np.asarray(v) for k, v in params.items()})
        files.write_json(folder / "confusion.json", {"matrix": matrix.tolist(), "gate": gate})
        progress("classifier", 1, 1, f"gate on held-out digits {gate['held_out']:.2f}")

    data = {key: cell.settings["data"][key] for key in ("source", "classes", "size", "channels")}
    inputs = {"data": data, "classifier": cell.settings["classifier"]}
    return stage(folder, "classifier", inputs, ("classifier.npz", "confusion.json"), make)


def train(
    cell: Cell, folder: epath.Path, split: digits.Split, progress: Progress, profile: epath.Path | None = None
) -> None:
    """Train to the end from the newest whole checkpoint; writes checkpoints and metrics.jsonl."""
    s, diffusion = cell.settings["train"], cell.settings["diffusion"]
    mesh, saved = parallel.data_mesh(s["batch"]), folder / "checkpoints"
    keep = {k: s[k] for k in ("learning_rate", "warmup", "weight_decay", "clip")}
    optimizer = training.adamw(s["steps"], **keep)
    params = parameters(UNet(cell.unet, rngs=nnx.Rngs(cell.seed)))
    state = training.init_state(params, optimizer, mesh)
    broken = lambda step: progress("train", step, s["steps"], f"checkpoint {step} is damaged and not used")  # noqa: E731
    if (start := checkpoints.newest(saved, broken)) is not None:
        state = checkpoints.restore(saved, start, state)
    train_step = training.make_train_step(
        functional(abstract(cell.unet)), optimizer, models.schedule(diffusion), mesh,
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


def noise_bank(seed: int, indices: np.ndarray) -> jax.Array:
    """The keys of the samples with these indices in the noise bank of a seed, the same for every model."""
    bank = jax.random.fold_in(jax.random.key(seed), BANK)
    return jax.vmap(jax.random.fold_in, (None, 0))(bank, jnp.asarray(indices))


def draw(
    model: models.Model, indices: np.ndarray, settings: dict[str, Any], seed: int, progress: Progress
) -> np.ndarray:
    """Samples float32 [n, size, size, channel] in [-1, 1] for the indices of a seed's noise bank.

    They are computed in chunks of one size, padded, so that a sample's bits do not depend on how many are asked for.
    """
    size, channels, chunk = model.config["data"]["size"], model.unet.config.in_channels, settings["batch"]
    mesh, sampler = parallel.data_mesh(chunk), getattr(samplers, settings["method"])
    options = {"eta": settings["eta"]} if settings["method"] == "ddim" else {}
    apply = functional(abstract(model.unet.config))

    def run(params: Params, keys: jax.Array) -> jax.Array:
        return sampler(
            lambda xt, t: apply(params, xt, t), model.schedule, samplers.initial_noise(keys, (size, size, channels)),
            keys, prediction=model.prediction, steps=settings["steps"], clip=settings["clip"], **options,
        )  # fmt: skip

    specs = (parallel.REPLICATED, parallel.DATA)
    compiled = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=parallel.DATA, check_vma=False))
    params, images = jax.device_put(parameters(model.unet), parallel.replicated(mesh)), []
    for first in range(0, len(indices), chunk):
        progress("sample", first, len(indices), "")
        part = np.resize(indices[first : first + chunk], chunk)
        images.append(np.asarray(compiled(params, noise_bank(seed, part))))
    progress("sample", len(indices), len(indices), "")
    return np.concatenate(images)[: len(indices)]


def sample(cell: Cell, folder: epath.Path, progress: Progress) -> None:
    """Sample the trained cell from its seed's noise bank."""
    indices = np.arange(cell.settings["sample"]["num"])
    images = draw(models.load(folder), indices, cell.settings["sample"], cell.seed, progress)
    results.write_samples(folder / "samples.npz", to_uint8(images), indices)


def classify(folder: epath.Path, shared: epath.Path) -> None:
    """Label every sample, with its probability."""
    params = {key: jnp.asarray(value) for key, value in results.read_npz(shared / "classifier.npz").items()}
    labels, probabilities = classifier.classify(params, results.read_npz(folder / "samples.npz")["arr_0"])
    results.write_npz(folder / "classes.npz", label=labels, probability=probabilities)


def measure(cell: Cell, folder: epath.Path, shared: epath.Path) -> None:
    """Every number of the cell, from its files: result.json."""
    called = results.read_npz(folder / "classes.npz")["label"]
    confusion = np.array(files.read_json(shared / "confusion.json")["matrix"])
    own = {
        "name": cell.name, "model": cell.model, "depth": cell.unet.depth, "proportions": list(cell.proportions),
        "n": cell.n, "seed": cell.seed, "majority": cell.majority, "minority": cell.minority,
        "parameters": parameter_count(cell.unet),
        "bottleneck": cell.settings["data"]["size"] // 2 ** (cell.unet.depth - 1),
    }  # fmt: skip
    files.write_json(
        folder / "result.json",
        {
            "schema": results.SCHEMA,
            "cell": own,
            "quality": shares.quality(called, (cell.majority, cell.minority), reject=10),
            "share": shares.minority_share(called, cell.majority, cell.minority, confusion, cell.proportions[1]),
        },
    )


def environment() -> dict[str, Any]:
    """What may differ between equal runs: the time, the host, the devices, the versions."""
    packages = ("jaxdiff", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "host": socket.gethostname(), "python": platform.python_version(), "versions": versions,
        "device": jax.devices()[0].device_kind, "devices": jax.device_count(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def estimate(cell: Cell) -> dict[str, float]:
    """A rough cost of a cell here: its forward pass is compiled and timed; a training step costs about four of them."""
    s, size, channels = cell.settings, cell.settings["data"]["size"], cell.unet.in_channels
    apply, mesh = functional(abstract(cell.unet)), parallel.data_mesh(s["train"]["batch"])
    specs = (parallel.REPLICATED, parallel.DATA, parallel.DATA)
    forward = jax.jit(jax.shard_map(apply, mesh=mesh, in_specs=specs, out_specs=parallel.DATA, check_vma=False))
    params, batch = parameters(UNet(cell.unet, rngs=nnx.Rngs(0))), s["train"]["batch"]
    inputs = jnp.zeros((batch, size, size, channels)), jnp.zeros((batch,), jnp.int32)
    jax.block_until_ready(forward(params, *inputs))
    then = time.perf_counter()
    for _ in range(3):
        jax.block_until_ready(forward(params, *inputs))
    an_image = (time.perf_counter() - then) / 3 / batch
    count = sum(p.size for p in params.values())
    passes = 4 * s["train"]["steps"] * batch + s["sample"]["num"] * s["sample"]["steps"]
    disk = 2 * 16 * count + s["sample"]["num"] * size * size * channels  # two checkpoints of four float32 copies
    return {
        "parameters": count,
        "images": s["train"]["steps"] * batch,
        "seconds": passes * an_image + 30,
        "bytes": disk,
    }
