"""Real photographs for the demo, out of PyPI packages that have them in their wheels; nothing is downloaded.

The packages are never imported, only their files are read.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from emberline.errors import ImageError


@dataclass(frozen=True)
class Photograph:
    """One picture.

    Parameters:
        title: what it shows, for people.
        label: the CIFAR-10 class it shows, or ``None`` where it shows none of them.
        package: the Python package that has it.
        file: inside the package.
    """

    title: str
    label: str | None
    package: str
    file: str

    def path(self) -> Path:
        """The file; raises ``ImageError`` where the package or the file is missing."""
        spec = importlib.util.find_spec(self.package)
        for folder in spec.submodule_search_locations or () if spec else ():
            path = Path(folder) / self.file
            if path.is_file():
                return path
        raise ImageError(f"photograph '{self.title}': no {self.file} in the Python package {self.package}")


def _foolbox(number: int, index: int, title: str, label: str | None) -> Photograph:
    return Photograph(title, label, "foolbox", f"data/imagenet_{number:02}_{index}.jpg")


def _cifar(number: int, index: int, label: str) -> Photograph:
    return Photograph(f"CIFAR-10 test image {number}", label, "foolbox", f"data/cifar10_{number:02}_{index}.png")


PHOTOGRAPHS = (
    Photograph("Chelsea the cat", "cat", "skimage", "data/chelsea.png"),
    _foolbox(0, 243, "bull mastiff on a lawn", "dog"),
    _foolbox(16, 251, "dalmatian sniffing", "dog"),
    _foolbox(15, 99, "geese on grass", "bird"),
    _foolbox(17, 22, "bald eagle flying", "bird"),
    _foolbox(6, 609, "jeep on gravel", "automobile"),
    _foolbox(7, 609, "blue car on rocks", "automobile"),
    _cifar(1, 8, "ship"),
    _cifar(3, 0, "airplane"),
    _cifar(4, 6, "frog"),
    _cifar(11, 9, "truck"),
    _cifar(13, 7, "horse"),
    Photograph("cup of coffee", None, "skimage", "data/coffee.png"),
    Photograph("rocket on its pad", None, "skimage", "data/rocket.jpg"),
)
"""Large photographs of things that the network has classes for, small ones from the data set's test half for the other
classes, and two that show none of the classes: a classifier without a class for 'none of these' must be wrong there."""


def available_photographs() -> list[Photograph]:
    """Those whose package is installed. Raises ``ImageError`` when none is."""
    found = []
    for photograph in PHOTOGRAPHS:
        try:
            photograph.path()
        except ImageError:
            continue
        found.append(photograph)
    if not found:
        raise ImageError('the demo\'s photographs are missing: pip install "emberline[demo]"')
    return found
