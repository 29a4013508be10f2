"""`caches.yaml` to rules."""

from pathlib import Path
from typing import Final

from scaler.maintenance import named_file
from scaler.maintenance.cache_rules import Cache
from scaler.maintenance.named_file import Form, Named

FORM: Final = Form(
    rules=Cache,
    key="caches",
    one="cache",
    needs="url and prefixes",
    secret=("url", "://", "@"),
    most=100,  # each has a job
)


def load_caches(path: Path) -> Named[Cache]:
    """The caches that the file at `path` holds. Raises as `named_file.load`."""
    return named_file.load(path, FORM)
