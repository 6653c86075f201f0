import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.batching import batched_map, padded_batches


def test_equals_the_function_of_all_rows_compiled_once():
    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    traces = []

    @jax.jit
    def double(rows):
        traces.append(rows.shape)
        return 2 * rows

    np.testing.assert_array_equal(batched_map(double, x, batch=4), 2 * x)
    assert traces == [(4, 3)]
    np.testing.assert_array_equal(batched_map(double, x[:1], batch=4), 2 * x[:1])
    assert traces == [(4, 3)]


def test_several_arrays_in_and_a_tuple_out():
    x = np.arange(7.0)
    labels = np.arange(7)[::-1]

    def add_and_compare(x, labels):
        return jnp.asarray(x) + labels, x > labels

    total, larger = batched_map(add_and_compare, x, labels, batch=3)
    np.testing.assert_array_equal(total, np.full(7, 6.0))
    np.testing.assert_array_equal(larger, x > labels)
    (single,) = batched_map(lambda rows: (rows,), x, batch=3)
    np.testing.assert_array_equal(single, x)


def test_padding_repeats_rows_of_the_last_batch():
    batches = list(padded_batches(np.arange(6), batch=4))
    assert [count for count, _ in batches] == [4, 2]
    assert batches[1][1][0].tolist() == [4, 5, 4, 5]


def test_progress_counts_rows():
    reports = []
    batched_map(
        lambda x: x,
        np.zeros(5),
        batch=2,
        progress=lambda *report: reports.append(report),
        task="embed",
    )
    assert reports == [("embed", 2, 5, ""), ("embed", 4, 5, ""), ("embed", 5, 5, "")]


@pytest.mark.parametrize("lengths", [(0,), (2, 3)])
def test_lengths_that_do_not_fit_are_refused(lengths):
    arrays = [np.zeros(length) for length in lengths]
    with pytest.raises(ValueError, match="must have one number of rows, 1 or more"):
        batched_map(lambda *rows: rows, *arrays, batch=2)
