"""Quantities as Kubernetes writes them: `250m`, `64Mi`, `1.5`, `12e6`, `123456789n`."""

import re
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final

_FACTORS: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
_WRITTEN: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)([numkKMGTPE]?i?)")


@lru_cache(maxsize=4096)
def parse(written: str) -> float:
    """The number in cores, bytes or whatever it counts.

    Raises:
        ValueError: it is none.

    Source: apimachinery `resource.ParseQuantity`.
    """
    found = _WRITTEN.fullmatch(written.strip())
    if found is None or found[2] not in _FACTORS:
        raise ValueError(f'"{written}" is no quantity')
    try:
        return float(Decimal(found[1]) * _FACTORS[found[2]])
    except (InvalidOperation, OverflowError) as error:
        raise ValueError(f'"{written}" is no quantity') from error
