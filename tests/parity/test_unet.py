"""The U-Net is diffusers' UNet2DModel: the same weights give the same numbers and gradients; python -m pytest -m parity
tests/parity/test_unet.py -rP prints the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import diffusers_io, torch_weights
from jaxdiff.denoiser import abstract_network, as_function, get_params
from tests.parity.cases import CASES, labels

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def nchw(images):
    return torch.tensor(np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2)))


def nhwc(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def build(config):
    """diffusers' model with random weights, its group norms' too (which start at one and zero)."""
    torch.manual_seed(0)
    model = diffusers.UNet2DModel.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def their_gradients(model, xt, t, eps, given):
    output = model(nchw(xt), torch.tensor(t), given).sample
    ((output[:, : eps.shape[-1]] - nchw(eps)) ** 2).mean().backward()
    return nhwc(output), {
        name: p.grad.numpy() for name, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("name", CASES)
def test_forward_pass_and_gradients(name, tmp_path):
    """Outputs within 1e-4. Gradients of the eps loss within 1e-3 of each tensor's norm, unless that norm is below 1e-6
    of the largest: then it is so in both (biases before an instance norm, keys' biases: zero by construction)."""
    config = CASES[name]
    theirs = build(config)
    theirs.save_pretrained(tmp_path)
    unet = diffusers_io.load_unet(tmp_path)
    rng, size, channels = (
        np.random.default_rng(0),
        config["sample_size"],
        config.get("in_channels", 3),
    )
    xt = rng.normal(size=(2, size, size, channels)).astype(np.float32)
    eps, t, classes = (
        rng.normal(size=xt.shape).astype(np.float32),
        np.array([7, 903]),
        labels(config, 2),
    )
    apply = as_function(abstract_network(unet.config))

    def loss(params):
        output = apply(params, xt, t, classes)
        return jnp.mean((output[..., :channels] - eps) ** 2), output

    (_, output), ours = jax.jit(jax.value_and_grad(loss, has_aux=True))(get_params(unet))
    wanted, gradients = their_gradients(
        theirs, xt, t, eps, None if classes is None else torch.tensor(classes)
    )
    difference = np.abs(np.asarray(output) - wanted).max()
    largest = max(np.linalg.norm(g) for g in gradients.values())
    errors, zero = {}, 0
    for key, gradient in gradients.items():
        mine = torch_weights.swap(key, np.asarray(ours[key]), out=True)
        if np.linalg.norm(gradient) > 1e-6 * largest:
            errors[key] = np.linalg.norm(mine - gradient) / np.linalg.norm(gradient)
        else:
            assert np.linalg.norm(mine) <= 2e-6 * largest, key
            zero += 1
    worst = max(errors, key=errors.get)
    count = sum(p.size for p in get_params(unet).values())
    print(
        f"{name:55} {count:>11,} parameters  output {difference:.1e}  gradient {errors[worst]:.1e} ({worst}), zero {zero}"
    )
    assert difference <= 1e-4
    assert errors[worst] <= 1e-3, worst
