"""Input frames from files: what ``--images`` takes.

========================  =======================================================================================
``.npz``                  ``x``: int8 codes or uint8 pixels, ``[N, H, W, C]`` (``[N, H, W]`` for one channel);
                          ``y``, optional: N integer labels; without ``x`` the only array of such frames is taken
``.dat``                  one frame of raw int8 codes, exactly as many bytes as the input has values
an image                  PNG, JPEG, … in its upright (EXIF) orientation; grey, palette, CMYK and transparent images are
                          converted to the input's 3 or 1 channels, transparency over black
a folder                  its images and ``.dat`` files, by name; or, where it has a ``labels.csv`` with the columns
                          ``file`` and ``label…``, the files listed there (in it or in its ``images`` folder)
========================  =======================================================================================

Pixels become codes by the input's scale and zero point. A pixel p stands for the real value p, p / 255 or
p / 127.5 - 1: whichever range the codes -128..127 span, within 2 % of it. The code is that value, quantised, rounded to
nearest. So a network with scale 1 or 1/255 and zero point -128 gets p - 128. Where no range fits (an input that is no
image), pixels are refused and int8 codes are needed.

An image of another size is scaled until it covers the input (bilinear, antialiased) and its centre is cut out. Arrays
and ``.dat`` files of another size are errors. A ``Preprocessing`` replaces both rules for pixels: scaling and codes.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from emberline.driver.preprocessing import Preprocessing
from emberline.errors import ImageError
from emberline.model.graph import FeatureMap, Quantisation

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_MODES = {1: "L", 3: "RGB"}
_PIXEL_RANGES = ((0.0, 255.0), (0.0, 1.0), (-1.0, 1.0))


@dataclass(frozen=True)
class FrameSet:
    """Frames for a network.

    Parameters:
        frames: int8 ``[N, H, W, C]``.
        labels: int64 ``[N]``, or None where the source has none.
        names: one a frame, for reports.
    """

    frames: NDArray[np.int8]
    labels: NDArray[np.int64] | None
    names: tuple[str, ...]


def load_frames(
    source: str | Path, target: FeatureMap, limit: int | None = None, preprocessing: Preprocessing | None = None
) -> FrameSet:
    """Frames for the network input ``target``, the first ``limit`` of them.

    Parameters: ``preprocessing`` says what pixels mean; by default the input's quantisation does.

    Raises ``ImageError``, naming the file, for what is missing, damaged, empty or of the wrong shape or type.
    """
    path = Path(source)
    if preprocessing is not None:
        preprocessing.check(target)
    if limit is not None and limit < 1:
        raise ImageError(f"limit must be at least 1, not {limit}")
    if path.is_dir():
        return _load_folder(path, target, limit, preprocessing)
    if path.suffix.lower() == ".npz":
        return _load_npz(path, target, limit, preprocessing)
    return FrameSet(_load_file(path, target, preprocessing)[None], None, (path.name,))


def pixels_to_codes(pixels: NDArray[np.uint8], quantisation: Quantisation) -> NDArray[np.int8]:
    """uint8 pixels as int8 codes of an input with this quantisation; the rule is in the module's description."""
    scale, zero = quantisation.scale, quantisation.zero_point
    low, high = scale * (-128 - zero), scale * (127 - zero)
    for first, last in _PIXEL_RANGES:
        tolerance = 0.02 * (last - first)
        if abs(low - first) <= tolerance and abs(high - last) <= tolerance:
            values = first + np.arange(256) * ((last - first) / 255)
            table = np.clip(np.rint(values / scale) + zero, -128, 127).astype(np.int8)
            codes: NDArray[np.int8] = table[pixels]
            return codes
    raise ImageError(f"the input's codes span {low:.4g}..{high:.4g}, which is no range of pixels: pass int8 codes")


def _load_npz(path: Path, target: FeatureMap, limit: int | None, preprocessing: Preprocessing | None) -> FrameSet:
    try:
        with np.load(path, allow_pickle=False) as archive:
            x = archive[_frames_name(path, archive, target)][:limit]
            y = archive["y"][:limit] if "y" in archive else None
    except (OSError, ValueError, EOFError, IndexError, BadZipFile, zlib.error, MemoryError) as error:
        raise ImageError(f"{path}: cannot be read: {error}") from error
    if x.ndim == 3 and target.channels == 1:
        x = x[..., None]
    if x.ndim != 4 or x.shape[1:] != target.shape:
        raise ImageError(f"{path}: x is {x.shape}, but input '{target.name}' takes (N, {_listed(target.shape)})")
    if not len(x):
        raise ImageError(f"{path}: x has no frames")
    if y is not None and (y.shape not in ((len(x),), (len(x), 1)) or y.dtype.kind not in "iu"):
        raise ImageError(f"{path}: y must be {len(x)} integers, not {y.dtype} {y.shape}")
    labels = None if y is None else y.reshape(-1).astype(np.int64)
    names = tuple(f"{path.name}[{index}]" for index in range(len(x)))
    return FrameSet(_to_codes(x, target, path, preprocessing), labels, names)


def _frames_name(path: Path, archive: Mapping[str, NDArray[Any]], target: FeatureMap) -> str:
    """The array with the frames: ``x``, or else the only one of 8-bit frames of the input's shape."""
    if "x" in archive:
        return "x"
    arrays = {name: archive[name] for name in archive}
    fitting = [
        name for name, each in arrays.items() if each.dtype in (np.int8, np.uint8) and each.shape[1:] == target.shape
    ]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(f"{name} {each.dtype} {each.shape}" for name, each in arrays.items()) or "nothing"
    which = "several arrays" if fitting else "no array"
    raise ImageError(
        f"{path}: no array 'x', and {which} of 8-bit frames (N, {_listed(target.shape)}) for input '{target.name}', "
        f"only {found}"
    )


def list_folder(path: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> tuple[list[Path], list[int] | None]:
    """The files of a folder and, from its ``labels.csv``, their labels. Raises ``ImageError`` where there are none."""
    labels = None
    if (path / "labels.csv").is_file():
        files, labels = _read_labels(path / "labels.csv")
    else:
        files = sorted(each for each in path.iterdir() if each.suffix.lower() in suffixes)
    if not files:
        raise ImageError(f"{path}: no images" + (" and no .dat files" if ".dat" in suffixes else ""))
    return files, labels


def _load_folder(path: Path, target: FeatureMap, limit: int | None, preprocessing: Preprocessing | None) -> FrameSet:
    files, labels = list_folder(path, (*IMAGE_SUFFIXES, ".dat"))
    files = files[:limit]
    frames = np.stack([_load_file(each, target, preprocessing) for each in files])
    return FrameSet(
        frames,
        None if labels is None else np.array(labels[:limit], np.int64),
        tuple(each.name for each in files),
    )


def _read_labels(path: Path) -> tuple[list[Path], list[int]]:
    files, labels = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            column = next((name for name in columns if name.startswith("label")), None)
            if "file" not in columns or column is None:
                raise ImageError(f"{path}: needs the columns 'file' and 'label', not {', '.join(columns) or 'nothing'}")
            for row in reader:
                folders = (path.parent, path.parent / "images")
                name = row["file"] or ""
                found = next((folder / name for folder in folders if name and (folder / name).is_file()), None)
                if found is None:
                    raise ImageError(f"{path}: line {reader.line_num}: no file '{name}'")
                files.append(found)
                labels.append(int(row[column] or ""))
    except (OSError, csv.Error, ValueError) as error:  # ValueError: not UTF-8, or a label that is no integer
        raise ImageError(f"{path}: cannot be read: {error}") from error
    return files, labels


def _load_file(path: Path, target: FeatureMap, preprocessing: Preprocessing | None) -> NDArray[np.int8]:
    """One frame ``[H, W, C]``."""
    if not path.is_file():
        raise ImageError(f"{path}: no such file")
    if path.suffix.lower() == ".dat":
        size = path.stat().st_size
        if size != target.size:
            raise ImageError(f"{path}: {size} bytes, but input '{target.name}' takes ({_listed(target.shape)}) int8")
        return np.frombuffer(path.read_bytes(), np.int8).reshape(target.shape)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ImageError(f"{path}: neither .npz nor .dat nor an image ({', '.join(IMAGE_SUFFIXES)})")
    if target.channels not in _MODES:
        raise ImageError(f"{path}: images have 1 or 3 channels, but input '{target.name}' has {target.channels}")
    pixels = load_pixels(path, target.shape, preprocessing or Preprocessing(order=_MODES[target.channels]))
    return _to_codes(pixels, target, path, preprocessing)


def load_pixels(path: Path, shape: tuple[int, int, int], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """An image as uint8 ``[H, W, C]`` of this shape, RGB or grey, scaled as ``preprocessing`` says.

    Raises ``ImageError``, naming the file, for one that is damaged or deeper than 8 bits.
    """
    try:
        with Image.open(path) as opened:
            image: Image.Image = ImageOps.exif_transpose(opened)
            if image.mode.startswith(("I", "F")):
                raise ImageError(f"{path}: only 8 bits a channel are supported, not mode {image.mode}")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
            image = preprocessing.fit(image.convert(_MODES[preprocessing.channels]), *shape[:2])
            pixels = np.asarray(image, np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, MemoryError) as error:
        raise ImageError(f"{path}: cannot be read: {error}") from error
    return pixels.reshape(shape)


def _to_codes(
    values: NDArray[np.int8] | NDArray[np.uint8], target: FeatureMap, path: Path, preprocessing: Preprocessing | None
) -> NDArray[np.int8]:
    if values.dtype == np.int8:
        return values.astype(np.int8)
    if values.dtype != np.uint8:
        raise ImageError(f"{path}: frames must be int8 codes or uint8 pixels, not {values.dtype}")
    if preprocessing is not None:
        return preprocessing.to_codes(values.astype(np.uint8), target.quantisation)
    try:
        return pixels_to_codes(values.astype(np.uint8), target.quantisation)
    except ImageError as error:
        raise ImageError(f"{path}: input '{target.name}': {error}") from error


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
