"""`partitions.yaml` to rules."""

from pathlib import Path
from typing import Final

from scaler.maintenance import named_file
from scaler.maintenance.named_file import Form, Named
from scaler.maintenance.partition_rules import Database

FORM: Final = Form(
    rules=Database,
    key="databases",
    one="database",
    needs="dsn_env and partitions",
    secret=("dsn", "://", "@", "password"),
    most=100,  # each has a connection
)


def load_partitions(path: Path) -> Named[Database]:
    """The databases that the file at `path` holds. Raises as `named_file.load`."""
    return named_file.load(path, FORM)
