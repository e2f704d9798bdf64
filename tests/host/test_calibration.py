"""Ranges from histograms, and what a preprocessing record does to pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx", reason="needs the optional packages onnx and onnxruntime")

from emberline.driver.preprocessing import Preprocessing
from emberline.errors import ImageError
from emberline.quantiser.calibration import Method, choose_range, merge

BINS = 4096
Range = tuple[float, float]


def histogram(density: Callable[[np.ndarray], np.ndarray], limits: Range) -> np.ndarray:
    edges = np.linspace(*limits, BINS + 1)
    return np.rint(density((edges[1:] + edges[:-1]) / 2)).astype(np.int64)


def bell(x: np.ndarray) -> np.ndarray:
    return 1e6 * np.exp(-(x**2))


def test_minmax_takes_everything() -> None:
    assert choose_range(histogram(bell, (-9, 8)), (-9, 8), Method.MINMAX, 99, symmetric=False) == (-9, 8)


def test_percentile_leaves_the_same_share_on_both_sides() -> None:
    low, high = choose_range(histogram(bell, (-10, 10)), (-10, 10), Method.PERCENTILE, 99, symmetric=False)
    assert high == pytest.approx(1.645, abs=0.02)
    assert low == pytest.approx(-high, abs=0.02)


def test_mse_cuts_a_lonely_outlier_off() -> None:
    counts = histogram(bell, (-10, 10))
    counts[-1] = 1
    low, high = choose_range(counts, (-10, 10), Method.MSE, 99, symmetric=False)
    assert 2 < high < 5
    assert -5 < low < -2


@pytest.mark.parametrize("method", Method)
def test_zero_stays_inside(method: Method) -> None:
    low, high = choose_range(np.ones(BINS, np.int64), (2, 3), method, 90, symmetric=False)
    assert low <= 0 < high
    assert choose_range(np.ones(BINS, np.int64), (0, 0), method, 90, symmetric=True) == (0, 0)


def test_groups_are_treated_as_one_tensor() -> None:
    limits: dict[str, Range] = {"a": (0.0, 1.0), "b": (0.0, 4.0), "c": (0.0, 9.0)}
    counts = {name: np.ones(BINS, np.int64) for name in limits}
    merged, histograms = merge([["a", "b"], ["nothing"]], limits, counts)
    assert merged["a"] == merged["b"] == (0.0, 4.0)
    assert histograms["a"].sum() == 2 * BINS
    assert histograms["a"][: BINS // 4].sum() == BINS + BINS // 4
    assert merged["c"] == (0.0, 9.0)


# --- preprocessing


def test_record_survives_json_and_text() -> None:
    record = Preprocessing("BGR", (104.0, 117.0, 123.0), (0.5,), 256)
    assert Preprocessing.from_json(record.to_json()) == record
    assert Preprocessing.from_text("order=bgr, mean=104/117/123, scale=0.5, resize=256") == record
    assert Preprocessing.from_text("stretch=true").stretch


def test_channels_are_ordered_before_the_mean_is_subtracted() -> None:
    pixels = np.array([[[1, 2, 3]]], np.uint8)
    assert Preprocessing("BGR", (3, 1, 0), (2.0,)).to_real(pixels).tolist() == [[[0, 2, 2]]]


def test_shorter_side_is_scaled_and_the_centre_cut_out() -> None:
    image = Image.new("RGB", (100, 50))
    image.paste((255, 0, 0), (40, 0, 60, 50))
    fitted = Preprocessing(resize=20).fit(image, 10, 8)
    assert fitted.size == (8, 10)
    assert fitted.getpixel((4, 5)) == (255, 0, 0)
    assert Preprocessing(stretch=True).fit(image, 10, 8).size == (8, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("order=CMYK", "order must be one of"),
        ("mean=1/2", "mean must be 1 or 3"),
        ("scale=0", "scale must not be 0"),
        ("scale=x", "could not convert"),
        ("size=3", "unknown key 'size'"),
        ("resize", "key=value pairs"),
        ("resize=0", "resize must be in"),
        ("resize=8,stretch=1", "exclude each other"),
    ],
)
def test_impossible_record_is_refused(text: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        Preprocessing.from_text(text)


def test_crop_larger_than_the_scaled_image_is_refused() -> None:
    with pytest.raises(ImageError, match="resize=8 is smaller than the input, 10x10"):
        Preprocessing(resize=8).fit(Image.new("RGB", (20, 20)), 10, 10)
