"""How much room is left where a database lies, when that is on this machine."""

import shutil
from collections.abc import Callable
from functools import partial
from typing import Final

from scaler.clients.postgres import Postgres
from scaler.errors import ScalerError

# Nothing for who may not see it, and nothing for a server that is asked over a network.
FOLDER: Final = (
    "SELECT setting FROM pg_settings WHERE name = 'data_directory' AND inet_server_addr() IS NULL"
)


def free(folder: str | None) -> int | None:
    """The bytes that are free where a server on this machine keeps its data; None: not known."""
    if not folder:
        return None
    try:
        return shutil.disk_usage(folder).free
    except OSError:  # it is in a container, or not for us to see
        return None


async def free_bytes(database: Postgres) -> Callable[[], int | None]:
    """What answers with the bytes that are free; None where nobody can know."""
    try:
        rows = await database.fetch(FOLDER)
    except ScalerError:
        rows = []
    return partial(free, rows[0][0] if rows else None)
