"""Copies of containers: what is taken over, what is left out and what is refused."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.clients import clone
from scaler.clients.clone import Template
from scaler.errors import PermanentError, Unsupported

ID = "4d" * 32
SHA = f"sha256:{'ab' * 32}"
VOLUME = "0d" * 32
COMPOSE = {
    "com.docker.compose.project": "shop",
    "com.docker.compose.service": "web",
    "com.docker.compose.container-number": "1",
    "com.docker.compose.config-hash": "5f1d",
}
Json = dict[str, Any]


def inspected(
    name: str = "web",
    *,
    config: Mapping[str, Any] | None = None,
    host: Mapping[str, Any] | None = None,
    networks: Mapping[str, Any] | None = None,
) -> Json:
    return {
        "Id": ID,
        "Name": f"/{name}",
        "Image": SHA,
        "State": {"Running": True},
        "Config": {"Hostname": ID[:12], "Image": "shop/web:1", "Labels": {}, **(config or {})},
        "HostConfig": {"NetworkMode": "front", "Binds": None, **(host or {})},
        "NetworkSettings": {"Networks": networks or {"front": {"Aliases": None}}},
    }


def taken(seen: Json, *, shared_volumes: bool = False, has_ports: bool = False) -> Template:
    return clone.template(seen, shared_volumes=shared_volumes, has_ports=has_ports)


def body(seen: Json, number: int = 2, *, has_ports: bool = False, **ports: int) -> Json:
    chosen = {f"{port.removeprefix('p')}/tcp": host for port, host in ports.items()}
    made = taken(seen, has_ports=has_ports)
    return clone.body_of(made, labels={}, number=number, ports=chosen)[0]


def published(host_port: str, host_ip: str = "") -> Json:
    return {"PortBindings": {"80/tcp": [{"HostIp": host_ip, "HostPort": host_port}]}}


def mounted(**mount: Any) -> Json:
    return {"Mounts": [{"Type": "volume", "Source": "data", "Target": "/data", **mount}]}


REFUSED = [
    pytest.param({}, published("8080"), "80/tcp is published at the fixed port 8080", "`ports`"),
    pytest.param({}, published("8080-8080"), "fixed port 8080-8080", "range"),
    pytest.param({}, {"Binds": ["data:/data"]}, "write to data (at /data)", "shared_volumes: ok"),
    pytest.param({}, {"Binds": ["/srv:/data:rw,z"]}, "write to /srv", "read-only"),
    pytest.param({}, mounted(), "write to data (at /data)", "read-only"),
    pytest.param({}, mounted(Type="bind", Source="/srv"), "write to /srv", "read-only"),
    pytest.param({}, {"NetworkMode": f"container:{ID}"}, "NetworkMode lives in another", "own"),
    pytest.param({}, {"IpcMode": f"container:{ID}"}, "IpcMode lives in another", "own"),
    pytest.param({}, {"PidMode": f"container:{ID}"}, "PidMode lives in another", "own"),
    pytest.param({}, {"VolumesFrom": ["db"]}, "takes volumes from another", "named volumes"),
    pytest.param(
        {"Labels": {"com.docker.swarm.service.name": "api"}},
        {},
        "it is of the Swarm service api",
        "`swarm: {service: api}`",
    ),
    pytest.param({"Hostname": "web-a"}, {}, "host name web-a is set by hand", "leave it out"),
]


@pytest.mark.parametrize(("config", "host", "reason", "remedy"), REFUSED)
def test_a_refusal_has_its_reason_and_a_remedy(
    config: Json, host: Json, reason: str, remedy: str
) -> None:
    with pytest.raises(Unsupported) as refused:
        taken(inspected(config=config, host=host))
    assert reason in str(refused.value)
    assert remedy in str(refused.value)
    assert isinstance(refused.value, PermanentError)


def test_all_reasons_are_said_at_once() -> None:
    host = {**published("8080"), "Binds": ["a:/a", "b:/b"], "VolumesFrom": ["db"]}
    with pytest.raises(Unsupported) as refused:
        taken(inspected(config={"Hostname": "web-a"}, host=host))
    assert str(refused.value).startswith("web cannot be copied: ")
    for reason in ("fixed port", "write to a ", "write to b ", "takes volumes", "host name"):
        assert reason in str(refused.value)


ACCEPTED = {
    "a range of ports": published("8080-8090"),
    "a port that the engine chooses": published(""),
    "port zero": published("0"),
    "a volume to read": {"Binds": ["data:/data:ro"]},
    "a volume to read, and more options": {"Binds": ["data:/data:z,ro"]},
    "a mount to read": mounted(ReadOnly=True),
    "a mount without a name": mounted(Source=""),
    "a file system in memory": mounted(Type="tmpfs", Source=""),
    "an anonymous volume carried over by compose": {"Binds": [f"{VOLUME}:/data:rw"]},
    "a device": {"Devices": [{"PathOnHost": "/dev/null"}]},
    "removed by itself": {"AutoRemove": True},
    "the network of the host": {"NetworkMode": "host"},
}


@pytest.mark.parametrize("host", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_several_can_have_is_accepted(host: Json) -> None:
    assert taken(inspected(host=host)).hash


def test_what_the_policy_allows_is_accepted() -> None:
    assert taken(inspected(host={"Binds": ["data:/data"]}), shared_volumes=True).hash
    assert taken(inspected(host=published("8080")), has_ports=True).ports == ("80/tcp",)
    hosts_name = inspected(config={"Hostname": "machine"}, host={"NetworkMode": "host"})
    assert "Hostname" not in body(hosts_name)


def test_unknown_keys_are_taken_over() -> None:
    seen = inspected(config={"Shell": ["sh"], "New": 1}, host={"OfTomorrow": {"a": [1]}})
    made = body(seen)
    assert (made["Shell"], made["New"]) == (["sh"], 1)
    assert made["HostConfig"]["OfTomorrow"] == {"a": [1]}


def test_what_only_one_can_have_is_left_out() -> None:
    front = {
        "Aliases": ["web", ID[:12], "shop-web-1"],
        "IPAMConfig": {"IPv4Address": "10.0.0.9"},
        "MacAddress": "02:42:ac:11:00:02",
        "DriverOpts": {"a": "b"},
        "Links": ["db:store"],
        "GwPriority": 3,
        "DNSNames": ["web"],
    }
    seen = inspected(
        "shop-web-1",
        config={"MacAddress": "02:42:ac:11:00:02"},
        host={"ContainerIDFile": "/tmp/id"},
        networks={"front": front},
    )
    made = body(seen)
    assert made["NetworkingConfig"]["EndpointsConfig"]["front"] == {
        "Aliases": ["web"],
        "DriverOpts": {"a": "b"},
        "Links": ["db:store"],
        "GwPriority": 3,
    }
    assert "02:42" not in json.dumps(made)
    assert "ContainerIDFile" not in made["HostConfig"]
    assert made["Image"] == SHA


def test_further_networks_wait() -> None:
    networks = {"back": {"Aliases": ["api"]}, "front": None, "bridge": {}}
    made, further = clone.body_of(
        taken(inspected(networks=networks)), labels={}, number=2, ports={}
    )
    assert made["NetworkingConfig"] == {"EndpointsConfig": {"front": {}}}
    assert further == [("back", {"Aliases": ["api"]})]


def test_a_network_that_stands_there_by_its_id_is_named() -> None:
    networks = {"back": {"NetworkID": "cd" * 32}, "front": {"NetworkID": "ef" * 32}}
    made = taken(inspected(host={"NetworkMode": "ef" * 32}, networks=networks))
    assert list(made.networks) == ["front", "back"]
    assert made.body["HostConfig"]["NetworkMode"] == "front"


def test_anonymous_volumes_are_new() -> None:
    made = body(inspected(host={"Binds": [f"{VOLUME}:/data:rw", "conf:/conf:ro"]}))
    assert made["Volumes"] == {"/data": {}}
    assert made["HostConfig"]["Binds"] == ["conf:/conf:ro"]


def test_links_lose_their_absolute_form() -> None:
    made = body(inspected(host={"NetworkMode": "default", "Links": ["/store:/web/db"]}))
    assert made["HostConfig"]["Links"] == ["store:db"]


@pytest.mark.parametrize(
    ("address", "written"),
    [
        pytest.param("", "127.0.0.1", id="nowhere else than here"),
        pytest.param("10.0.0.1", "10.0.0.1", id="where the original says"),
    ],
)
def test_host_ports_are_chosen_by_the_caller(address: str, written: str) -> None:
    made = body(inspected(host=published("8080", address)), has_ports=True, p80=20105)
    assert made["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": written, "HostPort": "20105"}]
    }


def test_all_exposed_ports_can_be_published() -> None:
    seen = inspected(config={"ExposedPorts": {"80/tcp": {}}}, host={"PublishAllPorts": True})
    assert taken(seen).ports == ("80/tcp",)
    bindings = body(seen, has_ports=True, p80=20105)["HostConfig"]["PortBindings"]
    assert bindings == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "20105"}]}


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        pytest.param("web", {}, "web-3", id="a container of no project"),
        pytest.param("shop-web-1", COMPOSE, "shop-web-3", id="compose"),
        pytest.param("shop_web_1", COMPOSE, "shop_web_3", id="compose of old"),
        pytest.param("cashier", COMPOSE, "shop-web-3", id="a name by hand"),
        pytest.param(
            "cashier",
            {**COMPOSE, "com.docker.compose.version": "1.29.2"},
            "shop_web_3",
            id="a name by hand, compose of old",
        ),
    ],
)
def test_names(name: str, labels: dict[str, str], expected: str) -> None:
    made = taken(inspected(name, config={"Labels": labels}))
    assert clone.name_of(made, 3) == expected


def test_labels() -> None:
    """Compose takes it for its own; labels that are a policy stay with the original."""
    labels = {**COMPOSE, "team": "core", "scaler.enable": "true", "com.docker.compose.replace": "x"}
    made = taken(inspected("shop-web-1", config={"Labels": labels}))
    ours = {"scaler.policy": "web"}
    assert clone.body_of(made, labels=ours, number=7, ports={})[0]["Labels"] == {
        **COMPOSE,
        "com.docker.compose.container-number": "7",
        "team": "core",
        "scaler.policy": "web",
        "scaler.names": "shop-web-",
        "scaler.image": "shop/web:1",
    }
    plain = clone.body_of(taken(inspected()), labels={}, number=7, ports={})[0]["Labels"]
    assert plain == {"scaler.names": "web-", "scaler.image": "shop/web:1"}


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}])
def test_an_option_that_a_newer_engine_lists_makes_no_other_template(value: Any) -> None:
    before = taken(inspected()).hash
    assert taken(inspected(host={"OfTomorrow": value})).hash == before
    assert taken(inspected(config={"OfTomorrow": value})).hash == before


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(inspected(host={"OfTomorrow": 1}), id="an option"),
        pytest.param(inspected(config={"ExposedPorts": {"80/tcp": {}}}), id="a port"),
        pytest.param(inspected(config={"Labels": {"team": ""}}), id="a label without a value"),
        pytest.param(inspected(networks={"front": {}, "back": {}}), id="a network"),
    ],
)
def test_what_is_set_makes_another_template(other: Json) -> None:
    assert taken(other).hash != taken(inspected()).hash


# --- properties ---------------------------------------------------------------------------------

words = st.text("abc-.", min_size=1, max_size=5)
leaves = st.none() | st.booleans() | st.integers() | words
trees = st.recursive(
    leaves, lambda t: st.lists(t, max_size=3) | st.dictionaries(words, t), max_leaves=8
)


@st.composite
def containers(draw: st.DrawFn) -> Json:
    """Containers that can be copied when the policy allows all."""
    number = draw(st.integers(1, 9))
    labels = draw(st.dictionaries(words, words, max_size=3))
    name = draw(st.sampled_from(["web", f"shop-web-{number}", f"shop_web_{number}"]))
    if name != "web":
        labels |= {**COMPOSE, "com.docker.compose.container-number": str(number)}
    config: Json = {
        **draw(st.dictionaries(words.map(str.title), trees, max_size=3)),
        "Labels": labels,
        "Env": draw(st.none() | st.lists(words, max_size=3)),
        "ExposedPorts": draw(st.none() | st.just({"80/tcp": {}, "81/udp": {}})),
    }
    ports = draw(
        st.dictionaries(st.sampled_from(["80/tcp", "81/udp"]), st.sampled_from(["", "8080", "1-9"]))
    )
    host = {
        **draw(st.dictionaries(words.map(str.title), trees, max_size=3)),
        "Binds": draw(
            st.none()
            | st.lists(st.sampled_from(["a:/a", f"{VOLUME}:/b:rw", "/c:/c:ro"]), unique=True)
        ),
        "NetworkMode": draw(st.sampled_from(["default", "front", "host", "none"])),
        "PublishAllPorts": draw(st.booleans()),
        "PortBindings": {
            port: [{"HostIp": "", "HostPort": given}] for port, given in ports.items()
        },
    }
    aliases = st.none() | st.lists(st.sampled_from(["web", "api", ID[:12], name]), unique=True)
    names = st.sampled_from(["front", "back", "bridge"])
    networks = draw(st.dictionaries(names, st.fixed_dictionaries({"Aliases": aliases}), min_size=1))
    return inspected(name, config=config, host=host, networks=networks)


def allowed(seen: Json) -> Template:
    return taken(seen, shared_volumes=True, has_ports=True)


def as_engine_says(name: str, body: Json, further: list[tuple[str, Json]]) -> Json:
    """What an inspection says of a container that was created so."""
    new_id = "5e" * 32
    host = body["HostConfig"]
    networks = {**body.get("NetworkingConfig", {}).get("EndpointsConfig", {}), **dict(further)}
    if not networks:
        networks = {"bridge": {}}
    config = {k: v for k, v in body.items() if k not in ("HostConfig", "NetworkingConfig")}
    return {
        "Id": new_id,
        "Name": f"/{name}",
        "Image": SHA,
        "Config": {**config, "Hostname": new_id[:12]},
        "HostConfig": {**host, "ContainerIDFile": ""},
        "NetworkSettings": {
            "Networks": {
                n: {**s, "Aliases": [*s.get("Aliases", ()), new_id[:12]], "IPAddress": "10.0.0.7"}
                for n, s in networks.items()
            }
        },
    }


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(containers())
def test_the_order_of_keys_does_not_matter(seen: Json) -> None:
    before = json.dumps(seen)
    assert allowed(reordered(seen)) == allowed(seen)
    assert json.dumps(seen) == before, "what was inspected is left as it was"


@given(containers(), st.integers(2, 99))
def test_a_copy_of_a_copy_is_the_same(seen: Json, number: int) -> None:
    one = allowed(seen)
    ports = {port: 20000 + index for index, port in enumerate(one.ports)}
    made, further = clone.body_of(one, labels={"scaler.policy": "x"}, number=number, ports=ports)
    copy = as_engine_says(clone.name_of(one, number), made, further)
    again = allowed(copy)
    assert again.hash == one.hash
    assert clone.name_of(again, number) == clone.name_of(one, number)


@given(containers())
def test_a_template_survives_a_file(seen: Json) -> None:
    one = allowed(seen)
    assert Template.from_dict(json.loads(json.dumps(one.to_dict(), sort_keys=True))) == one
    body, further = clone.body_of(one, labels={}, number=2, ports={})
    kept = Template.from_dict(json.loads(json.dumps(one.to_dict(), sort_keys=True)))
    assert clone.body_of(kept, labels={}, number=2, ports={}) == (body, further)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({}, id="nothing at all"),
        pytest.param({"body": None, "networks": {}, "ports": [], "hash": "x"}, id="no body"),
        pytest.param({**taken(inspected()).to_dict(), "hash": "0"}, id="another hash"),
        pytest.param({**taken(inspected()).to_dict(), "ports": ["1/tcp"]}, id="another port"),
        pytest.param({**taken(inspected()).to_dict(), "networks": 3}, id="no networks"),
        pytest.param([], id="a list"),
    ],
)
def test_a_damaged_template_is_refused(damage: Any) -> None:
    with pytest.raises(ValueError, match="not a template"):
        Template.from_dict(damage)


# --- the proof ----------------------------------------------------------------------------------


def test_a_container_does_not_differ_from_itself() -> None:
    seen = inspected(networks={"front": {"IPAddress": "10.0.0.1"}})
    other = inspected(networks={"front": {"IPAddress": "10.0.0.2", "Aliases": []}})
    assert clone.difference(seen, other) == []


@pytest.mark.parametrize(
    ("other", "paths"),
    [
        pytest.param(inspected(config={"User": "nobody"}), ["Config.User"], id="a value"),
        pytest.param(inspected(config={"Tty": False}), ["Config.Tty"], id="false is not absent"),
        pytest.param(inspected(config={"Env": ["A=1"]}), ["Config.Env"], id="a list"),
        pytest.param(
            inspected(config={"Labels": {"a.b": "c"}}), ["Config.Labels.a.b"], id="a label"
        ),
        pytest.param(
            inspected(networks={"front": {}, "back": {}}),
            ["Networks.back.connected"],
            id="a network",
        ),
        pytest.param(
            inspected(host=published("80")), ["HostConfig.PortBindings.80/tcp"], id="a port"
        ),
    ],
)
def test_differences_are_paths(other: Json, paths: list[str]) -> None:
    assert clone.difference(inspected(), other) == paths
    assert clone.difference(other, inspected()) == paths
