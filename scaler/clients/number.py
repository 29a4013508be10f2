"""One number that speaks for a whole target, or why there is none; for several sources."""

import math
from collections.abc import Awaitable
from datetime import datetime

from scaler.core.model import Reading, Sample
from scaler.errors import ScalerError


class Missing(Exception):
    """There is no number, and the message says why."""


async def reading(metric: str, at: datetime, asked: Awaitable[float]) -> Reading:
    """The answer about `metric` when `asked` gives the number, as of `at`."""
    try:
        value = await asked
    except (Missing, ScalerError) as reason:
        return Reading(metric=metric, missing=str(reason))
    if not math.isfinite(value):
        what = "not a number" if math.isnan(value) else "infinite"
        return Reading(metric=metric, missing=f"the value is {what}")
    return Reading(metric=metric, samples=(Sample(at=at, value=value, base=1.0),))
