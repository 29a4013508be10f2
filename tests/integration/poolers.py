"""A PgBouncer of its own for a test, in front of a server of the tests."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.postgreses import PostgresServer
from tests.integration.running import until, without

PORT = 6432  # only the end of the name of a socket in the folder of the server
SETTINGS = """[databases]
* = host={folder} user=postgres
[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {folder}
auth_type = any
pool_mode = {mode}
default_pool_size = 1
"""


@contextmanager
def pooled(server: PostgresServer, mode: str) -> Iterator[str]:
    """The address through a pooler with one connection to each database."""
    if shutil.which("pgbouncer") is None:
        without("needs pgbouncer; .ci/run installs it")
    file = server.folder / f"{mode}.ini"
    file.write_text(SETTINGS.format(folder=server.folder, port=PORT, mode=mode))
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to be root, too
    with (server.folder / "pooler.log").open("ab") as log:
        process = subprocess.Popen(
            ["pgbouncer", str(file)], user=user, cwd="/", stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        until((server.folder / f".s.PGSQL.{PORT}").exists, "PgBouncer listens")
        yield f"host={server.folder} port={PORT} user=postgres dbname=postgres"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
