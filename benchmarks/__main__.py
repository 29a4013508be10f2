"""`python -m benchmarks` lists what can be measured; `python -m benchmarks NAME` measures it.

Each module has a docstring, whose first line is shown in the list, and `run() -> Outcome`. What is
compared runs interleaved in the same process tree, and a figure is the median of several runs.
"""

import argparse
import importlib
import json
import os
import platform
import sys
from pathlib import Path

from benchmarks.outcome import Outcome


def names() -> list[str]:
    here = Path(__file__).parent
    skipped = {"__init__", "__main__", "outcome"}
    return sorted(path.stem for path in here.glob("*.py") if path.stem not in skipped)


def machine() -> dict[str, object]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


def summary(name: str) -> str:
    return (importlib.import_module(f"benchmarks.{name}").__doc__ or "").partition("\n")[0]


def table(name: str, outcome: Outcome) -> str:
    lines = [f"{name}: {summary(name)}"]
    width = max(len(key) for key in outcome.figures)
    lines += [f"  {key:<{width}}  {value}" for key, value in outcome.figures.items()]
    for goal in outcome.goals:
        mark = "reached" if goal["holds"] else "NOT reached"
        lines.append(f"  goal {mark}: {goal['name']} {goal['goal']}, measured {goal['value']}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=names())
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    given = parser.parse_args()
    if given.name is None:
        width = max(map(len, names()))
        for name in names():
            print(f"{name:<{width}}  {summary(name)}")
        return 0
    outcome: Outcome = importlib.import_module(f"benchmarks.{given.name}").run()
    if given.json:
        plain = {"figures": outcome.figures, "goals": outcome.goals, "machine": machine()}
        print(json.dumps(plain, indent=2))
    else:
        print(table(given.name, outcome))
        print(f"  on {machine()}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
