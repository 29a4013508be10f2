"""Names in the cache: which call of which version of a function a value belongs to.

    NAMESPACE:{FUNCTION.VERSION:ARGUMENTS}        a value; braces keep its lease on the same node
    NAMESPACE:{FUNCTION.VERSION:ARGUMENTS}:lease  who is computing it
    NAMESPACE:{=:KEY}                             a value set by hand
    NAMESPACE:tag:TAG                             the token of a tag

Different arguments never share a name: 1, "1" and True are three.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from string import Formatter
from tokenize import TokenError
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

import msgspec

LONGEST: Final = 200  # characters of arguments; more become a digest
NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)*")
LEASE: Final = ":lease"
Builder = Callable[[tuple[Any, ...], Mapping[str, Any]], str]


def written(value: object) -> str:
    """A value as a part of a key; values of different types are written differently.

    Raises:
        TypeError: nothing says what tells such values apart.
    """
    for kinds, form in _FORMS:
        if isinstance(value, kinds):
            return form(value)
    raise TypeError(
        f"a {type(value).__name__} cannot be part of a key; name the arguments that matter, as in "
        'key="quote:{symbol}", or give key=lambda ...: "..."'
    )


def _text(value: str) -> str:
    plain = value.isascii() and value.isalnum() and value[0].isalpha()
    return value if plain else "'" + quote(value, safe="-_.~ ")


def _pairs(value: Mapping[Any, Any]) -> str:
    return ",".join(sorted(f"{written(name)}={written(one)}" for name, one in value.items()))


_FORMS: Final[Sequence[tuple[type | tuple[type, ...], Callable[[Any], str]]]] = (
    (Enum, lambda it: f"!{type(it).__name__}.{it.name}"),
    (str, _text),
    ((bool, type(None)), lambda it: f"!{it}"),
    ((int, float), repr),
    (Decimal, lambda it: f"d{it}"),
    ((date, time), lambda it: f"@{it.isoformat()}"),  # a datetime is a date
    (timedelta, lambda it: f"@P{it.total_seconds()!r}"),
    (bytes, lambda it: f"b{it.hex()}"),
    (UUID, lambda it: f"u{it}"),
    ((tuple, list), lambda it: f"({','.join(written(one) for one in it)})"),
    ((frozenset, set), lambda it: f"<{','.join(sorted(written(one) for one in it))}>"),
    (Mapping, lambda it: f"[{_pairs(it)}]"),
)


def shortened(arguments: str) -> str:
    if len(arguments) <= LONGEST:
        return arguments
    return f"#{blake2b(arguments.encode(), digest_size=20).hexdigest()}"


def by_hand(key: str) -> str:
    """The middle of a key that a caller made up."""
    return shortened(quote(key, safe="-_.~:/ "))


def builder(function: Callable[..., Any], template: str | Callable[..., str] | None) -> Builder:
    """Makes the arguments' part of a key from a call.

    Without a template all arguments count, but for `self` and `cls`.

    Raises:
        ValueError: the template names what is no argument.
        TypeError: the function takes any number of arguments and there is no template.
    """
    if callable(template):
        chosen = template
        return lambda args, named: by_hand(str(chosen(*args, **named)))
    parameters = inspect.signature(function).parameters
    names = list(parameters)
    open_ended = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    if any(one.kind in open_ended for one in parameters.values()):
        raise TypeError(f"{function.__qualname__} takes any arguments; give key=lambda ...: '...'")
    if template is None:
        own = [name for name in names if name not in ("self", "cls")]
        template = ",".join(f"{{{name}}}" for name in own)
    form, wanted = _parsed(template, names)
    positions = [names.index(name) for name in wanted]
    defaults = {name: one.default for name, one in parameters.items()}
    count = len(names)
    only = positions[0] if len(positions) == 1 else None

    def built(args: tuple[Any, ...], named: Mapping[str, Any]) -> str:
        if named or len(args) != count:
            args = _filled(names, defaults, args, named)
        if only is not None:
            value = args[only]
            if type(value) is str and value.isascii() and value.isalnum() and value[0].isalpha():
                text = form % value
            else:
                text = form % written(value)
        else:
            text = form % tuple([written(args[at]) for at in positions])
        return text if len(text) <= LONGEST else shortened(text)

    return built


def _filled(
    names: Sequence[str],
    defaults: Mapping[str, Any],
    args: tuple[Any, ...],
    named: Mapping[str, Any],
) -> tuple[Any, ...]:
    """All arguments in their order; TypeError as the call itself would raise it."""
    values = list(args)
    taken = 0
    for name in names[len(args) :]:
        if name in named:
            values.append(named[name])
            taken += 1
        elif defaults[name] is not inspect.Parameter.empty:
            values.append(defaults[name])
        else:
            raise TypeError(f"missing argument: {name!r}")
    if taken != len(named) or len(values) != len(names):
        raise TypeError(f"unexpected arguments: {args!r} {dict(named)!r}; there are {names}")
    return tuple(values)


def _parsed(template: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """A template as a %-form and the names in it."""
    form, wanted = "", []
    for text, name, spec, conversion in Formatter().parse(template):
        form += quote(text, safe="-_.~:/, ").replace("%", "%%")
        if name is None:
            continue
        if name not in names or spec or conversion:
            raise ValueError(f"{{{name}}} in {template!r} is no argument; there are {names}")
        wanted.append(name)
        form += "%s"
    return form, wanted


def tags_of(function: Callable[..., Any], templates: Sequence[str]) -> list[Builder]:
    """One builder for each tag of a function; a tag may name arguments, as in `user:{id}`."""
    return [builder(function, template) for template in templates]


def named(function: Callable[..., Any]) -> str:
    """What a function is called in keys and statistics."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", f"{function.__module__}.{function.__qualname__}")


def version(function: Callable[..., Any], declared: Any, template: object, pinned: str = "") -> str:
    """Eight hex digits that change with what a function computes and what its values look like.

    Comments, layout and docstrings do not count, nor do functions that it calls. `pinned` stands
    for the code, when its author says that values stay compatible.
    """
    code = pinned or _code(function)
    digest = blake2b(digest_size=4)
    for part in (code, _shape(declared), template if isinstance(template, str) else ""):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _code(function: Callable[..., Any]) -> str:
    function = inspect.unwrap(function)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, TokenError):  # no source, or not of this function
        return repr((function.__code__.co_code, function.__code__.co_names))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.decorator_list = []
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:]
    return ast.dump(tree)


def _shape(declared: Any) -> str:
    try:
        return repr(msgspec.json.schema(declared))
    except (TypeError, RuntimeError):
        return repr(declared)
