"""The U-Net is diffusers' UNet2DModel: equal weights give equal outputs and gradients.

python -m pytest -m parity tests/parity/test_unet.py -rP prints the table.
"""

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
T = np.array([7, 903])


def to_nchw(images):
    return torch.tensor(np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2)))


def to_nhwc(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def build_diffusers_model(config):
    """diffusers' model with random weights, its group norms' too (which start at one and zero)."""
    torch.manual_seed(0)
    model = diffusers.UNet2DModel.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def diffusers_gradients(model, xt, eps, classes):
    classes = None if classes is None else torch.tensor(classes)
    output = model(to_nchw(xt), torch.tensor(T), classes).sample
    error = output[:, : eps.shape[-1]] - to_nchw(eps)
    (error**2).mean().backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return to_nhwc(output), {name: parameter.grad.numpy() for name, parameter in trained}


def jaxdiff_gradients(unet, xt, eps, classes):
    apply = as_function(abstract_network(unet.config))

    def loss(params):
        output = apply(params, xt, T, classes)
        return jnp.mean((output[..., : eps.shape[-1]] - eps) ** 2), output

    (_, output), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(get_params(unet))
    layout = {
        name: torch_weights.convert_layout(name, np.asarray(grad), to_torch=True)
        for name, grad in grads.items()
    }
    return np.asarray(output), layout


@pytest.mark.parametrize("name", CASES)
def test_forward_pass_and_gradients(name, tmp_path):
    """Outputs within 1e-4, gradients of the eps loss within 1e-3 of each tensor's norm.

    A tensor whose norm is below 1e-6 of the largest must have about no gradient in both: biases
    before an instance norm and keys' biases have zero gradient by construction.
    """
    config = CASES[name]
    model = build_diffusers_model(config)
    model.save_pretrained(tmp_path)
    unet = diffusers_io.load_unet(tmp_path)
    rng = np.random.default_rng(0)
    size = config["sample_size"]
    shape = (2, size, size, config.get("in_channels", 3))
    xt = rng.normal(size=shape).astype(np.float32)
    eps = rng.normal(size=shape).astype(np.float32)
    classes = labels(config, 2)
    expected_output, expected_grads = diffusers_gradients(model, xt, eps, classes)
    output, grads = jaxdiff_gradients(unet, xt, eps, classes)
    largest = max(np.linalg.norm(grad) for grad in expected_grads.values())
    errors = {}
    for key, expected in expected_grads.items():
        norm = np.linalg.norm(expected)
        if norm > 1e-6 * largest:
            errors[key] = np.linalg.norm(grads[key] - expected) / norm
        else:
            assert np.linalg.norm(grads[key]) <= 2e-6 * largest, key
    output_error = np.abs(output - expected_output).max()
    worst = max(errors, key=errors.get)
    print(
        f"{name:55} {sum(p.size for p in get_params(unet).values()):>11,} parameters  "
        f"output {output_error:.1e}  gradient {errors[worst]:.1e} ({worst}), "
        f"zero {len(expected_grads) - len(errors)}"
    )
    assert output_error <= 1e-4
    assert errors[worst] <= 1e-3, worst
