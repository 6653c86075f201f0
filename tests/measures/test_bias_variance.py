import numpy as np
import pytest

from jaxdiff.measures import bias_variance

IMAGES = 40
RNG = np.random.default_rng(0)
TRUE = np.arange(IMAGES) % 4 // 3  # a quarter is the minority
P = np.where(TRUE == 1, 0.55, 0.1) + 0.1 * np.sin(
    np.arange(IMAGES)
)  # probability, over models, of the minority


def draw(models, rng):
    return (rng.random((models, IMAGES)) < P).astype(np.int64)


@pytest.mark.parametrize("models", [2, 3, 8])
def test_estimates_are_unbiased_for_any_number_of_models(models):
    rng, rounds = np.random.default_rng(models), 400
    found = [bias_variance.by_class(draw(models, rng), TRUE) for _ in range(rounds)]
    values = {(r["true"], r["name"]): np.array([[row["value"] for row in rows if row["true"] == r["true"]
                                                 and row["name"] == r["name"]] for rows in found]) for r in found[0]}  # fmt: skip
    for name, chosen in {"majority": TRUE == 0, "minority": TRUE == 1, "all": TRUE >= 0}.items():
        closed = {"bias": (P - TRUE)[chosen].mean(), "variance": (P * (1 - P))[chosen].mean(),
                  "bias_squared": np.square(P - TRUE)[chosen].mean()}  # fmt: skip
        for key, expected in closed.items():
            v = values[name, key]
            assert abs(v.mean() - expected) < 4 * v.std() / np.sqrt(rounds), (name, key)


def test_of_two_classes_bias_squared_and_variance_are_the_absolute_bias():
    y = draw(5, RNG)
    f = TRUE.astype(float)
    whole = bias_variance.off_diagonal(y - f[None]) + bias_variance.disagreement(y.astype(float))
    np.testing.assert_allclose(whole, np.abs(y.mean(axis=0) - f))


def test_intervals_cover_over_images_and_models():
    """Models differ as a whole (some draw the minority more), which an interval over images alone does not see."""
    rng, covered, narrow = np.random.default_rng(3), [], []
    for _ in range(300):
        own = rng.normal(0, 0.12, (6, 1))
        y = (rng.random((6, 200)) < np.clip(0.3 + own, 0, 1)).astype(float)
        row = bias_variance.two_way("share", lambda y: y.mean(axis=0), y)
        half = 1.96 * y.mean(axis=0).std(ddof=1) / np.sqrt(200)
        covered.append(row["low"] <= 0.3 <= row["high"])
        narrow.append(abs(row["value"] - 0.3) <= half)
    assert np.mean(covered) > 0.92
    assert np.mean(narrow) < 0.8


def test_two_models_give_an_interval_for_themselves_alone():
    row = bias_variance.by_class(draw(2, RNG), TRUE)[0]
    assert row["interval"] == "t 95 % over images, given these models"
    with pytest.raises(ValueError, match="1 model has no variance over models"):
        bias_variance.by_class(draw(1, RNG), TRUE)


def test_the_same_model_is_the_zero():
    rows = bias_variance.by_class(np.stack([TRUE, TRUE, TRUE]), TRUE)
    assert {row["value"] for row in rows} == {0.0}


def test_neither_class_is_left_out_and_counted():
    y = draw(3, RNG)
    y[1, :5] = -1
    rows = bias_variance.by_class(y, TRUE)
    assert {row["neither"] for row in rows} == {5}
    np.testing.assert_allclose(
        [row["value"] for row in rows],
        [row["value"] for row in bias_variance.by_class(y[:, 5:], TRUE[5:])],
    )


def test_of_noise():
    """Noise that decides the class has no variance; noise that says nothing has share (1 - share)."""
    decided = bias_variance.of_noise(np.tile(TRUE, (4, 1)), 0.2)
    assert [row["value"] for row in decided] == pytest.approx([0.05, 0.0])
    free = bias_variance.of_noise(
        (np.random.default_rng(0).random((8, 4000)) < 0.3).astype(np.int64), 0.2
    )
    assert [row["value"] for row in free] == pytest.approx([0.1, 0.21], abs=0.01)
    assert bias_variance.of_noise(np.full((3, 9), -1), 0.2) == []


def test_decoded_calls_what_it_is_given():
    noise = RNG.normal(size=(6, 3))
    found = bias_variance.decoded(
        noise, [lambda x: x, lambda x: -x], lambda images: (images[:, 0] > 0).astype(int)
    )
    np.testing.assert_array_equal(found[0], 1 - found[1])
