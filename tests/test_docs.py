"""What the documents say is so: commands run, policies load, generated parts are up to date."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from scaler import policyfile, schema
from scaler.cli.commands import scaler
from scaler.maintenance.cache_file import load_caches
from scaler.maintenance.partition_file import load_partitions
from tests.integration.running import Running

DOCUMENTS = [Path("README.md"), Path("CONTRIBUTING.md"), *sorted(Path("docs").glob("*.md"))]
BLOCK = re.compile(r"^(<!-- background -->\n)?```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PATIENCE_S = 30


NAMED = re.compile(r"`((?:scaler|tests|benchmarks|config)/[\w./-]+)`")


def blocks(kind: str) -> Iterator[tuple[Path, bool, str]]:
    for path in DOCUMENTS:
        if path.name == "design.md":
            continue  # its blocks are sketches, of what is planned too
        for background, word, text in BLOCK.findall(path.read_text()):
            if word == kind:
                yield path, bool(background), text


@pytest.mark.live
def test_the_commands_of_the_readme_run_one_after_the_other(running: Running) -> None:
    place = running.folder / "clone"
    place.mkdir()
    for name in ("scaler", "config", "docs", "Makefile", "pyproject.toml", "requirements"):
        (place / name).symlink_to(Path(name).resolve())
    binaries = Path(sys.executable).parent
    environment = {
        **running.environment,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "SCALER_SOCKET": os.path.relpath(running.socket.resolve(), place),
    }
    for path, background, text in blocks("sh"):
        if path != Path("README.md"):
            continue
        if background:
            words = text.split()
            running.daemon = subprocess.Popen(
                [shutil.which(words[0], path=environment["PATH"]) or "", *words[1:]],
                cwd=place,
                env=environment,
                stderr=subprocess.DEVNULL,
            )
            wait_until_answered(place, environment)
            continue
        for line in text.splitlines():
            shown = line.replace("make ", "make -n ") if line.startswith("make") else line
            ended = subprocess.run(
                shown,
                shell=True,
                cwd=place,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert ended.returncode == 0, f"{line}\n{ended.stderr}"


def wait_until_answered(place: Path, environment: dict[str, str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        ended = subprocess.run(
            "scaler explain web | grep -q result",
            shell=True,
            cwd=place,
            env=environment,
            capture_output=True,
            check=False,
        )
        if ended.returncode == 0:
            return
        assert time.monotonic() < end, ended.stderr
        time.sleep(0.2)


@pytest.mark.parametrize(("path", "text"), [(p, t) for p, _, t in blocks("yaml")])
def test_a_policy_in_a_document_is_valid(path: Path, text: str, tmp_path: Path) -> None:
    file = tmp_path / f"{path.stem}.yaml"
    file.write_text(text)
    if re.search("^caches:$", text, re.MULTILINE):
        assert load_caches(file).rules
    elif re.search("^databases:$", text, re.MULTILINE):
        assert load_partitions(file).rules
    else:
        assert policyfile.load([file]).insist()


def test_the_partitions_of_the_example_are_valid() -> None:
    assert load_partitions(Path("config/partitions.yaml")).rules


def test_the_caches_of_the_example_are_those_of_the_document() -> None:
    (shown,) = (text for path, _, text in blocks("yaml") if path.name == "caches.md")
    example = Path("config/caches.yaml").read_text()
    without = [line.partition(" #")[0].rstrip() for line in example.splitlines()]
    assert [line for line in without if line and not line.startswith("#")] == [
        line.partition(" #")[0].rstrip() for line in shown.splitlines()
    ]


def test_the_adapters_in_the_documents_are_python() -> None:
    for path, _, text in blocks("python"):
        exec(compile(text, str(path), "exec"), {"__name__": path.stem})


def test_the_reference_of_policies_is_up_to_date() -> None:
    generated, mark, _ = Path("docs/policies.md").read_text().partition(schema.MARK)
    assert generated + mark + "\n" == schema.policy_reference(), "run: make docs"


def test_the_schema_is_up_to_date() -> None:
    committed = json.loads(Path("config/schema/policy.schema.json").read_text())
    assert committed == schema.policy_schema(), "run: make docs"


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_every_command_has_examples_and_is_in_the_documents() -> None:
    text = "".join(path.read_text() for path in [*DOCUMENTS, Path("CHANGELOG.md")])
    for name, command in scaler.commands.items():
        assert command.epilog, f"{name} has no examples"
        assert f"`{name}`" in text or f"scaler {name}" in text


def test_help_is_shown_as_it_was_laid_out() -> None:
    shown = CliRunner().invoke(scaler, ["--help"]).output
    assert "\\b" not in shown
    assert "\n    scaler demo " in shown


def test_every_module_that_a_document_names_is_there() -> None:
    for path in (Path("README.md"), Path("CONTRIBUTING.md")):
        for named in re.findall(
            r"`((?:scaler|tests|benchmarks|config)/[\w./-]+)`", path.read_text()
        ):
            assert Path(named).exists(), named
