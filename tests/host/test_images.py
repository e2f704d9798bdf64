"""Input frames from npz, folders, images and raw files, and the errors of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emberline.driver.images import load_frames, pixels_to_codes
from emberline.errors import ImageError
from emberline.model.graph import FeatureMap, Quantisation

CIFAR = FeatureMap("input", 4, 6, 3, Quantisation(1.0, -128))
GREY = FeatureMap("input", 4, 6, 1, Quantisation(1.0, -128))
MFCC = FeatureMap("mfcc", 49, 10, 1, Quantisation(float(np.float32(0.5847)), 83))


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("scale", [1.0, float(np.float32(1 / 255))])
def test_pixels_of_the_usual_quantisations_lose_128(scale: float) -> None:
    codes = pixels_to_codes(np.arange(256, dtype=np.uint8), Quantisation(scale, -128))
    assert codes.dtype == np.int8
    assert codes.tolist() == list(range(-128, 128))


@pytest.mark.parametrize("scale, zero", [(1 / 127.5, 0), (1 / 127.5, -1), (1 / 128, 0)])
def test_signed_pixels_are_quantised_to_nearest(scale: float, zero: int) -> None:
    quantisation = Quantisation(float(np.float32(scale)), zero)
    codes = pixels_to_codes(np.arange(256, dtype=np.uint8), quantisation)
    real = quantisation.scale * (codes.astype(float) - zero)
    inside = (codes > -128) & (codes < 127)
    assert np.abs(real - (np.arange(256) / 127.5 - 1))[inside].max() <= scale / 2 + 1e-9


def test_pixels_are_refused_for_an_input_that_is_no_image() -> None:
    with pytest.raises(ImageError, match=r"span -123.4..25.73, which is no range of pixels"):
        pixels_to_codes(np.zeros(1, np.uint8), MFCC.quantisation)


def test_npz_with_labels_and_limit(tmp_path: Path) -> None:
    x = pixels(5, 4, 6, 3)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(5, dtype=np.uint8))
    loaded = load_frames(tmp_path / "a.npz", CIFAR, limit=3)
    np.testing.assert_array_equal(loaded.frames, x[:3].astype(int) - 128)
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [0, 1, 2]
    assert loaded.names == ("a.npz[0]", "a.npz[1]", "a.npz[2]")


def test_npz_without_x_gives_its_only_array_of_frames(tmp_path: Path) -> None:
    codes = pixels(2, 49, 10, 1).view(np.int8)
    np.savez(tmp_path / "a.npz", codes=codes, turned=pixels(2, 10, 49), scale=0.5, y=np.arange(2))
    loaded = load_frames(tmp_path / "a.npz", MFCC)
    np.testing.assert_array_equal(loaded.frames, codes)
    assert loaded.labels is not None and loaded.labels.tolist() == [0, 1]


def test_npz_of_codes_without_labels(tmp_path: Path) -> None:
    x = pixels(2, 49, 10).view(np.int8)
    np.savez(tmp_path / "a.npz", x=x)
    loaded = load_frames(tmp_path / "a.npz", MFCC)
    np.testing.assert_array_equal(loaded.frames[..., 0], x)
    assert loaded.labels is None


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"z": np.zeros(3)}, r"no array 'x', and no array of 8-bit frames .N, 4, 6, 3.*, only z float64 .3,."),
        ({"a": pixels(1, 4, 6, 3), "b": pixels(2, 4, 6, 3)}, r"no array 'x', and several arrays .*a uint8 .*b uint8"),
        ({"x": pixels(2, 6, 4, 3)}, r"x is \(2, 6, 4, 3\), but input 'input' takes \(N, 4, 6, 3\)"),
        ({"x": pixels(4, 6, 3)}, r"x is \(4, 6, 3\)"),
        ({"x": pixels(0, 4, 6, 3)}, "x has no frames"),
        ({"x": np.zeros((1, 4, 6, 3), np.float32)}, "frames must be int8 codes or uint8 pixels, not float32"),
        ({"x": pixels(2, 4, 6, 3), "y": np.zeros(3, int)}, r"y must be 2 integers, not int64 \(3,\)"),
        ({"x": pixels(2, 4, 6, 3), "y": np.zeros(2)}, "y must be 2 integers, not float64"),
        ({"x": np.array([{}])}, "cannot be read: Object arrays"),
    ],
)
def test_npz_errors(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=f"a.npz: {message}"):
        load_frames(tmp_path / "a.npz", CIFAR)


@pytest.mark.parametrize("name", ["a.npz", "a.png"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_damaged_files_are_errors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match="cannot be read"):
        load_frames(tmp_path / name, CIFAR)


def test_truncated_image_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(pixels(40, 60, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"a.png: cannot be read"):
        load_frames(tmp_path / "a.png", CIFAR)


def test_raw_codes(tmp_path: Path) -> None:
    codes = pixels(4, 6, 3).view(np.int8)
    codes.tofile(tmp_path / "a.dat")
    np.testing.assert_array_equal(load_frames(tmp_path / "a.dat", CIFAR).frames[0], codes)
    with pytest.raises(ImageError, match=r"a.dat: 72 bytes, but input 'mfcc' takes \(49, 10, 1\) int8"):
        load_frames(tmp_path / "a.dat", MFCC)


def test_image_of_the_inputs_size_is_taken_as_it_is(tmp_path: Path) -> None:
    x = pixels(4, 6, 3)
    Image.fromarray(x).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_frames(tmp_path / "a.png", CIFAR).frames[0], x.astype(int) - 128)


def test_larger_image_is_scaled_to_cover_and_cut_at_the_centre(tmp_path: Path) -> None:
    x = np.zeros((8, 40, 3), np.uint8)
    x[:, 12:28] = 200  # the central 12 columns, which is what is left of 40 at half the size, and the filter's reach
    Image.fromarray(x).save(tmp_path / "a.png")
    assert (load_frames(tmp_path / "a.png", CIFAR).frames == 200 - 128).all()


def test_grey_palette_and_transparent_images_are_converted(tmp_path: Path) -> None:
    grey = pixels(4, 6)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    frame = load_frames(tmp_path / "grey.png", CIFAR).frames[0]
    np.testing.assert_array_equal(frame, np.repeat(grey[..., None].astype(int) - 128, 3, axis=2))
    np.testing.assert_array_equal(load_frames(tmp_path / "grey.png", GREY).frames[0, ..., 0], grey.astype(int) - 128)
    rgba = np.full((4, 6, 4), 200, np.uint8)
    rgba[..., 3] = 0
    rgba[0, ..., 3] = 255
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    frame = load_frames(tmp_path / "clear.png", CIFAR).frames[0]
    assert (frame[0] == 200 - 128).all()
    assert (frame[1:] == -128).all()
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.gif")
    assert load_frames(tmp_path / "palette.gif", CIFAR).frames.shape == (1, 4, 6, 3)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    upright = pixels(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    Image.fromarray(np.rot90(upright)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_frames(tmp_path / "a.png", CIFAR).frames[0], upright.astype(int) - 128)


def test_image_with_16_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="only 8 bits a channel"):
        load_frames(tmp_path / "a.png", GREY)


def test_image_needs_one_or_three_channels(tmp_path: Path) -> None:
    Image.fromarray(pixels(4, 6, 3)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="images have 1 or 3 channels, but input 'input' has 2"):
        load_frames(tmp_path / "a.png", FeatureMap("input", 4, 6, 2, CIFAR.quantisation))


def test_folder_in_order_of_names(tmp_path: Path) -> None:
    for name, value in (("b.png", 20), ("a.png", 10), ("c.PNG", 30)):
        Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("ignored")
    np.full((4, 6, 3), 7, np.int8).tofile(tmp_path / "d.dat")
    loaded = load_frames(tmp_path, CIFAR)
    assert loaded.names == ("a.png", "b.png", "c.PNG", "d.dat")
    assert loaded.frames[:, 0, 0, 0].tolist() == [10 - 128, 20 - 128, 30 - 128, 7]
    assert loaded.labels is None
    assert load_frames(tmp_path, CIFAR, limit=2).names == ("a.png", "b.png")


def test_folder_with_labels(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "images/b.png"):
        Image.fromarray(pixels(4, 6, 3)).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text('file,label_index,words\nb.png,7,"a, b"\na.png,3,c\n')
    loaded = load_frames(tmp_path, CIFAR)
    assert loaded.names == ("b.png", "a.png")
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [7, 3]


@pytest.mark.parametrize(
    "text, message",
    [
        ("name,class\n", "needs the columns 'file' and 'label', not name, class"),
        ("", "needs the columns 'file' and 'label', not nothing"),
        ("file,label\nmissing.png,3\n", "line 2: no file 'missing.png'"),
        ("file,label\na.dat,cat\n", "invalid literal"),
        ("file,label\na.dat\n", "invalid literal"),
        ("file,label\n", "no images and no .dat files"),
    ],
)
def test_label_errors(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.dat").write_bytes(bytes(CIFAR.size))
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ImageError, match=message):
        load_frames(tmp_path, CIFAR)


def test_other_errors(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    for source, message in ((tmp_path, "no images"), ("none.png", "no such file"), (tmp_path / "a.txt", "neither")):
        with pytest.raises(ImageError, match=message):
            load_frames(source, CIFAR)
    with pytest.raises(ImageError, match="limit must be at least 1, not 0"):
        load_frames(tmp_path, CIFAR, limit=0)
