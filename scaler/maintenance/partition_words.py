"""Plans of partition sets, for people."""

from collections.abc import Iterator

from scaler.maintenance.partition_plan import (
    Archive,
    Confirm,
    Create,
    CreateDefault,
    Drain,
    Drop,
    Finalize,
    Plan,
    Retire,
    Step,
)


def lines(one: Plan) -> Iterator[str]:
    """The plan for people, a line for each step and finding."""
    for step in one.steps:
        yield f"{one.table}: {described(step)} ({step.because})"
    for step, why in one.later:
        yield f"{one.table}: later: {described(step)} ({step.because}; waits: {why})"
    for finding in one.findings:
        yield f"{finding.level}: {finding.text}"


def sized(number: int | None) -> str:
    """Bytes for people; a dash for what is not known."""
    return "-" if number is None else f"{number / 1e6:.1f} MB"


def described(step: Step) -> str:
    match step:
        case Create():
            return f"create {step.name}"
        case CreateDefault():
            return f"create {step.name} as its DEFAULT partition"
        case Retire():
            way = "concurrently" if step.concurrently else "under a short lock"
            return f"detach {step.partition.name} {way}"
        case Finalize():
            return f"finish detaching {step.partition.name}"
        case Confirm():
            return f"note that {step.table.name} is detached"
        case Archive():
            return f"archive {step.table.name}"
        case Drop():
            return f"drop {step.table.name}"
        case Drain():
            return f"move {step.rows} rows out of {step.default.name}"
        case _:
            return type(step).__name__.lower()
