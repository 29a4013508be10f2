"""How much room is left where a database lies, when that is on this machine."""

import os
import shutil
from collections.abc import Callable

from scaler.clients.postgres import Postgres
from scaler.errors import ScalerError


async def free_bytes(database: Postgres) -> Callable[[], int | None]:
    """What answers with the bytes that are free; None where nobody can know."""
    try:
        rows = await database.fetch(
            "SELECT current_setting('data_directory', true), inet_server_addr() IS NULL"
        )
    except ScalerError:
        return lambda: None
    folder, here = rows[0]
    if not folder or not here or not os.access(folder, os.F_OK):
        return lambda: None
    return lambda: shutil.disk_usage(folder).free
