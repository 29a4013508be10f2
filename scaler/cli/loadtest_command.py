"""The command `scaler loadtest`; what it does is in `loadtest.py`, imported when it runs."""

from pathlib import Path
from typing import Any

import click

from scaler.cli.group import command, errors

FILE = click.Path(path_type=Path, dir_okay=False)


@command(
    "scaler loadtest http://127.0.0.1:8080/ --rate 500/s --for 1m\n"
    "scaler loadtest http://127.0.0.1:8080/ --stages 100/s:10s,500/s:1m --html report.html\n"
    "scaler loadtest http://127.0.0.1:8080/ --users 20 --think 1s\n"
    "scaler loadtest plan.yaml --threshold 'p99<250ms, errors<0.1%'\n"
    "scaler loadtest plan.yaml --save new.json --compare old.json\n"
    "scaler loadtest plan.yaml --through redis://redis/0 --parts 3\n"
    "scaler loadtest plan.yaml --through redis://redis/0 --part 1/3\n"
    "scaler loadtest plan.yaml --through redis://redis/0 --parts 3 --allow-host "
    "--manifest kubernetes"
)
@click.argument("what", metavar="URL|FILE")
@click.option("--rate", help="Arrivals that wait for nobody: 500/s, 30/m; 10/s unless given.")
@click.option("--users", type=click.IntRange(1), help="Users that wait for each answer instead.")
@click.option("--think", help="How long a user thinks after an answer.")
@click.option("--for", "span", help="How long it goes on; 30s unless given.")
@click.option("--stages", help="From rate to rate, each with its span: 100/s:10s,500/s:1m.")
@click.option("--warm-up", help="At the begin, not counted.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes that share the load.")
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    help="What must hold: p99<250ms, errors<0.1%, rate>=490/s. Exits with 8 when it does not.",
)
@click.option("--through", metavar="URL", envvar="SCALER_LOADTEST_THROUGH",
              help="Redis, through which several machines share the load.")  # fmt: skip
@click.option("--run", "name", default="loadtest", show_default=True,
              help="What the processes that belong together have in common.")  # fmt: skip
@click.option("--parts", type=click.IntRange(1, 256), help="Gather the figures of so many parts.")
@click.option("--part", metavar="I/N", envvar="SCALER_LOADTEST_PART",
              help="Be one of them, 1/3 to 3/3.")  # fmt: skip
@click.option("--manifest", type=click.Choice(["kubernetes", "swarm"]),
              help="Print what runs all of it there.")  # fmt: skip
@click.option("--allow-host", is_flag=True, help="The target may be another machine.")
@click.option("--html", type=FILE, help="Write a page with plots.")
@click.option("--prometheus", type=FILE, help="Write figures for Prometheus.")
@click.option("--save", type=FILE, help="Write everything as JSON, to compare with later.")
@click.option("--compare", type=FILE, help="A saved run to compare with.")
@click.option("--json", "form", flag_value="json", default="table", help="Print JSON.")
def loadtest(
    through: str | None,
    name: str,
    parts: int | None,
    part: str | None,
    manifest: str | None,
    **given: Any,
) -> None:
    """Put load on a service of this machine, and measure what its users would see.

    FILE is a plan in YAML with several requests. Latency counts from the moment a request was due,
    whether it could be sent then or not. When this tester was the limit, the report says so. A
    request that was due and not sent is an error, so thresholds hold in such runs too.
    """
    from scaler.cli import loadtest as tested  # noqa: PLC0415 - start-up time
    from scaler.cli.loadtest_shared import Sharing  # noqa: PLC0415

    with errors():
        sharing = Sharing(through=through, name=name, parts=parts, part=part, manifest=manifest)
        raise SystemExit(tested.run(tested.Asked(**given), sharing))
