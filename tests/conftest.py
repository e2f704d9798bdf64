"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Test doubles that several test folders share are imported from here.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "support")]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The public models and inputs: ``$EMBERLINE_DATA``, by default ``../shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EMBERLINE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs the public models and inputs: {folder} is not a folder; set EMBERLINE_DATA")
    return folder
