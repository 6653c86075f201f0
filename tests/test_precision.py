"""Measures take exact float32 products; training and sampling take JAX's default."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx

from jaxdiff import files, results
from jaxdiff.cells.context import CellContext
from jaxdiff.cells.data import DataPaths
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import Estimate
from jaxdiff.evaluation import EvaluationSettings, Reference, evaluate
from jaxdiff.measures.registry import MEASURES, Measure
from jaxdiff.models import Model
from jaxdiff.precision import MEASURED, measuring, sampling
from jaxdiff.programs import share_programs
from jaxdiff.samplers import SamplerSpec
from jaxdiff.sampling import Sampler
from jaxdiff.settings import MeasureSettings
from jaxdiff.stage import NO_REDO, Stage
from jaxdiff.study import grid, sample_stage, train_stage
from tests.experiments import tiny_study

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1)).astype(np.uint8)


def precision() -> str | None:
    return jax.config.jax_default_matmul_precision


class Reached(Exception):
    """The work of a stage has begun."""


TRACED: list[str | None] = []  # the precision at each trace of the network


class Traced(nnx.Module):
    """A network that says at which precision it is traced."""

    num_classes = None
    input_shape = (4, 4, 1)

    def __init__(self):
        self.weight = nnx.Param(jnp.ones(()))

    def __call__(self, xt, t, labels=None, keys=None):
        TRACED.append(precision())
        return self.weight.get_value() * xt


@pytest.mark.parametrize("default", [None, "high"])
def test_samples_are_drawn_at_the_precision_around_the_measure(default):
    with jax.default_matmul_precision(default):
        with measuring(), measuring():
            assert precision() == MEASURED
            with sampling():
                assert precision() == default
                with measuring():
                    assert precision() == MEASURED
            assert precision() == MEASURED
        assert precision() == default
        with sampling():
            assert precision() == default


def test_products_in_a_measure_have_the_highest_precision():
    x = jnp.ones((2, 2))
    product = jax.jit(jnp.matmul)
    assert "HIGHEST" not in product.lower(x, x).as_text()
    with measuring():
        assert "HIGHEST" in product.lower(x, x).as_text()


def test_a_new_measure_is_measured_without_knowing_of_it(tmp_path, monkeypatch):
    seen = []

    def compute(artifacts):
        seen.append(precision())
        return [Estimate(1.0, name="new")]

    new = Measure("new", compute, "New", "", needs=("samples",))
    monkeypatch.setitem(MEASURES, "new", new)
    settings = EvaluationSettings(MeasureSettings(lpips="none", spaces=("pixels",), k=(1,)))
    evaluate({"a": IMAGES[:6]}, Reference("b", IMAGES[6:]), settings, epath.Path(tmp_path))
    assert seen == [MEASURED]
    assert precision() is None
    (result,) = results.read_sets(epath.Path(tmp_path))
    assert result.precision == MEASURED


@pytest.mark.parametrize(
    ("module", "work", "run"),
    [
        (train_stage, "train", train_stage.run_train),
        (sample_stage, "write_samples", sample_stage.run_sample),
    ],
)
def test_training_and_sampling_are_not(tmp_path, monkeypatch, module, work, run):
    seen = []

    def begin(*_):
        seen.append(precision())
        raise Reached

    monkeypatch.setattr(module, work, begin)
    workdir = epath.Path(tmp_path)
    context = CellContext(grid.expand(tiny_study.get_config())[0], workdir, DataPaths("", ""))
    options = (NO_REDO, False) if work == "train" else (NO_REDO,)
    with pytest.raises(Reached):
        run(context, *options)
    assert seen == [None]


def test_a_stage_is_measured_again_at_another_precision(tmp_path, monkeypatch):
    folder = epath.Path(tmp_path)
    seen = []

    def make():
        seen.append(precision())
        files.write(folder / "out.txt", "x")

    def run(**options):
        Stage(folder, "make", {}, ("out.txt",), **options).run(make)

    run(is_measured=False)
    run()
    run()
    assert seen == [None, MEASURED]
    monkeypatch.setattr("jaxdiff.precision.MEASURED", "high")
    run()
    assert seen == [None, MEASURED, "high"]


def test_programs_of_two_precisions_are_two():
    x = jnp.ones((2, 2))

    @share_programs
    def compile_product(factor):
        return jax.jit(jnp.matmul).lower(x, factor * x).compile()

    fast = compile_product(2)
    with measuring():
        exact = compile_product(2)
        assert compile_product(2) is exact
    assert exact is not fast
    assert compile_product(2) is fast


def test_a_measure_draws_by_the_programs_of_the_samples():
    """What is predicted is exact; what is drawn compiles nothing that sampling has compiled."""
    model = Model(Traced(), Schedule.linear(20), "v", {})

    def make_sampler():
        return Sampler(model, SamplerSpec("ddim", 3), batch=8)

    TRACED.clear()
    indices = np.arange(2)
    samples = make_sampler().sample(indices, 0)
    assert set(TRACED) == {None}
    TRACED.clear()
    with measuring():
        sampler = make_sampler()
        np.testing.assert_array_equal(sampler.sample(indices, 0), samples)
        sampler.trajectory(indices, 0, [3])
        assert not TRACED
        sampler.predict(samples, np.full(2, 3))
    assert set(TRACED) == {MEASURED}
