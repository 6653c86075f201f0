import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxdiff.datasets.celeba import celeba
from jaxdiff.datasets.prepare import prepare
from tests.datasets import published


@pytest.mark.parametrize(("archive", "table"), [(False, False), (True, True)])
def test_every_published_form_gives_the_same(tmp_path, archive, table):
    has = published.celeba(tmp_path / "raw", archive=archive, table=table)
    dataset = prepare(celeba(tmp_path / "raw", 64, 3), tmp_path / "cache", "celeba")
    columns = dataset.columns
    assert columns.attribute_names == published.NAMES
    np.testing.assert_array_equal(columns.attributes, has)
    np.testing.assert_array_equal(columns.attribute("Male"), has[:, 2])
    assert columns.partition.tolist() == [0] * 12 + [1] * 6 + [2] * 6
    published.celeba(tmp_path / "plain")
    for i in range(len(dataset)):
        with Image.open(tmp_path / "plain" / "img_align_celeba" / f"{i + 1:06d}.jpg") as picture:
            middle = picture.crop((0, 20, 178, 198)).resize((64, 64), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(dataset[i], np.asarray(middle))
    np.testing.assert_array_equal(dataset.read(np.array([5, 2])), [dataset[5], dataset[2]])


def test_lists_and_images_must_match(tmp_path):
    published.celeba(tmp_path)
    (tmp_path / "img_align_celeba" / "000003.jpg").rename(tmp_path / "img_align_celeba" / "x.jpg")
    with pytest.raises(
        ValueError,
        match=r"1 images of .*list_attr_celeba.txt are not in .*, as 000003.jpg; unpack all",
    ):
        celeba(tmp_path, 64, 3)
    (tmp_path / "img_align_celeba" / "x.jpg").rename(tmp_path / "img_align_celeba" / "000003.jpg")
    (tmp_path / "img_align_celeba" / "y.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"are not in .*list_attr_celeba.txt, as y.jpg"):
        celeba(tmp_path, 64, 3)
    (tmp_path / "img_align_celeba" / "y.jpg").unlink()
    partition = tmp_path / "list_eval_partition.txt"
    partition.write_text(partition.read_text().replace("000004.jpg", "000099.jpg"))
    with pytest.raises(ValueError, match=r"list_eval_partition.txt does not know 000004.jpg"):
        _ = celeba(tmp_path, 64, 3).columns


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(
        ValueError, match=r"holds neither list_attr_celeba.txt nor list_attr_celeba.csv"
    ):
        celeba(tmp_path, 64, 3)
    published.celeba(tmp_path)
    (tmp_path / "img_align_celeba").rename(tmp_path / "elsewhere")
    with pytest.raises(
        ValueError,
        match=r"neither img_align_celeba/ nor img_align_celeba.zip; put img_align_celeba",
    ):
        celeba(tmp_path, 64, 3)
    (tmp_path / "elsewhere").rename(tmp_path / "img_align_celeba")
    with pytest.raises(
        ValueError,
        match=r"attribute 'Blond' is not known; the dataset's are 5_o_Clock_Shadow, Blond_Hair, Male",
    ):
        celeba(tmp_path, 64, 3).columns.attribute("Blond")
    attributes = tmp_path / "list_attr_celeba.txt"
    attributes.write_text(attributes.read_text().replace("000001.jpg ", "000001.jpg maybe"))
    with pytest.raises(
        ValueError,
        match=r"holds for 000001.jpg something else than -1 or 1 for each of 4 attributes",
    ):
        _ = celeba(tmp_path, 64, 3).columns


def test_a_broken_image_is_named_and_nothing_stays(tmp_path):
    published.celeba(tmp_path / "raw")
    (tmp_path / "raw" / "img_align_celeba" / "000007.jpg").write_bytes(b"\xff\xd8\xff no image")
    with pytest.raises(ValueError, match=r"img_align_celeba/000007.jpg cannot be read as an image"):
        prepare(celeba(tmp_path / "raw", 64, 3), tmp_path / "cache", "celeba")
    assert not any((tmp_path / "cache" / "celeba").iterdir())


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path):
    published.celeba(tmp_path, archive=True)
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip", "a") as file:
        file.writestr("../evil.jpg", b"")
    with pytest.raises(ValueError, match=r"holds '../evil.jpg', a path that leaves its folder"):
        celeba(tmp_path, 64, 3)
    (tmp_path / "img_align_celeba.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="cannot be read as a zip"):
        celeba(tmp_path, 64, 3)
