"""DDPM and DDIM against diffusers' schedulers over a grid of settings, on the same noises."""

import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import diffusers_io, diffusers_scheduler, samplers
from jaxdiff.denoiser import as_function, get_params
from tests.parity.cases import small

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "trailing", "linspace")
# Every pair of the first three; these take turns, so that each value meets most others.
CHANGES = (
    {"clip_sample": True},
    {"clip_sample": False},
    {"clip_sample_range": 1.7},
    {"steps_offset": 1},
    {"num_train_timesteps": 700},
)
ETAS = (0.0, 0.3, 1.0)
VARIANCES = ("fixed_small", "fixed_large", "fixed_small_log")
KEYS = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(2))
SHAPE = (8, 8, 1)


def build_settings():
    settings = []
    combinations = itertools.product(SCHEDULES, PREDICTIONS, SPACINGS)
    for i, (schedule, prediction, spacing) in enumerate(combinations):
        combination = {
            "beta_schedule": schedule,
            "prediction_type": prediction,
            "timestep_spacing": spacing,
        }
        settings.append(combination | CHANGES[i % len(CHANGES)])
    for prediction in ("sample", "v_prediction"):
        zero_snr = {
            "rescale_betas_zero_snr": True,
            "prediction_type": prediction,
            "timestep_spacing": "trailing",
        }
        settings.append(zero_snr)
        settings.append(zero_snr | {"clip_sample": False, "beta_schedule": "scaled_linear"})
    betas = np.linspace(1e-3, 0.05, 300).tolist()
    settings.append({"trained_betas": betas, "num_train_timesteps": 300})
    return settings


SETTINGS = build_settings()


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """The same small U-Net in jaxdiff and in diffusers."""
    folder = tmp_path_factory.mktemp("unet")
    torch.manual_seed(0)
    config = small("DA/AU", in_channels=1, out_channels=1, layers_per_block=1, sample_size=8)
    unet = diffusers.UNet2DModel.from_config(config).eval()
    unet.save_pretrained(folder)
    loaded = diffusers_io.load_unet(folder)
    apply = jax.jit(as_function(loaded))
    params = get_params(loaded)

    def predict(xt, t):
        return apply(params, xt, t)

    return predict, unet


def like_a_denoiser(output, x, sigma, prediction):
    """eps = sigma x + U-Net, as of a trained model.

    From a wholly random eps a chain leaves all bounds, and rounding grows with it.
    """
    return output + float(sigma) * x if prediction in ("epsilon", "eps") else output


def to_torch(images):
    return torch.tensor(np.asarray(images).transpose(0, 3, 1, 2).copy())


@jax.jit
def draw_noise(t):
    return samplers.step_noise(KEYS, t, jnp.zeros((2, *SHAPE)))


def run_diffusers(scheduler, unet, steps, eta):
    """The pipeline's loop; every random number is the one that jaxdiff draws from the keys."""
    x = to_torch(samplers.initial_noise(KEYS, SHAPE))
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        noise = to_torch(draw_noise(np.int32(t)))
        sigma = (1.0 - scheduler.alphas_cumprod[t]) ** 0.5
        with torch.no_grad():
            output = like_a_denoiser(unet(x, t).sample, x, sigma, scheduler.config.prediction_type)
        if isinstance(scheduler, diffusers.DDIMScheduler):
            variance_noise = noise if eta else None
            x = scheduler.step(output, t, x, eta=eta, variance_noise=variance_noise).prev_sample
            continue
        with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", return_value=noise):
            x = scheduler.step(output, t, x).prev_sample
    return x.numpy().transpose(0, 2, 3, 1)


def run_jaxdiff(spec, prediction, schedule, predict):
    """The chain and the steps of a sampler, one at a time; the U-Net is compiled once for all."""
    method = spec.build(prediction)

    @jax.jit
    def update(x, step, output):
        return method.step(lambda xt, t: output, schedule, x, step, KEYS)

    chain = method.chain(schedule, spec.steps)
    x = samplers.initial_noise(KEYS, SHAPE)
    for i in range(len(chain.t)):
        step = type(chain)(*(column[i] for column in chain))
        output = predict(x, np.full(len(x), step.t))
        output = like_a_denoiser(output, x, (1.0 - step.alpha_bar) ** 0.5, prediction)
        x = update(x, step, output)
    return np.asarray(x)


def check_final_images(scheduler, networks, tmp_path, steps, eta=0.0):
    predict, unet = networks
    scheduler.save_pretrained(tmp_path)
    raw = diffusers_scheduler.read(tmp_path)
    schedule = diffusers_scheduler.build_schedule(raw)
    np.testing.assert_allclose(schedule.alpha_bar, scheduler.alphas_cumprod, atol=2e-6)
    settings = diffusers_scheduler.sampler_settings(raw) | {"steps": steps, "eta": eta}
    spec = samplers.SamplerSpec.from_settings(settings)
    images = run_jaxdiff(spec, diffusers_scheduler.get_prediction(raw), schedule, predict)
    expected = run_diffusers(scheduler, unet, steps, eta)
    difference = np.abs(images - expected).max()
    name = type(scheduler).__name__
    print(f"{name} {difference:.1e} of {np.abs(expected).max():.2f}, eta {eta}: {spec}"[:200])
    assert np.isfinite(expected).all()
    assert difference <= 1e-3


@pytest.mark.parametrize("i", range(len(SETTINGS)))
def test_final_images_of_50_steps_of_ddim(i, networks, tmp_path):
    scheduler = diffusers.DDIMScheduler(**SETTINGS[i], set_alpha_to_one=i % 2 == 0)
    check_final_images(scheduler, networks, tmp_path, 50, ETAS[i % len(ETAS)])


@pytest.mark.parametrize("i", range(len(SETTINGS)))
def test_final_images_of_100_steps_of_ddpm(i, networks, tmp_path):
    scheduler = diffusers.DDPMScheduler(**SETTINGS[i], variance_type=VARIANCES[i % len(VARIANCES)])
    check_final_images(scheduler, networks, tmp_path, 100)
