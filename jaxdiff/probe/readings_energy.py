"""Readings of a trained model's energy, E = -tau log p_t, at the noised images."""

import jax.numpy as jnp
import numpy as np

from jaxdiff.landscape import abstraction, curvature
from jaxdiff.probe.level_inputs import LevelInputs
from jaxdiff.probe.state import compute_activations
from jaxdiff.reading import Reading

# s below which x0_hat, a division by s, is not composed with the energy
MIN_SIGNAL = 0.1
DECODER_NORMS = ("total", "gauss_newton", "remainder")


def read_hessian(inputs: LevelInputs) -> list[Reading]:
    """The Hessian H of the energy and M = I - H / 2, at the pixels alone."""
    if inputs.level != 0:
        return []
    state = inputs.state
    options = inputs.options
    spectrum = curvature.curvature(
        curvature.Field(state.functions.denoiser),
        jnp.asarray(state.xt),
        inputs.key,
        *state.field_args,
        steps=options.steps,
        probes=options.probes,
        dense=options.dense,
    )
    names = ("spectral_norm", "smallest", "largest", "trace", "stable_rank", "asymmetry")
    readings = [Reading.measured("denoiser", name, *spectrum[name]) for name in names]

    # H = 2 I - 2 M, so the ends of its spectrum are those of M, in reverse order.
    smallest_of_m, smallest_error = spectrum["smallest"]
    largest_of_m, largest_error = spectrum["largest"]
    ends = np.stack([2.0 - 2.0 * largest_of_m, 2.0 - 2.0 * smallest_of_m])
    errors = 2.0 * np.stack([largest_error, smallest_error])
    # |H| and its error are of the same end of the spectrum.
    widest = np.abs(ends).argmax(axis=0)[None]
    norm = np.take_along_axis(np.abs(ends), widest, axis=0)[0]
    norm_error = np.take_along_axis(errors, widest, axis=0)[0]
    return [
        *readings,
        Reading.measured("hessian", "smallest", ends[0], errors[0]),
        Reading.measured("hessian", "spectral_norm", norm, norm_error),
    ]


def read_maps(inputs: LevelInputs) -> list[Reading]:
    """Largest singular values of the map x -> z (Eqs. 6, 27) and of the step to z (Eq. 35)."""
    if inputs.level == 0:
        return []
    state = inputs.state
    options = inputs.options
    functions = state.functions
    args = state.level_args(inputs.level)

    levels = compute_activations(functions, state.xt, state.params, int(state.t))
    before = levels[inputs.level - 1]
    # The step takes activations padded to the largest level, so it is always met by products.
    padded = np.pad(before, ((0, 0), (0, functions.largest - before.shape[1])))

    from_pixels = abstraction.leading_triples(
        functions.encode,
        jnp.asarray(state.xt),
        inputs.key,
        count=1,
        parameters=args,
        options=curvature.Options(steps=options.steps, dense=options.dense),
    )
    step = abstraction.leading_triples(
        functions.advance,
        jnp.asarray(padded),
        inputs.key,
        count=1,
        parameters=args,
        options=curvature.Options(steps=options.steps, dense=0),
    )
    return [
        Reading.measured("maps", name, triples.values[:, 0], triples.bounds[:, 0])
        for name, triples in (("from_pixels", from_pixels), ("step", step))
    ]


def read_pull_back(inputs: LevelInputs) -> list[Reading]:
    """The energy pulled back to the level along the leading directions of its map (Eq. 22)."""
    if inputs.level == 0 or not inputs.ranks:
        return []
    state = inputs.state
    options = inputs.options
    functions = state.functions
    norms_by_rank = abstraction.pull_back_curvature(
        abstraction.PullBack(functions.encode, functions.energy_grad, inputs.ranks),
        jnp.asarray(state.xt),
        inputs.key,
        *state.level_args(inputs.level),
        steps=options.steps,
        dense=options.dense,
    )
    readings = []
    for rank, norms in norms_by_rank.items():
        value = norms.smallest_value
        bound = norms.smallest_bound
        readings.append(Reading.measured("pull_back", "smallest_value", value, bound, rank=rank))
        # The first term goes as the inverse square of the singular value, the second, whose
        # gradient is pulled back too, as the inverse cube.
        relative_error = bound / np.maximum(value, 1e-30)
        first = 2.0 * relative_error * norms.first
        second = 3.0 * relative_error * norms.second
        errors = {"total": first + second, "first": first, "second": second}
        for name, error in errors.items():
            norm = getattr(norms, name)
            readings.append(Reading.measured("pull_back", name, norm, error, rank=rank))
        for name in ("along", "bend"):
            readings.append(Reading.measured("pull_back", name, getattr(norms, name), rank=rank))
    return readings


def read_decoder(inputs: LevelInputs) -> list[Reading]:
    """The energy composed with the decoder of the level, and its two terms.

    ``x0_error`` is |x0_hat - x0| / |x0|, 0 for a decoder that is an inverse. It is the same at
    every level, since what a level's activation loses is in the skips. All are undefined, with the
    label ``why``, where x_t has nearly no signal.
    """
    state = inputs.state
    if state.s < MIN_SIGNAL:
        why = f"x_t has {state.s:.2g} of the image; the decoder is read from {MIN_SIGNAL:g} on"
        undefined = np.full(len(state.xt), np.nan)
        return [
            Reading.measured("decoder", name, undefined, why=why)
            for name in (*DECODER_NORMS, "smallest", "x0_error", "sum_error")
        ]
    parts = abstraction.decoder_curvature(
        state.functions.decoder,
        jnp.asarray(state.xt),
        inputs.key,
        *state.level_args(inputs.level),
        with_points=(state.eps,),
        steps=inputs.options.decoder_steps,
        probes=0,  # the ends of the spectrum alone: a product costs most here
        dense=0,
    )
    readings = [
        Reading.measured("decoder", name, *getattr(parts, name)["spectral_norm"])
        for name in DECODER_NORMS
    ]
    readings.append(Reading.measured("decoder", "smallest", *parts.total["smallest"]))
    # The decoder adds to s x0_hat the true sigma eps, most of x_t: relative to x_t the gap would
    # look small whatever x0_hat is. Both images have that noise, so s (x0_hat - x0) is left.
    scaled_x0 = state.xt - (1.0 - state.s**2) ** 0.5 * state.eps
    lengths = np.linalg.norm(scaled_x0.reshape(len(scaled_x0), -1), axis=1)
    return [
        *readings,
        Reading.measured("decoder", "x0_error", parts.gap / lengths),
        Reading.measured("decoder", "sum_error", parts.sum_error),
    ]
