import numpy as np
import pytest
from PIL import Image

from jaxdiff.datasets.image_folder import image_folder
from jaxdiff.datasets.prepare import prepare


def save(path, seed=0, size=(20, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_a_subfolder_is_a_class(tmp_path):
    pixels = [
        save(tmp_path / "raw" / name, i)
        for i, name in enumerate(("cat/1.png", "cat/2.bmp", "dog/1.png"))
    ]
    dataset = prepare(image_folder(tmp_path / "raw", 12, 3), tmp_path / "cache", "mine")
    assert dataset.columns.classes == ("cat", "dog")
    assert dataset.columns.labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(dataset.read(np.arange(3)), [image[:, 4:16] for image in pixels])
    assert image_folder(tmp_path / "raw", 8, 1).decode(0).shape == (8, 8, 1)


def test_a_table_gives_classes_and_attributes(tmp_path):
    for i, name in enumerate(("1.png", "2.png", "sub/3.png")):
        save(tmp_path / name, i)
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,label,red,words\n2.png,b,1,x\nsub/3.png,a,0,y\n1.png,b,0,z\n")
    columns = image_folder(tmp_path, 8, 3).columns
    assert (columns.classes, columns.labels.tolist()) == (("a", "b"), [1, 1, 0])
    assert columns.attribute_names == ("red",)
    assert columns.attribute("red").tolist() == [False, True, False]
    table.write_text("file_name,label\n2.png,b\n1.png,b\n")
    with pytest.raises(
        ValueError, match=r"holds 1 images that .*metadata.csv does not name, as sub/3.png"
    ):
        image_folder(tmp_path, 8, 3)
    table.write_text("file_name,label\n2.png,b\n1.png,b\nsub/3.png,a\nx.png,a\n")
    with pytest.raises(
        ValueError, match=r"metadata.csv names 1 images that are not in .*, as x.png"
    ):
        image_folder(tmp_path, 8, 3)
    table.write_text("name,label\n2.png,b\n")
    with pytest.raises(
        ValueError, match="has the columns name, label; file_name and label are expected"
    ):
        image_folder(tmp_path, 8, 3)


def test_what_cannot_be_a_dataset(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        image_folder(tmp_path / "none", 8, 3)
    with pytest.raises(ValueError, match="holds 0 images"):
        image_folder(tmp_path, 8, 3)
    save(tmp_path / "cat" / "1.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match=r"the class dog of .* holds 0 images; fill or remove"):
        image_folder(tmp_path, 8, 3)
    (tmp_path / "dog").rmdir()
    save(tmp_path / "stray.png")
    with pytest.raises(ValueError, match=r"holds images beside folders of images, as stray.png"):
        image_folder(tmp_path, 8, 3)
