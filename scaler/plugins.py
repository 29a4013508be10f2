"""Providers, sources and balancers by entry point. Only those that a policy names are imported."""

from functools import cache
from importlib.metadata import entry_points
from typing import cast

from scaler.errors import ConfigError
from scaler.interfaces import BalancerPlugin, ProviderPlugin, SourcePlugin


@cache
def names(group: str) -> tuple[str, ...]:
    """All that is installed: `names("providers")`."""
    return tuple(sorted({point.name for point in entry_points(group=f"scaler.{group}")}))


def provider(kind: str) -> ProviderPlugin:
    return cast("ProviderPlugin", _load("providers", kind))


def source(kind: str) -> SourcePlugin:
    return cast("SourcePlugin", _load("sources", kind))


def balancer(kind: str) -> BalancerPlugin:
    return cast("BalancerPlugin", _load("balancers", kind))


@cache
def _load(group: str, kind: str) -> object:
    for point in entry_points(group=f"scaler.{group}", name=kind):
        return point.load()
    raise ConfigError(f'no {group[:-1]} is named "{kind}"; installed: {", ".join(names(group))}')
