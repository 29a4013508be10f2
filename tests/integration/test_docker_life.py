"""Containers in the hands of people, compose, their engine, and daemons that are killed."""

import asyncio
import os
import signal

import pytest

from scaler.clients.docker_hands import Hands
from scaler.core.model import Fleet, State
from scaler.errors import NotFound, Unavailable
from scaler.providers.docker import DockerProvider, DockerTarget
from tests.integration.dockerd import BUSYBOX
from tests.integration.harbour import ALONE, SLEEP, Harbour, all_running, is_, one
from tests.integration.running import fleet_until as until

pytestmark = pytest.mark.live
CRASHING = (BUSYBOX, "sh", "-c", "sleep 0.2; exit 3")


async def two(harbour: Harbour, *words: str) -> tuple[DockerProvider, DockerTarget, Fleet]:
    """A container with one copy."""
    harbour.engine.run("web", *(words or ALONE), *SLEEP)
    provider, target = harbour.connect(), harbour.target(container="web")
    await provider.scale(target, 2)
    return provider, target, await until(provider, target, all_running(2))


# --- people ---


@pytest.mark.parametrize("name", ["web", "web-2"])
async def test_what_a_person_stopped_is_left_alone_also_by_the_next_daemon(
    harbour: Harbour, name: str
) -> None:
    provider, target, _ = await two(harbour)
    harbour.engine.docker("stop", name)
    fleet = await until(provider, target, is_(name, State.HELD))
    assert one(fleet, name).because == "stopped by somebody"
    assert (fleet.wanted, fleet.complete) == (2, True)
    await provider.aclose()
    fleet = await harbour.connect().observe(target)
    assert one(fleet, name).state is State.HELD


async def test_it_is_left_alone_although_no_daemon_saw_the_stop(harbour: Harbour) -> None:
    provider, target, _ = await two(harbour)
    await provider.aclose()
    harbour.engine.docker("stop", "web-2")
    fleet = await harbour.connect().observe(target)
    assert one(fleet, "web-2").state is State.HELD


async def test_and_it_works_again_when_the_person_starts_it(harbour: Harbour) -> None:
    provider, target, _ = await two(harbour)
    harbour.engine.docker("stop", "web-2")
    await until(provider, target, is_("web-2", State.HELD))
    harbour.engine.docker("start", "web-2")
    fleet = await until(provider, target, all_running(2))
    os.kill(one(fleet, "web-2").pid or 0, signal.SIGKILL)
    await until(provider, target, is_("web-2", State.FAILED))


async def test_a_kill_by_hand_is_a_failure(harbour: Harbour) -> None:
    provider, target, _ = await two(harbour)
    harbour.engine.docker("kill", "web-2")
    fleet = await until(provider, target, is_("web-2", State.FAILED))
    assert one(fleet, "web-2").because == "killed by SIGKILL"


async def test_what_a_person_paused_is_left_alone(harbour: Harbour) -> None:
    provider, target, _ = await two(harbour)
    harbour.engine.docker("pause", "web-2")
    fleet = await until(provider, target, is_("web-2", State.HELD))
    assert one(fleet, "web-2").because == "paused by somebody"
    harbour.engine.docker("unpause", "web-2")
    await until(provider, target, all_running(2))


async def test_what_a_person_removed_comes_back_with_a_notice(harbour: Harbour) -> None:
    provider, target, _ = await two(harbour)
    harbour.engine.docker("rm", "--force", "web-2")
    fleet = await until(provider, target, lambda f: not f.complete)
    assert fleet.notices == ("somebody removed web-2; it goes back to 2",)
    await provider.scale(target, fleet.wanted)
    await until(provider, target, all_running(2))


@pytest.mark.parametrize(
    ("command", "because"),
    [
        pytest.param(("sh", "-c", "exit 3"), "ended with 3", id="an exit code"),
        pytest.param(("true",), "ended with 0", id="the end of its work"),
        pytest.param(("sh", "-c", "kill -9 $$"), "killed by SIGKILL", id="a signal"),
    ],
)
async def test_an_end_has_its_reason(
    harbour: Harbour, command: tuple[str, ...], because: str
) -> None:
    harbour.engine.run("web", "--network=none", "--init", BUSYBOX, *command)
    provider, target = harbour.connect(), harbour.target(container="web")
    fleet = await until(provider, target, is_("web", State.FAILED))
    assert fleet.instances[0].because == because


# --- the engine's own restarts ---


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure"])
async def test_who_has_a_restart_policy_is_restarted_by_the_engine_alone(
    harbour: Harbour, policy: str
) -> None:
    harbour.engine.run("web", "--network=none", f"--restart={policy}", *CRASHING)
    provider, target = harbour.connect(), harbour.target(container="web")
    seen: set[State] = set()
    starts: set[str] = set()

    def enough(fleet: Fleet) -> bool:
        seen.add(fleet.instances[0].state)
        starts.add(fleet.instances[0].incarnation)
        return len(starts) > 3

    await until(provider, target, enough)
    assert seen <= {State.RUNNING, State.PENDING}


async def test_a_restart_policy_that_has_given_up_hands_over(harbour: Harbour) -> None:
    harbour.engine.run("web", "--network=none", "--restart=on-failure:1", *CRASHING)
    provider, target = harbour.connect(), harbour.target(container="web")
    fleet = await until(provider, target, is_("web", State.FAILED))
    assert fleet.instances[0].because == "ended with 3"


async def test_a_stop_by_hand_of_what_the_engine_restarts_is_respected(harbour: Harbour) -> None:
    harbour.engine.run("web", *ALONE, "--restart=always", *SLEEP)
    provider, target = harbour.connect(), harbour.target(container="web")
    await until(provider, target, all_running(1))
    harbour.engine.docker("stop", "web")
    await until(provider, target, is_("web", State.HELD))


@pytest.mark.parametrize("policy", ["always", "on-failure", "no"])
async def test_a_restart_by_us_is_one_start_whatever_the_engine_would_do(
    harbour: Harbour, policy: str
) -> None:
    words = ("--network=none", "--stop-timeout=1", f"--restart={policy}")
    harbour.engine.run("web", *words, *SLEEP)  # ignores TERM, so it is killed in the end
    provider, target = harbour.connect(), harbour.target(container="web")
    before = await until(provider, target, all_running(1))
    await provider.restart(target, before.instances[0].id)
    states: set[State] = set()

    def is_back(fleet: Fleet) -> bool:
        states.add(fleet.instances[0].state)
        return fleet.instances[0].state is State.RUNNING

    after = await until(provider, target, is_back)
    assert after.instances[0].incarnation != before.instances[0].incarnation
    assert states == {State.PENDING, State.RUNNING}
    count = ("inspect", "--format={{.RestartCount}}", "web")
    assert harbour.engine.docker(*count).stdout.strip() == "0", "the engine did nothing itself"


async def test_a_container_that_removes_itself_has_failed_and_can_be_started_again(
    harbour: Harbour,
) -> None:
    harbour.engine.run("web", "--network=none", "--rm", BUSYBOX, "sh", "-c", "sleep 2; exit 3")
    provider, target = harbour.connect(), harbour.target(container="web")
    await provider.observe(target)
    fleet = await until(provider, target, is_("web", State.FAILED))
    assert one(fleet, "web").because == "ended with 3"
    assert (fleet.wanted, fleet.complete) == (1, True)
    await provider.restart(target, one(fleet, "web").id)
    await until(provider, target, all_running(1))


# --- compose ---


async def test_compose_up_sets_the_count_back_and_it_goes_up_again(harbour: Harbour) -> None:
    harbour.compose(1)
    provider, target = harbour.connect(), harbour.target(service="web")
    await provider.scale(target, 4)
    await until(provider, target, all_running(4))
    harbour.engine.docker("rm", "--force", "shop-web-2", "shop-web-3", "shop-web-4")
    fleet = await until(provider, target, lambda f: not f.complete)
    assert (fleet.wanted, len(fleet.instances)) == (4, 1)
    assert "compose set web back to 1; it goes back to 4" in fleet.notices
    await provider.scale(target, 4)
    await until(provider, target, all_running(4))


async def test_what_compose_takes_down_stays_down_until_it_is_started_again(
    harbour: Harbour,
) -> None:
    harbour.compose(1)
    provider, target = harbour.connect(), harbour.target(service="web")
    await provider.scale(target, 2)
    await until(provider, target, all_running(2))
    harbour.engine.docker("rm", "--force", "shop-web-2")
    fleet = await until(provider, target, lambda f: len(f.instances) == 1)
    assert (fleet.complete, fleet.rollout) == (True, "somebody is removing containers")
    await provider.scale(target, 2)  # a decision from before
    harbour.engine.docker("rm", "--force", "shop-web-1")
    with pytest.raises(NotFound, match="stays down until it is started again"):
        await until(provider, target, lambda _: False)
    assert harbour.engine.names() == []
    changes = provider.changes()
    harbour.compose(1)
    while True:
        try:
            await until(provider, target, all_running(1))
            break
        except NotFound:  # its start has not been heard of yet
            assert await asyncio.wait_for(anext(changes), 30) == "web"
    await changes.aclose()  # type: ignore[attr-defined]


async def test_a_new_configuration_is_a_rollout_and_then_a_new_template(harbour: Harbour) -> None:
    harbour.compose(1)
    provider, target = harbour.connect(), harbour.target(service="web")
    await provider.scale(target, 2)
    await until(provider, target, all_running(2))
    harbour.engine.docker("rename", "shop-web-1", "0123456789ab_shop-web-1")
    fleet = await until(provider, target, lambda f: f.rollout)
    assert fleet.complete, "nobody is to act meanwhile"
    harbour.engine.docker("rm", "--force", "0123456789ab_shop-web-1")
    harbour.compose(1, *ALONE, "--env=NEW=yes", config="two")
    fleet = await until(provider, target, lambda f: f.rollout and len(f.instances) == 2)
    await provider.scale(target, 3)
    assert len((await provider.observe(target)).instances) == 2, "not while compose is at work"
    fleet = await until(provider, target, lambda f: not f.rollout)
    assert [i.current for i in fleet.instances] == [True, False]
    assert (fleet.wanted, fleet.complete) == (3, False)
    await provider.scale(target, 3)
    fleet = await until(provider, target, all_running(3))
    assert [i.current for i in fleet.instances] == [True, False, True]
    environment = harbour.engine.docker("inspect", "--format={{.Config.Env}}", "shop-web-3")
    assert "NEW=yes" in environment.stdout


# --- the engine ---


async def test_an_engine_that_is_down_is_not_a_fleet_that_is_dead(harbour: Harbour) -> None:
    provider, target, before = await two(harbour)
    await asyncio.to_thread(harbour.engine.suspend)
    try:
        with pytest.raises(Unavailable):  # a fleet that is all dead would not be Unavailable
            await until(provider, target, lambda f: not all_running(2)(f))
        for _ in range(3):
            with pytest.raises(Unavailable):
                await provider.observe(target)
        with pytest.raises(Unavailable):
            await provider.scale(target, 5)
    finally:
        harbour.engine.resume()
    fleet = await until(
        provider, target, lambda f: [i.state for i in f.instances] == [State.FAILED] * 2
    )
    assert {i.because for i in fleet.instances} == {"ended with the engine"}
    assert (fleet.wanted, fleet.complete) == (2, True)
    for instance in fleet.instances:
        await provider.restart(target, instance.id)
    after = await until(provider, target, all_running(2))
    assert [i.id for i in after.instances] == [i.id for i in before.instances]


async def test_who_comes_back_with_the_engine_has_not_failed(harbour: Harbour) -> None:
    provider, target, before = await two(harbour, *ALONE, "--restart=always")
    old = {i.incarnation for i in before.instances}
    await asyncio.to_thread(harbour.engine.restart)

    def are_back(fleet: Fleet) -> bool:
        assert State.FAILED not in {i.state for i in fleet.instances}
        return all_running(2)(fleet) and old.isdisjoint(i.incarnation for i in fleet.instances)

    await until(provider, target, are_back)


# --- daemons that are killed ---


POINTS = ("before create", "after create", "after start", "before kill", "after kill", "removed")


@pytest.mark.parametrize("point", POINTS)
async def test_a_daemon_that_is_killed_leaves_nothing_doubled_and_nothing_lost(
    harbour: Harbour, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    provider, target, before = await two(harbour)
    crashed = asyncio.Event()

    def crash_at(name: str, *, after: bool) -> None:
        original = getattr(Hands, name)

        async def crashing(self: Hands, *given: object, **named: object) -> object:
            if after:
                await original(self, *given, **named)
            crashed.set()
            await asyncio.Event().wait()  # nothing of this daemon happens any more
            raise AssertionError

        monkeypatch.setattr(Hands, name, crashing)

    where = {
        "before create": ("make", False),
        "after create": ("start", False),
        "after start": ("make", True),
        "before kill": ("end", False),
        "after kill": ("end", True),
        "removed": ("remove", True),
    }
    name, after = where[point]
    crash_at(name, after=after)
    desired = 4 if name in ("make", "start") else 1
    await provider.scale(target, desired)
    await asyncio.wait_for(crashed.wait(), 30)
    await provider.aclose()
    monkeypatch.undo()
    later = harbour.connect()
    fleet = await later.observe(target)
    assert fleet.wanted == desired
    assert fleet.complete, "what was under way goes on without anybody asking"
    fleet = await until(later, target, all_running(desired))
    assert fleet.instances[0].incarnation == before.instances[0].incarnation
    names = [i.id for i in fleet.instances]
    assert harbour.engine.names() == names


async def test_a_restart_that_was_cut_short_is_finished(
    harbour: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, target, before = await two(harbour)
    started = asyncio.Event()

    async def never(*_: object) -> None:
        started.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Hands, "start", never)
    await provider.restart(target, before.instances[1].id)
    await asyncio.wait_for(started.wait(), 30)
    await provider.aclose()
    monkeypatch.undo()
    later = harbour.connect()
    fleet = await until(later, target, all_running(2))
    assert fleet.instances[1].incarnation != before.instances[1].incarnation
    assert fleet.instances[0].incarnation == before.instances[0].incarnation
