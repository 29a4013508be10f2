"""The fields of a Kubernetes target where its provider is not installed: they can be loaded."""

from typing import ClassVar, Literal

import pytest

from scaler import plugins
from scaler.core.document import Target
from scaler.interfaces import Ability


class KubernetesTarget(Target):
    short: ClassVar[str] = "workload"

    workload: str
    namespace: str = ""
    context: str = ""
    container: str = ""
    restart: Literal["evict", "delete"] = "evict"


class Plugin:
    target = KubernetesTarget
    abilities = frozenset(Ability)


def install(patch: pytest.MonkeyPatch) -> None:
    """Stand in for the provider, unless it is there."""
    names, provider = plugins.names, plugins.provider
    if "kubernetes" in names("providers"):
        return
    patch.setattr(plugins, "names", lambda group: (*names(group), "kubernetes"))
    patch.setattr(
        plugins, "provider", lambda kind: Plugin if kind == "kubernetes" else provider(kind)
    )
