"""A Swarm of one node on a Docker engine of the tests; one at a time on a machine.

All Swarms of a machine share the ports 2377 and 7946 and the bridge docker_gwbridge, so tests that
run beside each other take turns.
"""

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.dockerd import Engine

BRIDGE = "docker_gwbridge"
TURN = Path("/tmp/scaler-test-swarm.lock")


@contextmanager
def swarm_on(engine: Engine) -> Iterator[Engine]:
    """The engine as manager of a Swarm; afterwards it is as it was."""
    with TURN.open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        engine.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
        try:
            yield engine
        finally:
            engine.docker("swarm", "leave", "--force")
            engine.remove_all()
            engine.docker("network", "rm", BRIDGE, check=False)
            subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)
