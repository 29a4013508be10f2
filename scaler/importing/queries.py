"""Queries that are likely to give what an adapter answers to an HPA.

What an adapter makes of a metric stands in its own configuration, which a manifest does not show:
each of these is a beginning that a person looks at.
"""

from scaler.importing.draft import Draft
from scaler.importing.manifests import Json, inside, mapping, sequence, word

OPERATORS = {"In": "=~", "NotIn": "!~"}


def matchers(selector: Json, where: str) -> list[str]:
    """A label selector as matchers of PromQL."""
    labels = mapping(selector.get("matchLabels"), f"{where}.matchLabels")
    found = [f'{key}="{_quoted(word(value, where))}"' for key, value in labels.items()]
    for rule in sequence(selector.get("matchExpressions"), f"{where}.matchExpressions"):
        key, operator = word(rule.get("key"), where), word(rule.get("operator"), where)
        values = rule.get("values")
        if operator in OPERATORS and isinstance(values, list):
            alternatives = "|".join(_quoted(str(value)) for value in values)
            found.append(f'{key}{OPERATORS[operator]}"{alternatives}"')
        else:
            found.append(f'{key}{"!=" if operator == "Exists" else "="}""')
    return found


def series(name: str, chosen: list[str]) -> str:
    """A metric with its matchers."""
    return name + ("{" + ",".join(chosen) + "}" if chosen else "")


def of_namespace(draft: Draft) -> list[str]:
    """The matcher for where the target is, when that is known."""
    kubernetes = inside(draft.fields, "target").get("kubernetes")
    namespace = kubernetes.get("namespace") if isinstance(kubernetes, dict) else None
    return [f'namespace="{namespace}"'] if namespace else []


def of_pods(draft: Draft) -> list[str]:
    """The matcher for the pods of the target, by how their names begin."""
    kubernetes = inside(draft.fields, "target").get("kubernetes")
    workload = kubernetes.get("workload") if isinstance(kubernetes, dict) else kubernetes
    return [*of_namespace(draft), f'pod=~"{_quoted(str(workload).rpartition("/")[2])}-.*"']


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
