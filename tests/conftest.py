"""A folder with a daemon that ends with its test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.running import Running


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    folder = Running(tmp_path)
    try:
        yield folder
    finally:
        folder.clear()
