"""`behavior` of an HPA as limits; what it leaves out is written as the defaults that it has.

Source: Kubernetes 1.36, `pkg/apis/autoscaling/v2/defaults.go`.
"""

from collections.abc import Sequence
from typing import Any, Final

from scaler.core.units import format_percent, parse_quantity
from scaler.errors import ConfigError
from scaler.importing.draft import PERIOD, Draft, span
from scaler.importing.manifests import Json, inside, sequence, whole, word

PICK: Final = {"Max": "larger", "Min": "smaller", "Disabled": "none"}
TOLERANCE: Final = "10%"
SETTLE_DOWN_S: Final = 300
GROW: Final = (
    {"type": "Pods", "value": 4, "periodSeconds": 15},
    {"type": "Percent", "value": 100, "periodSeconds": 15},
)
SHRINK: Final = ({"type": "Percent", "value": 100, "periodSeconds": 15},)


def limits(draft: Draft, spec: Json, where: str) -> None:
    """How far and how fast: windows, rates and tolerances into the limits of a draft."""
    found: dict[str, Any] = draft.fields.setdefault("limits", {})
    given = spec.get("behavior") is not None
    if draft.options.exact:
        draft.fields |= {"compatibility": "hpa", "every": PERIOD}
        if not given:
            return  # without a behavior the HPA has other rules, which `hpa` knows
    up, down = inside(spec, "behavior", "scaleUp"), inside(spec, "behavior", "scaleDown")
    found |= _tolerance(up, down, where)
    key = "stabilizationWindowSeconds"
    settle_up = whole(up.get(key), f"{where}.scaleUp.{key}", 0)
    settle_down = whole(down.get(key), f"{where}.scaleDown.{key}", SETTLE_DOWN_S)
    if settle_up:
        found["settle_up"] = span(settle_up)
    found["settle_down"] = span(settle_down)
    found["grow"] = _rate(up, f"{where}.scaleUp", GROW)
    found["shrink"] = _rate(down, f"{where}.scaleDown", SHRINK)


def _tolerance(up: Json, down: Json, where: str) -> dict[str, str]:
    found = {}
    for name, half in (("up", up), ("down", down)):
        if half.get("tolerance") is not None:
            field = f"{where}.scale{name.title()}.tolerance"
            try:
                share = parse_quantity(word(half["tolerance"], field))
            except ValueError as error:
                raise ConfigError(f"{field}: {error}") from error
            found[f"tolerance_{name}"] = format_percent(share)
    return found if len(found) == 2 else {"tolerance": TOLERANCE, **found}


def _rate(half: Json, where: str, defaults: Sequence[Json]) -> dict[str, Any]:
    """One direction. Two bounds over one span have a short form."""
    pick = PICK.get(word(half.get("selectPolicy"), f"{where}.selectPolicy", "Max"))
    if pick is None:
        raise ConfigError(f"{where}.selectPolicy: must be Max, Min or Disabled")
    if pick == "none":
        return {"pick": "none"}
    given = sequence(half.get("policies"), f"{where}.policies") or defaults
    rules = [_rule(rule, f"{where}.policies[{n}]") for n, rule in enumerate(given)]
    chosen: dict[str, Any] = {} if pick == "larger" else {"pick": pick}
    if len(rules) == 1:
        return {**rules[0], **chosen}
    if len(rules) == 2 and rules[0]["per"] == rules[1]["per"]:
        first, second = rules
        return {"at_most": first["at_most"], "or": second["at_most"], "per": first["per"], **chosen}
    return {"rules": rules, **chosen}


def _rule(rule: Json, where: str) -> dict[str, Any]:
    value = whole(rule.get("value"), f"{where}.value")
    share = word(rule.get("type"), f"{where}.type") == "Percent"
    seconds = whole(rule.get("periodSeconds"), f"{where}.periodSeconds")
    return {"at_most": f"{value}%" if share else value, "per": span(seconds)}
