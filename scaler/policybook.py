"""The policies in force: those of files and, where the operator allows it, those of labels."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaler import labels, policyfile
from scaler.core.policy import Policy
from scaler.errors import ScalerError
from scaler.interfaces import Labelled, Labelling, Provider
from scaler.located import Problem
from scaler.settings import Labels


class PolicyBook:
    """Read at the start, and again whenever files or labels may have changed."""

    def __init__(
        self, paths: Sequence[Path], rules: Labels, provider: Callable[[str], Provider[Any]]
    ) -> None:
        """`provider` opens a platform, or raises why it cannot be opened now."""
        self.trouble = ""  # why labels could not be looked at; what was known of them still counts
        self._folder = policyfile.PolicyFolder(paths)
        self._files = policyfile.Policies({}, ())
        self._provider = provider
        self._reader = labels.LabelReader(rules.most)
        self._from_labels = labels.Found(policies={})
        self._seen: dict[tuple[str, str], Sequence[Labelled]] = {}  # by platform and label
        self._asked = [
            (kind, labels.ENABLE) for kind in ("docker", "swarm") if getattr(rules, kind)
        ]
        if rules.autoheal:
            self._asked.append(("docker", labels.AUTOHEAL))

    @property
    def policies(self) -> Mapping[str, Policy]:
        """By name; a file wins over a label."""
        return {**self._from_labels.policies, **self._files.policies}

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self._files.problems + self._from_labels.problems

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of labels beside mistakes."""
        return self._from_labels.notes + ((self.trouble,) if self.trouble else ())

    @property
    def looks_at_labels(self) -> bool:
        return bool(self._asked)

    async def read(self) -> policyfile.Policies:
        """Read files and labels again; what the files hold."""
        self._files = await asyncio.to_thread(self._folder.reload)
        await self.look()
        return self._files

    async def look(self) -> None:
        """Look at labels again. While nobody answers, what was known of them stays."""
        self.trouble = ""
        for kind, label in self._asked:
            try:
                provider = self._provider(kind)
                if isinstance(provider, Labelling):
                    self._seen[kind, label] = await provider.labelled(label)
            except ScalerError as error:
                self.trouble = f"labels cannot be read: {error}"
        found = [one for kind, label in self._asked for one in self._seen.get((kind, label), ())]
        self._from_labels = self._reader.read(_each_once(found), self._files.owner)


def _each_once(found: Sequence[Labelled]) -> Sequence[Labelled]:
    """Who asks to be managed is not also looked after as a single container."""
    managed = {one.name for one in found if one.labels.get(labels.ENABLE) == "true"}
    return [
        one for one in found if one.labels.get(labels.ENABLE) == "true" or one.name not in managed
    ]
