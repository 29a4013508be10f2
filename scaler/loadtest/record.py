"""What a run has measured so far: counts, distributions, and both over time.

Records of several workers merge without loss, and travel as JSON. Memory is bounded: a longer run
has wider slices of time, not more of them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from scaler.loadtest.failures import OURS, Failure
from scaler.loadtest.histogram import Histogram
from scaler.loadtest.transport import Call

MOST_SLICES: Final = 600  # beyond it two become one
MOST_HELD: Final = 10_000  # values before they are sorted into buckets


@dataclass(slots=True)
class Slice:
    """A stretch of time, by when requests were due."""

    due: int = 0
    answered: int = 0
    errors: int = 0
    response: Histogram = field(default_factory=Histogram)

    def merge(self, other: "Slice") -> None:
        self.due += other.due
        self.answered += other.answered
        self.errors += other.errors
        self.response.merge(other.response)


@dataclass(slots=True)
class Kind:
    """One request of the scenario."""

    errors: int = 0
    response: Histogram = field(default_factory=Histogram)


class Record:
    """Figures of one run; times in seconds."""

    def __init__(self, titles: list[str]) -> None:
        """`titles` of the requests of the scenario."""
        self.kinds = [Kind() for _ in titles]
        self.titles = titles
        self.service = Histogram()  # from the moment it was sent; what most testers show
        self.lag = Histogram()  # how late this tester itself was
        self.failures: Counter[str] = Counter()  # by the value of a Failure
        self.statuses: Counter[int] = Counter()
        self.due = 0
        self.sent = 0
        self.warm = 0  # due while warming up; in no other figure
        self.retried = 0  # offered to another endpoint, since one did not take it
        self.width = 1  # seconds of a slice, a power of two
        self.slices: list[Slice] = []
        self._held: list[list[float]] = [[] for _ in titles]
        self._held_in_slice: dict[int, list[float]] = {}
        self._service: list[float] = []
        self._lag: list[float] = []

    @property
    def response(self) -> Histogram:
        """Of all requests that were answered well, from the moment each was due."""
        self.settle()
        whole = Histogram()
        for kind in self.kinds:
            whole.merge(kind.response)
        return whole

    @property
    def answered(self) -> int:
        return self.service.count + len(self._service)

    @property
    def errors(self) -> int:
        return self.failures.total()

    @property
    def not_sent(self) -> int:
        return sum(self.failures[failure.value] for failure in OURS)

    def begun(self, at: float, lag: float) -> None:
        """A request was due at so many seconds after the start of counting; a warm one below 0."""
        if at < 0:
            self.warm += 1
            return
        self.due += 1
        self._lag.append(lag)
        self._slice(at).due += 1

    def ended(self, call: Call, at: float) -> None:
        if at < 0:
            return
        if call.sent:
            self.sent += 1
        if call.status:
            self.statuses[call.status] += 1
        here = self._slice(at)
        if call.failure is not None:
            self.failures[call.failure.value] += 1
            self.kinds[call.kind].errors += 1
            here.errors += 1
            return
        here.answered += 1
        response = call.ended - call.due
        self._held[call.kind].append(response)
        self._held_in_slice.setdefault(int(at / self.width), []).append(response)
        self._service.append(call.ended - call.sent)
        if len(self._service) >= MOST_HELD:
            self.settle()

    def dropped(self, at: float, kind: int) -> None:
        """A request was due and could not even be queued."""
        if at >= 0:
            self.failures[Failure.NOT_SENT.value] += 1
            self.kinds[kind].errors += 1
            self._slice(at).errors += 1

    def _slice(self, at: float) -> Slice:
        number = int(at / self.width)
        while number >= MOST_SLICES:
            self.widen()
            number = int(at / self.width)
        while number >= len(self.slices):
            self.slices.append(Slice())
        return self.slices[number]

    def widen(self) -> None:
        """Two slices become one."""
        self.settle()
        for even, odd in zip(self.slices[::2], self.slices[1::2], strict=False):
            even.merge(odd)
        self.slices = self.slices[::2]
        self.width *= 2

    def settle(self) -> None:
        """Sort what is held into buckets."""
        for kind, values in zip(self.kinds, self._held, strict=True):
            kind.response.add_all(values)
            values.clear()
        for number, values in self._held_in_slice.items():
            self.slices[number].response.add_all(values)
        self._held_in_slice.clear()
        self.service.add_all(self._service)
        self._service.clear()
        self.lag.add_all(self._lag)
        self._lag.clear()

    def merge(self, other: "Record") -> None:
        """Add what another worker has measured in the same run."""
        self.settle()
        other.settle()
        while self.width < other.width:
            self.widen()
        while other.width < self.width:
            other.widen()
        self.slices += [Slice() for _ in range(len(other.slices) - len(self.slices))]
        for mine, theirs in zip(self.slices, other.slices, strict=False):
            mine.merge(theirs)
        for kind, their in zip(self.kinds, other.kinds, strict=True):
            kind.errors += their.errors
            kind.response.merge(their.response)
        self.service.merge(other.service)
        self.lag.merge(other.lag)
        self.failures.update(other.failures)
        self.statuses.update(other.statuses)
        for name in ("due", "sent", "warm", "retried"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_dict(self) -> dict[str, Any]:
        self.settle()
        return {
            "due": self.due,
            "sent": self.sent,
            "warm": self.warm,
            "retried": self.retried,
            "failures": dict(self.failures),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "service": self.service.to_dict(),
            "lag": self.lag.to_dict(),
            "kinds": [
                {"title": title, "errors": kind.errors, "response": kind.response.to_dict()}
                for title, kind in zip(self.titles, self.kinds, strict=True)
            ],
            "width": self.width,
            "slices": [
                {
                    "due": one.due,
                    "answered": one.answered,
                    "errors": one.errors,
                    "response": one.response.to_dict(),
                }
                for one in self.slices
            ],
        }

    @classmethod
    def of_dict(cls, written: Mapping[str, Any]) -> "Record":
        """What `to_dict` has written.

        Raises:
            KeyError, TypeError, ValueError: it was not.
        """
        made = cls([str(kind["title"]) for kind in written["kinds"]])
        for name in ("due", "sent", "warm", "retried", "width"):
            setattr(made, name, int(written[name]))
        made.failures.update({str(k): int(v) for k, v in written["failures"].items()})
        made.statuses.update({int(k): int(v) for k, v in written["statuses"].items()})
        made.service = Histogram.of_dict(written["service"])
        made.lag = Histogram.of_dict(written["lag"])
        made.kinds = [
            Kind(int(kind["errors"]), Histogram.of_dict(kind["response"]))
            for kind in written["kinds"]
        ]
        made.slices = [
            Slice(int(s["due"]), int(s["answered"]), int(s["errors"]),
                  Histogram.of_dict(s["response"]))
            for s in written["slices"]
        ]  # fmt: skip
        return made
