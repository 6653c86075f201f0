"""From finished cells to points and times, and what cannot be fitted together."""

import dataclasses

import pytest

from jaxdiff.scaling.cells import choose_rates, read_scaling_cells, to_point
from jaxdiff.scaling.points import LossPoint
from tests.report.small_results import write_sets, write_study
from tests.scaling.small_cells import (
    grid_of_points,
    make_cells,
    make_scaling_cell,
    write_cells,
)

POINT = LossPoint(0.5, 1e6, 3200.0, 480.0)


def change_config(cell, section, **values):
    config = {**cell.config, section: {**cell.config[section], **values}}
    return dataclasses.replace(cell, config=config)


def test_cells_become_points(tmp_path):
    points = grid_of_points()
    diverged = make_scaling_cell(LossPoint(1.0, 9e6, 3200.0, 480.0))
    write_cells(tmp_path, make_cells(points), [diverged])
    cells = read_scaling_cells([tmp_path])
    assert set(cells.points) == set(points)
    assert len(cells.points) == len(points)
    assert [name.split("-n")[0] for name in cells.names[:1]] == ["0-f1e+06-t100-lr0.001"]
    assert cells.diverged == (diverged.name,)
    assert (cells.study, cells.held_out) == ("small", 512)
    assert (cells.rates, cells.other_rates, cells.without_loss) == ((), (), ())
    assert not any(cells.times.values())
    assert (cells.generation, cells.courses, cells.majorities) == ((), (), (6,))


def test_several_folders_are_one_study(tmp_path):
    points = grid_of_points()
    write_cells(tmp_path / "a", make_cells(points[:4]))
    unmeasured = dataclasses.replace(make_scaling_cell(points[4]), sections={})
    write_cells(tmp_path / "b", [*make_cells(points[5:]), unmeasured])
    cells = read_scaling_cells([tmp_path / "a", tmp_path / "b"])
    assert len(cells.points) == 8
    assert cells.without_loss == (unmeasured.name,)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: change_config(c, "data", size=16), "the same data, got made-up digits, size 8"),
        (
            lambda c: dataclasses.replace(c, info=dataclasses.replace(c.info, data="x")),
            "the same data, got",
        ),
        (
            lambda c: dataclasses.replace(c, info=dataclasses.replace(c.info, majority=9)),
            "the same mix of classes, got 50-50 of the classes 6 and 9 in",
        ),
        (
            lambda c: change_config(c, "diffusion", schedule="cosine"),
            "the same schedule of noise and prediction, got schedule linear, steps 1000",
        ),
        (lambda c: change_config(c, "train", batch=64), "the same batch, got 32 in"),
        (lambda c: change_config(c, "train", schedule="cosine"), "the same training, got"),
        (lambda c: change_config(c, "data", others=(0, 1)), "the same data, got made-up digits"),
    ],
)
def test_cells_that_cannot_be_compared(tmp_path, change, sentence):
    cells = make_cells(grid_of_points())
    write_cells(tmp_path, [*cells[:-1], change(cells[-1])])
    with pytest.raises(ValueError, match=sentence):
        read_scaling_cells([tmp_path])


def test_losses_of_other_images(tmp_path):
    cells = make_cells(grid_of_points())
    write_cells(tmp_path, [*cells[:-1], make_scaling_cell(grid_of_points()[-1], held_out=100)])
    with pytest.raises(ValueError, match="the same number of held-out images, got 512 in"):
        read_scaling_cells([tmp_path])


def test_cells_that_differ_in_nothing(tmp_path):
    cells = make_cells(grid_of_points())
    twin = dataclasses.replace(cells[0], name="twin")
    write_cells(tmp_path, [*cells, twin])
    with pytest.raises(ValueError, match=r"must differ in depth, .* got .* and twin, which do not"):
        read_scaling_cells([tmp_path])


def test_a_single_size(tmp_path):
    write_cells(tmp_path, make_cells(grid_of_points(sizes=1)))
    with pytest.raises(ValueError, match=r"several sizes, got one, 1e\+06 FLOP.*axes.width"):
        read_scaling_cells([tmp_path])


def test_cells_without_flop(tmp_path):
    cells = make_cells(grid_of_points(), flops=0.0)
    write_cells(tmp_path, cells[:1])
    with pytest.raises(ValueError, match="of an older version, has none; run its sweep again"):
        read_scaling_cells([tmp_path])


def test_folders_without_held_out_losses(tmp_path):
    write_study(tmp_path / "study")
    with pytest.raises(ValueError, match=r"set config.measures.held_out to a number"):
        read_scaling_cells([tmp_path / "study"])
    write_sets(tmp_path / "sets")
    with pytest.raises(ValueError, match="holds sets of images; give folders of"):
        read_scaling_cells([tmp_path / "sets"])
    with pytest.raises(ValueError, match="holds no finished cell"):
        read_scaling_cells([write_cells(tmp_path / "empty", [])])


def test_the_best_rate_is_taken_over_the_seeds_that_all_rates_have():
    losses = {
        (1e-4, 0): 0.6,
        (1e-3, 0): 0.5,
        (1e-2, 0): 0.9,
        (1e-3, 1): 5.0,  # the other rates have no such seed
    }
    cells = [
        make_scaling_cell(dataclasses.replace(POINT, loss=loss, seed=seed), rate=rate)
        for (rate, seed), loss in losses.items()
    ]
    chosen, (choice,) = choose_rates(cells)
    assert [(cell.info.learning_rate, cell.info.seed) for cell in chosen] == [(1e-3, 0), (1e-3, 1)]
    assert (choice.best, choice.tried, choice.is_inside) == (1e-3, (1e-4, 1e-3, 1e-2), True)
    _, (choice,) = choose_rates(cells[1:3])
    assert not choice.is_inside, "it is the smallest that was tried"


def test_a_rate_that_diverged_at_some_seed_is_tried_and_not_the_best():
    cells = [
        make_scaling_cell(dataclasses.replace(POINT, loss=loss, seed=seed), rate=rate)
        for loss, seed, rate in ((0.6, 0, 1e-4), (0.5, 0, 1e-3), (0.5, 1, 1e-3), (0.4, 0, 1e-2))
    ]
    diverged = dataclasses.replace(cells[-1].info, seed=1)
    _, (choice,) = choose_rates(cells, [diverged])
    assert (choice.best, choice.is_inside) == (1e-3, True)
    _, (choice,) = choose_rates(cells[:3], [diverged])
    assert (choice.tried, choice.is_inside) == ((1e-4, 1e-3, 1e-2), True)
    _, (choice,) = choose_rates(cells[-1:], [dataclasses.replace(diverged, learning_rate=1e-1)])
    assert (choice.best, choice.tried) == (1e-2, (1e-2, 1e-1))


def test_rates_are_chosen_for_each_size_and_length(tmp_path):
    cells = []
    for i, point in enumerate(grid_of_points()):
        for rate, factor in ((1e-3, 1.0), (2e-3, 0.9 if i % 2 else 1.1)):
            loss = point.loss * factor
            cells.append(make_scaling_cell(dataclasses.replace(point, loss=loss), rate=rate))
    write_cells(tmp_path, cells)
    read = read_scaling_cells([tmp_path])
    assert len(read.points) == len(read.rates) == len(read.other_rates) == 9
    assert {choice.best for choice in read.rates} == {1e-3, 2e-3}
    assert not set(read.names) & set(read.other_rates)


def test_both_roles_are_one_study(tmp_path):
    points = [dataclasses.replace(p, seed=s) for p in grid_of_points() for s in (0, 1)]
    cells = [
        make_scaling_cell(point, majority=9, minority=6) if point.seed else make_scaling_cell(point)
        for point in points
    ]
    read = read_scaling_cells([write_cells(tmp_path, cells)])
    assert len(read.points) == len(points)
    assert read.majorities == (6, 9)


def test_a_point_takes_the_loss_over_the_whole_schedule():
    assert to_point(make_scaling_cell(POINT)) == POINT
