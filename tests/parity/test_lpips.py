"""LPIPS against the packages lpips (PyTorch) and lpips-j (Flax), with the same weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.measures.lpips import LPIPS

pytestmark = pytest.mark.parity


def pairs(size, n=4):
    rng = np.random.default_rng(size)
    a = rng.uniform(-1, 1, (n, size // 8, size // 8, 3)).repeat(8, 1).repeat(8, 2)
    return [
        np.clip(a + s * rng.normal(size=(n, size, size, 3)), -1, 1).astype(np.float32)
        for s in (0.1, 0.4)
    ]


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("net", ["alex", "vgg"])
@pytest.mark.filterwarnings("ignore::UserWarning:torchvision.*")  # lpips calls it the old way
def test_the_torch_package_with_the_same_weights(net, size):
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("lpips")
    ours = LPIPS.load(net)
    theirs = package.LPIPS(
        net=net, pnet_rand=True, verbose=False
    ).eval()  # its own heads, our backbone
    layers = [m for m in theirs.net.modules() if isinstance(m, torch.nn.Conv2d)]
    for i, layer in enumerate(layers):
        layer.weight.data = torch.tensor(
            np.asarray(ours.params[f"Conv_{i}.kernel"]).transpose(3, 2, 0, 1)
        )
        layer.bias.data = torch.tensor(np.asarray(ours.params[f"Conv_{i}.bias"]))
    a, b = pairs(size)
    with torch.no_grad():
        wanted = (
            theirs(*(torch.tensor(x.transpose(0, 3, 1, 2)) for x in (a, b))).numpy().reshape(-1)
        )
    assert wanted.min() > 0.01
    np.testing.assert_allclose(ours.distance(a, b), wanted, atol=1e-5, rtol=0)


def test_lpips_j_with_the_same_weights(tmp_path, monkeypatch):
    import h5py
    import jax
    import lpips_j.lpips as package

    ours, names = LPIPS.load("vgg"), []
    for block, count in enumerate((2, 2, 3, 3, 3), start=1):
        names += [f"conv{block}_{i}" for i in range(1, count + 1)]
    with h5py.File(tmp_path / "vgg16_weights.h5", "w") as file:
        for i, name in enumerate(names):
            file[f"{name}/weight"] = np.asarray(ours.params[f"Conv_{i}.kernel"])
            file[f"{name}/bias"] = np.asarray(ours.params[f"Conv_{i}.bias"])
    with h5py.File(tmp_path / "lpips_lin.h5", "w") as file:
        for i in range(5):
            file[f"lin{i}"] = np.asarray(ours.params[f"head_{i}"])[None, None, :, None]
    monkeypatch.setattr(
        package, "hf_hub_download", lambda repo_id, filename: str(tmp_path / filename)
    )
    a, b = pairs(64)
    with jax.numpy_rank_promotion("allow"):
        module = package.LPIPS()
        variables = module.init(jax.random.key(0), jnp.asarray(a), jnp.asarray(b))
        wanted = np.asarray(module.apply(variables, jnp.asarray(a), jnp.asarray(b))).reshape(-1)
    np.testing.assert_allclose(ours.distance(a, b), wanted, atol=1e-5, rtol=0)
