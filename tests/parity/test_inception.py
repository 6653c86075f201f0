"""FID's Inception against torch-fidelity's, with the same (random) weights, through its own weights file."""

import jax
import numpy as np
import pytest

from jaxdiff.features import inception

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_fidelity_with_the_same_weights(tmp_path, monkeypatch, zipped):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    network = module.FeatureExtractorInceptionV3
    path = tmp_path / "weights-inception.pth"
    torch.manual_seed(0)
    torch.save({}, path)
    with monkeypatch.context() as patch:  # an instance before there is a file
        patch.setattr(network, "load_state_dict", lambda self, state: None)
        state = network(
            "inception", ["2048"], feature_extractor_weights_path=str(path)
        ).state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(tensor)
        elif tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.uniform_(
                -0.3, 0.3
            )
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    theirs = network("inception", ["2048"], feature_extractor_weights_path=str(path))
    with torch.no_grad():
        wanted = theirs(torch.tensor(images.transpose(0, 3, 1, 2)))[0].numpy()
    ours = np.asarray(jax.jit(inception.features)(inception.load(path), images))
    np.testing.assert_allclose(ours, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    assert np.corrcoef(ours.ravel(), wanted.ravel())[0, 1] > 0.999999


def test_another_network_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", **{"Conv2d_1a_3x3.conv.weight": np.zeros((32, 3, 3, 3))})
    with pytest.raises(ValueError, match="is not FID's Inception-v3"):
        inception.load(tmp_path / "other.npz")
