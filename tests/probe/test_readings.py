"""The level functions of a small U-Net and the probe's readings, against dense derivatives."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import Schedule, add_noise, to_x0_and_eps
from jaxdiff.landscape import abstraction, curvature
from jaxdiff.landscape.level_functions import level_functions
from jaxdiff.models import Model
from jaxdiff.probe import readings_energy
from jaxdiff.probe.data import ProbeData
from jaxdiff.probe.level_inputs import LevelInputs
from jaxdiff.probe.options import count_dimensions, select_ranks
from jaxdiff.probe.readings import probe_level
from jaxdiff.probe.state import build_state, compute_activations, load_params
from tests.probe.small import IMAGES, OPTIONS, SHAPE, SMALL, build_unet

T = 300


@pytest.fixture(scope="module")
def model():
    return Model(build_unet(), Schedule.linear(1000), "v", {"data": {"size": 8}})


@pytest.fixture(scope="module")
def data():
    x0 = IMAGES.astype(np.float32) / 127.5 - 1
    return ProbeData(x0[:8], 4, x0[8:], np.arange(16) % 2)


@pytest.fixture(scope="module")
def state(model, data):
    return build_state(model, load_params(model, "trained", 0), T, data, OPTIONS)


@pytest.fixture(scope="module")
def readings(state, data):
    """All readings of the pixels and of the bottleneck."""
    assert state.functions is level_functions(SMALL, "v", SHAPE)
    ranks = select_ranks([count_dimensions(SMALL, SHAPE)], OPTIONS)
    assert ranks == (4, 8), "no level has 512 dimensions"
    return {level: probe_level(state, data, level, ranks, OPTIONS) for level in (0, 2)}


def find_values(readings, **labels):
    return next(reading.values for reading in readings if reading.matches(**labels))


def jacobian(function, *args):
    """The Jacobian as a matrix, compiled once."""

    def flat(x):
        return function(x, *args).ravel()

    return jax.jit(lambda x: jax.jacfwd(flat)(x).reshape(-1, x.size))


def spectral_norm(matrix):
    """The norm of the symmetric part."""
    return np.abs(np.linalg.eigvalsh(0.5 * (matrix + matrix.T))).max()


@pytest.mark.slow
def test_level_functions_agree_with_the_unet(model, state):
    functions = state.functions
    x = jnp.asarray(state.xt)
    activations = compute_activations(functions, state.xt, state.params, T)
    for level, size in enumerate(functions.sizes):
        args = state.level_args(level)
        expected = model.unet.encode(x, jnp.full(len(x), T), level).z
        assert expected.shape[1:] == size
        z = jax.vmap(lambda x, args=args: functions.encode(x, *args))(x)
        dimensions = math.prod(size)
        np.testing.assert_allclose(z[:, :dimensions], expected.reshape(len(x), -1), atol=1e-5)
        assert not z[:, dimensions:].any()
        np.testing.assert_allclose(activations[level], z[:, :dimensions], atol=1e-5)
        if level > 0:
            before_args = state.level_args(level - 1)
            before = jax.vmap(lambda x, args=before_args: functions.encode(x, *args))(x)
            after = jax.vmap(lambda z, args=args: functions.advance(z, *args))(before)
            np.testing.assert_allclose(after, z, atol=1e-5)


@pytest.mark.slow
def test_field_and_decoder_agree_with_the_unet(model, state):
    functions = state.functions
    x = jnp.asarray(state.xt)
    t = jnp.full(len(x), T)
    x0_hat, eps_hat = to_x0_and_eps(model.schedule, "v", model.unet(x, t), x, t)
    sigma = float(np.sqrt(1 - model.schedule.alpha_bar[T]))
    field = jax.vmap(lambda x: functions.energy_grad(x, *state.field_args))(x)
    np.testing.assert_allclose(field, 2 * sigma * eps_hat, atol=1e-5)

    noised_again = add_noise(model.schedule, x0_hat, jnp.asarray(state.eps), t)
    for level in range(4):
        args = state.level_args(level)
        added, context = functions.decoder.encode(x[0], jnp.asarray(state.eps[0]), *args)
        image = functions.decoder.decode(added, context, *args)
        np.testing.assert_allclose(image, noised_again[0], atol=1e-5)
        assert int(functions.decoder.valid_mask(*args).sum()) == math.prod(functions.sizes[level])


@pytest.mark.slow
def test_m_is_s_times_the_jacobian_of_x0_hat(model, state, readings):
    s = float(np.sqrt(model.schedule.alpha_bar[T]))

    def scaled_x0_hat(x):
        t = jnp.array([T])
        x0_hat, _ = to_x0_and_eps(model.schedule, "v", model.unet(x[None], t), x[None], t)
        return s * x0_hat[0]

    compute_m = jacobian(scaled_x0_hat)
    for i, x in enumerate(jnp.asarray(state.xt)):
        m = np.asarray(compute_m(x), np.float64)
        eigenvalues = np.linalg.eigvalsh(0.5 * (m + m.T))
        expected = {
            "spectral_norm": np.abs(eigenvalues).max(),
            "trace": np.trace(m),
            "smallest": eigenvalues[0],
        }
        for name, value in expected.items():
            values = find_values(readings[0], reading="denoiser", name=name)
            assert values[i] == pytest.approx(value, rel=1e-3, abs=1e-4), name

        of_h = 2 - 2 * eigenvalues
        smallest = find_values(readings[0], reading="hessian", name="smallest")
        assert smallest[i] == pytest.approx(of_h.min(), abs=1e-3)
        norm = find_values(readings[0], reading="hessian", name="spectral_norm")
        assert norm[i] == pytest.approx(np.abs(of_h).max(), abs=1e-3)


@pytest.mark.slow
def test_how_the_maps_stretch(state, readings):
    functions = state.functions
    args = state.level_args(2)
    from_pixels = find_values(readings[2], reading="maps", name="from_pixels")
    step = find_values(readings[2], reading="maps", name="step")
    of_encoder, of_step = (jacobian(f, *args) for f in (functions.encode, functions.advance))
    for i, x in enumerate(jnp.asarray(state.xt)):
        norm = np.linalg.norm(of_encoder(x), 2)
        assert from_pixels[i] == pytest.approx(norm, rel=1e-4)
        before = functions.encode(x, *state.level_args(1))
        norm = np.linalg.norm(of_step(before), 2)
        assert step[i] == pytest.approx(norm, rel=1e-3)


def test_errors_of_the_pull_back_follow_from_that_of_the_singular_value(state, data, monkeypatch):
    """The first term goes as its inverse square, the second as its inverse cube."""
    points = np.ones(len(state.xt))
    norms = abstraction.PulledBackNorms(
        total=4 * points,
        first=3 * points,
        second=2 * points,
        along=points,
        bend=points,
        smallest_value=0.5 * points,
        smallest_bound=0.01 * points,
    )
    monkeypatch.setattr(abstraction, "pull_back_curvature", lambda *_, **__: {4: norms})
    rows = readings_energy.read_pull_back(LevelInputs(state, data, 2, (4,), OPTIONS))
    errors = {row.name: row.errors for row in rows}
    np.testing.assert_allclose(errors["first"], 2 * 0.02 * 3)
    np.testing.assert_allclose(errors["second"], 3 * 0.02 * 2)
    np.testing.assert_allclose(errors["total"], errors["first"] + errors["second"])


@pytest.mark.slow
def test_the_pull_back_through_a_level(state, readings):
    """Both terms of Eq. 22 from dense derivatives, along the leading 8 directions."""
    functions = state.functions
    args = state.level_args(2)
    x = jnp.asarray(state.xt[0])
    j = np.asarray(jacobian(functions.encode, *args)(x), np.float64)
    left, singular, right = np.linalg.svd(j, full_matrices=False)
    inverse = (right[:8] / singular[:8, None]).T
    h = np.asarray(jacobian(functions.energy_grad, *args)(x), np.float64)
    gradient = np.asarray(functions.energy_grad(x, *args), np.float64).ravel()
    cotangent = jnp.asarray(left[:, :8] @ (inverse.T @ gradient), jnp.float32)
    gradient_of_level = jax.grad(lambda x: functions.encode(x, *args) @ cotangent)
    bend = np.asarray(jacobian(gradient_of_level)(x), np.float64)

    first = inverse.T @ h @ inverse
    second = -inverse.T @ bend @ inverse
    expected = {
        "first": first,
        "second": second,
        "total": first + second,
        "along": right[:8] @ h @ right[:8].T,
    }
    for name, matrix in expected.items():
        values = find_values(readings[2], reading="pull_back", name=name, rank=8)
        assert values[0] == pytest.approx(spectral_norm(matrix), rel=1e-2), name
    bends = find_values(readings[2], reading="pull_back", name="bend", rank=8)
    seconds = find_values(readings[2], reading="pull_back", name="second", rank=8)
    assert bends[0] == pytest.approx(seconds[0] / np.linalg.norm(gradient), rel=1e-3)


@pytest.mark.slow
def test_the_energy_composed_with_the_decoder(state, readings):
    """The Hessian of E o decode and its two terms, dense, in the level's own dimensions."""
    functions = state.functions
    args = state.level_args(2)
    z, context = functions.decoder.encode(
        jnp.asarray(state.xt[1]), jnp.asarray(state.eps[1]), *args
    )

    def decode(z):
        return functions.decoder.decode(z, context, *args)

    def field(x):
        return functions.energy_grad(x, *args)

    def gradient(z):
        return jax.vjp(decode, z)[1](field(decode(z)))[0]

    j = np.asarray(jacobian(decode)(z), np.float64)
    h = np.asarray(jacobian(field)(decode(z)), np.float64)
    total = np.asarray(jacobian(gradient)(z), np.float64)
    gauss_newton = j.T @ h @ j
    expected = {
        "total": total,
        "gauss_newton": gauss_newton,
        "remainder": total - gauss_newton,
    }
    size = math.prod(functions.sizes[2])
    for name, matrix in expected.items():
        assert not matrix[size:].any(), "nothing is added beyond the level's size"
        values = find_values(readings[2], reading="decoder", name=name)
        assert values[1] == pytest.approx(spectral_norm(matrix), rel=2e-2), name
    assert np.all(find_values(readings[2], reading="decoder", name="sum_error") < 1e-4)


@pytest.mark.slow
def test_the_decoders_error_is_of_the_clean_image(model, state, data, readings):
    """|x0_hat - x0| / |x0|, the same at every level; of x_t it would be less than half of that."""
    x = jnp.asarray(state.xt)
    t = jnp.full(len(x), T)
    x0_hat, _ = to_x0_and_eps(model.schedule, "v", model.unet(x, t), x, t)
    x0 = data.probed.reshape(len(x), -1)
    distance = np.linalg.norm(np.asarray(x0_hat).reshape(len(x), -1) - x0, axis=1)
    expected = distance / np.linalg.norm(x0, axis=1)
    of_xt = state.s * distance / np.linalg.norm(state.xt.reshape(len(x), -1), axis=1)
    assert np.all(of_xt < 0.5 * expected)
    for level in (0, 2):
        values = find_values(readings[level], reading="decoder", name="x0_error")
        np.testing.assert_allclose(values, expected, rtol=1e-3)


@pytest.mark.slow
def test_standard_errors_cover_on_a_unet(state):
    """99 % of 504 draws of 64 probes lie within 3 standard errors; Lanczos at 30 steps.

    The draws are of the U-Net's matrix, whose products cost less; some are compared with its own.
    """
    x = jnp.asarray(state.xt[0])
    m = np.asarray(jacobian(state.functions.denoiser, *state.field_args)(x), np.float64)
    symmetric = 0.5 * (m + m.T)
    skew = 0.5 * (m - m.T)
    norm = np.abs(np.linalg.eigvalsh(symmetric)).max()
    frobenius = np.linalg.norm(symmetric)
    expected = {
        "trace": np.trace(m),
        "frobenius_norm": frobenius,
        "stable_rank": (frobenius / norm) ** 2,
        "asymmetry": np.linalg.norm(skew) / frobenius,
    }

    def multiply(x, matrix):
        return (matrix @ x.ravel()).reshape(x.shape)

    of_unet = curvature.Field(state.functions.denoiser)
    of_matrix = curvature.Field(multiply)
    matrix = jnp.asarray(m, jnp.float32)
    draws = jnp.broadcast_to(x, (504, *x.shape))
    key = jax.random.key(1)
    estimates = curvature.curvature(of_matrix, draws, key, matrix, dense=0)
    few = [
        curvature.curvature(of_unet, draws[:8], key, *state.field_args, dense=0),
        curvature.curvature(of_matrix, draws[:8], key, matrix, dense=0),
    ]
    for name in (*expected, "spectral_norm"):
        np.testing.assert_allclose(few[0][name].values, few[1][name].values, rtol=1e-3)
    for name, value in expected.items():
        estimate, error = estimates[name]
        share_inside = float(np.mean(np.abs(estimate - value) <= 3 * error + 1e-6))
        print(f"{name}: {share_inside:.4f} of 504 within 3 standard errors")
        assert share_inside >= 0.99, name
    lanczos, bound = estimates["spectral_norm"]
    np.testing.assert_allclose(lanczos, norm, rtol=1e-4)
    assert np.all(np.abs(lanczos - norm) <= bound + 1e-5)


@pytest.mark.slow
def test_every_reading_is_made_and_is_json(readings):
    everywhere = {"scale", "decoder", "memory", "retrieval"}
    of_pixels = {reading.reading for reading in readings[0]}
    of_bottleneck = {reading.reading for reading in readings[2]}
    assert of_pixels == everywhere | {"denoiser", "hessian"}
    assert of_bottleneck == everywhere | {"maps", "pull_back"}
    for reading in readings[2]:
        row = reading.to_json()
        assert all(value is None or type(value) is float for value in row["values"])


@pytest.mark.slow
def test_a_raw_tau_below_the_error_is_labeled(state, data):
    """No flag sets the raw tau, so it stops nothing."""
    cold = dataclasses.replace(state, tau=1e-9)
    options = dataclasses.replace(OPTIONS, readings=("memory",))
    readings = [r for r in probe_level(cold, data, 1, (), options) if r.reading == "memory"]
    for reading in readings:
        if reading.labels["tau"] == "raw":
            assert reading.to_json()["values"] == [None] * 4
            assert "got 1e-09" in reading.labels["why"]
        else:
            assert np.all(np.isfinite(reading.values))


@pytest.mark.slow
def test_a_scaled_tau_below_the_error_is_refused(state, data):
    options = dataclasses.replace(OPTIONS, readings=("memory",), c=1e-9)
    message = r"the memory at level 1 with the scaled tau \(--c\): tau must be at least"
    with pytest.raises(ValueError, match=message):
        probe_level(state, data, 1, (), options)


@pytest.mark.slow
def test_minima_below_the_error_are_left_out(state, data):
    options = dataclasses.replace(OPTIONS, readings=("retrieval",), c=1e-9)
    names = {r.name for r in probe_level(state, data, 1, (), options) if r.reading == "retrieval"}
    assert {"class 1 in the memory", "k = 1", "soft"} <= names
    assert not names & {"minima", "purity"}


@pytest.mark.slow
def test_shares_are_among_two_classes(state, data):
    """Of a memory of which every second image is of neither class."""
    mixed = dataclasses.replace(data, memory_labels=np.array([0, 2, 1, 2] * 4))
    options = dataclasses.replace(OPTIONS, readings=("retrieval",))
    shares = {
        r.name: r for r in probe_level(state, mixed, 2, (), options) if r.reading == "retrieval"
    }
    assert shares["class 1 in the memory"].values[0] == 0.5
    _, queries, memories = (z[2].astype(np.float64) for z in state.activations)
    nearest = np.square(queries[:, None] - memories[None]).sum(axis=-1).argmin(axis=1)
    called = mixed.memory_labels[nearest]
    expected = (called == 1).sum() / (called < 2).sum()
    assert shares["k = 1"].values[0] == pytest.approx(expected)
    assert shares["k = 1"].labels["n"] == (called < 2).sum()


def test_the_decoder_is_undefined_without_a_signal(state, data):
    dark = dataclasses.replace(state, s=0.05)
    readings = readings_energy.read_decoder(LevelInputs(dark, data, 2, (), OPTIONS))
    assert {r.name for r in readings} >= {"total", "x0_error"}
    for reading in readings:
        assert np.isnan(reading.values).all()
        assert "x_t has 0.05 of the image" in reading.labels["why"]


@pytest.mark.slow
def test_without_a_memory(model, data):
    """The total variance is then that of the probed images, the queries alone are no memory."""
    no_memory = dataclasses.replace(data, memory=data.memory[:0], memory_labels=None)
    options = dataclasses.replace(OPTIONS, readings=("memory", "retrieval"))
    state = build_state(model, load_params(model, "trained", 0), T, no_memory, OPTIONS)
    (scale,) = probe_level(state, no_memory, 0, (), options)
    expected = state.xt.reshape(4, -1).var(axis=0, ddof=1).sum()
    assert scale.values[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_memory_recalls_as_by_hand(state, data, readings):
    independent, queries, memories = (z[2].astype(np.float64) for z in state.activations)
    distances = np.square(queries[:, None] - memories[None]).sum(axis=-1)
    nearest = distances.argsort(axis=1)[:, :3]
    votes = data.memory_labels[nearest].mean(axis=1) > 0.5
    assert find_values(readings[2], reading="retrieval", name="k = 3")[0] == votes.mean()
    share = find_values(readings[2], reading="retrieval", name="class 1 in the memory")
    assert share[0] == 0.5
    variance = find_values(readings[2], reading="scale", name="total_variance")
    assert variance[0] == pytest.approx(independent.var(axis=0, ddof=1).sum(), rel=1e-4)


def test_what_cannot_be_probed():
    field = curvature.Field(lambda x: x)
    message = r"dense \(--dense\) must be at most 4,096 for a matrix of 6,400 dimensions"
    with pytest.raises(ValueError, match=message):
        curvature.curvature(field, jnp.zeros((1, 80, 80)), jax.random.key(0), dense=10_000)
    with pytest.raises(ValueError, match="returns 2 channels of 1"):
        level_functions(dataclasses.replace(SMALL, out_channels=2), "eps", SHAPE)
