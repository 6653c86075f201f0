"""FID's Inception network against torch-fidelity's with the same random weights.

The weights go through the file that torch-fidelity reads.
"""

import jax
import numpy as np
import pytest

from jaxdiff.features import inception

pytestmark = pytest.mark.parity


def build_reference(network, path):
    return network("inception", ["2048"], feature_extractor_weights_path=str(path))


def randomize(torch, state):
    """Replace all weights by random ones, in place."""
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(tensor)
        elif tensor.is_floating_point():
            is_scale = "var" in name or "weight" in name
            low, high = (0.5, 1.5) if is_scale else (-0.3, 0.3)
            tensor.uniform_(low, high)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip file", "legacy file"])
def test_torch_fidelity_with_the_same_weights(tmp_path, monkeypatch, zipped):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    network = module.FeatureExtractorInceptionV3
    path = tmp_path / "weights-inception.pth"
    torch.manual_seed(0)
    torch.save({}, path)
    # The network loads its file when it is built, and the file needs the network's names.
    with monkeypatch.context() as patch:
        patch.setattr(network, "load_state_dict", lambda self, state: None)
        state = build_reference(network, path).state_dict()
    randomize(torch, state)
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    reference = build_reference(network, path)
    with torch.no_grad():
        expected = reference(torch.tensor(images.transpose(0, 3, 1, 2)))[0].numpy()
    params = inception.load(path)
    features = np.asarray(jax.jit(inception.features)(params, images))
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert np.corrcoef(features.ravel(), expected.ravel())[0, 1] > 0.999999


def test_another_network_is_refused(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, **{"Conv2d_1a_3x3.conv.weight": np.zeros((32, 3, 3, 3))})
    with pytest.raises(ValueError, match="is not FID's Inception-v3"):
        inception.load(path)
