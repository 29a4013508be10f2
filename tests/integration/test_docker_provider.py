"""What the Docker provider makes of containers, on a real engine."""

import asyncio
import socket
from pathlib import Path

import pytest

from scaler.clients.docker_book import Phase, Slot
from scaler.core.model import Health, State
from scaler.errors import NotFound, PermanentError
from scaler.providers.docker import DockerProvider
from tests.integration.dockerd import BUSYBOX, PYTHON
from tests.integration.harbour import ALONE, SLEEP, Harbour, all_running, is_, one
from tests.integration.ports import free_port, free_ports
from tests.integration.running import fleet_until as until

pytestmark = pytest.mark.live


async def test_a_service_of_compose_grows_by_copies_that_compose_takes_for_its_own(
    harbour: Harbour,
) -> None:
    harbour.compose(1)
    provider, target = harbour.connect(), harbour.target(service="web")
    fleet = await provider.observe(target)
    assert (fleet.wanted, fleet.complete, fleet.instances[0].protected) == (1, True, True)
    await provider.scale(target, 3)
    fleet = await until(provider, target, all_running(3))
    assert [i.id for i in fleet.instances] == ["shop-web-1", "shop-web-2", "shop-web-3"]
    assert [i.protected for i in fleet.instances] == [True, False, False]
    assert all(i.current for i in fleet.instances)
    filters = ("label=com.docker.compose.service=web", "label=com.docker.compose.config-hash=one")
    assert harbour.engine.names(*filters) == [i.id for i in fleet.instances]


async def test_what_scaler_has_not_created_stays_unless_the_policy_says_any(
    harbour: Harbour,
) -> None:
    for number in (1, 2):
        harbour.compose(number)
    provider, target = harbour.connect(), harbour.target(service="web")
    await provider.scale(target, 3)
    await until(provider, target, all_running(3))
    await provider.scale(target, 1, remove=())
    fleet = await until(provider, target, all_running(2))
    assert [i.id for i in fleet.instances] == ["shop-web-1", "shop-web-2"]
    assert fleet.complete, "nothing more can be done, so nobody is asked again and again"
    assert "remove: any" in " ".join(fleet.notices)
    bolder = harbour.target(service="web", remove="any")
    await provider.scale(bolder, 1)
    await until(provider, bolder, all_running(1))
    assert harbour.engine.names() == ["shop-web-1"]


async def test_a_service_from_zero_and_after_its_original_is_gone(harbour: Harbour) -> None:
    harbour.compose(1)
    provider, target = harbour.connect(), harbour.target(service="web", remove="any")
    await provider.scale(target, 0)
    await until(provider, target, lambda f: not f.instances)
    assert harbour.engine.names() == []
    await provider.aclose()
    later = harbour.connect()
    assert (await later.observe(target)).wanted == 0
    await later.scale(target, 2)
    fleet = await until(later, target, all_running(2))
    assert [i.id for i in fleet.instances] == ["shop-web-1", "shop-web-2"]


async def test_one_name_in_two_projects_is_not_one_service(harbour: Harbour) -> None:
    harbour.compose(1)
    other = ("project=other", "service=web", "container-number=1")
    labels = [f"--label=com.docker.compose.{label}" for label in other]
    harbour.engine.run("other-web-1", *labels, *ALONE, *SLEEP)
    provider = harbour.connect()
    with pytest.raises(PermanentError, match="projects other and shop; write project: other"):
        await provider.observe(harbour.target(service="web"))
    fleet = await provider.observe(harbour.target(service="web", project="shop"))
    assert [i.id for i in fleet.instances] == ["shop-web-1"]
    assert fleet.wanted == 1, "nothing of the mixture was written down"


async def test_nothing_of_that_name_says_what_to_do(harbour: Harbour) -> None:
    with pytest.raises(NotFound, match='no container "nobody"; start it once'):
        await harbour.connect().observe(harbour.target(container="nobody"))


async def test_one_off_containers_never_count(harbour: Harbour) -> None:
    harbour.compose(1)
    labels = ("project=shop", "service=web", "oneoff=True")
    options = [f"--label=com.docker.compose.{label}" for label in labels]
    harbour.engine.run("shop-web-run-1", *options, *ALONE, *SLEEP)
    fleet = await harbour.connect().observe(harbour.target(service="web"))
    assert [i.id for i in fleet.instances] == ["shop-web-1"]


async def test_what_cannot_be_copied_is_refused_with_its_reasons(harbour: Harbour) -> None:
    harbour.engine.docker("volume", "create", "store")
    harbour.engine.run("db", *ALONE, "--volume=store:/data", *SLEEP)
    provider, target = harbour.connect(), harbour.target(container="db")
    assert (await provider.observe(target)).wanted == 1
    with pytest.raises(PermanentError, match="shared_volumes: ok"):
        await provider.scale(target, 2)
    assert (await provider.observe(target)).wanted == 1
    bolder = harbour.target(container="db", shared_volumes="ok")
    await provider.scale(bolder, 2)
    await until(provider, bolder, all_running(2))


async def test_a_fixed_address_is_refused_unless_copies_may_have_others(harbour: Harbour) -> None:
    harbour.engine.docker("network", "create", "--subnet=10.199.7.0/24", "fixed")
    harbour.engine.run("web", "--network=fixed", "--ip=10.199.7.9", *SLEEP)
    provider, target = harbour.connect(), harbour.target(container="web")
    await provider.observe(target)
    with pytest.raises(PermanentError, match=r"10\.199\.7\.9 in network fixed .*static_ip: drop"):
        await provider.scale(target, 2)
    freer = harbour.target(container="web", static_ip="drop")
    await provider.scale(freer, 2)
    fleet = await until(provider, freer, all_running(2))
    assert fleet.instances[0].host == "10.199.7.9"
    assert fleet.instances[1].host not in ("", "10.199.7.9")


async def test_ports_come_from_the_range_and_an_exhausted_one_is_said_once(
    harbour: Harbour,
) -> None:
    own, low = free_port(), free_ports(2)
    high = low + 1
    harbour.engine.run("web", f"--publish=127.0.0.1:{own}:8080", PYTHON)
    provider = harbour.connect()
    target = harbour.target(container="web", ports=f"{low}-{high}")
    await provider.scale(target, 3)
    fleet = await until(provider, target, all_running(3))
    assert {i.host for i in fleet.instances} == {"127.0.0.1"}
    assert fleet.instances[0].port == own
    assert {i.port for i in fleet.instances[1:]} == {low, high}
    await provider.scale(target, 4)
    fleet = await until(provider, target, is_("web-4", State.FAILED))
    assert one(fleet, "web-4").because == (
        f"no port of {low}-{high} is free; widen ports in the policy, or lower max"
    )
    assert [n for n in fleet.notices if "widen ports" in n] == [one(fleet, "web-4").because]
    assert harbour.engine.names() == ["web", "web-2", "web-3"], "no corpse"


async def test_a_port_that_somebody_else_has_is_passed_over(harbour: Harbour) -> None:
    own, low = free_port(), free_ports(3)
    high = low + 2
    harbour.engine.run("web", f"--publish=127.0.0.1:{own}:8080", *SLEEP)
    harbour.engine.run("stranger", f"--publish=127.0.0.1:{low}:80", *SLEEP)
    provider = harbour.connect()
    target = harbour.target(container="web", ports=f"{low}-{high}")
    with socket.socket() as process:
        process.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        process.bind(("127.0.0.1", low + 1))
        process.listen()
        await provider.scale(target, 2)
        fleet = await until(provider, target, all_running(2))
    assert fleet.instances[1].port == high
    assert harbour.engine.names() == ["stranger", "web", "web-2"]


async def test_the_address_is_that_in_the_network_which_the_policy_names(
    harbour: Harbour,
) -> None:
    for name in ("front", "back"):
        harbour.engine.docker("network", "create", name)
    harbour.engine.run("web", "--network=front", "--expose=8080", "--stop-signal=KILL", *SLEEP)
    harbour.engine.docker("network", "connect", "back", "web")
    provider = harbour.connect()
    target = harbour.target(container="web", network="back")
    await provider.scale(target, 2)
    fleet = await until(provider, target, all_running(2))
    for instance in fleet.instances:
        path = '{{(index .NetworkSettings.Networks "back").IPAddress}}'
        shown = harbour.engine.docker("inspect", "--format", path, instance.id).stdout.strip()
        assert (instance.host, instance.port) == (shown, 8080)


async def test_the_health_check_of_a_container_is_its_health(harbour: Harbour) -> None:
    check = "test -e /tmp/ill && echo it is ill && exit 1; exit 0"
    words = (f"--health-cmd={check}", "--health-interval=200ms", "--health-retries=1")
    harbour.engine.run("web", *ALONE, *words, *SLEEP)
    provider, target = harbour.connect(), harbour.target(container="web")
    changes = provider.changes()
    fleet = await until(provider, target, lambda f: f.instances[0].ready)
    assert fleet.instances[0].health is Health.HEALTHY
    harbour.engine.docker("exec", "web", "touch", "/tmp/ill")
    assert await asyncio.wait_for(anext(changes), 30) == "web"
    sick = await until(provider, target, lambda f: f.instances[0].health is Health.UNHEALTHY)
    assert (sick.instances[0].ready, sick.instances[0].because) == (
        False,
        "health check: it is ill",
    )
    await changes.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "cpu", "memory"),
    [
        pytest.param(("--cpus=0.5", "--memory=64m"), 0.5, 64 << 20, id="limits"),
        pytest.param(("--cpu-quota=20000", "--cpu-period=10000"), 2.0, None, id="a quota"),
        pytest.param(("--cpuset-cpus=0",), 1.0, None, id="a set of cores"),
        pytest.param((), None, None, id="the host"),
    ],
)
async def test_bases_are_limits_or_the_host(
    harbour: Harbour, words: tuple[str, ...], cpu: float | None, memory: int | None
) -> None:
    harbour.engine.run("web", *ALONE, *words, *SLEEP)
    fleet = await harbour.connect().observe(harbour.target(container="web"))
    shown = harbour.engine.docker("info", "--format", "{{.NCPU}} {{.MemTotal}}").stdout.split()
    assert fleet.instances[0].bases == {
        "cpu": cpu or float(shown[0]),
        "memory": memory or float(shown[1]),
    }


async def test_anonymous_volumes_go_with_their_container(harbour: Harbour) -> None:
    harbour.engine.run("web", *ALONE, "--volume=/data", *SLEEP)
    provider, target = harbour.connect(), harbour.target(container="web")
    await provider.scale(target, 3)
    await until(provider, target, all_running(3))
    volumes = ("volume", "ls", "--quiet")
    assert len(harbour.engine.docker(*volumes).stdout.split()) == 3
    await provider.scale(target, 1)
    await until(provider, target, all_running(1))
    assert len(harbour.engine.docker(*volumes).stdout.split()) == 1


async def test_a_label_names_containers_too(harbour: Harbour) -> None:
    harbour.engine.run("a-1", "--label=tier=front", *ALONE, *SLEEP)
    harbour.engine.run("b-1", "--label=tier=back", *ALONE, *SLEEP)
    provider = harbour.connect()
    assert len((await provider.observe(harbour.target(label="tier"))).instances) == 2
    front = harbour.target(label="tier=front", policy="front")
    assert [i.id for i in (await provider.observe(front)).instances] == ["a-1"]


async def test_stops_that_have_not_begun_are_taken_back(harbour: Harbour) -> None:
    harbour.engine.run("web", "--network=none", "--stop-timeout=1", *SLEEP)  # ignores TERM
    provider, target = harbour.connect(), harbour.target(container="web")
    await provider.scale(target, 20)
    before = await until(provider, target, all_running(20))
    await provider.scale(target, 1)  # 16 stops at once: three wait
    await provider.scale(target, 4)
    after = await until(provider, target, all_running(4))
    assert {i.incarnation for i in after.instances} <= {i.incarnation for i in before.instances}


def desk(provider: DockerProvider) -> list[Slot]:
    """What is under way."""
    return list(provider._crews["web"][1].desk.book.slots.values())


async def test_a_spare_joins_without_a_start(harbour: Harbour) -> None:
    harbour.engine.run("web", *ALONE, *SLEEP)
    provider = harbour.connect()
    target = harbour.target(container="web", spares=1)
    fleet = await provider.observe(target)
    assert not fleet.complete, "a spare is missing"
    await provider.scale(target, 1)
    await until(provider, target, lambda f: "web-2" in harbour.engine.names("status=paused"))
    fleet = await provider.observe(target)
    assert (len(fleet.instances), fleet.wanted, fleet.complete) == (1, 1, True)
    spare = harbour.engine.docker("inspect", "--format={{.Id}}", "web-2").stdout[:12]
    await provider.scale(target, 2)
    fleet = await until(provider, target, all_running(2))
    assert fleet.instances[1].incarnation.startswith(spare)
    await until(provider, target, lambda f: "web-3" in harbour.engine.names("status=paused"))
    harbour.engine.docker("unpause", "web-3")
    harbour.engine.docker("kill", "web-3")
    await until(provider, target, lambda f: not f.complete)
    await provider.scale(target, 2)
    await until(provider, target, lambda f: len(harbour.engine.names("status=paused")) == 1)
    await until(provider, target, lambda _: {s.phase for s in desk(provider)} == {Phase.SPARE})
    assert harbour.engine.names("status=exited") == []
    none = harbour.target(container="web")
    await provider.observe(none)
    await provider.scale(none, 2)
    await until(provider, none, lambda f: harbour.engine.names() == ["web", "web-2"])


async def test_a_command_runs_inside(harbour: Harbour) -> None:
    harbour.engine.run("web", *ALONE, *SLEEP)
    provider, target = harbour.connect(), harbour.target(container="web")
    instance = (await provider.observe(target)).instances[0]
    assert await provider.execute(instance, ("sh", "-c", "echo hello; exit 3")) == (3, "hello\n")
    code, output = await provider.execute(instance, ("sh", "-c", "yes | head -c 1000000"))
    assert (code, len(output)) == (0, 65536)
    with pytest.raises(NotFound, match="no/such"):
        await provider.execute(instance, ("/no/such",))


async def test_a_command_that_nobody_waits_for_is_killed(harbour: Harbour) -> None:
    harbour.engine.run("web", *ALONE, *SLEEP)
    provider, target = harbour.connect(), harbour.target(container="web")
    instance = (await provider.observe(target)).instances[0]

    def sleeping() -> int:
        lines = (p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists())
        return sum(line == b"sleep\x00777.25\x00" for line in lines)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(provider.execute(instance, ("sleep", "777.25")), 2)
    deadline = asyncio.get_running_loop().time() + 30
    while sleeping():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


async def test_the_image_of_a_copy_is_that_of_its_original(harbour: Harbour) -> None:
    harbour.engine.docker("tag", BUSYBOX, "moving:tag")
    harbour.engine.run("web", *ALONE, "moving:tag", "sleep", "600")
    harbour.engine.docker("tag", PYTHON, "moving:tag")
    provider, target = harbour.connect(), harbour.target(container="web")
    await provider.scale(target, 2)
    await until(provider, target, all_running(2))
    images = harbour.engine.docker("inspect", "--format={{.Image}}", "web", "web-2").stdout.split()
    assert images[0] == images[1]
