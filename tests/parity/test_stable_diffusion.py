"""Stable Diffusion's parts against diffusers and transformers on a small pipeline that these wrote.

python -m pytest -m parity tests/parity/test_stable_diffusion.py -rP prints the table.
"""

import json

import jax
import numpy as np
import pytest

from jaxdiff.denoiser import as_function, bind_params
from jaxdiff.stable_diffusion.pipeline import Pipeline, TextToImagePipeline
from jaxdiff.stable_diffusion.tokenizer import Tokenizer
from jaxdiff.unet_bypass import bypass
from tests.parity.test_unet import to_nchw, to_nhwc
from tests.stable_diffusion import tiny

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

UNET = tiny.UNET | {
    "block_out_channels": [32, 64, 64, 64],
    "cross_attention_dim": 32,
    "sample_size": 16,
}
VAE = tiny.VAE | {"block_out_channels": [32, 32, 64, 64], "sample_size": 128}
TEXT = tiny.TEXT | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "projection_dim": 32,
}
PROMPTS = ["a woman", "An  ACTRESS, it's 2 queens; a girl!"]


def randomize_norms(model):
    """The model with random scales and shifts, which start at one and zero."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    torch.manual_seed(0)
    configs = tiny.write_configs(tmp_path_factory.mktemp("configs"), UNET, VAE, TEXT)
    text_config = json.loads((configs / "text_encoder/config.json").read_text())
    text_encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text_config))
    pipeline = diffusers.StableDiffusionPipeline(
        vae=randomize_norms(diffusers.AutoencoderKL.from_config(VAE)),
        text_encoder=randomize_norms(text_encoder),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(
            configs / "tokenizer", pad_token="<|endoftext|>", model_max_length=77
        ),
        unet=randomize_norms(diffusers.UNet2DConditionModel.from_config(UNET)),
        scheduler=diffusers.PNDMScheduler.from_config(tiny.PNDM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    return Pipeline.load(folder)


def assert_near(name, result, expected):
    difference = np.abs(np.asarray(result) - expected).max()
    magnitude = np.abs(expected).max()
    print(f"{name:55} of magnitude {magnitude:8.3f}: largest difference {difference:.1e}")
    assert difference <= 1e-3


def test_token_ids(theirs, folder, tmp_path):
    """From tokenizer.json as transformers writes it, and from vocab.json with merges.txt.

    The latter is how v1.4 and v1.5 were published.
    """
    texts = [*PROMPTS, "", "Crème brûlée — naïve  女王 🙂 don't", "woman " * 100]
    expected = theirs.tokenizer(
        texts, padding="max_length", max_length=77, truncation=True, return_tensors="np"
    ).input_ids
    tiny.write_configs(tmp_path)
    for path in (folder, tmp_path):
        assert np.array_equal(Tokenizer.load(path / "tokenizer")(texts), expected)
    print(f"token ids: {expected.size} equal, from both forms")


def test_text_encoder(theirs, ours):
    with torch.no_grad():
        expected = theirs.text_encoder(torch.tensor(ours.tokenizer(PROMPTS)).long())[0].numpy()
    assert_near("text embedding", ours.embed(PROMPTS), expected)


def test_vae(theirs, ours):
    rng = np.random.default_rng(0)
    factor = ours.vae.config.scaling_factor
    images = rng.uniform(-1, 1, (2, 128, 128, 3)).astype(np.float32)
    latents = rng.normal(size=(2, 16, 16, 4)).astype(np.float32)

    def encode(params, x):
        return bind_params(ours.vae, params).encode(x)

    with torch.no_grad():
        expected_latents = to_nhwc(theirs.vae.encode(to_nchw(images)).latent_dist.mode() * factor)
        expected_images = to_nhwc(theirs.vae.decode(to_nchw(latents) / factor).sample)
    params = ours.params["vae"]
    assert_near("VAE, latents of images", jax.jit(encode)(params, images), expected_latents)
    decode = jax.jit(as_function(ours.vae))
    assert_near("VAE, images of latents", decode(params, latents), expected_images)


def bypass_hook(fraction, form):
    """Replaces a part of the mid-block's output by its input, as `bypass` does."""

    def mix(module, inputs, output):
        z = inputs[0]
        if form == "blend":
            return (1 - fraction) * output + fraction * z
        # The order is drawn over jaxdiff's NHWC.
        shape = z.shape[1:2] if form == "channels" else (*z.shape[2:], z.shape[1])
        order = np.asarray(jax.random.permutation(jax.random.key(0), int(np.prod(shape))))
        passed = torch.tensor((order < round(fraction * order.size)).reshape(shape))
        if form == "channels":
            passed = passed[None, :, None, None]
        else:
            passed = passed.permute(2, 0, 1)[None]
        return torch.where(passed, z, output)

    return mix


@pytest.mark.parametrize("form", [None, "blend", "channels", "elements"])
def test_a_step_of_the_unet_and_its_bypass(form, theirs, ours):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 16, 16, 4)).astype(np.float32)
    t = np.array([7, 903])
    text = np.asarray(ours.embed(PROMPTS))
    handle = theirs.unet.mid_block.register_forward_hook(bypass_hook(0.5, form)) if form else None
    with torch.no_grad():
        expected = to_nhwc(theirs.unet(to_nchw(x), torch.tensor(t), torch.tensor(text)).sample)
    if handle:
        handle.remove()

    def apply(params):
        unet = bind_params(ours.unet, params)
        middle = bypass(unet.bottleneck, 0.5, form) if form else unet.bottleneck
        return unet.decode(middle(unet.encode(x, t, unet.config.depth, context=text)))

    output = jax.jit(apply)(ours.params["unet"])
    assert_near(f"one step of the U-Net, {form or 'no'} bypass", output, expected)


@pytest.mark.parametrize(
    ("name", "form"), [("PNDMScheduler", None), ("DDIMScheduler", None), ("PNDMScheduler", "blend")]
)
def test_images(name, form, theirs, folder, tmp_path):
    """After 10 steps with guidance 7.5 and a negative prompt, from the same latents."""
    theirs.scheduler = getattr(diffusers, name).from_config(tiny.PNDM)
    theirs.scheduler.save_pretrained(tmp_path / "scheduler")
    for part in ("tokenizer", "text_encoder", "unet", "vae", "model_index.json"):
        (tmp_path / part).symlink_to(folder / part)
    pipeline = TextToImagePipeline(Pipeline.load(tmp_path), steps=10, form=form, batch=2)
    latents = pipeline.latents([0, 1])
    images = pipeline(PROMPTS, latents, fraction=0.5 if form else 0.0, negative="queen")
    handle = theirs.unet.mid_block.register_forward_hook(bypass_hook(0.5, form)) if form else None
    expected = theirs(
        PROMPTS,
        num_inference_steps=10,
        guidance_scale=7.5,
        negative_prompt=["queen"] * 2,
        latents=to_nchw(latents),
        output_type="np",
    ).images
    if handle:
        handle.remove()
    unit_images = np.clip(images / 2 + 0.5, 0, 1)
    assert_near(f"an image in [0, 1], {name}, {form or 'no'} bypass", unit_images, expected)
