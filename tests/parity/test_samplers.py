"""DDPM and DDIM with diffusers' schedulers over the grid of their settings: the same U-Net, the same noises."""

import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import diffusers_io, diffusers_scheduler, samplers
from jaxdiff.unet import functional, parameters
from tests.parity.cases import SMALL, _types

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "trailing", "linspace")
# Every pair of the first three; the other settings take turns, so that each value meets most others.
OTHERS = (
    {"clip_sample": True},
    {"clip_sample": False},
    {"clip_sample_range": 1.7},
    {"steps_offset": 1},
    {"num_train_timesteps": 700},
)
GRID = [
    {"beta_schedule": schedule, "prediction_type": prediction, "timestep_spacing": spacing} | OTHERS[i % len(OTHERS)]
    for i, (schedule, prediction, spacing) in enumerate(itertools.product(SCHEDULES, PREDICTIONS, SPACINGS))
] + [
    {"rescale_betas_zero_snr": True, "prediction_type": p, "timestep_spacing": "trailing"} | more
    for p in ("sample", "v_prediction") for more in ({}, {"clip_sample": False, "beta_schedule": "scaled_linear"})
] + [{"trained_betas": np.linspace(1e-3, 0.05, 300).tolist(), "num_train_timesteps": 300}]  # fmt: skip
ETAS = (0.0, 0.3, 1.0)
KEYS = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(2))
SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """The same small U-Net in both."""
    folder = tmp_path_factory.mktemp("unet")
    torch.manual_seed(0)
    config = (
        SMALL
        | _types("DA/AU")
        | {"in_channels": 1, "out_channels": 1, "layers_per_block": 1, "sample_size": 8}
    )
    theirs = diffusers.UNet2DModel.from_config(config).eval()
    theirs.save_pretrained(folder)
    ours = diffusers_io.load_unet(folder)
    apply, params = jax.jit(functional(ours)), parameters(ours)
    return lambda xt, t: apply(params, xt, t), theirs


def like_a_denoiser(output, x, sigma, prediction):
    """eps = sigma x + U-Net, as of a trained model: from a wholly random eps a chain leaves all bounds, and rounding grows
    with it."""
    return output + float(sigma) * x if prediction in ("epsilon", "eps") else output


def run_theirs(scheduler, unet, steps, eta):
    """The pipeline's loop; every random number is the one that our step draws from the samples' keys."""
    x = torch.tensor(np.asarray(samplers.initial_noise(KEYS, SHAPE)).transpose(0, 3, 1, 2).copy())
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        drawn = torch.tensor(np.asarray(noise(np.int32(t))).transpose(0, 3, 1, 2).copy())
        with torch.no_grad():
            sigma = (1.0 - scheduler.alphas_cumprod[t]) ** 0.5
            output = like_a_denoiser(unet(x, t).sample, x, sigma, scheduler.config.prediction_type)
        if isinstance(scheduler, diffusers.DDIMScheduler):
            x = scheduler.step(
                output, t, x, eta=eta, variance_noise=drawn if eta else None
            ).prev_sample
        else:
            with mock.patch(
                "diffusers.schedulers.scheduling_ddpm.randn_tensor", return_value=drawn
            ):
                x = scheduler.step(output, t, x).prev_sample
    return x.numpy().transpose(0, 2, 3, 1)


def run_ours(settings, scheduler, predict):
    """The same chain and steps that ddim and ddpm scan over, one at a time; the U-Net is compiled once for all cases."""
    step, options = samplers.STEPS[settings["method"]], samplers.options(settings)
    update = jax.jit(
        lambda x, now, output: step(lambda *_: output, scheduler, x, now, KEYS, **options.step)
    )
    steps = samplers.chain(scheduler, settings["steps"], **options.path)
    x = samplers.initial_noise(KEYS, SHAPE)
    for i in range(len(steps.t)):
        now = samplers.Step(*(part[i] for part in map(np.asarray, steps)))
        output = like_a_denoiser(
            predict(x, np.full(len(x), now.t)),
            x,
            (1.0 - now.alpha_bar) ** 0.5,
            settings["prediction"],
        )
        x = update(x, now, output)
    return np.asarray(x)


@jax.jit
def noise(t):
    return samplers._noise(KEYS, t, jnp.zeros((2, *SHAPE)))


@pytest.mark.parametrize("kind", ["DDIM", "DDPM"])
@pytest.mark.parametrize("i", range(len(GRID)))
def test_final_images(i, kind, nets, tmp_path):
    """50 steps of DDIM, 100 of DDPM: within 1e-3."""
    predict, unet = nets
    eta = ETAS[i % len(ETAS)]
    more = {
        "DDIM": {"set_alpha_to_one": i % 2 == 0},
        "DDPM": {"variance_type": ("fixed_small", "fixed_large", "fixed_small_log")[i % 3]},
    }
    theirs = getattr(diffusers, f"{kind}Scheduler")(**GRID[i], **more[kind])
    theirs.save_pretrained(tmp_path)
    raw = diffusers_scheduler.read(tmp_path)
    schedule = diffusers_scheduler.build_schedule(raw)
    np.testing.assert_allclose(schedule.alpha_bar, theirs.alphas_cumprod, atol=2e-6)
    steps = 50 if kind == "DDIM" else 100
    settings = diffusers_scheduler.sampler_settings(raw) | {
        "steps": steps,
        "prediction": diffusers_scheduler.get_prediction(raw),
    }
    settings |= {"eta": eta} if kind == "DDIM" else {}
    ours = run_ours(settings, schedule, predict)
    wanted = run_theirs(theirs, unet, steps, eta)
    difference, size = np.abs(ours - wanted).max(), np.abs(wanted).max()
    print(f"{kind} {difference:.1e} of {size:.2f}, eta {eta}: {GRID[i] | more[kind]}"[:200])
    assert np.isfinite(wanted).all()
    assert difference <= 1e-3
