"""Events beside a workload: what `kubectl describe` shows of what we did to it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from scaler.clock import ManualClock
from scaler.core.journal import Entry, Kind
from scaler.core.model import Decision, Step, Wish
from tests.fakes.kube_objects import Json
from tests.integration.kube_shop import Shop, opened
from tests.integration.running import eventually as until


class Told:
    """Entries about one target, as time goes by."""

    def __init__(self, shop: Shop, clock: ManualClock) -> None:
        self.shop = shop
        self.clock = clock

    def say(self, summary: str, kind: Kind = Kind.ACTED, **more: Any) -> None:
        entry = Entry(at=self.clock.now(), kind=kind, target="web", summary=summary, **more)
        self.shop.provider.announce(self.shop.target(), entry)

    def events(self) -> list[Json]:
        return self.shop.server.all("Event")

    def writes(self) -> list[str]:
        """Verbs of all requests about Events that went well."""
        return [call.verb for call in self.shop.server.calls(what="events") if call.code < 300]

    async def written(self, count: int) -> None:
        await until(lambda: len(self.writes()) == count)


@pytest.fixture
async def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Told]:
    clock = ManualClock()
    async with opened(tmp_path, monkeypatch, clock) as shop:
        shop.cluster.deploy(replicas=1)
        await shop.running(1)
        yield Told(shop, clock)


async def test_an_event_is_about_the_workload(told: Told) -> None:
    told.say("web: scale to 3: cpu is 80%")
    await told.written(1)
    (event,) = told.events()
    uid = told.shop.server.get("Deployment", "web")["metadata"]["uid"]
    assert event["involvedObject"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "web",
        "namespace": "default",
        "uid": uid,
    }
    assert (event["reason"], event["type"], event["count"]) == ("Scaled", "Normal", 1)
    assert event["message"] == "scale to 3: cpu is 80%"
    assert event["reportingComponent"] == event["source"]["component"] == "scaler"
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-01-01T00:00:00Z"


async def test_the_same_again_is_counted_up_once_a_minute(told: Told) -> None:
    told.say("web: scale to 2")
    await told.written(1)
    for count in range(3, 8):
        told.say(f"web: scale to {count}")
    await told.clock.advance(timedelta(seconds=56))
    told.say("web: restart web-1")  # what is due goes first, so nothing else was
    await told.clock.advance(timedelta(seconds=2))
    await told.written(2)
    assert told.writes() == ["create", "create"]
    await told.clock.advance(timedelta(seconds=3))
    await told.written(3)
    assert told.writes() == ["create", "create", "patch"]
    (event,) = [event for event in told.events() if event["reason"] == "Scaled"]
    assert (event["count"], event["message"]) == (6, "scale to 7")


async def test_after_a_while_a_new_one_begins(told: Told) -> None:
    told.say("web: scale to 2")
    await told.written(1)
    await told.clock.advance(timedelta(minutes=11))
    told.say("web: scale to 3")
    await told.written(2)
    assert [event["count"] for event in told.events()] == [1, 1]


async def test_reasons_do_not_wait_for_each_other(told: Told) -> None:
    told.say("web: scale to 2")
    told.say("web: restart web-1")
    await told.written(2)
    assert {event["reason"] for event in told.events()} == {"Scaled", "RestartedUnhealthy"}


def decision(rule: str, *, blocks: bool = False) -> Decision:
    wish = Wish(source="cpu", count=None if blocks else 9, because="", blocks=blocks)
    step = Step(rule=rule, before=9, after=5, because="")
    return Decision(
        target="web", at=ManualClock().now(), current=3, desired=5, wishes=(wish,), steps=(step,)
    )


@pytest.mark.parametrize(
    ("kind", "summary", "decided", "reason"),
    [
        (Kind.PARKED, "web: managed elsewhere: HPA", None, "ManagedElsewhere"),
        (Kind.DEFERRED, "web: scale to 3: no answer", None, "ScaleFailed"),
        (Kind.DECIDED, "web: 3 to 5", decision("bound"), "ScaleLimited"),
        (Kind.DECIDED, "web: 3", decision("settle", blocks=True), "MetricsMissing"),
    ],
)
async def test_what_went_otherwise_is_a_warning(
    told: Told, kind: Kind, summary: str, decided: Decision | None, reason: str
) -> None:
    told.say(summary, kind, decision=decided)
    await told.written(1)
    (event,) = told.events()
    assert (event["reason"], event["type"]) == (reason, "Warning")


async def test_what_cannot_be_written_disturbs_nobody_and_is_told_with_the_next(
    told: Told,
) -> None:
    told.shop.server.faults.errors(403, "POST .*/events", times=1)
    told.say("web: scale to 2")
    await until(lambda: not told.shop.server.faults.rules)
    assert (await told.shop.running(1)).wanted == 1
    await told.clock.advance(timedelta(minutes=2))
    told.say("web: scale to 3")
    await told.written(1)
    (event,) = told.events()
    assert (event["count"], event["message"]) == (2, "scale to 3")


async def test_one_that_the_server_has_forgotten_is_made_again(told: Told) -> None:
    told.say("web: scale to 2")
    await told.written(1)
    told.shop.server.delete("Event", told.events()[0]["metadata"]["name"])
    await told.clock.advance(timedelta(minutes=2))
    told.say("web: scale to 3")
    await told.written(2)
    (event,) = told.events()
    assert event["count"] == 2


async def test_a_message_is_as_long_as_the_server_takes(told: Told) -> None:
    told.say("web: scale to 2: " + "ü" * 2000)
    await told.written(1)
    (event,) = told.events()
    assert 1000 < len(event["message"].encode()) <= 1024
