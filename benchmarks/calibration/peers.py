"""Two common ways to look for a capacity, on the same stations as ours."""

from collections.abc import Callable
from typing import Final

from scaler.loadtest.evidence import Objective
from scaler.loadtest.station import Station

Method = Callable[[Station, Objective], tuple[float, float]]  # the rate, and seconds of load
PIECE: Final = 10  # seconds
TOP: Final = 300.0  # requests per second, where a ramp ends


def ramp(station: Station, objective: Objective) -> tuple[float, float]:
    """Rise by 2/s each second without a pause, up to the first second over the objective."""
    within, first, slope = objective.within.total_seconds(), 10.0, 2.0
    seconds = (TOP - first) / slope
    for second, batch in enumerate(station.take(first, seconds, within, slope=slope).batches):
        if batch.due and batch.late / batch.due > objective.share:
            return first + slope * second, second + 1
    return TOP, seconds


def bisection(station: Station, objective: Objective) -> tuple[float, float]:
    """Ten seconds at each rate, and the percentile is taken as it comes."""
    within, low, high, spent = objective.within.total_seconds(), 10.0, TOP, 0.0
    while high / low > 1.03:
        middle = (low * high) ** 0.5
        batches = station.take(middle, PIECE, within).batches
        spent += PIECE
        late = sum(batch.late for batch in batches) / max(1, sum(batch.due for batch in batches))
        low, high = (middle, high) if late <= objective.share else (low, middle)
    return low, spent


METHODS: Final[dict[str, Method]] = {"ramp": ramp, "bisection_10s": bisection}
