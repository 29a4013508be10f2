"""`partitions.yaml`: what it says, and what is said of mistakes."""

from datetime import time, timedelta
from pathlib import Path

import pytest

from scaler.errors import ConfigError
from scaler.located import InvalidFiles
from scaler.maintenance.partition_file import load_partitions
from scaler.maintenance.partition_ranges import Age, Interval, Unit
from scaler.maintenance.partition_rules import Window, parse_interval

WHOLE = """\
version: 1
databases:
  ledger:
    dsn_env: LEDGER_DSN
    partitions:
      - table: transactions
        by: created_at
        every: 1 month
        timezone: Europe/Berlin
        ahead: 3
        keep: 24 months
        expire: {how: detach, drop_after: 7 days, archive: [dump, "{table}"]}
        default: guard
        migrate: {how: attach, split: lazy, batch_rows: 5000}
        locks: {wait: 200ms, tries: 50, max_block: 250ms, window: "01:00-05:00"}
        guards: {replica_lag: 5s, wal_per_s: 20MB, free_disk: 2x}
"""


def test_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.yaml").write_text(WHOLE)
    found = load_partitions(tmp_path / "p.yaml")
    (database,) = found.chosen(None)
    (one,) = database.partitions
    assert (database.name, one.table, one.by) == ("ledger", "public.transactions", "created_at")
    assert (one.every, one.keep) == (Interval(Unit.MONTH), Age(24, Unit.MONTH))
    assert one.expire.drop_after == Age(7, Unit.DAY)
    assert one.locks.window == Window(time(1), time(5))
    assert (one.locks.wait, one.guards.wal_per_s) == (timedelta(milliseconds=200), 20e6)
    assert (one.guards.free_disk, str(one.timezone)) == (2.0, "Europe/Berlin")
    with pytest.raises(ConfigError, match="LEDGER_DSN is not set; set LEDGER_DSN=postgresql://"):
        database.address()
    monkeypatch.setenv("LEDGER_DSN", "service=ledger")
    assert database.address() == "service=ledger"
    with pytest.raises(ConfigError, match=r'unknown database "leger"; did you mean "ledger"\?'):
        found.chosen("leger")


def test_the_least(tmp_path: Path) -> None:
    text = "databases: {x: {dsn: service=x, partitions: [{table: a.b, by: at, every: day}]}}"
    (tmp_path / "p.yaml").write_text(text)
    one = load_partitions(tmp_path / "p.yaml").rules["x"].partitions[0]
    assert (one.ahead, one.keep, one.expire.drop_after, one.default) == (3, None, None, "none")
    assert (one.schema_name, one.table_name) == ("a", "b")


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("1 month", "2 months", "8:16", "is several months, only days may be; write 1 month"),
        ("1 month", "2 weeks", "8:16", "write 14 days"),
        ("1 month", "soon", "8:16", "write day, week, month, quarter, year or 10 days"),
        ("keep: 24 months", "keep: 24", "11:15", "24 has no unit; write 24 months or 24 days"),
        ("keep: 24 months", "keep: 0 days", "11:15", "0 would expire what was written just now"),
        ("drop_after: 7 days, ", "", "12:40", "is never run: nothing is dropped"),
        ("Europe/Berlin", "Mars/Base", "9:19", '"Mars/Base" is not a known time zone'),
        ("ahead: 3", "ahead: 0", "10:16", "0 is too low; write 1 or more"),
        ("default: guard", "default: yes", "13:18", "write one of none, guard"),
        ('"01:00-05:00"', "night", "15:67", 'write it like "01:00-05:00"'),
        ("20MB", "20", "16:46", "20 has no unit; write 20MB or 20kB"),
        ("2x", "2", "16:63", "write it like 2x"),
        ("table: transactions", "table: a.b.c", "6:16", "write it like public.orders"),
        ("by: created_at", "bye: created_at", "7:9", 'unknown key "bye"; did you mean "by"?'),
        ("dsn_env: LEDGER_DSN", "dsn_env: ''", "4:5", "neither dsn nor dsn_env says where it is"),
        ("ledger:", "Ledger:", "3:3", '"Ledger" cannot be a name'),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, place: str, words: str) -> None:
    assert old in WHOLE
    (tmp_path / "p.yaml").write_text(WHOLE.replace(old, new))
    with pytest.raises(InvalidFiles) as caught:
        load_partitions(tmp_path / "p.yaml")
    text = str(caught.value)
    assert words in text
    assert f"p.yaml:{place}: error: " in text


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    text = WHOLE.replace("dsn_env: LEDGER_DSN", "dsn: postgresql://me:geheim@h/x\n    port: 1")
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InvalidFiles) as caught:
        load_partitions(tmp_path / "p.yaml")
    assert "geheim" not in str(caught.value)


def test_a_table_stands_once(tmp_path: Path) -> None:
    twice = WHOLE + "      - {table: public.transactions, by: at, every: day}\n"
    (tmp_path / "p.yaml").write_text(twice)
    with pytest.raises(InvalidFiles, match=r"public\.transactions stands twice; remove one"):
        load_partitions(tmp_path / "p.yaml")


@pytest.mark.parametrize("text", ["400 days", "0 days", "", "month month", "-1 day"])
def test_no_interval(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_interval(text)


@pytest.mark.parametrize(
    ("window", "at", "holds"),
    [
        (Window(time(1), time(5)), time(1), True),
        (Window(time(1), time(5)), time(5), False),
        (Window(time(22), time(5)), time(23), True),
        (Window(time(22), time(5)), time(4), True),
        (Window(time(22), time(5)), time(12), False),
    ],
)
def test_a_window_may_go_over_midnight(window: Window, at: time, holds: bool) -> None:
    assert window.holds(at) is holds
