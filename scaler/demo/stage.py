"""The daemon on a scene, and who of the instances can be asked."""

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from scaler import daemon, settings
from scaler.clock import SystemClock
from scaler.core.journal import Entry
from scaler.core.model import Instance, State
from scaler.demo.scene import NAME, Scene
from scaler.stores.sqlite import SqliteStore


def socket_in(folder: Path) -> Path:
    """Where the daemon listens, written the shorter way: such paths may not be long."""
    path = folder / "scaler.sock"
    return Path(min(os.path.relpath(path), str(path), key=len))


async def running_daemon(
    scene: Scene, clock: SystemClock, tell: Callable[[Entry], None], stack: AsyncExitStack
) -> daemon.Daemon:
    """At work on what the scene has written; it ends with the stack, and its instances do.

    Raises:
        ConfigError: a file of the scene is invalid.
        Refused: another daemon is at work there.
    """
    made = daemon.Daemon(
        settings.Settings(
            policies=(scene.policy.parent,),
            state_dir=scene.state,
            socket=socket_in(scene.folder),
            caches=scene.caches,
            partitions=scene.partitions,
        ),
        clock=clock,
        store=SqliteStore(scene.state / "scaler.db"),
        tell=tell,
    )
    stack.push_async_callback(made.stop)
    await made.start()
    await daemon.serve(made, stack)
    made.begin()
    return made


def there(at_work: daemon.Daemon) -> list[Instance]:
    """Those that run or are on their way out."""
    fleet = at_work.manager.watched[NAME].fleet
    instances = fleet.instances if fleet else ()
    return [i for i in instances if i.state in (State.RUNNING, State.STOPPING)]


def ready(at_work: daemon.Daemon) -> list[Instance]:
    return [i for i in there(at_work) if i.state is State.RUNNING and i.ready and i.port]
