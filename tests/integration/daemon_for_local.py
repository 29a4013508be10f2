"""A daemon that scales up and down without end, to be killed at any moment: DIR SEED."""

import asyncio
import random
import sys
from pathlib import Path

from scaler.clock import SystemClock
from scaler.errors import TransientError
from scaler.interfaces import Context
from scaler.providers import local


async def main(folder: str, seed: str) -> None:
    chance = random.Random(int(seed))
    provider = local.PLUGIN.open(
        Context(clock=SystemClock(), state_dir=Path(folder), random=chance)
    )
    target = local.LocalTarget.model_validate_json(Path(folder, "target.json").read_text())
    target = target.model_copy(update={"policy": "web"})
    print("up", flush=True)
    while True:
        try:
            await provider.scale(target, chance.randint(0, 6))
            fleet = await provider.observe(target)
            if fleet.instances and chance.random() < 0.5:
                await provider.restart(target, chance.choice(fleet.instances).id)
        except TransientError:
            pass
        await asyncio.sleep(chance.random() * 0.05)


asyncio.run(main(*sys.argv[1:]))
