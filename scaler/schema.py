"""The JSON Schema of policy files and their reference, made from the models that validate them."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import PydanticUndefined

from scaler import plugins
from scaler.core.policy import Policy
from scaler.core.units import Amount, Per, Ratio, Spans, format_percent, format_span

UNITS: Final = (
    "Percentages end with `%`, spans with a unit (`500ms`, `30s`, `5m`, `1h30m`), sizes are "
    "written like `512MiB` or `2GB`. The same as a schema for editors: `scaler schema`."
)
MARK: Final = "<!-- below this line: written by hand -->"


class _Generator(GenerateJsonSchema):
    """Defaults as people write them."""

    def encode_default(self, dft: Any) -> Any:
        return written(dft)


def written(value: Any) -> Any:
    """A default as it would stand in a file."""
    if isinstance(value, BaseModel):
        return {
            (field.alias or name): written(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if getattr(value, name) != field.default and not field.exclude
        }
    if isinstance(value, timedelta):
        return format_span(value)
    if isinstance(value, Ratio):
        return format_percent(value)
    if isinstance(value, Amount | Per | Spans):
        return str(value)
    if isinstance(value, tuple | list):
        return [written(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def policy_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a policy file with everything that is installed."""
    targets = {kind: plugins.provider(kind).target for kind in plugins.names("providers")}
    sources = {kind: plugins.source(kind).source for kind in plugins.names("sources")}
    balancers = {kind: plugins.balancer(kind).balancer for kind in plugins.names("balancers")}
    models: list[type[BaseModel]] = [
        Policy,
        *targets.values(),
        *sources.values(),
        *balancers.values(),
    ]
    refs, together = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)],
        by_alias=True,
        schema_generator=_Generator,
        ref_template="#/$defs/{model}",
    )
    parts: dict[str, Any] = together["$defs"]
    for part in parts.values():
        _tidy(part)
    policy = parts["Policy"]
    policy["properties"]["target"] = _exactly_one("What is scaled.", targets, refs)
    said = "What sends requests to the instances."
    policy["properties"]["balancer"] = _exactly_one(said, balancers, refs)
    metric = parts["Metric"]
    metric["properties"]["source"] = _exactly_one("Where it is read.", sources, refs)
    when = metric["properties"]["when"]
    metric["properties"]["when"] = {**when, "anyOf": [{"$ref": "#/$defs/Threshold"}, _bare(when)]}
    for key in ("type", "items"):
        metric["properties"]["when"].pop(key, None)
    used = {**{k: v for k, v in parts.items() if k not in ("Target", "Source", "Balancer")}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "scaler policies",
        "type": "object",
        "additionalProperties": False,
        "required": ["policies"],
        "properties": {
            "version": {"const": 1, "description": "Version of this format."},
            "defaults": {
                "type": "object",
                "description": "Fields that every policy of this file begins with.",
            },
            "policies": {
                "type": "object",
                "description": "Policies by name.",
                "propertyNames": {"pattern": "^[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?$"},
                "additionalProperties": {"$ref": "#/$defs/Policy"},
            },
        },
        "$defs": dict(sorted(used.items())),
    }


def _bare(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: part[key] for key in ("type", "items") if key in part}


def _exactly_one(
    description: str, models: Mapping[str, type[BaseModel]], refs: Mapping[Any, JsonSchemaValue]
) -> dict[str, Any]:
    return {
        "type": "object",
        "description": f"{description} Exactly one of them.",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {
            kind: _or_word(model, refs[model, "validation"]) for kind, model in models.items()
        },
    }


def _or_word(model: type[BaseModel], ref: JsonSchemaValue) -> JsonSchemaValue:
    """The map, or a bare word where that is short for one of its fields."""
    return {"anyOf": [{"type": "string"}, ref]} if getattr(model, "short", "") else ref


def _tidy(part: dict[str, Any]) -> None:
    """Without hidden fields, and without titles that repeat the names."""
    properties = part.get("properties", {})
    for name in [name for name, inner in properties.items() if inner.get("hidden")]:
        del properties[name]
    for inner in properties.values():
        inner.pop("title", None)
    if "required" in part:
        part["required"] = [name for name in part["required"] if name in properties]


def policy_reference() -> str:
    """Every field of every model as Markdown tables, the first part of `docs/policies.md`."""
    lines = [
        "# Policies",
        "",
        "A file holds a map of policies; a name is unique over all files. What every file may say:",
        "",
        "| field | meaning |",
        "|---|---|",
        "| `version` | `1`, the version of this format. |",
        "| `defaults` | Fields that every policy of this file begins with; maps are merged. |",
        "| `policies` | The policies by name. |",
        "",
        UNITS,
        "",
    ]
    for title, model in _sections():
        lines += [
            f"## {title}",
            "",
            *_words(model),
            "| field | default | meaning |",
            "|---|---|---|",
        ]
        lines += [_row(name, field) for name, field in _shown(model)]
        lines.append("")
    return "\n".join(lines) + f"\n{MARK}\n"


def _words(model: type[BaseModel]) -> list[str]:
    text = " ".join(line.strip() for line in (model.__doc__ or "").splitlines()).strip()
    return [text, ""] if text else []


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Each model once, in the order in which a reader meets it."""
    targets, sources = plugins.names("providers"), plugins.names("sources")
    balancers = plugins.names("balancers")
    seen: set[type[BaseModel]] = set()
    queue: list[tuple[str, type[BaseModel]]] = [("A policy", Policy)]
    while queue:
        path, model = queue.pop(0)
        if model in seen:
            continue
        seen.add(model)
        yield path, model
        prefix = "" if model is Policy else f"{path}."
        for name, field in _shown(model):
            if model is Policy and name == "target":
                queue += [(f"target.{k}", plugins.provider(k).target) for k in targets]
            elif model is Policy and name == "balancer":
                queue += [(f"balancer.{k}", plugins.balancer(k).balancer) for k in balancers]
            elif name == "source":
                queue += [(f"metrics.source.{k}", plugins.source(k).source) for k in sources]
            else:
                queue += [(f"{prefix}{name}", inner) for inner in _models_in(field.annotation)]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)


def _shown(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if not (isinstance(extra, dict) and extra.get("hidden")):
            yield field.alias or name, field


def _row(name: str, field: Any) -> str:
    default = "**required**" if field.is_required() else ""
    if not field.is_required() and field.default not in (None, PydanticUndefined, "", ()):
        value = written(field.default)
        default = "" if value in ({}, []) else f"`{_yaml(value)}`"
    meaning = (field.description or "").replace("\n", " ").replace("|", "\\|")
    return f"| `{name}` | {default} | {meaning} |"


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_yaml(inner) for inner in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
