"""When requests are meant to be sent: a rate in straight pieces, and the moments that follow it.

A schedule is a value: worker processes that hold the same one agree about every moment and share
the requests out by number, without a word between them.
"""

import csv
import io
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import accumulate, pairwise
from random import Random
from typing import Final

from scaler.errors import ConfigError

MOST_PIECES: Final = 200_000  # a trace of a month by the quarter of a minute
PIECES_PER_WAVE: Final = 64  # the rate is nowhere more than 0.13 % of the swing beside the cosine
_SLACK: Final = 1e-9  # what rounding may take from a whole number of requests


@dataclass(frozen=True, slots=True)
class Piece:
    """A rate that goes in a straight line from `first` to `last`, each per second."""

    seconds: float
    first: float
    last: float

    @property
    def requests(self) -> float:
        return (self.first + self.last) / 2 * self.seconds

    def reached(self, requests: float) -> float:
        """Seconds from the begin of the piece until so many requests are due."""
        if requests <= 0:
            return 0.0
        slope = (self.last - self.first) / self.seconds
        root = math.sqrt(max(0.0, self.first**2 + 2 * slope * requests))
        # This form of the root of a quadratic loses no digits when the slope is near zero.
        return min(self.seconds, 2 * requests / (self.first + root))


@dataclass(frozen=True)
class Schedule:
    """Rates one after the other. Requests are even in each, or with `seed` as of many users."""

    pieces: tuple[Piece, ...]
    seed: int | None = None  # of Poisson arrivals; without one they are evenly spaced

    @cached_property
    def seconds(self) -> float:
        return math.fsum(piece.seconds for piece in self.pieces)

    @cached_property
    def requests(self) -> float:
        """The integral of the rate; with Poisson arrivals the mean of how many there are."""
        return self._sums[-1] if self._sums else 0.0

    @cached_property
    def _sums(self) -> list[float]:
        return list(accumulate(piece.requests for piece in self.pieces))

    @cached_property
    def _begins(self) -> list[float]:
        return [0.0, *accumulate(piece.seconds for piece in self.pieces)]

    def highest(self) -> float:
        """The highest rate anywhere."""
        return max((max(piece.first, piece.last) for piece in self.pieces), default=0.0)

    def rate(self, second: float) -> float:
        """The rate at so many seconds after the start; zero before it and from the end on."""
        if not 0 <= second < self.seconds:
            return 0.0
        number = min(bisect_right(self._begins, second) - 1, len(self.pieces) - 1)
        piece = self.pieces[number]
        share = (second - self._begins[number]) / piece.seconds
        return piece.first + (piece.last - piece.first) * share

    def moments(self, worker: int = 0, workers: int = 1) -> Iterator[float]:
        """Seconds after the start at which requests are due, those of one worker of several."""
        number = 0
        before = 0.0
        sums = iter(zip(self.pieces, self._begins, self._sums, strict=False))
        piece, begin, end = next(sums, (None, 0.0, 0.0))
        for order, due in enumerate(self._counts()):
            while piece is not None and due >= end - _SLACK * max(1.0, end):
                before = end
                number += 1
                piece, begin, end = next(sums, (None, 0.0, 0.0))
            if piece is None:
                return
            if order % workers == worker:
                yield begin + piece.reached(due - before)

    def _counts(self) -> Iterator[float]:
        """By how many requests the integral has grown at each arrival."""
        if self.seed is None:
            number = 0
            while True:
                yield float(number)
                number += 1
        random = Random(self.seed)  # time rescaling: a unit process read through the integral
        passed = 0.0
        while True:
            passed += random.expovariate(1.0)
            yield passed


def constant(rate: float, seconds: float) -> tuple[Piece, ...]:
    return (Piece(seconds, rate, rate),) if seconds > 0 else ()


def ramp(first: float, last: float, seconds: float) -> tuple[Piece, ...]:
    return (Piece(seconds, first, last),) if seconds > 0 else ()


def stages(start: float, to: Iterable[tuple[float, float]]) -> tuple[Piece, ...]:
    """From one rate to the next, each over its seconds; no seconds at all is a jump."""
    pieces: list[Piece] = []
    for rate, seconds in to:
        pieces += ramp(start, rate, seconds)
        start = rate
    return tuple(pieces)


def wave(low: float, high: float, period: float, seconds: float) -> tuple[Piece, ...]:
    """Smooth rises and falls that begin low, in straight pieces.

    Raises:
        ConfigError: the waves are too many.
    """
    step = period / PIECES_PER_WAVE
    if seconds / step > MOST_PIECES:
        most = MOST_PIECES // PIECES_PER_WAVE
        raise ConfigError(f"{seconds / period:.0f} waves are too many; the most is {most}")

    def rate(at: float) -> float:
        return (low + high) / 2 - (high - low) / 2 * math.cos(2 * math.pi * at / period)

    edges = [number * step for number in range(math.ceil(seconds / step - _SLACK))] + [seconds]
    return tuple(
        Piece(end - begin, rate(begin), rate(end)) for begin, end in pairwise(edges) if end > begin
    )


def replay(
    rows: Sequence[tuple[float, float]], *, speed: float = 1.0, scale: float = 1.0
) -> tuple[Piece, ...]:
    """`rows` are (second, requests until the next row); the last is as long as the one before.

    With `speed` 60 an hour passes in a minute at the recorded rates; `scale` multiplies the rates.
    """
    pieces = []
    for number, (at, value) in enumerate(rows):
        following = rows[number + 1][0] if number + 1 < len(rows) else 2 * at - rows[number - 1][0]
        recorded = following - at
        rate = value / recorded * scale
        pieces.append(Piece(recorded / speed, rate, rate))
    return tuple(pieces)


def read_trace(text: str, name: str) -> list[tuple[float, float]]:
    """The rows of a CSV file `timestamp,value`, as seconds after the first and requests.

    A timestamp is ISO 8601 or a number of seconds.

    Raises:
        ConfigError: a row cannot be read; the message names its line.
    """
    rows: list[tuple[float, float]] = []
    for line, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        if not row or (line == 1 and row[0].strip() == "timestamp"):
            continue
        try:
            at, value = _second(row[0].strip()), float(row[1])
        except (ValueError, IndexError):
            raise ConfigError(
                f"{name}:{line}: is not a row of a trace; write 2026-01-31T12:00:00Z,42"
            ) from None
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name}:{line}: {row[1]} is no number of requests; write 0 or more")
        if rows and at <= rows[-1][0]:
            raise ConfigError(f"{name}:{line}: is not later than the row before; sort the rows")
        if len(rows) >= MOST_PIECES:
            raise ConfigError(f"{name}: has more than {MOST_PIECES} rows; cut it")
        rows.append((at, value))
    if len(rows) < 2:
        raise ConfigError(f"{name}: holds fewer than two rows; a trace needs two to know its step")
    return [(at - rows[0][0], value) for at, value in rows]


def _second(written: str) -> float:
    try:
        second = float(written)
    except ValueError:
        moment = datetime.fromisoformat(written)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1)
    if not math.isfinite(second):
        raise ValueError(written)
    return second
