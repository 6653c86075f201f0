"""Fields and files of a diffusers folder, for `experiments.convert` and `experiments.sample`."""

import functools
import itertools
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxdiff import diffusers_io, models
from jaxdiff.denoiser import get_params
from jaxdiff.diffusers_config import FIELDS
from jaxdiff.diffusers_scheduler import FIELDS as SCHEDULER_FIELDS
from jaxdiff.diffusion import Schedule
from jaxdiff.torch_weights import convert_layout
from jaxdiff.unet import UNet
from tests.experiments.fuzz.boundary import Command, Input, Outcome, accept

Change = dict[str, Any]
UNET = "unet/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
BIN_WEIGHTS = "unet/diffusion_pytorch_model.bin"
SHAPE = (8, 8, 1)
# No field of either file may have one of these.
HOSTILE = (-1, 10**30, float("nan"), {}, [[]], "zz")
CONTENTS = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a number": b"5",
    "half an object": b'{"_class_name": "UNet2DMo',
    "no text": b"\xff\xfe\x00\xd8",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "a number of 5,000 digits": b'{"sample_size": ' + b"1" * 5000 + b"}",
    "an empty object": b"{}",
}
# Of a U-Net of 8 and 16 channels for gray images of 8 px.
REFUSED_UNETS: tuple[Change, ...] = (
    {"sample_size": 0},
    {"sample_size": 7},
    {"sample_size": [8, 7]},
    {"sample_size": [8]},
    {"sample_size": 1},
    {"in_channels": 0},
    {"in_channels": 3},
    {"out_channels": 2},
    {"in_channels": 3, "out_channels": 3},
    {"time_embedding_type": "fourier"},
    {"time_embedding_type": "learned"},
    {"time_embedding_type": "learned", "num_train_timesteps": 10},
    {"time_embedding_dim": 7},
    {"freq_shift": 2},
    {"down_block_types": ["DownBlock2D"]},
    {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]},
    {"up_block_types": ["UpBlock2D", "UpBlock2D", "UpBlock2D"]},
    {"mid_block_type": None},
    {"mid_block_type": "UNetMidBlock2DCrossAttn"},
    {"block_out_channels": [8]},
    {"block_out_channels": [8, 17]},
    {"block_out_channels": [16, 8]},
    {"block_out_channels": [8, 10**6]},
    {"block_out_channels": [0, 16]},
    {"layers_per_block": 2},
    {"layers_per_block": 10**9},
    {"dropout": 1},
    {"act_fn": "swiglu"},
    {"attention_head_dim": 3},
    {"attention_head_dim": 0},
    {"norm_num_groups": 3},
    {"norm_num_groups": 0},
    {"attn_norm_num_groups": 3},
    {"norm_eps": 2},
    {"resnet_time_scale_shift": "scale_shift"},
    {"class_embed_type": "timestep"},
    {"num_class_embeds": 10},
    {"add_attention": False},
    {"downsample_type": "zz"},
    {"downsample_padding": 2},
    {"mid_block_scale_factor": 0},
    {"zz": 1},
    {"": 1},
    {"_class_name": "UNet2DConditionModel"},
    {"_class_name": "AutoencoderKL"},
    {"_class_name": None},
    {"_class_name": 5},
    {"_class_name": ["UNet2DModel"]},
    {"_class_name": {}},
)
ACCEPTED_UNETS: tuple[tuple[Change, Change], ...] = (
    ({"dropout": 0.25}, {"dropout": 0.25}),
    ({"sample_size": 16}, {"sample_size": 16}),
    ({"sample_size": [8, 16]}, {"sample_size": (8, 16)}),
    ({"norm_eps": 1e-6}, {"norm_eps": 1e-6}),
    ({"freq_shift": 1}, {"freq_shift": 1.0}),
    ({"flip_sin_to_cos": False}, {"flip_sin_to_cos": False}),
    ({"act_fn": "swish"}, {"act_fn": "silu"}),
    ({"act_fn": "mish"}, {"act_fn": "mish"}),
    ({"center_input_sample": True}, {"center_input_sample": True}),
    ({"mid_block_scale_factor": 1.5}, {"mid_block_scale_factor": 1.5}),
    ({"attention_head_dim": 4}, {"attention_head_dim": 4}),
    ({"_anything": {}}, {"dropout": 0.0}),
    ({"decay": 0.99}, {"dropout": 0.0}),
)
REFUSED_SCHEDULERS: tuple[Change, ...] = (
    {"num_train_timesteps": 0},
    {"num_train_timesteps": 10**9},
    {"num_train_timesteps": 1000.0},
    {"beta_start": 0},
    {"beta_start": 0.5, "beta_end": 0.1},
    {"beta_end": 2},
    {"_class_name": "DDPMScheduler", "beta_end": 1},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    {"rescale_betas_zero_snr": True, "num_train_timesteps": 1},
    {"beta_schedule": "sigmoid"},
    {"beta_schedule": None},
    {"trained_betas": [0.1, 0.2]},
    {"trained_betas": [0.0] * 1000},
    {"trained_betas": [1.0] * 1000},
    {"trained_betas": [0.1] * 999 + [None]},
    {"prediction_type": "flow_prediction"},
    {"prediction_type": None},
    {"thresholding": True},
    {"timestep_spacing": "karras"},
    {"steps_offset": 1000},
    {"steps_offset": 0.5},
    {"clip_sample": 1},
    {"clip_sample_range": 0},
    {"clip_sample_range": "1"},
    {"_class_name": "DDPMScheduler", "variance_type": "learned_range"},
    {"zz": 1},
    {"_class_name": "EDMEulerScheduler"},
    {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    {"_class_name": None},
    {"_class_name": 5},
    {"_class_name": []},
    {"rescale_betas_zero_snr": "yes"},
)
ACCEPTED_SCHEDULERS: tuple[tuple[Change, Change], ...] = (
    ({"num_train_timesteps": 100}, {"num_train_timesteps": 100}),
    ({"beta_schedule": "squaredcos_cap_v2"}, {"beta_schedule": "squaredcos_cap_v2"}),
    ({"prediction_type": "v_prediction"}, {"prediction_type": "v_prediction"}),
    ({"clip_sample": False}, {"clip_sample": False}),
    ({"steps_offset": 1}, {"steps_offset": 1}),
    ({"trained_betas": [0.01] * 1000}, {"trained_betas": [0.01] * 1000}),
    ({"beta_end": 1, "prediction_type": "sample"}, {"beta_end": 1}),
    ({"rescale_betas_zero_snr": True, "timestep_spacing": "leading"}, {"beta_schedule": "linear"}),
    ({"_anything": 5}, {"beta_schedule": "linear"}),
)


class Call:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("pickles_were_run"),)


WEIGHTS_CONTENTS = {
    "nothing": b"",
    "text": b"no weights",
    "a header of 2^60 bytes": (2**60).to_bytes(8, "little") + b"{}",
    "a header of no JSON": (5).to_bytes(8, "little") + b"zzzzz",
    "an empty header": (2).to_bytes(8, "little") + b"{}",
    "a pickle": pickle.dumps(Call()),
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}
BIN_CONTENTS = {
    "nothing": b"",
    "a pickle that runs": pickle.dumps({"conv_in.weight": Call()}),
    "half a pickle": pickle.dumps({"conv_in.weight": np.zeros(99)})[:40],
    "a pickle of 2^60 bytes": b"\x80\x04\x8e" + (2**60).to_bytes(8, "little"),
    "half a zip": b"PK\x03\x04" + bytes(40),
    "nested tuples": b"\x80\x02" + b")" + b"\x85" * 100_000 + b".",
    "a number": pickle.dumps(5),
}
FLIPS = 12  # bits of a weights file, one at a time
INDEXES: tuple[Any, ...] = (
    {},
    {"weight_map": 5},
    {"weight_map": {}},
    {"weight_map": {"conv_in.weight": "../other.safetensors"}},
    {"weight_map": {"conv_in.weight": 5}},
    {"weight_map": {"conv_in.weight": "gone.safetensors"}},
    [],
)


def patch(command: Command, monkeypatch: Any) -> None:
    """End a command where its model is loaded and fits its own images."""

    def check_and_accept(model: models.Model, *_: Any) -> None:
        if model.shape != SHAPE:
            xt = jax.ShapeDtypeStruct((1, *model.shape), jnp.float32)
            jax.eval_shape(model.unet, xt, jax.ShapeDtypeStruct((1,), jnp.int32))
        accept(model)

    # Most inputs have the same network; what loads binds its parameters to a copy.
    abstract = functools.cache(diffusers_io.abstract_network)
    monkeypatch.setattr(diffusers_io, "abstract_network", abstract)
    name = "save_atomically" if hasattr(command.module, "save_atomically") else "build_sampler"
    monkeypatch.setattr(command.module, name, check_and_accept)


def build(convert: Command, sample: Command, unet: UNet, folder: Path) -> Iterator[Input]:
    """All inputs of the area, given to the two commands in turn."""
    model = models.Model(unet, Schedule.linear(1000), "eps", image_shape=SHAPE)
    models.save(model, folder / "model", "diffusers")
    runners = [_Runner(command, folder) for command in (convert, sample)]
    for position, make in enumerate([*_fields(), *_files(), *_flips(unet)]):
        yield make(runners[position % len(runners)])


class _Runner:
    """Gives a model's folder with a changed file to a command."""

    def __init__(self, command: Command, folder: Path):
        self._command = command
        self._folder = folder

    def run(self, name: str, change: Callable[[bytes], bytes]) -> Outcome:
        """With a file whose bytes are changed, or with a file more."""
        model = self._folder / "model"
        path = model / name
        before = path.read_bytes() if path.exists() else None
        # What reads other files of weights has to lack this one.
        weights = model / WEIGHTS
        if name.endswith((".bin", ".index.json")):
            weights.rename(self._folder / "weights")
        path.write_bytes(change(before or b""))
        out = self._folder / ("out" if self._command.name == "convert" else "out.npz")
        try:
            outcome = self._command.run(f"--model={model}", f"--out={out}")
        finally:
            path.unlink() if before is None else path.write_bytes(before)
            if not weights.exists():
                (self._folder / "weights").rename(weights)
        assert not out.exists(), name
        return outcome

    def fields(self, name: str, change: Change, **expected: Any) -> Input:
        """With other fields of a JSON file."""

        def edit(data: bytes) -> bytes:
            return json.dumps(json.loads(data) | change).encode()

        title = f"{self._command.name}: {name} with {change!r:.80}"
        return Input(title, lambda: self.run(name, edit), **expected)

    def content(self, name: str, title: str, data: bytes, **expected: Any) -> Input:
        """With other bytes of a file."""
        title = f"{self._command.name}: {name} of {title}"
        return Input(title, lambda: self.run(name, lambda _: data), **expected)


Make = Callable[[_Runner], Input]


def _fields() -> Iterator[Make]:
    for key, value in itertools.product(FIELDS, HOSTILE):
        yield lambda runner, k=key, v=value: runner.fields(UNET, {k: v}, names=(k,))
    scheduler_keys = sorted(set().union(*SCHEDULER_FIELDS.values()) - {"skip_prk_steps"})
    for key, value in itertools.product(scheduler_keys, HOSTILE):
        change = {"_class_name": "DDPMScheduler", key: value}
        yield lambda runner, k=key, c=change: runner.fields(SCHEDULER, c, names=(k,))
    for name, changes in ((UNET, REFUSED_UNETS), (SCHEDULER, REFUSED_SCHEDULERS)):
        for change in changes:
            yield lambda runner, n=name, c=change: runner.fields(n, c)
    for change, values in ACCEPTED_UNETS:
        is_right = _holds("unet", values)
        yield lambda runner, c=change, r=is_right: runner.fields(UNET, c, is_right=r)
    for change, values in ACCEPTED_SCHEDULERS:
        is_right = _holds("scheduler", values)
        yield lambda runner, c=change, r=is_right: runner.fields(SCHEDULER, c, is_right=r)


def _files() -> Iterator[Make]:
    contents = [(name, title, CONTENTS[title]) for name in (UNET, SCHEDULER) for title in CONTENTS]
    contents += [(WEIGHTS, title, data) for title, data in WEIGHTS_CONTENTS.items()]
    contents += [(BIN_WEIGHTS, title, data) for title, data in BIN_CONTENTS.items()]
    contents += [(f"{WEIGHTS}.index.json", repr(i), json.dumps(i).encode()) for i in INDEXES]
    for content in contents:
        yield lambda runner, c=content: runner.content(*c, names=("model",))


def _flips(unet: UNet) -> Iterator[Make]:
    """A flipped bit in what describes the weights: refused, or the weights are as they were."""
    params = {name: np.asarray(value) for name, value in get_params(unet).items()}
    torch = {name: convert_layout(name, value, to_torch=True) for name, value in params.items()}

    def is_same(model: models.Model) -> bool:
        loaded = get_params(model.unet)
        return all(np.array_equal(loaded[name], params[name]) for name in params)

    data = safetensors.numpy.save({name: np.ascontiguousarray(t) for name, t in torch.items()})
    header = int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    pickled = pickle.dumps(torch)
    first = next(iter(torch.values()))
    description = pickled.index(np.ascontiguousarray(first).tobytes())
    sources = ((WEIGHTS, data, header), (BIN_WEIGHTS, pickled, description))
    for name, content, length in sources:
        places = rng.integers(0, length, FLIPS)
        for place, bit in zip(places, rng.integers(0, 8, FLIPS), strict=True):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            fields = (name, f"a flipped bit {bit} of byte {place}", bytes(changed))
            options = {"is_right": is_same, "may_be_refused": True, "names": ("model",)}
            yield lambda runner, f=fields, o=options: runner.content(*f, **o)


def _holds(section: str, values: Change) -> Callable[[models.Model], bool]:
    return lambda model: all(model.config[section][key] == values[key] for key in values)
