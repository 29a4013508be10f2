"""The commands for Kubernetes: what to bring along, what may be done there, and who decides."""

from pathlib import Path

import click

from scaler.cli.group import command, daemon_of, errors, settings_of


@command(
    "scaler import hpa web.yaml\nkubectl get hpa -o yaml | scaler import hpa -\n"
    "scaler import scaledobject web.yaml -o policies/web.yaml",
    "import",
)
@click.argument("kind", type=click.Choice(["hpa", "scaledobject"]))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--exact", is_flag=True, help="Decide as the HPA does, to the number.")
@click.option("--prometheus", default="", metavar="URL", help="Where adapters' metrics are asked.")
@click.option("-n", "--namespace", default="", help="Of manifests that name none.")
@click.option("--context", default="", help="The kubeconfig context to write into the policies.")
@click.option("--json", "form", flag_value="json", default="table", help="Print JSON.")
@click.option("-o", "into", type=click.Path(path_type=Path), help="Write a new file.")
def import_(
    kind: str,
    files: tuple[Path, ...],
    prometheus: str,
    namespace: str,
    context: str,
    form: str,
    into: Path | None,
    *,
    exact: bool,
) -> None:
    """Turn manifests of an HPA or a ScaledObject into policies. Exits with 7 if some need you.

    FILES may hold several documents and lists; `-` is standard input. What does not map is said
    on stderr and in comments, and such a policy only observes.
    """
    from scaler.cli import imports  # noqa: PLC0415 - start-up time
    from scaler.importing.draft import Options  # noqa: PLC0415

    with errors():
        options = Options(exact=exact, prometheus=prometheus, namespace=namespace, context=context)
        raise SystemExit(imports.run(kind, files, options, into, form))


@command(
    "scaler rbac | kubectl apply -f -\nscaler rbac --namespace scaler policies/\n"
    "scaler rbac --sidecar deployment/web policies/"
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--service-account", "account", default="scaler", show_default=True)
@click.option(
    "-n",
    "--namespace",
    default="default",
    show_default=True,
    help="Where the daemon runs; '' leaves it to kustomize.",
)
@click.option("--sidecar", "own", default="", help="The workload that `workload: self` stands for.")
@click.option("--lease", default="", help="The Lease that daemons share; else the settings say.")
@click.option("--json", "form", flag_value="json", default="yaml", help="Print JSON.")
@click.pass_context
def rbac(
    context: click.Context,
    files: tuple[Path, ...],
    account: str,
    namespace: str,
    own: str,
    lease: str,
    form: str,
) -> None:
    """Print exactly the Roles that the policies need on Kubernetes, with a reason for each rule."""
    from scaler import policyfile  # noqa: PLC0415 - start-up time
    from scaler.cli import rbac as rights  # noqa: PLC0415
    from scaler.clients import kube_rights  # noqa: PLC0415

    with errors():
        settings = settings_of(context)
        policies = policyfile.load(files or settings.policies).insist().values()
        who = rights.Account(name=account, namespace=namespace)
        shared = kube_rights.of_lease(settings.lease, lease)
        rights.run(policies, who, form, act=settings.act, own=own, lease=shared)


@command(
    "scaler adopt web\nscaler adopt web --yes\nscaler adopt hpa/web -n shop > policies/web.yaml"
)
@click.argument("what")
@click.option(
    "-n", "--namespace", default="", help="Where the HPA is; that of the target if empty."
)
@click.option("--context", "cluster", default="", help="The kubeconfig context.")
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Where the manifest of the HPA is written to."
)
@click.option("-y", "--yes", is_flag=True, help="Delete the HPA without a question.")
@click.pass_context
def adopt(
    context: click.Context,
    what: str,
    namespace: str,
    cluster: str,
    keep: Path | None,
    *,
    yes: bool,
) -> None:
    """Take over from the HPA of a policy, or hpa/NAME, without a jump of the count.

    Prints the policy when there is none yet, and the steps when nobody says --yes.
    """
    from scaler import policyfile  # noqa: PLC0415 - start-up time
    from scaler.cli import adopt as handover  # noqa: PLC0415

    with errors():
        policies = policyfile.load(settings_of(context).policies).policies
        asked = handover.Asked(what=what, namespace=namespace, context=cluster, keep=keep)
        handover.run(asked, policies, daemon_of(context), yes=yes)
