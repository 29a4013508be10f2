"""The figures of a run, whether they are to be trusted, and what they must reach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scaler.core.units import format_percent
from scaler.errors import ConfigError
from scaler.loadtest import thresholds
from scaler.loadtest.failures import Failure
from scaler.loadtest.record import Record
from scaler.loadtest.thresholds import Judged, Threshold

SHOWN: Final = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
MOST_LAG_S: Final = 0.010  # schedule lag, p99
MOST_CPU: Final = 0.9  # of one core: beyond it answers wait for this tester
LEAST_ANSWERS: Final = 100  # a p99 of fewer is the slowest one
FORMAT: Final = 1  # of the JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run."""

    target: str
    kind: str  # `open`, or `closed` for users
    seconds: float  # of load that counts, so without warming up
    record: Record
    cpu: tuple[float, ...]  # of each worker, in cores
    lost: tuple[str, ...] = ()  # what of the run has got lost, such as a worker that died
    wanted: tuple[Threshold, ...] = ()

    def figures(self) -> dict[str, float]:
        """By name as in thresholds; those that nothing was measured for are left out."""
        record = self.record
        response = record.response
        found: dict[str, float] = {"rate": record.answered / self.seconds}
        if record.due:
            found["errors"] = record.errors / record.due
            found["not_sent"] = record.not_sent / record.due
        if response.count:
            asked = {p for t in self.wanted if (p := t.percentile) is not None}
            for share in sorted(asked.union(SHOWN)):
                name = f"p{round(share * 100, 6):g}"
                found[name] = response.percentile(share)
                found[f"service_{name}"] = record.service.percentile(share)
            found |= {"mean": response.mean, "max": response.highest}
        return found

    def doubts(self) -> list[str]:
        """Why the figures tell of this tester and not of the server; none when they do not."""
        record = self.record
        found = list(self.lost)
        lag = record.lag.percentile(0.99)
        if self.kind == "open" and lag > MOST_LAG_S:
            found.append(
                f"1 % of the requests were started {lag * 1000:.0f} ms late or more by this tester "
                f"(the most is {MOST_LAG_S * 1000:.0f} ms)"
            )
        if self.cpu and max(self.cpu) > MOST_CPU:
            found.append(
                f"this tester used {format_percent(round(max(self.cpu), 2))} of a core; "
                "use more workers or a quieter machine"
            )
        if record.not_sent:
            share = format_percent(round(record.not_sent / max(record.due, 1), 5))
            sockets = record.failures[Failure.OUT_OF_SOCKETS.value]
            remedy = "more ports and files" if sockets else "a higher bounds.in_flight"
            found.append(
                f"{record.not_sent} requests ({share}) were never sent; the tester needs {remedy}"
            )
        if 0 < record.answered < LEAST_ANSWERS:
            found.append(f"only {record.answered} answers; high percentiles are of single ones")
        return found

    def judged(self) -> tuple[Judged, ...]:
        return thresholds.judge(self.wanted, self.figures())

    @property
    def passed(self) -> bool:
        """Whether all thresholds hold, of the whole run: what is lost cannot be judged."""
        return all(one.holds for one in self.judged()) and not (self.wanted and self.lost)

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "target": self.target,
            "kind": self.kind,
            "seconds": self.seconds,
            "figures": self.figures(),
            "trusted": not self.doubts(),
            "doubts": self.doubts(),
            "thresholds": [
                {"threshold": str(one.threshold), "found": one.found, "holds": one.holds}
                for one in self.judged()
            ],
            "passed": self.passed,
            "cpu": list(self.cpu),
            "lost": list(self.lost),
            "record": self.record.to_dict(),
        }

    @classmethod
    def of_dict(cls, written: Mapping[str, Any]) -> "Report":
        """What `to_dict` has written.

        Raises:
            ConfigError: it was not.
        """
        try:
            if written["format"] != FORMAT:
                raise ConfigError(f"has format {written['format']}; this version reads {FORMAT}")
            wanted = thresholds.parse([str(one["threshold"]) for one in written["thresholds"]])
            return cls(
                target=str(written["target"]),
                kind=str(written["kind"]),
                seconds=float(written["seconds"]),
                record=Record.of_dict(written["record"]),
                cpu=tuple(map(float, written["cpu"])),
                lost=tuple(map(str, written["lost"])),
                wanted=wanted,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"is no result of a load test: {error!r}") from error


def merged(records: Sequence[Record]) -> Record:
    """All workers as one; at least one is given."""
    first, *others = records
    for other in others:
        first.merge(other)
    return first
