"""What is said while the demo runs: one line for each thing that happens, with its reason.

It comes from the same journal entries that `scaler history` shows. What the table and the page at
the end need of it is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import click

from scaler.core.journal import Entry, Kind
from scaler.demo.scene import NAME


@dataclass(slots=True)
class Teller:
    """The story so far; moments in seconds since the start."""

    at: Callable[[], float]
    counts: list[tuple[float, int]] = field(default_factory=list)  # instances that were decided on
    restarts: list[tuple[float, str]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)  # accidents, in a word
    upkeep: list[str] = field(default_factory=list)  # what was found and done beside the targets
    _waited: set[str] = field(default_factory=set)

    def say(self, text: str, colour: str | None = None) -> None:
        click.secho(f"{self.at():5.1f} s  {text}", fg=colour)

    def accident(self, word: str, text: str) -> None:
        self.marks.append((self.at(), word))
        self.say(f"accident: {text}", "red")

    def entry(self, entry: Entry) -> None:
        """An entry in one line, if something happened."""
        made = entry.decision
        if made is None:
            self._noticed(entry)
            return
        if made.desired != made.current or not self.counts:
            self.counts.append((self.at(), made.desired))
        if made.desired != made.current or made.restarts:
            self.say(entry.summary, "green" if made.desired >= made.current else "cyan")
        self.restarts += [(self.at(), f"{r.instance}: {r.because}") for r in made.restarts]
        for why in made.waiting:
            instance = why.partition(":")[0]
            if instance not in self._waited:
                self.say(f"{NAME} waits with {why}", "yellow")
            self._waited.add(instance)
        self._waited -= {restart.instance for restart in made.restarts}

    def _noticed(self, entry: Entry) -> None:
        if entry.kind is Kind.NOTICED:
            self.upkeep.append(entry.summary)
        if not entry.ok or entry.kind is Kind.NOTICED:
            self.say(entry.summary, "yellow")
