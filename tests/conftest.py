"""A folder with a daemon that ends with its test, and how long properties are searched.

In CI the search is the same every time: what it finds anew must not depend on chance. Search for
longer with `make test PYTEST="--hypothesis-profile=deep tests/properties"`.
"""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.integration.dockerd import Engine
from tests.integration.harbour import Harbour
from tests.integration.running import Running, without

settings.register_profile("quick", max_examples=120, deadline=None, derandomize="CI" in os.environ)
settings.register_profile("deep", max_examples=5000, deadline=None)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Engine]:
    """A Docker engine for all tests of this process."""
    missing = [name for name in ("dockerd", "docker", "ip", "busybox") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        why = f"needs root and {', '.join(missing) or 'nothing else'}; .ci/run installs them"
        without(why)
    engine = Engine()
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


@pytest.fixture
def engine(dockerd: Engine) -> Iterator[Engine]:
    """The Docker engine, left empty by each test."""
    yield dockerd
    dockerd.remove_all()


@pytest.fixture
async def harbour(engine: Engine, tmp_path: Path) -> AsyncIterator[Harbour]:
    """Docker providers on the engine."""
    opened = Harbour(engine, tmp_path)
    try:
        yield opened
    finally:
        await opened.aclose()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    folder = Running(tmp_path)
    try:
        yield folder
    finally:
        folder.clear()
