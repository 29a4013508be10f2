"""Settings of the lease and the sidecar: what is refused, in words that name the remedy."""

from datetime import timedelta
from pathlib import Path

import pytest

from scaler import settings
from scaler.errors import ConfigError, ScalerError


def written(folder: Path, text: str) -> settings.Settings:
    file = folder / "scaler.yaml"
    file.write_text(text)
    return settings.load(file)


def test_a_sidecar_answers_where_it_is_told_to(tmp_path: Path) -> None:
    rules = written(tmp_path, "sidecar: {listen: '[::]:9109', token_file: /run/token}").sidecar
    assert (rules.listen, rules.port, rules.token_file) == ("[::]:9109", 9109, "/run/token")
    assert written(tmp_path, "{}").sidecar.listen == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("{listen: '0.0.0.0:9109'}", "write token_file: as well", id="no secret"),
        pytest.param("{listen: everywhere, token_file: t}", "sidecar.listen", id="no address"),
        pytest.param("{listn: ''}", "listen", id="misspelt"),
    ],
)
def test_a_sidecar_that_cannot_be_is_said(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        written(tmp_path, f"sidecar: {text}")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("POD_NAME", raising=False)
    return tmp_path / "scaler.yaml"


def test_there_is_no_lease_by_default(file: Path) -> None:
    file.write_text("{}\n")
    lease = settings.load(file).lease
    assert (lease.store, lease.on_kubernetes) == ("none", "")
    assert lease.holder


def test_a_pod_is_known_by_its_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", "scaler-7d9f")
    monkeypatch.setenv("SCALER_LEASE__STORE", "kubernetes")
    file.write_text("lease: {ttl: 30s}\n")
    lease = settings.load(file).lease
    assert (lease.holder, lease.on_kubernetes) == ("scaler-7d9f", "scaler")
    assert lease.ttl == timedelta(seconds=30)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        pytest.param("{ttl: 2s}", "lease.ttl", id="a term that one lost packet ends"),
        pytest.param("{ttl: 10m}", "lease.ttl", id="a wait of ten minutes"),
        pytest.param("{store: redis}", "redis_url is missing; write", id="Redis, but where"),
        pytest.param("{stor: redis}", 'did you mean "store"', id="a slip of the pen"),
        pytest.param("{store: kubernetes, name: A_b}", "lease.name", id="no name of an object"),
    ],
)
def test_is_refused(file: Path, written: str, says: str) -> None:
    file.write_text(f"lease: {written}\n")
    with pytest.raises(ScalerError) as refused:
        settings.load(file)
    assert says in str(refused.value)
