"""The maps of a small U-Net and the probe's readings of them, against dense automatic differentiation."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx

from jaxdiff import models
from jaxdiff.diffusion import Schedule, add_noise, to_x0_and_eps
from jaxdiff.landscape import curvature
from jaxdiff.landscape.level_functions import level_functions
from jaxdiff.probe import data as points_of
from jaxdiff.probe import readings as probe
from jaxdiff.probe import run as probe_run
from jaxdiff.unet import UNet, UNetConfig

LITTLE = UNetConfig(
    (8, 8),
    norm_num_groups=4,
    layers_per_block=1,
    add_attention=False,
    in_channels=1,
    out_channels=1,
)
T, SHAPE = 300, (8, 8, 1)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, *SHAPE)).astype(np.uint8)
OPTIONS = probe.Options(noise=(0.3,), ranks=(4, 8, 512), random=False, probes=4, ks=(1, 3))


@pytest.fixture(scope="module")
def model():
    unet = UNet(LITTLE, rngs=nnx.Rngs(0))
    unet.conv_out.weight[...] *= 10.0  # so that the energy bends
    return models.Model(unet, Schedule.linear(1000), "v", {"data": {"size": 8}})


@pytest.fixture(scope="module")
def points():
    x0 = IMAGES.astype(np.float32) / 127.5 - 1
    return probe.Points(x0[:8], 4, x0[8:], np.arange(16) % 2)


@pytest.fixture(scope="module")
def now(model, points):
    return probe.state(model, probe.weights(model, "trained", 0), T, points, OPTIONS)


@pytest.fixture(scope="module")
def rows(now, points):
    assert now.maps is level_functions(LITTLE, "v", SHAPE)
    chosen = probe.ranks([probe.dimensions(LITTLE, SHAPE)], OPTIONS)
    assert chosen == (4, 8), "no level has 512 dimensions"
    return {a: probe.at_level(now, points, a, chosen, OPTIONS) for a in (0, 2)}


def values(rows, **where):
    return next(np.array(row["values"], np.float64) for row in rows if where.items() <= row.items())


def dense(function, *parameters):
    """The Jacobian, flat, and compiled once."""

    def flat(x):
        return function(x, *parameters).ravel()

    return jax.jit(lambda x: jax.jacfwd(flat)(x).reshape(-1, x.size))


def test_maps_are_the_unet_s_own(model, now):
    x, unet, t = jnp.asarray(now.xt), model.unet, jnp.full(len(now.xt), T)
    for a, size in enumerate(now.maps.sizes):
        z = unet.encode(x, t, a).z
        assert z.shape[1:] == size
        found = jax.vmap(lambda x, a=a: now.maps.encode(x, *now.at(a)))(x)
        np.testing.assert_allclose(found[:, : math.prod(size)], z.reshape(len(x), -1), atol=1e-5)
        assert not found[:, math.prod(size) :].any()
        np.testing.assert_allclose(probe.activations(now.maps, now.xt, now.parameters[0], T)[a], found[:, : math.prod(size)],
                                   atol=1e-5)  # fmt: skip
        if a:
            before = jax.vmap(lambda x, a=a: now.maps.encode(x, *now.at(a - 1)))(x)
            np.testing.assert_allclose(
                jax.vmap(lambda z, a=a: now.maps.advance(z, *now.at(a)))(before), found, atol=1e-5
            )


def test_the_field_and_the_decoder_s_image(model, now):
    x, t = jnp.asarray(now.xt), jnp.full(len(now.xt), T)
    x0_hat, eps_hat = to_x0_and_eps(model.schedule, "v", model.unet(x, t), x, t)
    sigma = float(np.sqrt(1 - model.schedule.alpha_bar[T]))
    np.testing.assert_allclose(
        jax.vmap(lambda x: now.maps.energy_grad(x, *now.parameters))(x),
        2 * sigma * eps_hat,
        atol=1e-5,
    )
    again = add_noise(model.schedule, x0_hat, jnp.asarray(now.eps), t)
    for a in range(4):
        held = now.maps.decoder.encode(x[0], jnp.asarray(now.eps[0]), *now.at(a))
        np.testing.assert_allclose(now.maps.decoder.decode(*held, *now.at(a)), again[0], atol=1e-5)
        assert int(now.maps.decoder.valid_mask(*now.at(a)).sum()) == math.prod(now.maps.sizes[a])


@pytest.mark.slow
def test_m_is_s_times_the_jacobian_of_x0_hat(model, now, rows):
    s = float(np.sqrt(model.schedule.alpha_bar[T]))

    def clean(x):
        t = jnp.array([T])
        return s * to_x0_and_eps(model.schedule, "v", model.unet(x[None], t), x[None], t)[0][0]

    for i, x in enumerate(now.xt):
        m = np.asarray(dense(clean)(jnp.asarray(x)), np.float64)
        symmetric = np.linalg.eigvalsh(0.5 * (m + m.T))
        wanted = {
            "spectral_norm": np.abs(symmetric).max(),
            "trace": np.trace(m),
            "smallest": symmetric[0],
        }
        for name, value in wanted.items():
            assert values(rows[0], reading="denoiser", name=name)[i] == pytest.approx(
                value, rel=1e-3, abs=1e-4
            ), name
        h = 2 - 2 * symmetric
        assert values(rows[0], reading="hessian", name="smallest")[i] == pytest.approx(
            h.min(), abs=1e-3
        )
        assert values(rows[0], reading="hessian", name="spectral_norm")[i] == pytest.approx(
            np.abs(h).max(), abs=1e-3
        )


@pytest.mark.slow
def test_how_the_maps_stretch(now, rows):
    x = jnp.asarray(now.xt)
    for i, at in enumerate(x):
        whole = np.linalg.norm(dense(now.maps.encode, *now.at(2))(at), 2)
        assert values(rows[2], reading="maps", name="from_pixels")[i] == pytest.approx(
            whole, rel=1e-4
        )
        step = np.linalg.norm(
            dense(now.maps.advance, *now.at(2))(now.maps.encode(at, *now.at(1))), 2
        )
        assert values(rows[2], reading="maps", name="step")[i] == pytest.approx(step, rel=1e-3)


@pytest.mark.slow
def test_the_pull_back_through_a_level(now, rows):
    """Both terms of Eq. 22 from dense Jacobians and Hessians, along the leading 8 directions."""
    given, x = now.at(2), jnp.asarray(now.xt[0])
    left, singular, right = np.linalg.svd(
        np.asarray(dense(now.maps.encode, *given)(x), np.float64), full_matrices=False
    )
    inverse = (right[:8] / singular[:8, None]).T
    h = np.asarray(dense(now.maps.energy_grad, *given)(x), np.float64)
    gradient = np.asarray(now.maps.energy_grad(x, *given), np.float64).ravel()
    held = jnp.asarray(left[:, :8] @ (inverse.T @ gradient), jnp.float32)
    bend = np.asarray(dense(jax.grad(lambda x: now.maps.encode(x, *given) @ held))(x), np.float64)
    first, second = inverse.T @ h @ inverse, -inverse.T @ bend @ inverse
    wanted = {
        "first": first,
        "second": second,
        "total": first + second,
        "along": right[:8] @ h @ right[:8].T,
    }
    for name, matrix in wanted.items():
        norm = np.abs(np.linalg.eigvalsh(0.5 * (matrix + matrix.T))).max()
        assert values(rows[2], reading="pull_back", name=name, rank=8)[0] == pytest.approx(
            norm, rel=1e-2
        ), name
    assert values(rows[2], reading="pull_back", name="bend", rank=8)[0] == pytest.approx(
        values(rows[2], reading="pull_back", name="second", rank=8)[0] / np.linalg.norm(gradient),
        rel=1e-3,
    )


@pytest.mark.slow
def test_the_energy_composed_with_the_decoder(now, rows):
    """The whole Hessian of E o decode and its two terms, dense, in the level's own dimensions."""
    given, x, size = now.at(2), jnp.asarray(now.xt[1]), math.prod(now.maps.sizes[2])
    z, held = now.maps.decoder.encode(x, jnp.asarray(now.eps[1]), *given)

    def decode(z):
        return now.maps.decoder.decode(z, held, *given)

    def field(x):
        return now.maps.energy_grad(x, *given)

    def pulled(z):
        return jax.vjp(decode, z)[1](field(decode(z)))[0]

    j, h = (np.asarray(dense(f)(at), np.float64) for f, at in ((decode, z), (field, decode(z))))
    whole = np.asarray(dense(pulled)(z), np.float64)
    wanted = {"total": whole, "gauss_newton": j.T @ h @ j, "remainder": whole - j.T @ h @ j}
    for name, matrix in wanted.items():
        assert not matrix[size:].any(), "nothing is added beyond the level's size"
        norm = np.abs(np.linalg.eigvalsh(0.5 * (matrix + matrix.T))).max()
        assert values(rows[2], reading="decoder", name=name)[1] == pytest.approx(norm, rel=2e-2), (
            name
        )
    assert np.all(values(rows[2], reading="decoder", name="sum_error") < 1e-4)


@pytest.mark.slow
def test_standard_errors_cover_on_a_unet(now):
    """Of 504 draws at 64 probes 99 % lie within 3 standard errors of the dense values; Lanczos at 30 steps."""
    x, m = jnp.asarray(now.xt[0]), dense(now.maps.denoiser, *now.parameters)
    matrix = np.asarray(m(x), np.float64)
    symmetric, skew = 0.5 * (matrix + matrix.T), 0.5 * (matrix - matrix.T)
    eigenvalues, frobenius = np.linalg.eigvalsh(symmetric), np.linalg.norm(symmetric)
    norm = np.abs(eigenvalues).max()
    wanted = {"trace": np.trace(matrix), "frobenius_norm": frobenius, "stable_rank": (frobenius / norm) ** 2,
              "asymmetry": np.linalg.norm(skew) / frobenius}  # fmt: skip
    draws = jnp.broadcast_to(x, (504, *x.shape))
    found = curvature.curvature(
        curvature.Field(now.maps.denoiser), draws, jax.random.key(1), *now.parameters, dense=0
    )
    for name, value in wanted.items():
        estimate, error = found[name]
        inside = float(np.mean(np.abs(estimate - value) <= 3 * error + 1e-6))
        print(f"{name}: {inside:.4f} of 504 within 3 standard errors")
        assert inside >= 0.99, name
    lanczos, bound = found["spectral_norm"]
    np.testing.assert_allclose(lanczos, norm, rtol=1e-4)
    assert np.all(np.abs(lanczos - norm) <= bound + 1e-5)


@pytest.mark.slow
def test_every_reading_is_there_and_plain(rows):
    assert {row["reading"] for row in rows[2]} == {
        "scale",
        "maps",
        "pull_back",
        "decoder",
        "memory",
        "retrieval",
    }
    assert {row["reading"] for row in rows[0]} == {
        "scale",
        "denoiser",
        "hessian",
        "decoder",
        "memory",
        "retrieval",
    }
    for row in rows[2]:
        assert all(value is None or type(value) is float for value in row["values"])


def test_points_of_images_keep_the_memory_apart():
    points = points_of.of_images(IMAGES, 4)
    assert (points.count, len(points.memory)) == (4, 20)
    distances = np.abs(points.x0[:, None] - points.memory[None]).max(axis=(2, 3, 4))
    assert distances.min() > 0
    assert len(points_of.of_images(IMAGES[:2], 4).memory) == 0


def test_a_tau_below_the_error_of_distances_is_said(now, points):
    """At the raw tau, which no flag sets, it ends nothing."""
    found = probe.at_level(
        now._replace(tau=1e-9), points, 1, (), dataclasses.replace(OPTIONS, readings=("memory",))
    )
    raw = [row for row in found if row.get("tau") == "raw"]
    assert all(
        row["values"] == [None] * 4 and "got 1e-09; take a larger tau" in row["why"] for row in raw
    )
    assert all(None not in row["values"] for row in found if row.get("tau") == "scaled")


def test_without_a_memory(model, points):
    """The total variance is then that of the points."""
    alone = dataclasses.replace(points, memory=points.memory[:0], labels=None)
    state = probe.state(model, probe.weights(model, "trained", 0), T, alone, OPTIONS)
    (row,) = probe.at_level(
        state, alone, 0, (), dataclasses.replace(OPTIONS, readings=("memory", "retrieval"))
    )
    assert row["values"][0] == pytest.approx(
        state.xt.reshape(4, -1).var(axis=0, ddof=1).sum(), rel=1e-5
    )


def test_models_of_other_noise_levels_are_not_compared():
    with pytest.raises(
        ValueError,
        match=r"b has other noise levels than a \(alpha_bar \[.*\] of 1000 steps against",
    ):
        probe_run._check_alike({"a": Schedule.linear(1000), "b": Schedule.cosine(1000)}, OPTIONS)


@pytest.mark.slow
def test_the_memory_recalls_as_by_hand(now, points, rows):
    z = [each[2].astype(np.float64) for each in now.z]
    near = np.square(z[1][:, None] - z[2][None]).sum(axis=-1).argsort(axis=1)
    votes = points.labels[near[:, :3]].mean(axis=1) > 0.5
    assert values(rows[2], reading="retrieval", name="k = 3")[0] == votes.mean()
    assert values(rows[2], reading="retrieval", name="class 1 in the memory")[0] == 0.5
    assert values(rows[2], reading="scale", name="total_variance")[0] == pytest.approx(
        z[0].var(axis=0, ddof=1).sum(), rel=1e-4
    )


def test_what_cannot_be_probed(model, points, now):
    config = LITTLE
    with pytest.raises(
        ValueError,
        match="level 7 does not exist; this U-Net has 0, 1, 2, 3: 0 is the pixels, 2 the bottleneck",
    ):
        probe.levels(config, dataclasses.replace(OPTIONS, levels=(1, 7)))
    with pytest.raises(
        ValueError, match=r"noise level 1.5 was asked for; shares of all levels, from 0 to 1"
    ):
        probe.times(model.schedule, dataclasses.replace(OPTIONS, noise=(1.5,)))
    with pytest.raises(
        ValueError,
        match=r"dense \(--dense\) must be at most 4,096 for a matrix of 6,400 dimensions, got 10,000",
    ):
        curvature.curvature(
            curvature.Field(lambda x: x), jnp.zeros((1, 80, 80)), jax.random.key(0), dense=10_000
        )
    cold = dataclasses.replace(OPTIONS, readings=("memory",), c=1e-9)
    with pytest.raises(
        ValueError, match=r"the memory at level 1 with the scaled tau \(--c\): tau must be at least"
    ):
        probe.at_level(now, points, 1, (), cold)
    with pytest.raises(ValueError, match="returns 2 channels of 1"):
        level_functions(dataclasses.replace(config, out_channels=2), "eps", SHAPE)
    with pytest.raises(ValueError, match=r"nowhere is no model: it has no config\.json"):
        probe_run.run(
            {"x": epath.Path("/nowhere")},
            points,
            OPTIONS,
            epath.Path("/nowhere/out"),
            lambda *_: None,
        )
