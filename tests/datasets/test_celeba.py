import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxdiff.datasets.celeba import open_published
from jaxdiff.datasets.prepare import prepare
from tests.datasets import published


@pytest.mark.parametrize(("archive", "table"), [(False, False), (True, True)])
def test_every_published_form_gives_the_same(tmp_path, archive, table):
    attributes = published.celeba(tmp_path / "raw", archive=archive, table=table)
    dataset = prepare(open_published(tmp_path / "raw", 64, 3), tmp_path / "cache", "celeba")
    annotations = dataset.annotations
    assert annotations.attribute_names == published.NAMES
    np.testing.assert_array_equal(annotations.attributes, attributes)
    np.testing.assert_array_equal(annotations.attribute("Male"), attributes[:, published.MALE])
    assert annotations.partition.tolist() == [0] * 12 + [1] * 6 + [2] * 6
    published.celeba(tmp_path / "plain")
    for i in range(len(dataset)):
        face = tmp_path / "plain" / "img_align_celeba" / f"{i + 1:06d}.jpg"
        with Image.open(face, formats=["JPEG"]) as picture:
            square = picture.crop((0, 20, 178, 198)).resize((64, 64), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(dataset[i], np.asarray(square))
    np.testing.assert_array_equal(dataset.read(np.array([5, 2])), [dataset[5], dataset[2]])


def rename_upper(folder):
    for path in folder.glob("*.jpg"):
        path.rename(path.with_suffix(".JPG"))


def rename_upper_in_archive(folder):
    archive = folder / "img_align_celeba.zip"
    rename_upper(folder / "img_align_celeba")
    with zipfile.ZipFile(archive, "w") as file:
        for path in (folder / "img_align_celeba").iterdir():
            file.write(path, f"img_align_celeba/{path.name}")
    shutil.rmtree(folder / "img_align_celeba")


def move_into(*places):
    """Move each of the published files to a folder of the data's folder."""

    def move(folder):
        for pattern, place in places:
            paths = list(folder.glob(pattern))
            (folder / place).mkdir(parents=True)
            for path in paths:
                path.rename(folder / place / path.name)

    return move


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda folder: rename_upper(folder / "img_align_celeba"), id="upper case"),
        pytest.param(rename_upper_in_archive, id="upper case in the archive"),
        pytest.param(move_into(("*", "celeba")), id="torchvision's"),
        pytest.param(
            move_into(
                ("img*", "CelebA/Img"), ("list_attr*", "CelebA/Anno"), ("*.txt", "CelebA/Eval")
            ),
            id="the authors'",
        ),
        pytest.param(move_into(("img*", "img_align_celeba-1")), id="wrapped by an unpacker"),
        pytest.param(
            move_into(("img*", "inner"), ("inner", "img_align_celeba")), id="wrapped inside"
        ),
    ],
)
def test_the_faces_as_people_have_them(tmp_path, change):
    published.celeba(tmp_path / "raw")
    expected = open_published(tmp_path / "raw", 64, 3)
    images = [expected.decode(i) for i in range(len(expected))]
    attributes = expected.annotations.attributes
    partition = expected.annotations.partition
    change(tmp_path / "raw")
    source = open_published(tmp_path / "raw", 64, 3)
    np.testing.assert_array_equal([source.decode(i) for i in range(len(source))], images)
    np.testing.assert_array_equal(source.annotations.attributes, attributes)
    np.testing.assert_array_equal(source.annotations.partition, partition)


def test_a_second_copy_of_an_image_or_a_list_is_refused(tmp_path):
    published.celeba(tmp_path)
    images = tmp_path / "img_align_celeba"
    shutil.copy(images / "000002.jpg", images / "000002.JPG")
    with pytest.raises(ValueError, match=r"holds 000002.JPG and 000002.jpg, and the lists know"):
        open_published(tmp_path, 64, 3)
    (images / "000002.JPG").unlink()
    attributes = tmp_path / "list_attr_celeba.txt"
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        shutil.copy(attributes, tmp_path / name)
    assert len(open_published(tmp_path, 64, 3)) == 24, "the list beside the images is taken"
    attributes.unlink()
    message = r"holds .*new/list_attr_celeba.txt and .*old/list_attr_celeba.txt; name the folder"
    with pytest.raises(ValueError, match=message):
        open_published(tmp_path, 64, 3)


def test_lists_and_images_must_match(tmp_path):
    published.celeba(tmp_path)
    images = tmp_path / "img_align_celeba"
    (images / "000003.jpg").rename(images / "x.jpg")
    message = r"1 images of .*list_attr_celeba.txt are not in .*, as 000003.jpg; unpack all"
    with pytest.raises(ValueError, match=message):
        open_published(tmp_path, 64, 3)
    (images / "x.jpg").rename(images / "000003.jpg")
    (images / "y.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"are not in .*list_attr_celeba.txt, as y.jpg"):
        open_published(tmp_path, 64, 3)
    (images / "y.jpg").unlink()
    partition = tmp_path / "list_eval_partition.txt"
    partition.write_text(partition.read_text().replace("000004.jpg", "000099.jpg"))
    with pytest.raises(ValueError, match=r"list_eval_partition.txt does not list 000004.jpg"):
        _ = open_published(tmp_path, 64, 3).annotations


def test_missing_files_are_named(tmp_path):
    message = r"holds neither list_attr_celeba.txt nor list_attr_celeba.csv"
    with pytest.raises(ValueError, match=message):
        open_published(tmp_path, 64, 3)
    published.celeba(tmp_path)
    (tmp_path / "img_align_celeba").rename(tmp_path / "elsewhere")
    message = r"neither img_align_celeba/ nor img_align_celeba.zip; put img_align_celeba"
    with pytest.raises(ValueError, match=message):
        open_published(tmp_path, 64, 3)


def test_unknown_attributes_and_values_are_named(tmp_path):
    published.celeba(tmp_path)
    names = "5_o_Clock_Shadow, Blond_Hair, Male"
    message = f"attribute 'Blond' is not known; choose one of {names}"
    with pytest.raises(ValueError, match=message):
        open_published(tmp_path, 64, 3).annotations.attribute("Blond")
    attributes = tmp_path / "list_attr_celeba.txt"
    attributes.write_text(attributes.read_text().replace("000001.jpg ", "000001.jpg maybe"))
    message = r"must hold -1 or 1 for each of 4 attributes of 000001.jpg"
    with pytest.raises(ValueError, match=message):
        _ = open_published(tmp_path, 64, 3).annotations


@pytest.mark.parametrize("content", ["", "24\n"])
def test_a_list_that_was_cut_short_is_named(tmp_path, content):
    published.celeba(tmp_path)
    (tmp_path / "list_attr_celeba.txt").write_text(content)
    with pytest.raises(ValueError, match=r"list_attr_celeba.txt lists no image; get it again"):
        open_published(tmp_path, 64, 3)


def test_a_part_that_is_not_published_is_named(tmp_path):
    published.celeba(tmp_path)
    path = tmp_path / "list_eval_partition.txt"
    path.write_text(path.read_text().replace("000001.jpg 0", "000001.jpg 3"))
    with pytest.raises(ValueError, match=r"must hold 0, 1 or 2 for 000001.jpg, got '3'"):
        _ = open_published(tmp_path, 64, 3).annotations


def test_a_broken_image_is_named_and_nothing_stays(tmp_path):
    published.celeba(tmp_path / "raw")
    (tmp_path / "raw" / "img_align_celeba" / "000007.jpg").write_bytes(b"\xff\xd8\xff no image")
    with pytest.raises(ValueError, match=r"img_align_celeba/000007.jpg cannot be read as an image"):
        prepare(open_published(tmp_path / "raw", 64, 3), tmp_path / "cache", "celeba")
    assert not any((tmp_path / "cache" / "celeba").iterdir())


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path):
    published.celeba(tmp_path, archive=True)
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip", "a") as file:
        file.writestr("../evil.jpg", b"")
    with pytest.raises(ValueError, match=r"holds '../evil.jpg', a path that leaves its folder"):
        open_published(tmp_path, 64, 3)
    (tmp_path / "img_align_celeba.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="cannot be read as a zip"):
        open_published(tmp_path, 64, 3)


@pytest.mark.parametrize("archive", [False, True])
def test_faces_that_change_at_the_same_length_are_another_dataset(tmp_path, archive):
    published.celeba(tmp_path, archive=archive)
    before = open_published(tmp_path, 64, 3).identity
    path = tmp_path / "img_align_celeba" / "000003.jpg"
    if archive:
        with zipfile.ZipFile(tmp_path / "img_align_celeba.zip") as file:
            contents = {name: file.read(name) for name in file.namelist()}
        name = next(name for name in contents if name.endswith("000003.jpg"))
        contents[name] = contents[name][:-3] + b"\0" + contents[name][-2:]
        with zipfile.ZipFile(tmp_path / "img_align_celeba.zip", "w") as file:
            for name, data in contents.items():
                file.writestr(name, data)
    else:
        path.write_bytes(path.read_bytes()[:-3] + b"\0" + path.read_bytes()[-2:])
    assert open_published(tmp_path, 64, 3).identity != before


def test_files_in_a_bucket_are_refused():
    with pytest.raises(ValueError, match="is in a bucket"):
        open_published("gs://faces/celeba", 64, 3)
