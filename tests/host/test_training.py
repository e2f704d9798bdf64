"""The training network and loop: shapes, folding and the pieces that need no data set."""

from __future__ import annotations

import copy
import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from emberline.training.dataset import LABELS, ImageSet, find_data_root, load_jpegs

torch = pytest.importorskip("torch", reason="torch (extra 'train') is not installed")

from emberline.training import augment, fold, train  # noqa: E402
from emberline.training.export import describe_network, quantise_network  # noqa: E402
from emberline.training.float_graph import run_float  # noqa: E402
from emberline.training.network import ConvNorm, EmberCifar10, Fire  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small tensors: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> EmberCifar10:
    """Random weights and random running statistics, in evaluation mode."""
    torch.manual_seed(1)
    net = EmberCifar10()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.3, 1.2)
    return net.eval()


def random_images(count: int, seed: int = 1) -> ImageSet:
    rng = np.random.default_rng(seed)
    return ImageSet(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, count))


def test_folded_network_equals_torch(network: EmberCifar10) -> None:
    pixels, _ = train.as_tensor(random_images(3))
    with torch.no_grad():
        expected = network(train.scale_pixels(pixels)).numpy()
    frames = pixels.permute(0, 2, 3, 1).numpy().astype(np.float32) / 255
    actual = run_float(fold.fold_network(network), frames)["pool"].reshape(3, 10)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_network_keeps_its_limits(network: EmberCifar10) -> None:
    graph = quantise_network(fold.fold_network(network), random_images(8), count=4)
    assert graph.parameter_count <= 120_000
    assert graph.macs() <= 20_000_000
    for name, feature_map in graph.feature_maps.items():
        if name not in ("image", "conv9", "pool", "logits", "scores"):
            assert feature_map.channels % 16 == 0, name
    state = {"epochs_done": 0, "seconds": 0.0, "recipe": {}}
    description = describe_network(graph, state, {}, "a note")
    assert description["training"]["note"] == "a note"
    assert description["macs"] == graph.macs() and description["labels"][3] == "cat"


@pytest.mark.parametrize("side, stride, kernel", [(8, 1, 3), (8, 2, 3), (7, 2, 3), (8, 1, 1)])
def test_conv_norm_keeps_or_halves_the_size(side: int, stride: int, kernel: int) -> None:
    layer = ConvNorm(3, 16, kernel, stride)
    assert layer(torch.zeros(1, 3, side, side)).shape == (1, 16, math.ceil(side / stride), math.ceil(side / stride))


def test_conv_norm_refuses_other_kernels() -> None:
    with pytest.raises(ValueError, match="kernel must be 1 or 3, not 5"):
        ConvNorm(3, 16, 5)


def test_fire_refuses_a_bypass_of_another_size() -> None:
    with pytest.raises(ValueError, match="a bypass needs 48 output channels, not 64"):
        Fire(48, 32, 32, 32, bypass=True)


def test_augmented_images_are_crops_or_mirrored_crops() -> None:
    pixels, _ = train.as_tensor(random_images(20))
    padded = augment.pad_images(pixels)
    batch = augment.augment_batch(padded, 32, torch.Generator().manual_seed(3))
    mirrored = 0
    for image, source in zip(batch, padded, strict=True):
        crops = source.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4)
        plain = (crops == image).all(dim=(2, 3, 4)).any()
        flipped = (crops.flip(4) == image).all(dim=(2, 3, 4)).any()
        assert plain or flipped
        mirrored += int(flipped)
    assert 0 < mirrored < 20
    again = augment.augment_batch(padded, 32, torch.Generator().manual_seed(3))
    assert torch.equal(batch, again)


def test_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot crop 32x32 from 31x40"):
        augment.augment_batch(torch.zeros(1, 3, 31, 40, dtype=torch.uint8), 32, torch.Generator())


def test_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    recipe = train.Recipe(peak_rate=0.4, warmup=0.25)
    rates = [recipe.rate(step / 100) for step in range(101)]
    assert rates[0] == 0 and rates[25] == max(rates) == 0.4
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates[25:] == sorted(rates[25:], reverse=True)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"warmup": 1.0}])
def test_impossible_recipe_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not"):
        train.Recipe(**options)


def test_average_moves_towards_the_network() -> None:
    layer = torch.nn.BatchNorm2d(4)
    average = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.running_mean.fill_(1.0)
    train.update_average(average, layer, 0.75)
    torch.testing.assert_close(average.weight, torch.full((4,), 1.5))
    torch.testing.assert_close(average.running_mean, torch.full((4,), 0.25))


def test_one_epoch_lowers_the_loss_and_is_reproducible() -> None:
    images = random_images(32)
    pixels, labels = train.as_tensor(images)
    padded = augment.pad_images(pixels)
    recipe = train.Recipe(epochs=2, batch_size=16, peak_rate=0.05, warmup=0.1, seed=2)
    losses = []
    for _ in range(2):
        torch.manual_seed(recipe.seed)
        net = EmberCifar10()
        average, optimiser = copy.deepcopy(net), train.make_optimiser(net, recipe)
        losses.append([train.train_epoch(net, average, optimiser, padded, labels, recipe, e) for e in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][-1] < losses[0][0]
    assert 0 <= train.measure_accuracy(average, pixels, labels, batch_size=20) <= 1


def test_pass_ends_when_the_time_is_over() -> None:
    pixels, labels = train.as_tensor(random_images(32))
    recipe = train.Recipe(batch_size=16)
    net = EmberCifar10()
    before = net.conv1.conv.weight.detach().clone()
    optimiser = train.make_optimiser(net, recipe)
    arguments = (net, copy.deepcopy(net), optimiser, augment.pad_images(pixels), labels, recipe, 0)
    assert train.train_epoch(*arguments, progress=lambda epochs_done: 1.0) == 0
    assert torch.equal(net.conv1.conv.weight, before)


def test_jpegs_are_read_with_their_class(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow (extra 'train') is not installed")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for name, level in (("truck/0001.jpg", 200), ("airplane/0000.jpg", 20)):
            data = io.BytesIO()
            image.new("RGB", (32, 32), (level, level, level)).save(data, "JPEG")
            archive.writestr(name, data.getvalue())
    images = load_jpegs(tmp_path / "some.zip")
    assert [LABELS[label] for label in images.labels] == ["airplane", "truck"]
    assert abs(int(images.pixels[1, 16, 16, 0]) - 200) <= 2


def test_unknown_class_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image", reason="pillow (extra 'train') is not installed")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("zebra/0001.jpg", b"")
    with pytest.raises(ValueError, match="unknown class 'zebra'"):
        load_jpegs(tmp_path / "some.zip")


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="pixels must be uint8"):
        ImageSet(np.zeros((1, 28, 28, 3), np.uint8), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="1 images have labels"):
        ImageSet(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(2, np.int64))


def test_missing_data_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMBERLINE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere, which is no folder"):
        find_data_root()
