"""What the demo writes is valid, and a measured goal is put into it with how it was measured."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from scaler import policyfile
from scaler.clock import ManualClock
from scaler.demo import measuring
from scaler.demo.door import Door
from scaler.demo.scene import Scene
from scaler.errors import ConfigError
from scaler.loadtest.capacity import Found, Limits, Refused
from scaler.loadtest.plan import Plan
from scaler.maintenance.cache_file import load_caches
from scaler.maintenance.partition_file import load_partitions

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
FOUND = Found(rate=53, low=51, high=57, because="", seconds=27, points=())


def written(folder: Path, haproxy: str | None = None, **servers: str) -> Scene:
    scene = Scene(folder=folder, **servers)
    door = Door(ManualClock(NOON), 18000, haproxy=haproxy)
    door.folder = Path("/tmp/door")
    scene.write(door, 18001)
    return scene


def command(scene: Scene) -> list[str]:
    (policy,) = policyfile.load([scene.policy]).insist().values()
    return list(policy.model_dump()["target"]["command"])


def test_with_servers_and_haproxy(tmp_path: Path) -> None:
    scene = written(tmp_path, "/usr/sbin/haproxy", dsn="host=/tmp/x user=l", redis="unix:///tmp/r")
    assert "--shared-port" not in command(scene)
    assert "haproxy" in scene.policy.read_text()
    assert scene.caches
    assert scene.partitions
    assert list(load_caches(scene.caches).rules) == ["ledger"]
    assert list(load_partitions(scene.partitions).rules) == ["ledger"]


def test_with_nothing_each_keeps_all_in_memory_behind_a_shared_port(tmp_path: Path) -> None:
    scene = written(tmp_path)
    assert command(scene)[-3:] == ["--memory", "--shared-port", "18000"]
    assert (scene.caches, scene.partitions) == (None, None)


def test_nothing_is_taken_over_from_an_earlier_run(tmp_path: Path) -> None:
    scene = written(tmp_path)
    (scene.state / "local").mkdir()
    (scene.state / "local" / "ledger.json").write_text("{}")
    written(tmp_path)
    assert not list(scene.state.rglob("*.json"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="--folder"):
        written(tmp_path / "taken")


async def measured(
    monkeypatch: pytest.MonkeyPatch, scene: Scene, end: Found | Refused
) -> measuring.Measured:
    async def calibrate(*_: object, **__: object) -> Found | Refused:
        return end

    monkeypatch.setattr(measuring, "calibrate", calibrate)
    plan = Plan.model_validate({"target": "http://127.0.0.1:9", "load": {"rate": "1/s"}})
    return await measuring.measure(plan, ManualClock(NOON), scene.policy, Limits())


async def test_a_measured_goal_is_written_with_its_comment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = written(tmp_path)
    found = await measured(monkeypatch, scene, FOUND)
    text = scene.policy.read_text()
    assert "# calibrated: 2026-11-26, http://127.0.0.1:9: 53/s within p95<250ms" in text
    assert f"per_instance: {found.goal:.4g}" in text
    assert found.goal < found.capacity == 53
    assert "only 27 s" in found.words
    assert "a guess" not in text
    assert command(scene)


async def test_what_cannot_be_told_leaves_the_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = written(tmp_path)
    before = scene.policy.read_text()
    refused = Refused(because="too noisy", seconds=30, points=())
    found = await measured(monkeypatch, scene, refused)
    assert "too noisy" in found.words
    assert scene.policy.read_text() == before
