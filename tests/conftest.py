"""A folder with a daemon that ends with its test, and how long properties are searched.

In CI the search is the same every time: what it finds anew must not depend on chance. Search for
longer with `make test PYTEST="--hypothesis-profile=deep tests/properties"`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.integration.running import Running

settings.register_profile("quick", max_examples=120, deadline=None, derandomize="CI" in os.environ)
settings.register_profile("deep", max_examples=5000, deadline=None)
settings.load_profile("quick")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    folder = Running(tmp_path)
    try:
        yield folder
    finally:
        folder.clear()
