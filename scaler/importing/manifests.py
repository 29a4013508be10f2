"""Kubernetes manifests out of text, for those who translate them: typed fields, named when wrong.

Pure: text in, values out. Where a field has another type than its API says, the error names it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from scaler.errors import ConfigError

Json = Mapping[str, Any]

MOST_BYTES: Final = 16 << 20  # of one file
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def documents(text: str, origin: str) -> list[Json]:
    """Every object in YAML or JSON, those inside of a `List` too.

    Raises:
        ConfigError: it is neither; the message names line and column.
    """
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{origin}: it is larger than {MOST_BYTES >> 20} MiB; split it")
    try:
        found = list(_parsed(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        raise ConfigError(f"{origin}{where}: it is no YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{origin}: it is no YAML: {str(error)[:200]}") from error
    return [one for value in found for one in _opened(value, origin)]


def _parsed(text: str) -> Iterator[Any]:
    """JSON by its own parser: YAML refuses some of it, such as tabs."""
    if text.lstrip()[:1] == "{":
        try:
            yield json.loads(text)
        except ValueError:
            pass
        else:
            return
    yield from yaml.load_all(text, _Loader)


def _opened(value: Any, origin: str) -> Iterator[Json]:
    if value is None:
        return
    if not isinstance(value, dict):
        raise ConfigError(f"{origin}: a document is no object; a manifest begins with apiVersion:")
    if str(value.get("kind", "")).endswith("List") and isinstance(value.get("items"), list):
        for item in value["items"]:
            yield from _opened(item, origin)
    else:
        yield value


def mapping(value: Any, field: str) -> Json:
    """A map; an empty one where nothing stands."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{field}: must be a map")
    return value


def sequence(value: Any, field: str) -> Sequence[Json]:
    """A list of maps; an empty one where nothing stands."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ConfigError(f"{field}: must be a list of maps")
    return value


def word(value: Any, field: str, default: str = "") -> str:
    """Text; `default` where nothing stands."""
    if value is None:
        return default
    if isinstance(value, dict | list):
        raise ConfigError(f"{field}: must be text")
    return str(value).lower() if isinstance(value, bool) else str(value)


def whole(value: Any, field: str, default: int | None = None) -> int:
    """A whole number, also one in quotes; `default` where nothing stands."""
    if value is None and default is not None:
        return default
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{field}: must be a whole number")
    return value


def inside(manifest: Json, *way: str) -> Json:
    """The map at the end of a way of names."""
    found = manifest
    for depth, name in enumerate(way, start=1):
        found = mapping(found.get(name), ".".join(way[:depth]))
    return found
