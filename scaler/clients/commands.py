"""Commands that people wrote, run on this machine with what is known of an instance filled in."""

import asyncio
import os
from collections.abc import Mapping, Sequence

from scaler.core.model import Instance
from scaler.errors import Unavailable


async def run(words: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code and output. It is killed when nobody waits for it any more.

    `env` is added to the environment; unlike the words, others on the machine do not see it.

    Raises:
        Unavailable: it cannot be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            env={**os.environ, **env} if env else None,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise Unavailable(f"cannot run {words[0]}: {error.strerror}") from error
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, output.decode(errors="replace")


def filled(words: Sequence[str], instance: Instance) -> list[str]:
    """The command with `{port}` and `{pid}` as those of this instance."""
    known = {"{port}": str(instance.port or ""), "{pid}": str(instance.pid or "")}
    done = list(words)
    for name, value in known.items():
        done = [word.replace(name, value) for word in done]
    return done
