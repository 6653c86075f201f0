import os
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxdiff.datasets.base import DatasetRequest
from jaxdiff.datasets.image_files import _contents_fingerprint
from jaxdiff.datasets.image_folder import open_image_folder
from jaxdiff.datasets.prepare import prepare


def open_folder(folder, size=8, channels=3):
    return open_image_folder(DatasetRequest(size, channels, argument=str(folder)))


def save_image(path, seed=0, size=(20, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_a_folder_in_a_bucket_is_refused():
    with pytest.raises(ValueError, match=r"is in a bucket.*; copy it to a disk of this machine"):
        open_folder("gs://images/mine")


def test_a_subfolder_is_a_class(tmp_path):
    folder = tmp_path / "raw"
    names = ("cat/1.png", "cat/2.bmp", "dog/1.png")
    pixels = [save_image(folder / name, i) for i, name in enumerate(names)]
    dataset = prepare(open_folder(folder, size=12), tmp_path / "cache", "animals")
    assert dataset.annotations.classes == ("cat", "dog")
    assert dataset.annotations.labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(dataset.read(np.arange(3)), [image[:, 4:16] for image in pixels])
    assert open_folder(folder, size=8, channels=1).decode(0).shape == (8, 8, 1)


def test_a_table_gives_classes_and_attributes(tmp_path):
    for i, name in enumerate(("1.png", "2.png", "sub/3.png")):
        save_image(tmp_path / name, i)
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,label,red,words\n2.png,b,1,x\nsub/3.png,a,0,y\n1.png,b,0,z\n")
    annotations = open_folder(tmp_path).annotations
    assert annotations.classes == ("a", "b")
    assert annotations.labels.tolist() == [1, 1, 0]
    assert annotations.attribute_names == ("red",)
    assert annotations.attribute("red").tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file_name,label\n2.png,b\n1.png,b\n",
            r"holds 1 images that .*metadata.csv does not name, as sub/3.png",
        ),
        (
            "file_name,label\n2.png,b\n1.png,b\nsub/3.png,a\nx.png,a\n",
            r"metadata.csv names 1 images that are not in .*, as x.png",
        ),
        (
            "name,label\n2.png,b\n",
            "has the columns name, label; file_name and label are needed",
        ),
    ],
)
def test_a_table_that_does_not_match_is_refused(tmp_path, text, message):
    for name in ("1.png", "2.png", "sub/3.png"):
        save_image(tmp_path / name)
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path)


def test_folders_that_are_no_dataset_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        open_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="holds 0 images"):
        open_folder(tmp_path)
    save_image(tmp_path / "cat" / "1.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match=r"the class dog of .* holds 0 images; fill or remove"):
        open_folder(tmp_path)
    (tmp_path / "dog").rmdir()
    save_image(tmp_path / "stray.png")
    with pytest.raises(ValueError, match=r"holds images beside folders of images, as stray.png"):
        open_folder(tmp_path)


def test_a_table_above_the_images_folder_is_refused(tmp_path):
    """The layout train/metadata.csv with train/images/1.png, as some on the hub have it."""
    for split in ("train", "test"):
        save_image(tmp_path / split / "images" / "1.png")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,label\nimages/1.png,cat\n")
    with pytest.raises(ValueError, match=r"train/metadata.csv is not read, since it describes a"):
        open_folder(tmp_path)


@pytest.mark.parametrize("keeps_time", [False, True])
def test_pixels_that_are_edited_in_place_are_prepared_again(tmp_path, keeps_time):
    folder = tmp_path / "raw"
    for i in range(3):
        save_image(folder / f"{i}.bmp", i)
    first = prepare(open_folder(folder, size=12), tmp_path / "cache", "animals")
    path = folder / "1.bmp"
    before = path.stat()
    pixels = save_image(path, seed=7)
    assert path.stat().st_size == before.st_size
    if keeps_time:  # a new process reads every byte, whatever the times
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        _contents_fingerprint.cache_clear()
    second = prepare(open_folder(folder, size=12), tmp_path / "cache", "animals")
    np.testing.assert_array_equal(second[1], pixels[:, 4:16])
    np.testing.assert_array_equal(second[2], first[2])
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert open_folder(copy, size=12).identity == open_folder(folder, size=12).identity
