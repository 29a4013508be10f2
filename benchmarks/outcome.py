"""What a benchmark has found."""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Outcome:
    """Figures by name, with their unit in the name, and the goals they are held against."""

    figures: dict[str, Any] = field(default_factory=dict)
    goals: list[dict[str, Any]] = field(default_factory=list)

    def goal(self, name: str, value: float, *, least: float = 0, most: float = 0) -> None:
        """A goal is either a least or a most."""
        written = f">= {least:g}" if least else f"<= {most:g}"
        holds = value >= least if least else value <= most
        self.goals.append({"name": name, "goal": written, "value": value, "holds": holds})


def percentile(values: list[float], share: float) -> float:
    """The nearest rank; 0 when there are none."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else 0.0
