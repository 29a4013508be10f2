"""Policy files to policies, with file, line, column, field and remedy in every message.

A file that fails is reported with all its mistakes at once. `PolicyFolder` keeps the last good
policies of each file, so a slip of the pen at night takes nothing out of service.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from scaler import mistakes, plugins
from scaler.clock import Clock
from scaler.core.document import Balancer, Source, Target
from scaler.core.policy import Policy
from scaler.interfaces import Ability
from scaler.located import Document, Field, InvalidFiles, Place, Problem, read
from scaler.validated import M, validated

SUFFIXES: Final = (".yaml", ".yml")
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?")
LOOK: Final = timedelta(seconds=1)  # between two looks at the files
TOP: Final = ("version", "defaults", "policies")


@dataclass(frozen=True, slots=True)
class Policies:
    """What some files hold, and what is wrong with them."""

    policies: Mapping[str, Policy]
    files: tuple[Path, ...]
    problems: tuple[Problem, ...] = ()
    owner: Mapping[str, Path] = field(default_factory=dict)  # which file a policy is from

    def insist(self) -> Mapping[str, Policy]:
        """The policies.

        Raises:
            InvalidFiles: a file has a problem.
        """
        if self.problems:
            raise InvalidFiles(self.problems)
        return self.policies


def load(paths: Iterable[Path]) -> Policies:
    """Everything in these files and folders."""
    return PolicyFolder(paths).reload()


class PolicyFolder:
    """Files and folders that are read again and again."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        self._good: dict[Path, dict[str, Policy]] = {}

    def reload(self) -> Policies:
        """The policies of all files, those of a file that now fails as they last were."""
        files, problems = _files(self.paths)
        owner: dict[str, Path] = {}
        together: dict[str, Policy] = {}
        good = {}
        for file in files:
            document = read(file)
            found = policies_of(document, owner)
            problems += document.problems
            kept = self._good.get(file, {}) if document.problems else found
            good[file] = kept
            for name, policy in kept.items():
                together.setdefault(name, policy)
                owner.setdefault(name, file)
        for missing in (p.file for p in problems if p.file not in good):
            for name, policy in self._good.get(missing, {}).items():
                together.setdefault(name, policy)
        self._good.update(good)
        for gone in self._good.keys() - set(files) - {p.file for p in problems}:
            del self._good[gone]
        ordered = sorted(problems, key=lambda p: (str(p.file), p.place.line, p.place.column))
        return Policies(together, tuple(files), tuple(ordered), owner)


def _files(paths: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    """The files meant; those of a folder by suffix, in order, without hidden ones."""
    files: list[Path] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
        except OSError as error:
            inside = []
            problems.append(_no_file(path, f"cannot be read: {error.strerror}"))
        for file in inside:
            named = file == path or (
                file.suffix in SUFFIXES
                and not file.name.startswith(".")
                and not file.name.endswith((".test.yaml", ".test.yml"))
            )
            if not named or (file != path and not file.is_file()):
                continue
            if not file.exists():
                problems.append(_no_file(file, "there is no such file or folder; check the name"))
            elif file not in files:
                files.append(file)
    return files, problems


def _no_file(path: Path, message: str) -> Problem:
    return Problem(file=path, place=Place(1, 1), field="", message=message)


def policies_of(document: Document, owner: Mapping[str, Path]) -> dict[str, Policy]:
    """The policies in a document; what is wrong with it stands in its problems afterwards.

    `owner` names the file of each policy that is known already.
    """
    policies = {}
    written, defaults = _top(document)
    for name, raw in written.items():
        policy = _policy(document, name, raw, defaults, owner)
        if policy is not None:
            policies[name] = policy
    return policies


def _top(document: Document) -> tuple[dict[str, Any], dict[str, Any]]:
    """The policies as they are written, and their defaults."""
    top = document.plain
    if document.problems and top is None:
        return {}, {}
    if not isinstance(top, dict):
        document.add((), "must be a map that begins with policies:")
        return {}, {}
    unknown = top.keys() - set(TOP)
    for key in unknown:
        document.add((key,), mistakes.unknown(key, TOP), document.place((key,), of_key=True))
    if top.get("version", 1) != 1:
        document.add(("version",), f"version {top['version']} is not known; write version: 1")
    defaults = top.get("defaults") or {}
    if not isinstance(defaults, dict):
        document.add(("defaults",), "must be a map of fields, as in a policy")
        return {}, {}
    written = top.get("policies")
    if isinstance(written, dict):
        return written, defaults
    if "policies" in top:
        document.add(("policies",), "must be a map from names to policies")
    elif not unknown:  # else one of them is meant to be it
        document.add((), mistakes.missing("policies"))
    return {}, {}


def _policy(
    document: Document,
    name: str,
    raw: object,
    defaults: dict[str, Any],
    owner: Mapping[str, Path],
) -> Policy | None:
    path = ("policies", name)
    here = document.place(path, of_key=True)
    if not NAME.fullmatch(name):
        remedy = "use lower case letters, digits and hyphens, at most 53"
        document.add(path, f'"{name}" cannot be a name; {remedy}', here)
    if name in owner:
        message = f'"{name}" is already in {owner[name]}; give one of them another name'
        document.add(path, message, here)
    if not isinstance(raw, dict):
        document.add(path, "must be a map with at least a target; see scaler schema --docs")
        return None
    fields = {**_merged(defaults, raw), "name": name}
    reader = _PolicyReader(document, path)
    fields["target"] = reader.target(fields, name)
    fields["metrics"] = reader.metrics(fields.get("metrics", []))
    if fields.get("balancer") is not None:
        fields["balancer"] = reader.balancer(fields["balancer"])
    if not isinstance(fields["metrics"], list):
        del fields["metrics"]
    policy: Policy | None = reader.validated(Policy, fields, path)
    if policy is None or not policy.target.kind:
        return None
    reader.check(policy)
    return policy


def _spelt_out(target: Any) -> Any:
    """The target with a map in place of a bare word, where the provider knows what it means."""
    if not isinstance(target, dict):
        return target
    return {kind: _as_map(kind, inside) for kind, inside in target.items()}


def _as_map(kind: str, inside: Any) -> Any:
    if not isinstance(inside, str) or kind not in plugins.names("providers"):
        return inside
    short = plugins.provider(kind).target.short
    return {short: inside} if short else inside


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: maps key by key, everything else as a whole."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merged(old, value) if both and isinstance(old, dict) else value
    return merged


class _PolicyReader:
    """Validates one policy; mistakes go to the document."""

    def __init__(self, document: Document, path: Field) -> None:
        self._document = document
        self._path = path

    def target(self, fields: Mapping[str, Any], name: str) -> Target:
        """The target by its provider's own model; a bare one after a mistake."""
        path = (*self._path, "target")
        if "target" not in fields:
            remedy = "add target: and a platform such as local"
            self._add(self._path, mistakes.missing("target", remedy), of_key=True)
            return Target()
        chosen = self._one_of(_spelt_out(fields["target"]), path, "providers", "platform")
        if chosen is None:
            return Target()
        kind, inside = chosen
        model = plugins.provider(kind).target
        made = self.validated(model, {**inside, "kind": kind, "policy": name}, (*path, kind))
        return made or Target()

    def metrics(self, written: Any) -> Any:
        """The metrics as they stand, each source by its own model."""
        if not isinstance(written, list):
            self._add((*self._path, "metrics"), "must be a list; begin each metric with a dash")
            return None
        return [self._metric(metric, number) for number, metric in enumerate(written)]

    def balancer(self, written: Any) -> Balancer | None:
        path = (*self._path, "balancer")
        chosen = self._one_of(written, path, "balancers", "balancer")
        if chosen is None:
            return None
        kind, inside = chosen
        model = plugins.balancer(kind).balancer
        made: Balancer | None = self.validated(model, {**inside, "kind": kind}, (*path, kind))
        return made

    def _metric(self, written: Any, number: int) -> Any:
        if not isinstance(written, dict) or "source" not in written:
            return written
        path = (*self._path, "metrics", number, "source")
        chosen = self._one_of(written["source"], path, "sources", "source")
        if chosen is None:
            return {**written, "source": Source()}
        kind, inside = chosen
        model = plugins.source(kind).source
        made = self.validated(model, {**inside, "kind": kind}, (*path, kind))
        return {**written, "source": made or Source()}

    def _one_of(
        self, written: Any, path: Field, group: str, what: str
    ) -> tuple[str, dict[str, Any]] | None:
        known = plugins.names(group)
        if not isinstance(written, dict) or len(written) != 1:
            example = f"{known[0]}: {{...}}" if known else "..."
            self._add(path, f"must be a map with exactly one {what}, such as {example}")
            return None
        ((kind, inside),) = written.items()
        if kind not in known:
            self._add((*path, kind), mistakes.unknown(kind, known, what), of_key=True)
            return None
        if inside is None:
            inside = {}
        if not isinstance(inside, dict):
            self._add((*path, kind), f"must be a map of the fields of {kind}")
            return None
        return kind, inside

    def validated(self, model: type[M], fields: Mapping[str, Any], path: Field) -> M | None:
        return validated(model, fields, path, self._add)

    def check(self, policy: Policy) -> None:
        """What only the platform and the policy together can say."""
        abilities = plugins.provider(policy.target.kind).abilities
        lowest = [("limits", policy.limits.min), *((None, w.min) for w in policy.schedule)]
        if Ability.SCALE_TO_ZERO not in abilities and any(low == 0 for _, low in lowest):
            where = (*self._path, "limits", "min")
            self._add(where, f"{policy.target.kind} cannot scale to zero; write min: 1 or more")
        if policy.balancer is not None and Ability.CHOOSE_VICTIMS not in abilities:
            message = (
                f"{policy.target.kind} chooses by itself which instances go, so none can be spared "
                "until its requests are answered; remove the balancer"
            )
            self._add((*self._path, "balancer"), message, of_key=True)

    def _add(self, path: Field, message: str, *, of_key: bool = False) -> None:
        """A problem at `path`, or at the same path of `defaults` when it stands there."""
        document, inside = self._document, path[len(self._path) :]
        known = document.keys if of_key else {**document.keys, **document.values}
        inherited = ("defaults", *inside)
        if inside and path not in known and inherited in known:
            path = inherited
        document.add(path, message, document.place(path, of_key=of_key))


async def watch(paths: Sequence[Path], clock: Clock) -> AsyncIterator[None]:
    """Yields once at the start, and after changes in these files and folders have settled.

    They are looked at, since the kernel gives no notice of changes on network and bind mounts or
    behind the links of a ConfigMap. A hundred files take a millisecond.
    """
    told = before = None
    while True:
        await clock.sleep(LOOK)
        seen = await asyncio.to_thread(_look, paths)
        if seen == before != told:
            told = seen
            yield
        before = seen


def _look(paths: Sequence[Path]) -> list[tuple[Path, tuple[int, int, int] | None]]:
    """Every file with what changes when its content does."""
    seen: list[tuple[Path, tuple[int, int, int] | None]] = []
    for file in _files(paths)[0]:
        try:
            found = file.stat()
        except OSError:
            seen.append((file, None))
        else:
            seen.append((file, (found.st_ino, found.st_mtime_ns, found.st_size)))
    return seen
