"""Settings of the lease: what is refused, in words that name the remedy."""

from datetime import timedelta
from pathlib import Path

import pytest

from scaler import settings
from scaler.errors import ScalerError


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
