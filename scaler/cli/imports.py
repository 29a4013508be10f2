"""`scaler import`: manifests of other autoscalers as policies, and a word on what does not map."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from scaler import located, policyfile
from scaler.cli.output import show
from scaler.errors import ConfigError
from scaler.importing import draft, hpa, scaledobject, written
from scaler.importing.draft import Draft, Options
from scaler.importing.manifests import Json, documents

UNMAPPED: Final = 7
MAKERS: Final[dict[str, tuple[str, Callable[[Json, Options], Draft]]]] = {
    "hpa": (hpa.KIND, hpa.policy),
    "scaledobject": (scaledobject.KIND, scaledobject.policy),
}


def run(kind: str, files: Sequence[Path], options: Options, into: Path | None, form: str) -> int:
    """Print or write the policies; 7 when something in them needs a person.

    Raises:
        ConfigError: a file cannot be read or holds nothing of this kind, or `into` exists.
    """
    drafts: list[Draft] = []
    for file in files:
        drafts += translated(kind, _text(file), str(file), options)
    if not drafts:
        where = ", ".join(str(file) for file in files)
        raise ConfigError(f"{where}: there is no {MAKERS[kind][0]} in it; see: kubectl get {kind}")
    draft.name_apart(drafts)
    text = written.policies(drafts, f"scaler import {kind}")
    _insist(text)
    if into is not None:
        write(into, text, f"scaler check {into}")
    else:
        show(form, _plain(drafts), text.rstrip)
    for made in drafts:
        for remark in made.remarks:
            click.echo(f"{made.origin}: {remark.text()}", err=True)
    return UNMAPPED if any(made.needs_somebody for made in drafts) else 0


def translated(kind: str, text: str, origin: str, options: Options) -> list[Draft]:
    """A draft for each manifest of this kind; those of other kinds are left out.

    Raises:
        ConfigError: the text is no manifest, or a field is wrong; the message names it.
    """
    wanted, make = MAKERS[kind]
    drafts = []
    for number, manifest in enumerate(documents(text, origin), start=1):
        if manifest.get("kind") != wanted:
            continue
        try:
            drafts.append(make(manifest, options))
        except ConfigError as error:
            raise ConfigError(f"{origin}: document {number}: {error}") from error
    return drafts


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(f"{file} cannot be read: {reason}") from error


def _insist(text: str) -> None:
    """A manifest can hold what no cluster would take; no policy is made of that."""
    document = located.parse(Path("policy made of it"), text)
    policyfile.policies_of(document, {})
    if document.problems:
        raise located.InvalidFiles(tuple(document.problems))


def write(file: Path, text: str, following: str) -> None:
    """A new file; `following` is the command to go on with.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    try:
        with file.open("x") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{file} exists and is not overwritten; name another file") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
    click.echo(f"wrote {file}; next: {following}", err=True)


def _plain(drafts: Sequence[Draft]) -> dict[str, Any]:
    return {
        "version": 1,
        "policies": {made.name: written.finished(made) for made in drafts},
        "remarks": [
            {
                "policy": made.name,
                "kind": remark.kind,
                "field": remark.field,
                "message": remark.message,
                "at": located.dotted(remark.at),
            }
            for made in drafts
            for remark in made.remarks
        ],
    }
