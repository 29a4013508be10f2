"""What a person wrote, as a model; each mistake with its field and a remedy."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from scaler import mistakes
from scaler.core.document import Wrong
from scaler.located import Field

M = TypeVar("M", bound=BaseModel)


class Add(Protocol):
    """Takes a mistake: where it stands, and what to write."""

    def __call__(self, path: Field, message: str, *, of_key: bool = False) -> None: ...


def validated(model: type[M], fields: Mapping[str, Any], path: Field, add: Add) -> M | None:
    """The model of `fields`; None when `add` has heard of mistakes. `path` is where they stand."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _explain(detail, path, model, add)
        return None


def _explain(detail: ErrorDetails, path: Field, model: type[BaseModel], add: Add) -> None:
    where = detail["loc"]
    if detail["type"] == "extra_forbidden":
        known = fields_at(model, where[:-1])
        add((*path, *where), mistakes.unknown(str(where[-1]), known), of_key=True)
    elif detail["type"] == "missing":
        add((*path, *where[:-1]), mistakes.missing(str(where[-1])), of_key=True)
    else:
        cause = detail.get("ctx", {}).get("error")
        inside = cause.field if isinstance(cause, Wrong) else ()
        add((*path, *where, *inside), mistakes.message(detail))


def fields_at(model: type[BaseModel], where: Field) -> list[str]:
    """What may stand in the map at `where` of a model, hidden fields left out."""
    inner: Any = model
    for part in where:
        if isinstance(part, str) and isinstance(inner, type) and issubclass(inner, BaseModel):
            fields = {field.alias or name: field for name, field in inner.model_fields.items()}
            inner = _model_in(fields[part].annotation) if part in fields else None
    if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
        return []
    return [
        field.alias or name
        for name, field in inner.model_fields.items()
        if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("hidden"))
    ]


def _model_in(annotation: Any) -> Any:
    """The model inside `Model | None`, `tuple[Model, ...]` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _model_in(part)) is not None:
            return found
    return None
