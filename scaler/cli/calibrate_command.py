"""The command `scaler calibrate`; what it does is in `calibrate.py`, imported when it runs."""

from pathlib import Path
from typing import Any

import click

from scaler.cli.group import command, errors, settings_of

FILE = click.Path(path_type=Path, dir_okay=False)


@command(
    "scaler calibrate http://127.0.0.1:8080/ --slo 'p99<250ms'\n"
    "scaler calibrate plan.yaml --slo 'p95<1s' --highest 500/s --html capacity.html\n"
    "scaler calibrate http://127.0.0.1:8080/ --slo 'p99<250ms' --instances 4 "
    "--point 1=180 --point 2=350\n"
    "scaler calibrate http://127.0.0.1:8080/ --slo 'p99<250ms' --write web.yaml --policy web\n"
    "scaler calibrate web --slo 'p99<250ms' --path /quote --instances 1,2,4 --metric cpu "
    "--write web.yaml"
)
@click.argument("what", metavar="URL|FILE|POLICY")
@click.option("--slo", required=True, help="What must hold, as p99<250ms; failed ones are late.")
@click.option("--lowest", default="5/s", show_default=True, help="The rate to begin with.")
@click.option("--highest", default="20000/s", show_default=True, help="Never more than this.")
@click.option("--for", "span", default="400s", show_default=True, help="Load in all, at most.")
@click.option("--instances", default="1", show_default=True, metavar="N[,N...]",
              help="How many share the load; several counts of a policy.")  # fmt: skip
@click.option("--path", default="/", show_default=True, help="What is asked of a policy's own.")
@click.option("--point", "points", multiple=True, metavar="N=RATE",
              help="Capacity of N instances from before, for the curve of growth.")  # fmt: skip
@click.option("--growth", default="40%", show_default=True, help="Of the load, in a minute.")
@click.option("--ready", default="", help="Until a new instance is ready: 30s, or as measured.")
@click.option("--write", type=FILE, help="Put the goal into this file, with how it was measured.")
@click.option("--policy", default="", help="The policy in that file.")
@click.option("--metric", default="requests", show_default=True, help="Its metric.")
@click.option("--html", type=FILE, help="Write a page with a plot.")
@click.option("--allow-host", is_flag=True, help="The target may be another machine.")
@click.option("--json", "form", flag_value="json", default="table", help="Print JSON.")
@click.pass_context
def calibrate(context: click.Context, /, **given: Any) -> None:
    """Find the highest load that one instance carries within an objective.

    Puts load on the service for some minutes, up to more than it carries. FILE is a plan of a load
    test, for several requests. Instances of a POLICY of local processes are started for it, beside
    those that run, and stopped again. Exits with 1 when no capacity can be named, and says why.
    """
    from scaler.cli import calibrate as calibrated  # noqa: PLC0415 - start-up time

    with errors():
        what = given["what"]
        named = "://" not in what and not Path(what).exists() and Path(what).name == what
        paths = tuple(settings_of(context).policies) if named else ()
        given["instances"] = calibrated.counts_of(given["instances"])
        raise SystemExit(calibrated.run(calibrated.Asked(**given, policies=paths)))
