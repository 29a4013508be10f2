"""Where a server is: in the file, or in a variable of the environment; never in a message."""

import os
from collections.abc import Callable
from typing import Any, Final

from pydantic import SecretStr

from scaler.errors import ConfigError

VARIABLE: Final = r"^$|^[A-Za-z_][A-Za-z0-9_]*$"


def as_text(written: Any, example: str) -> Any:
    """What was written, if it is text. Raises ValueError."""
    if isinstance(written, str | SecretStr):
        return written
    raise ValueError(f"an address is text; write it like {example}")


def in_one_place(field: str, written: SecretStr, variable: str) -> None:
    """Raises ValueError unless exactly one of `field` and `field_env` says where it is."""
    if bool(written.get_secret_value()) == bool(variable):
        both, neither = f"both {field} and {field}_env say", f"neither {field} nor {field}_env says"
        found = both if variable else neither
        raise ValueError(f"{found} where it is; write exactly one of them")


def looked_up(
    who: str, variable: str, example: str, usable: Callable[[str], object] = bool, of: str = ""
) -> str:
    """The address in a variable, which is `usable`; `of` is what it is an address of.

    Raises:
        ConfigError: it is not set, or is none.
    """
    given = os.environ.get(variable, "")
    if not usable(given):
        found = f"holds no address of {of}" if given else "is not set"
        raise ConfigError(f"{who}: {variable} {found}; set {variable}={example}")
    return given
