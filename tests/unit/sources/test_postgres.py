"""What a policy may ask PostgreSQL, and what is said where its library is not installed."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from scaler import located, plugins, policyfile
from scaler.cli import doctor
from scaler.clock import ManualClock
from scaler.core.document import Target
from scaler.core.model import Fleet
from scaler.core.policy import Metric
from scaler.interfaces import Context
from scaler.settings import Settings

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
AT = "dsn: postgresql://eye@h/d"


def problems(fields: str) -> str:
    text = (
        "policies:\n  web:\n    target: {local: {command: [sleep, '1']}}\n    metrics:\n"
        "    - name: jobs\n      goal: {per_instance: 5}\n"
        f"      source: {{postgres: {{{fields}}}}}\n"
    )
    document = located.parse(Path("made.yaml"), text)
    policyfile.policies_of(document, {})
    return "\n".join(problem.text() for problem in document.problems)


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        ("query: SELECT 1", "write exactly one of dsn, dsn_env and dsn_file"),
        (f"{AT}, dsn_env: Q, query: SELECT 1", "write exactly one of dsn, dsn_env and dsn_file"),
        (AT, "write exactly one of query and figure"),
        (f"{AT}, query: ' '", "write exactly one of query and figure"),
        (f"{AT}, query: SELECT 1, figure: connections", "write exactly one of query and figure"),
        (f"{AT}, figure: conections", 'did you mean "connections"?'),
        (f"{AT}, query: SELECT 1, timeout: 1h", "out of range"),
        ("dsn: http://h/d, query: SELECT 1", "it is not an address of PostgreSQL"),
        ("dsn: h, query: SELECT 1", "it is not an address of PostgreSQL"),
        ("dsn: 'postgresql://eye:sesame@h/d', query: SELECT 1", "it holds a password; write"),
        ("dsn: 'postgresql://h/d?password=sesame', query: SELECT 1", "it holds a password"),
        ("dsn: 'host=h password = sesame', query: SELECT 1", "it holds a password"),
        ("dsn: \"host=h password='open sesame'\", query: SELECT 1", "it holds a password"),
        ("dsn: 'host=h sslpassword=sesame', query: SELECT 1", "it holds a password"),
        ("dsn: 'postgresql://eye:ses/ame@h/d', query: SELECT 1", ""),
        ("dsn: 'postgresql://h:port/d', query: SELECT 1", "in a password / is %2F"),
        ("dsn: 'postgresql://[h/d', query: SELECT 1", "it is not an address"),
        ("dsn: 'postgresql://eye:sesame@h/d', query: SELECT 1, nothing: 1", "nothing"),
    ],
)
def test_mistakes_are_shown_without_secrets(fields: str, because: str) -> None:
    shown = problems(fields)
    assert shown
    assert because in shown
    assert "ses" not in shown.replace("addresses", "")


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://eye@h:5432/d?sslmode=require",
        "postgres://h1:5432,h2:5433/d?target_session_attrs=any",
        "postgresql://[::1]:5432/d",
        "postgresql:///d?host=/run/postgresql",
        "host=/run/postgresql dbname=d passfile=/etc/word",
        "service=shop",
    ],
)
def test_addresses_of_libpq(dsn: str) -> None:
    assert problems(f"dsn: '{dsn}', figure: connections") == ""


def test_its_library_is_imported_when_it_is_asked() -> None:
    code = "import sys, scaler.sources.postgres; print('psycopg' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False"]


async def test_without_its_library_the_metric_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "scaler.clients.postgres", raising=False)
    plugin = plugins.source("postgres")
    fields = {"dsn": "host=h", "query": "SELECT 1", "kind": "postgres"}
    rules = plugin.source.model_validate(fields)
    metric = Metric(name="load", source=rules, goal={"value": 1})
    context = Context(clock=ManualClock(NOON), state_dir=tmp_path, random=Random(1))
    source = plugin.open(metric, Target(), context)
    reading = await source.read(Fleet(target="web", at=NOON, wanted=2), NOON, NOON)
    assert str(reading.missing).endswith("without psycopg; pip install 'scaler[postgres]'")
    await source.aclose()


@pytest.mark.parametrize("installed", [True, False])
def test_doctor_looks_for_its_library(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    installed: bool,
) -> None:
    policy = tmp_path / "web.yaml"
    policy.write_text(
        "policies:\n  web:\n    target: {local: {command: [sleep, '1']}}\n    metrics:\n"
        "    - {name: n, goal: {value: 5}, source: {postgres: {dsn: host=h, query: SELECT 1}}}\n"
    )
    if not installed:
        monkeypatch.setitem(sys.modules, "psycopg", None)
    settings = Settings(policies=[policy], state_dir=tmp_path, socket=tmp_path / "socket")
    failed = doctor.run(lambda: settings, "table")
    said = capsys.readouterr().out
    assert ("✓ postgres: psycopg is installed" in said) == installed
    assert ("✗ postgres: psycopg is not installed; pip install" in said) == (not installed)
    assert installed or failed
