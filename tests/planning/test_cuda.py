"""GPUs that are not here: their names, and what is compiled for them."""

import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff.planning import chips, cuda, kernels
from jaxdiff.planning.compiled import (
    Devices,
    abstract_state,
    change_training,
    compile_sampling_step,
    compile_train_step,
)
from jaxdiff.study import grid
from tests.experiments import tiny_study

needs_plugin = pytest.mark.skipif(
    not all(map(cuda._is_installed, cuda.MODULES)),
    reason="the CUDA plug-in comes with the extra compiled",
)


def open_devices(name, slices=1):
    devices = chips.open_topology(name, slices)
    return Devices(devices, chips.CHIPS[devices[0].device_kind], slices)


@pytest.mark.parametrize("name", ["h100", "h100:", "h100:0", "h100:2x4", "h101:8", "H100:8"])
def test_an_unknown_machine_is_one_sentence(name):
    with pytest.raises(ValueError, match=f"topology '{name}' is not known; give .* h100:4"):
        chips.open_topology(name)


def test_a_name_says_the_gpus_of_a_machine(monkeypatch):
    opened = []

    def open_nodes(*arguments):
        opened.append(arguments)
        return jax.devices()

    monkeypatch.setattr(cuda, "open_nodes", open_nodes)
    chips.open_topology("h100:8")
    chips.open_topology("h200:4", slices=2)
    assert opened == [("h100", 1, 8), ("h200", 2, 4)]


def test_without_the_plug_in_the_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(cuda, "MODULES", ("jax", "no_such_package.of_cuda"))
    with pytest.raises(ValueError, match=r"not all; pip install 'jaxdiff\[compiled\]'"):
        chips.open_topology("h100:1")


def test_jax_asks_the_description_of_a_gpu_that_is_not_here():
    checks = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    before = dict(vars(checks))
    with cuda.answer_checks("9.0"):
        assert checks.check_cudnn_version() == cuda.CUDNN_VERSION
        assert checks.check_compute_capability("8.0")
        assert checks.check_compute_capability("9.0")
        assert not checks.check_compute_capability("10.0")
        assert checks.is_cuda_compute_capability_equal("9.0")
        assert not checks.is_cuda_compute_capability_equal("10.3")
    assert vars(checks) == before
    with cuda.answer_for(jax.devices()[0]):
        assert vars(checks) == before, "a device that is here answers for itself"


@pytest.mark.parametrize("checks", [None, types.SimpleNamespace(check_cudnn_version=print)])
def test_another_jax_may_ask_otherwise(monkeypatch, checks):
    monkeypatch.setattr(cuda, "_load_checks", lambda: checks)
    with cuda.answer_checks("9.0"):
        assert checks is None or vars(checks) == {"check_cudnn_version": cuda._cudnn_version}
    assert checks is None or vars(checks) == {"check_cudnn_version": print}


@pytest.mark.slow
@needs_plugin
def test_an_attention_of_cudnn_is_compiled_without_its_scores():
    devices = chips.open_topology("h100:1")
    whole = NamedSharding(Mesh(np.asarray(devices), ("data",)), PartitionSpec())
    x = jax.ShapeDtypeStruct((4, 256, 8, 8), jnp.bfloat16, sharding=whole)
    attend = jax.jit(lambda q: jax.nn.dot_product_attention(q, q, q, implementation="cudnn"))
    with cuda.answer_for(devices[0]):
        text = attend.lower(x).compile().as_text()
    scores = 4 * 8 * 256 * 256 * 2
    assert kernels.count_bytes(kernels.list_kernels(text)) < scores / 4


@pytest.mark.slow
@needs_plugin
def test_a_tiny_u_net_is_compiled_for_an_h100():
    (cell,) = grid.expand(tiny_study.get_config())
    one = open_devices("h100:1")
    assert one.limit == 0.75 * 80e9, "as JAX takes it"
    program = compile_train_step(cell, one)
    assert program.fits
    assert 100 < len(program.kernels) < 1000
    assert program.bytes_accessed == kernels.count_bytes(program.kernels)
    assert program.temporaries < program.memory < program.bytes_accessed
    parts = compile_train_step(change_training(cell, accumulate=2), one)
    assert parts.flops == program.flops
    assert parts.bytes_accessed == pytest.approx(program.bytes_accessed, rel=0.2)
    assert parts.temporaries < program.temporaries
    sample = compile_sampling_step(cell, one)
    per_image = program.flops / program.batch
    assert 2 < per_image / (sample.flops / sample.batch) < 4, "with the gradient, thrice the work"


@pytest.mark.slow
@needs_plugin
def test_eight_gpus_share_a_step_and_sum_its_gradient():
    (cell,) = grid.expand(tiny_study.get_config())
    devices = open_devices("h100:4", slices=2)
    program = compile_train_step(cell, devices)
    assert len(devices.all) == devices.chips == 8
    count = sum(p.size for p in jax.tree.leaves(abstract_state(cell, devices).params))
    assert program.traffic == {"all-reduce": pytest.approx(4 * count, rel=1e-2)}
    assert devices.time(program).communication > 0
