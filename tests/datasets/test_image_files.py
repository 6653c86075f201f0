"""Folders of images as people have them."""

import ast
import io
import logging
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxdiff.datasets.base import DatasetRequest
from jaxdiff.datasets.image_files import list_images, sort_classes
from jaxdiff.datasets.image_folder import open_image_folder
from jaxdiff.datasets.image_io import decode_image, read_images

REPOSITORY = pathlib.Path(__file__).parents[2]
RED = (255, 0, 0)


def open_folder(folder):
    return open_image_folder(DatasetRequest(8, 3, argument=str(folder)))


def save_images(folder, *names):
    """Write an image of 8 px a name; the i-th has the value i everywhere."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / name)


@pytest.mark.parametrize("target", ["..", ".", "../../..", "../dog"])
def test_a_link_to_a_counted_folder_counts_nothing_twice(tmp_path, caplog, target):
    folder = tmp_path / "above" / "raw"
    save_images(folder, "cat/1.png", "dog/1.png")
    save_images(tmp_path, "elsewhere/1.png")
    (folder / "cat" / "link").symlink_to(target)
    assert list_images(folder) == ["cat/1.png", "dog/1.png"]
    assert len(open_folder(folder)) == len(read_images(folder)) == 2
    assert "whose images are not counted again" in caplog.text


def test_links_out_of_the_folder_are_followed(tmp_path):
    save_images(tmp_path, "shared/1.png", "raw/dog/1.png", "one.png")
    (tmp_path / "raw" / "cat").symlink_to("../shared")
    (tmp_path / "raw" / "dog" / "2.png").symlink_to(tmp_path / "one.png")
    assert list_images(tmp_path / "raw") == ["cat/1.png", "dog/1.png", "dog/2.png"]
    assert open_folder(tmp_path / "raw").annotations.classes == ("cat", "dog")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("nowhere", path)])
@pytest.mark.parametrize("read", [open_folder, read_images])
def test_what_is_no_regular_file_is_named(tmp_path, make, read):
    save_images(tmp_path, "1.png", "2.png")
    make(tmp_path / "3.png")
    with pytest.raises(ValueError, match=r"3.png is a pipe, a device or a link to nothing"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "a.npz"])
def test_no_pipe_is_waited_for(tmp_path, name):
    save_images(tmp_path, "1.png", "2.png")
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=r"no regular file|neither a folder of images nor"):
        read_images(tmp_path / name) if name == "a.npz" else open_folder(tmp_path)


@pytest.mark.parametrize("hidden", [".thumbnails", "__MACOSX", ".ipynb_checkpoints"])
def test_hidden_folders_and_companions_are_no_images(tmp_path, caplog, hidden):
    save_images(tmp_path, "cat/1.png", "dog/1.png", f"{hidden}/cat/1.png", f"dog/{hidden}/1.png")
    (tmp_path / "cat" / "._1.png").write_bytes(b"\0\5\x16\7")
    assert open_folder(tmp_path).annotations.classes == ("cat", "dog")
    assert len(read_images(tmp_path)) == 2
    assert f"{tmp_path / hidden} is left out" in caplog.text


@pytest.mark.parametrize("parts", [("train", "test"), ("Training", "val", "testing")])
def test_parts_of_a_dataset_are_no_classes(tmp_path, caplog, parts):
    names = [f"{part}/{label}/1.png" for part in parts for label in ("cat", "dog")]
    save_images(tmp_path, *names)
    annotations = open_folder(tmp_path).annotations
    assert annotations.classes == ("cat", "dog")
    labels = dict(zip(list_images(tmp_path), annotations.labels.tolist(), strict=True))
    assert all(label == ("dog" in name) for name, label in labels.items())
    assert "are taken as parts of one dataset" in caplog.text
    if len(parts) == 2:
        assert annotations.partition is None
    else:
        part_numbers = {"Training": 0, "val": 1, "testing": 2}
        expected = [part_numbers[name.partition("/")[0]] for name in labels]
        assert annotations.partition.tolist() == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("train/1.png", "cat/1.png"),
            r"holds train/ beside the folder cat/.* give folder:.*train alone",
        ),
        (("cat/1.png", "dog/1.png", "test/dog/1.png"), "holds test/ beside the folder cat/"),
        (("1.png", "test/1.png"), "holds test/ beside images"),
        (("train/cat/1.png", "test/1.png"), "holds images beside folders of images, as test/1.png"),
    ],
)
def test_a_part_or_a_class_is_not_guessed(tmp_path, names, message):
    save_images(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path)


@pytest.mark.parametrize("wrapping", ["animals", "a/b", "train", "data/train"])
def test_a_wrapping_folder_is_no_class(tmp_path, caplog, wrapping):
    save_images(tmp_path, f"{wrapping}/cat/1.png", f"{wrapping}/dog/1.png")
    source = open_folder(tmp_path)
    assert source.annotations.classes == ("cat", "dog")
    assert [source.decode(i)[0, 0, 0] for i in range(2)] == [0, 1]
    assert "whose folders are taken as the classes" in caplog.text


def test_a_single_class_stays(tmp_path, caplog):
    save_images(tmp_path, "cat/1.png", "cat/2.png")
    assert open_folder(tmp_path).annotations.classes == ("cat",)
    assert not caplog.text


def test_numbers_in_names_are_numbers(tmp_path):
    names = ("2.png", "10.png", "a2/9.png", "a10/1.png", "b.png")
    save_images(tmp_path, *names)
    assert list_images(tmp_path) == list(names)
    assert read_images(tmp_path)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (("10", "2", "1"), ["1", "2", "10"]),
        (("0.5", "-1", "0.25"), ["-1", "0.25", "0.5"]),
        (("class10", "class9"), ["class9", "class10"]),
        (("dog", "cat", "10"), ["10", "cat", "dog"]),
        (("01", "1", "²"), ["01", "1", "²"]),
    ],
)
def test_classes_are_in_natural_order(tmp_path, names, ordered):
    assert sort_classes(names) == ordered
    save_images(tmp_path, *(f"{name}/1.png" for name in names))
    assert open_folder(tmp_path).annotations.classes == tuple(ordered)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_images_stand_as_their_orientation_says(orientation, kind):
    upright = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    exif = Image.Exif()
    exif[0x0112] = orientation
    # what a camera stores so that this orientation shows the upright image
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    file = io.BytesIO()
    picture = Image.fromarray(np.repeat(stored[..., None], 3, axis=-1))
    picture.save(file, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode_image(file.getvalue(), "a", channels=1)[..., 0], upright)


@pytest.mark.parametrize("color", [(0, 0, 0), RED, (9, 8, 7)])
@pytest.mark.parametrize("mode", ["RGBA", "P", "RGB", "LA"])
def test_transparent_is_white_whatever_lies_below(caplog, mode, color):
    below = Image.new("RGB", (4, 4), color)
    options = {}
    if mode in ("RGBA", "LA"):
        picture = below.convert("RGBA")
        picture.putalpha(0)
        picture = picture.convert(mode)
    elif mode == "P":
        picture = below.convert("P", palette=Image.Palette.ADAPTIVE)
        options = {"transparency": picture.getpixel((0, 0))}
    else:
        picture = below
        options = {"transparency": color}
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    image = decode_image(file.getvalue(), "a")
    assert image.shape == (4, 4, 1 if mode == "LA" else 3)
    assert (image == 255).all()


def test_half_transparent_is_half_white():
    file = io.BytesIO()
    Image.new("RGBA", (2, 2), (0, 100, 200, 128)).save(file, "PNG")
    expected = np.array([0, 100, 200]) * (128 / 255) + 255 * (127 / 255)
    np.testing.assert_allclose(decode_image(file.getvalue(), "a")[0, 0], expected, atol=1)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("read", [lambda path: open_folder(path).decode(0), read_images])
def test_no_other_format_is_opened_by_its_contents(tmp_path, suffix, read):
    save_images(tmp_path, "9.png")
    for kind in ("EPS", "PCX"):
        Image.new("RGB", (8, 8)).save(tmp_path / "picture", kind)
        (tmp_path / "picture").rename(tmp_path / f"1{suffix}")
        with pytest.raises(ValueError, match=r"of no kind among AVIF, BMP"):
            read(tmp_path)


def test_every_opening_of_an_image_lists_its_formats():
    for folder in ("jaxdiff", "experiments", "benchmarks", "examples", "tests"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
                    assert "formats" in [keyword.arg for keyword in node.keywords], path


def test_what_is_assumed_is_said_once(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    save_images(tmp_path, "animals/cat/1.png", "animals/dog/1.png")
    for _ in range(2):
        open_folder(tmp_path)
    assert len(caplog.records) == 1
