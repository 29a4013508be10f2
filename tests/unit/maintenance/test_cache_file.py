"""`caches.yaml`: what is read, and what is refused in words that name field and remedy."""

from datetime import timedelta
from pathlib import Path

import pytest

from scaler.errors import ConfigError
from scaler.located import InvalidFiles
from scaler.maintenance.cache_file import load_caches
from scaler.maintenance.cache_rules import Cache
from scaler.maintenance.named_file import Named

SMALLEST = "caches: {ledger: {url: 'redis://localhost:6379/0', prefixes: ['ledger:']}}\n"


def loaded(folder: Path, text: str) -> Named[Cache]:
    file = folder / "caches.yaml"
    file.write_text(text)
    return load_caches(file)


def with_field(written: str) -> str:
    return (
        "version: 1\ncaches:\n  ledger:\n    url: redis://localhost:6379/0\n"
        f'    prefixes: ["ledger:"]\n    {written}\n'
    )


def test_what_is_not_written_has_a_default(tmp_path: Path) -> None:
    cache = loaded(tmp_path, SMALLEST).rules["ledger"]
    assert (cache.name, cache.prefixes) == ("ledger", ("ledger:",))
    assert (cache.every, cache.full_lap) == (timedelta(minutes=1), timedelta(days=1))
    assert cache.budget.server == pytest.approx(0.05)
    assert not cache.act.anything


def test_everything_can_be_written(tmp_path: Path) -> None:
    cache = loaded(
        tmp_path,
        with_field(
            "every: 30s\n    full_lap: 1h\n    sample: 500\n"
            "    find: {idle: 2d, big: 2MB, dead_after: 2h}\n"
            "    budget: {server: 10%, step: 2ms, unlink: 50 per 1s, keys: 7, bytes: 1MB}\n"
            "    act: {dead_versions: on, idle: off, missing_ttl: 1d}"
        ),
    ).rules["ledger"]
    assert cache.find.big == 2_000_000
    assert (cache.budget.unlink.count, cache.budget.keys) == (50, 7)
    assert (cache.act.dead_versions, cache.act.idle) == (True, False)
    assert cache.act.missing_ttl == timedelta(days=1)


@pytest.mark.parametrize(
    ("written", "place", "says"),
    [
        pytest.param("act: {idle: maybe}", ":6:17", "neither on nor off", id="no switch"),
        pytest.param("act: {missing_ttl: on}", ":6:24", "write a span such as 1d", id="no span"),
        pytest.param("budget: {server: 5}", ":6:22", "write 5%", id="no percent sign"),
        pytest.param("budget: {server: 0%}", ":6:22", "write 1% to 100%", id="no share"),
        pytest.param("budget: {unlink: 9}", ":6:22", "write it like 12 per 1h", id="no rate"),
        pytest.param("budget: {unlink: 0 per 1s}", ":6:22", "turn what acts off", id="never"),
        pytest.param("budget: {step: 0ms}", ":6:20", "out of range", id="no step"),
        pytest.param("find: {bigg: 1MB}", ":6:12", 'did you mean "big"', id="a slip of the pen"),
        pytest.param("find: {big: 1}", ":6:17", "write 1kB to 1TB", id="every key is big"),
        pytest.param("full_lap: 10s", ":6:15", "shorter than every (1m)", id="a short lap"),
        pytest.param("url_env: REDIS", ":4:5", "write exactly one of them", id="two addresses"),
        pytest.param("name: other", ":6:5", "remove it", id="a second name"),
    ],
)
def test_is_refused(tmp_path: Path, written: str, place: str, says: str) -> None:
    with pytest.raises(InvalidFiles) as refused:
        loaded(tmp_path, with_field(written))
    assert says in str(refused.value)
    assert f"caches.yaml{place}" in str(refused.value)
    assert "ledger" in str(refused.value)


@pytest.mark.parametrize(
    ("prefixes", "says"),
    [
        pytest.param("[]", "too few entries", id="none"),
        pytest.param("['']", "means every key", id="every key"),
        pytest.param("['led*']", "holds *", id="a pattern"),
        pytest.param("['a:', 'a:b:']", "overlap", id="one inside the other"),
        pytest.param("'a:'", "is not a list", id="no list"),
    ],
)
def test_prefixes_that_cannot_be(tmp_path: Path, prefixes: str, says: str) -> None:
    with pytest.raises(InvalidFiles) as refused:
        loaded(tmp_path, f"caches:\n  ledger:\n    url_env: R\n    prefixes: {prefixes}\n")
    assert says in str(refused.value)
    assert "prefixes" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("caches: {ledger: {url: 'redis://:sesame@h', prefixes: []}}", id="one line"),
        pytest.param("caches: {a: {url: 'http://:sesame@h', prefixes: ['a']}}", id="no Redis"),
        pytest.param("caches: {a: {ulr: 'redis://:sesame@h', prefixes: ['a']}}", id="misspelt"),
        pytest.param("caches: {a: {prefixes: 'redis://:sesame@h'}}", id="in a wrong field"),
        pytest.param("caches: {a: {url: ['redis://:sesame@h'], prefixes: ['a']}}", id="a list"),
    ],
)
def test_a_password_is_in_no_message(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidFiles) as refused:
        loaded(tmp_path, text)
    assert "sesame" not in str(refused.value)


def test_a_password_is_not_shown_with_the_rules(tmp_path: Path) -> None:
    cache = loaded(tmp_path, SMALLEST.replace("//", "//:sesame@")).rules["ledger"]
    assert "sesame" not in repr(cache)
    assert cache.address() == "redis://:sesame@localhost:6379/0"


def test_the_address_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = loaded(tmp_path, "caches: {a: {url_env: A_REDIS, prefixes: ['a']}}").rules["a"]
    monkeypatch.delenv("A_REDIS", raising=False)
    with pytest.raises(ConfigError, match="A_REDIS is not set; set A_REDIS=redis"):
        cache.address()
    monkeypatch.setenv("A_REDIS", "sesame")
    with pytest.raises(ConfigError, match="holds no address") as refused:
        cache.address()
    assert "sesame" not in str(refused.value)
    monkeypatch.setenv("A_REDIS", "redis://:sesame@h/0")
    assert cache.address() == "redis://:sesame@h/0"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("[]", "must be a map that begins with caches:", id="a list"),
        pytest.param("version: 1", '"caches" is missing', id="nothing"),
        pytest.param("cache: {}", 'did you mean "caches"', id="misspelt"),
        pytest.param("version: 2\ncaches: {}", "write version: 1", id="another version"),
        pytest.param("caches: {A_b: {}}", "cannot be a name", id="no name"),
        pytest.param("caches: {a: redis}", "must be a map with at least", id="a bare word"),
        pytest.param("caches: {a: {url_env: R}}", '"prefixes" is missing', id="no prefixes"),
    ],
)
def test_a_file_that_cannot_be(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidFiles) as refused:
        loaded(tmp_path, text)
    assert says in str(refused.value)


def test_a_cache_is_chosen_by_name(tmp_path: Path) -> None:
    caches = loaded(tmp_path, SMALLEST)
    assert [c.name for c in caches.chosen(None)] == ["ledger"]
    assert [c.name for c in caches.chosen("ledger")] == ["ledger"]
    with pytest.raises(ConfigError, match='did you mean "ledger"'):
        caches.chosen("leger")
