import numpy as np
import pytest
from PIL import Image

from jaxdiff.datasets.image_io import read_images


def save_image(path, size=(8, 8), mode="RGB", seed=0):
    path.parent.mkdir(exist_ok=True, parents=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return pixels


def test_a_folder_in_the_order_of_its_paths(tmp_path):
    names = ("a.png", "b/1.bmp", "b/2.png")
    pixels = [save_image(tmp_path / name, seed=i) for i, name in enumerate(names)]
    (tmp_path / "notes.txt").write_text("no image")
    np.testing.assert_array_equal(read_images(tmp_path), pixels)


def test_gray_stays_gray_unless_an_image_has_color(tmp_path):
    save_image(tmp_path / "a.png", mode="L")
    save_image(tmp_path / "b.png", mode="L")
    assert read_images(tmp_path).shape == (2, 8, 8, 1)
    save_image(tmp_path / "c.png", mode="P")
    assert read_images(tmp_path).shape == (3, 8, 8, 3)


def test_sixteen_bits_are_scaled(tmp_path):
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for name in "ab":
        Image.fromarray(ramp).save(tmp_path / f"{name}.png")
    np.testing.assert_array_equal(read_images(tmp_path)[0].ravel(), np.arange(256))
    Image.fromarray(np.zeros((16, 16), np.int32)).save(tmp_path / "c.tiff")
    with pytest.raises(ValueError, match="mode I has no fixed range"):
        read_images(tmp_path)


def test_a_folder_and_an_npz_are_resized_alike(tmp_path):
    image = save_image(tmp_path / "pngs" / "a.png", size=(28, 20))
    save_image(tmp_path / "pngs" / "b.png", size=(28, 20))
    np.savez(tmp_path / "a.npz", arr_0=np.stack([image, image]))
    np.testing.assert_array_equal(
        read_images(tmp_path / "pngs", 16), read_images(tmp_path / "a.npz", 16)
    )


def test_sizes_must_agree_or_be_given(tmp_path):
    save_image(tmp_path / "a.png")
    save_image(tmp_path / "b.png", size=(12, 10))
    with pytest.raises(ValueError, match=r"a.png is 8 x 8 and .*b.png is 12 x 10; give --size"):
        read_images(tmp_path)
    assert read_images(tmp_path, size=6).shape == (2, 6, 6, 3)


def test_palettes_are_converted_before_resizing(tmp_path):
    for name in "ab":
        save_image(tmp_path / f"{name}.png", mode="P")
    with Image.open(tmp_path / "a.png", formats=["PNG"]) as picture:
        resized = picture.convert("RGB").resize((4, 4), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(read_images(tmp_path, size=4)[0], np.asarray(resized))


def test_an_npz_under_the_evaluators_key(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=images, seeds=np.arange(3))
    np.testing.assert_array_equal(read_images(tmp_path / "a.npz"), images)
    assert read_images(tmp_path / "a.npz", size=16).shape == (3, 16, 16, 1)
    np.savez(tmp_path / "b.npz", arr_0=images / 255.0)
    with pytest.raises(ValueError, match=r"b.npz holds float64 \[3, 8, 8, 1\]; uint8"):
        read_images(tmp_path / "b.npz")


def test_bad_images_are_named(tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match="holds 1 image; at least two"):
        read_images(tmp_path)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"b.png cannot be read as an image"):
        read_images(tmp_path)
    with pytest.raises(ValueError, match="there is no file or folder"):
        read_images(tmp_path / "nowhere")
    np.save(tmp_path / "d", np.zeros(3))
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    with pytest.raises(ValueError, match=r"d.npz must be a whole .npz file of arrays"):
        read_images(tmp_path / "d.npz")
    (tmp_path / "c.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"c.npz must be a whole .npz file of arrays"):
        read_images(tmp_path / "c.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds 0 images"):
        read_images(tmp_path / "empty")


@pytest.mark.filterwarnings("error")
def test_damaged_tags_beside_the_pixels_are_passed_over(tmp_path):
    """Published JPEGs have them; Pillow warns, and a command prints sentences alone."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"  # says five tags and ends
    for name in "ab":
        Image.new("L", (8, 8), 200).save(tmp_path / f"{name}.jpg", exif=exif)
    assert (read_images(tmp_path) == 200).all()
    save_image(tmp_path / "c.tiff")
    (tmp_path / "c.tiff").write_bytes((tmp_path / "c.tiff").read_bytes()[:30])
    with pytest.raises(ValueError, match=r"c.tiff cannot be read as an image"):
        read_images(tmp_path)
