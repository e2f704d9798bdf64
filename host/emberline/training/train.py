"""Train ``ember_cifar10`` on a CPU: ``python -m emberline.training.train --epochs 100 -o RUN``.

SGD with Nesterov momentum, one-cycle learning rate (linear warm-up, then a cosine to zero), label smoothing, an
exponential moving average of the weights, bfloat16 autocast. ``RUN/last.pt`` is written after every epoch; the same
command resumes from it, also with another ``--epochs``: the learning rate depends only on the fraction done. With
``--seconds`` that is the fraction of the epochs or of the time, whichever is larger: a busy machine ends in time, too.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from emberline.training.augment import PADDING_PIXELS, augment_batch, pad_images
from emberline.training.dataset import SIDE_PIXELS, ImageSet, load_test, load_train
from emberline.training.network import EmberCifar10


@dataclass(frozen=True)
class Recipe:
    """What decides the outcome of a training run, besides the data."""

    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 128
    """Images a step."""
    peak_rate: float = 0.2
    """Highest learning rate, reached after ``warmup`` of the run."""
    warmup: float = 0.1
    """Fraction of the run in which the learning rate rises linearly."""
    momentum: float = 0.9
    """Nesterov momentum of SGD."""
    weight_decay: float = 2e-4
    """L2 penalty on the weights of convolutions; normalisation and biases have none."""
    label_smoothing: float = 0.05
    """Probability spread evenly over the ten classes."""
    average_decay: float = 0.998
    """Decay a step of the moving average of weights that is exported."""
    seed: int = 1
    """Of the initial weights, the order of images and the augmentation."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be positive, not {self.epochs}")
        if not 0 < self.warmup < 1:
            raise ValueError(f"warmup must lie between 0 and 1, not {self.warmup}")

    def rate(self, progress: float) -> float:
        """Learning rate after the fraction ``progress`` of the run, 0 to 1."""
        if progress < self.warmup:
            return self.peak_rate * progress / self.warmup
        return self.peak_rate * 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))


def as_tensor(images: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """``uint8[N, 3, 32, 32]`` and ``int64[N]``."""
    return torch.from_numpy(images.pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(images.labels)


def scale_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """``uint8`` to ``float32`` pixel/255, channels last in memory."""
    return pixels.float().div_(255).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move every weight and running statistic of ``average`` towards ``network``."""
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.dtype.is_floating_point:
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


@torch.no_grad()
def measure_accuracy(network: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, batch_size: int = 500) -> float:
    """Fraction classified correctly, in float32. pixels: ``uint8[N, 3, 32, 32]``."""
    network.eval()
    correct = 0
    for start in range(0, len(labels), batch_size):
        logits = network(scale_pixels(pixels[start : start + batch_size]))
        correct += int((logits.argmax(1) == labels[start : start + batch_size]).sum())
    return correct / len(labels)


def make_optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD whose weight decay spares normalisation and biases."""
    weights = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=True)


def train_epoch(
    network: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.SGD,
    padded: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    epoch: int,
    progress: Callable[[float], float] | None = None,
) -> float:
    """One pass in an order that depends only on the seed and the epoch. Returns the mean loss.

    ``progress`` gives the fraction of the run done, from the epochs done (by default only from these); 1 ends the pass.
    """
    generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    order = torch.randperm(len(labels), generator=generator)
    steps = len(labels) // recipe.batch_size
    average_decay = min(recipe.average_decay, 1 - 1 / (2 + epoch * steps / 10))
    network.train()
    losses = []
    for step in range(steps):
        epochs_done = epoch + step / steps
        done = progress(epochs_done) if progress else epochs_done / recipe.epochs
        if done >= 1:
            break
        rate = recipe.rate(done)
        for group in optimiser.param_groups:
            group["lr"] = rate
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        images = scale_pixels(augment_batch(padded[chosen], SIDE_PIXELS, generator))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        loss = nn.functional.cross_entropy(logits.float(), labels[chosen], label_smoothing=recipe.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        update_average(average, network, average_decay)
        losses.append(loss.item())
    return sum(losses) / max(len(losses), 1)


def run_training(recipe: Recipe, output: Path, seconds_limit: float = math.inf, eval_every: int = 5) -> None:
    """Train, or resume what lies in ``output``, until ``recipe.epochs`` or for ``seconds_limit`` with what went before.

    Logs a line an epoch to standard output.
    """
    pixels, labels = as_tensor(load_train())
    padded = pad_images(pixels, PADDING_PIXELS)
    del pixels
    test_pixels, test_labels = as_tensor(load_test())
    torch.manual_seed(recipe.seed)
    network = EmberCifar10().to(memory_format=torch.channels_last)
    average = copy.deepcopy(network)
    optimiser = make_optimiser(network, recipe)
    first, seconds = 0, 0.0
    output.mkdir(parents=True, exist_ok=True)
    last = output / "last.pt"
    if last.exists():
        state = torch.load(last, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first, seconds = state["epochs_done"], state["seconds"]
    epoch, clock = first, time.monotonic() - seconds

    def progress(epochs_done: float) -> float:
        return min(max(epochs_done / recipe.epochs, (time.monotonic() - clock) / seconds_limit), 1.0)

    while progress(epoch) < 1:
        started = time.monotonic()
        loss = train_epoch(network, average, optimiser, padded, labels, recipe, epoch, progress)
        seconds += time.monotonic() - started
        epoch = done = epoch + 1
        line = f"epoch {done}/{recipe.epochs} loss {loss:.4f} seconds {seconds:.0f}"
        if done % eval_every == 0 or progress(done) >= 1:
            line += f" test {100 * measure_accuracy(average, test_pixels, test_labels):.2f} %"
        print(line, flush=True)
        state = {
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "recipe": asdict(recipe),
            "epochs_done": done,
            "seconds": seconds,
        }
        torch.save(state, last.with_suffix(".part"))
        last.with_suffix(".part").replace(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--batch-size", type=int, default=Recipe.batch_size)
    parser.add_argument("--peak-rate", type=float, default=Recipe.peak_rate)
    parser.add_argument("--weight-decay", type=float, default=Recipe.weight_decay)
    parser.add_argument("--label-smoothing", type=float, default=Recipe.label_smoothing)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--seconds", type=float, default=math.inf, help="end after so many seconds of training in all")
    options = vars(parser.parse_args())
    output, seconds_limit = options.pop("output"), options.pop("seconds")
    run_training(Recipe(**options), output, seconds_limit)


if __name__ == "__main__":
    main()
