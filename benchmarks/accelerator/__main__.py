"""All figures of a GPU, or of another accelerator, as one JSON and tables of it.

  python -m benchmarks.accelerator --out h100.json [--seconds 400] [--models 2,6]
  python -m benchmarks.accelerator --quick --out h100.json
  python -m benchmarks.accelerator --tiny --out cpu.json      tries the command without a GPU

docs/benchmarks.md says what is measured and how a machine without network is made ready.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ENVIRONMENT = dict(os.environ)
os.environ["JAX_PLATFORMS"] = "cpu"  # the device is the workers'; this process writes weights

from absl import flags
from flax import nnx

from benchmarks.accelerator.jobs import Launcher, Queue
from benchmarks.accelerator.parts import Parts
from benchmarks.accelerator.plans import Plan
from benchmarks.accelerator.record import Record
from benchmarks.accelerator.sizes import FULL, TINY, build_config
from benchmarks.accelerator.study import Study
from benchmarks.accelerator.table import format_tables
from benchmarks.machine import describe_processor
from benchmarks.turns import ROOT
from experiments import _cli
from jaxdiff import diffusers_io
from jaxdiff.unet import UNet
from jaxdiff.unet_config import TABLE_A

PARTS = ("health", "parity", "train", "sample", "neighbors", "lpips", "probe", "study")
QUICK_PARTS = ("health", "train", "sample")
PROBED = "4"
# One device, and LLVM's slow passes left out: compiling takes most of the time.
TINY_XLA_FLAGS = (
    "--xla_force_host_platform_device_count=1 --xla_llvm_disable_expensive_passes=true "
    "--xla_backend_optimization_level=0"
)
SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}

flags.DEFINE_string("out", None, "File of the figures, .json.")
flags.DEFINE_bool("quick", False, 'Health, and training and sampling of "2" alone.')
flags.DEFINE_bool("tiny", False, "Small sizes of everything, to try the command on a CPU.")
flags.DEFINE_list("parts", list(PARTS), "What is measured.")
flags.DEFINE_list("models", ["2", "6"], "Rows of Table A that are trained and sampled.")
flags.DEFINE_float("seconds", 400.0, "Limit of time.", lower_bound=1.0)
flags.DEFINE_integer(
    "at_once",
    None,
    "Workers that compile at a time; by default all, and as many as there are cores where --tiny.",
    lower_bound=1,
)
flags.DEFINE_string("peer_python", sys.executable, "The interpreter that runs PyTorch.")
flags.DEFINE_string("lpips_weights", "", "Folder of alexnet.ckpt; without, the study has no LPIPS.")
flags.DEFINE_string(
    "profiles", "", "Folder of a profile of our train step of each model, for Perfetto."
)
FLAGS = flags.FLAGS


def check_flags() -> None:
    """Raise ValueError for flags that name what does not exist."""
    _cli.check_required("out")
    _cli.output_file("out", ".json")
    for flag, known in (("parts", PARTS), ("models", tuple(TABLE_A))):
        names = FLAGS[flag].value or []
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise ValueError(
                f"--{flag} must be of {', '.join(known)}, got {', '.join(unknown) or 'none'}; "
                "correct the names"
            )


def jax_environment(cache: Path) -> dict[str, str]:
    """The environment of our workers; what the user has set is left alone."""
    environment = dict(ENVIRONMENT)
    # A JAX for CUDA 13 ends with a segmentation fault where CUDA's own libraries are on this path
    # (jax-ml/jax 34696); it brings its own.
    environment.pop("LD_LIBRARY_PATH", None)
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    # Many processes share the device's memory.
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    environment.setdefault("CUDA_VISIBLE_DEVICES", "0")
    if FLAGS.tiny:
        flags_set = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags_set} {TINY_XLA_FLAGS}".strip()
    return environment


def peer_environment() -> dict[str, str]:
    """The environment of PyTorch's workers."""
    environment = dict(ENVIRONMENT)
    environment.setdefault("CUDA_VISIBLE_DEVICES", "0")
    # Each worker would start one compiler per core.
    environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    return environment


def find_device(process: subprocess.Popen) -> dict[str, str]:
    """What benchmarks.jax_device says.

    Raises
    ------
    ValueError
        Where JAX does not start, or there is no accelerator and no --tiny.
    """
    output, errors = process.communicate()
    if process.returncode:
        lines = errors.strip().splitlines()
        reason = lines[-1] if lines else f"status {process.returncode}"
        raise ValueError(f"JAX must start on this machine, and it does not ({reason}); mend it")
    device = json.loads(output.splitlines()[-1])
    if device["backend"] == "cpu" and not FLAGS.tiny:
        raise ValueError(
            "an accelerator must be there, and JAX finds a CPU alone; install JAX for the "
            "accelerator, or try the command with --tiny"
        )
    return device


def save_network(name: str, pixels: int, folder: Path) -> str:
    """A network with random weights as a diffusers folder, which both sides read."""
    config = dataclasses.replace(build_config(name, FLAGS.tiny), sample_size=pixels)
    place = folder / f"network_{name}_{pixels}"
    diffusers_io.save_pipeline(UNet(config, rngs=nnx.Rngs(0)), SCHEDULER, place)
    return str(place)


def build_plans(parts: list[str], models: list[str], folder: Path) -> list[Plan]:
    """The plans of these parts, the most important first."""
    build = Parts(str(folder), FLAGS.tiny, FLAGS.profiles)
    sizes = TINY if FLAGS.tiny else FULL
    plans = [build.health()] if "health" in parts else []
    for i, model in enumerate(models):
        network = save_network(model, sizes.pixels, folder)
        plans += [build.unet(what, model, network) for what in ("train", "sample") if what in parts]
        if i == 0 and "parity" in parts:
            plans += build.parity()
    if "neighbors" in parts:
        plans.append(build.neighbors())
    if "lpips" in parts:
        plans.append(build.lpips())
    if "probe" in parts:
        plans.append(build.probe(save_network(PROBED, sizes.probed_pixels, folder)))
    return plans


def run_parts(parts: list[str], models: list[str], folder: Path, record: Record) -> None:
    """Measure everything until the limit of time."""
    start = time.monotonic()
    end = start + FLAGS.seconds
    environment = jax_environment(folder / "compiled")
    command = [sys.executable, "-m", "benchmarks.jax_device"]
    probe = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    plans = build_plans(parts, models, folder)
    device = find_device(probe)
    about = {
        "device": device["device"],
        "backend": device["backend"],
        "host": describe_processor(),
        "date": time.strftime("%Y-%m-%d"),
        "tiny": FLAGS.tiny,
        "limit_s": FLAGS.seconds,
        "sizes": dataclasses.asdict(TINY if FLAGS.tiny else FULL),
    }
    record(("about",), about)
    study = None
    if "study" in parts:
        study = Study(folder, environment, FLAGS.lpips_weights, FLAGS.tiny)
    launcher = Launcher(sys.executable, FLAGS.peer_python, environment, peer_environment(), folder)

    def record_and_say(place: tuple[str, ...], entry: dict) -> None:
        record(place, entry)
        _cli.console.print(f"[{time.monotonic() - start:4.0f} s] {' '.join(place)}")

    try:
        bystanders = [study.process] if study else []
        at_once = FLAGS.at_once or (os.cpu_count() if FLAGS.tiny else None)
        Queue(plans, launcher, end, at_once, bystanders).run(record_and_say)
        if study:
            record_and_say(("study",), study.finish(end))
    finally:
        if study:
            study.close()


def terminate(*_: object) -> None:
    """End by an exception, so that the workers are ended too."""
    raise SystemExit(_cli.TERMINATED)


def main() -> None:
    check_flags()
    signal.signal(signal.SIGTERM, terminate)
    parts = [part for part in PARTS if part in FLAGS.parts]
    models = FLAGS.models
    if FLAGS.quick:
        parts = [part for part in parts if part in QUICK_PARTS]
        models = ["2"]
    if FLAGS.tiny:
        models = models[:1]  # all names are the same network
    record = Record(FLAGS.out)
    # A compiler's process may outlive the worker that started it for a moment.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run_parts(parts, models, Path(folder), record)
    _cli.console.print(format_tables(record.entries))


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
