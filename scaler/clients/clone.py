"""Faithful copies of a container: what `inspect` says of it, turned back into what creates it.

Pure: the callers talk to the engine. All keys of `HostConfig` are taken over, those of engines to
come included; what only one container can have (addresses, host name, fixed host ports) is left
out, or is a reason to refuse. `difference` is the proof: it compares two containers by field.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from scaler.errors import Unsupported

COMPOSE: Final = "com.docker.compose."
NUMBER: Final = f"{COMPOSE}container-number"
SWARM_SERVICE: Final = "com.docker.swarm.service.name"
OURS: Final = "scaler."  # labels that begin so are not taken over: they are a policy, or ours
NAMES: Final = "scaler.names"  # what names of clones begin with
IMAGE: Final = "scaler.image"  # the tag that the original was started from
LOCALHOST: Final = "127.0.0.1"
ENDPOINT: Final = ("Aliases", "DriverOpts", "GwPriority", "Links")  # else: given by the engine
UNNAMED_MODES: Final = ("", "default", "bridge", "host", "none")
_ANONYMOUS: Final = re.compile(r"[0-9a-f]{64}")

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A container as it can be made again; equal for all replicas of one service."""

    body: Mapping[str, Any]  # for the creation: the image by its digest, no NetworkingConfig
    networks: Mapping[str, Mapping[str, Any]]  # settings by network; the one of NetworkMode first
    ports: tuple[str, ...]  # container ports that are published, "8080/tcp"
    hash: str  # of all the above

    def to_dict(self) -> Body:
        """For a file."""
        content = {"body": self.body, "networks": self.networks, "ports": list(self.ports)}
        return {**_copy(content), "hash": self.hash}

    @staticmethod
    def from_dict(kept: Mapping[str, Any]) -> "Template":
        """What `to_dict` gave.

        Raises:
            ValueError: it is damaged.
        """
        try:
            body, networks, ports = kept["body"], kept["networks"], kept["ports"]
            labels, host = body["Labels"], body["HostConfig"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a template: {error!r}") from error
        made = _template(body, networks, ports)
        if made.hash != kept.get("hash") or not labels[NAMES] or host is None:
            raise ValueError("not a template: its hash differs from its content")
        return made


def template(
    inspected: Mapping[str, Any],
    *,
    shared_volumes: bool,
    has_ports: bool,
    other_addresses: bool = True,
) -> Template:
    """How to make copies of a container; the same for a copy as for its original.

    `shared_volumes`: several may write to the same volume. `has_ports`: whoever makes copies
    chooses their host ports, on 127.0.0.1 unless the original names an address. `other_addresses`:
    a fixed address of the original in a network is of no account to those who look for it.

    Raises:
        Unsupported: there can be no second one; the message has every reason, each with a remedy.
    """
    seen = _copy(inspected)
    reasons = list(_reasons(seen, shared_volumes=shared_volumes, has_ports=has_ports))
    if not other_addresses:
        reasons += _fixed_addresses(seen)
    if reasons:
        name = seen["Name"].lstrip("/")
        raise Unsupported(f"{name} cannot be copied: {'; '.join(reasons)}")
    config, host = seen["Config"], seen["HostConfig"]
    networks = _networks(seen)
    config["Labels"] = _labels(seen)
    config["Image"] = seen["Image"]
    for unique in ("Hostname", "MacAddress"):
        config.pop(unique, None)
    host.pop("ContainerIDFile", None)
    if host.get("Links"):
        host["Links"] = sorted(map(_link, host["Links"]))
    if host.get("NetworkMode", "") not in UNNAMED_MODES:
        host["NetworkMode"] = _mode(seen)
    _renew_anonymous(config, host)
    ports = _ports(config, host)
    if has_ports and ports:
        bindings = host.get("PortBindings") or {}
        host["PortBindings"] = {port: _free(bindings.get(port)) for port in ports}
    return _template({**config, "HostConfig": host}, networks, ports)


def body_of(
    template: Template, *, labels: Mapping[str, str], number: int, ports: Mapping[str, int]
) -> tuple[Body, list[tuple[str, Body]]]:
    """The body that creates one copy, and the networks to connect before its start.

    `ports` are host ports by container port. The further networks wait because a creation takes
    only one below version 1.44 of the API.
    """
    body: Body = _copy(template.body)
    body["Labels"] = {**body["Labels"], **labels}
    if f"{COMPOSE}service" in body["Labels"]:
        body["Labels"][NUMBER] = str(number)
    if ports:
        bindings = body["HostConfig"].get("PortBindings") or {}
        for port, host_port in ports.items():
            before = _free(bindings.get(port))
            bindings[port] = [{**binding, "HostPort": str(host_port)} for binding in before]
        body["HostConfig"]["PortBindings"] = bindings
    mode = body["HostConfig"].get("NetworkMode", "")
    settings = _copy(template.networks)
    if mode in settings:
        body["NetworkingConfig"] = {"EndpointsConfig": {mode: settings.pop(mode)}}
    return body, list(settings.items())


def name_of(template: Template, number: int) -> str:
    """The name of one copy, as compose would number it; without compose `ORIGINAL-2`."""
    return f"{template.body['Labels'][NAMES]}{number}"


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Where two inspected containers are configured differently, as paths.

    Absent, null and empty are the same. What the engine gives each by itself does not count.
    """
    return sorted(_differing("", _configured(one), _configured(other)))


# --- reasons against copies ---------------------------------------------------------------------


def _reasons(seen: Body, *, shared_volumes: bool, has_ports: bool) -> Iterator[str]:
    host = seen["HostConfig"]
    if not has_ports:
        for port, bindings in (host.get("PortBindings") or {}).items():
            if fixed := sorted({b["HostPort"] for b in bindings or () if _is_fixed(b)}):
                yield (
                    f"{port} is published at the fixed port {', '.join(fixed)}; give `ports` in "
                    "the policy a range of host ports, or publish none and route by network"
                )
    if not shared_volumes:
        for source, inside in _written(host):
            yield (
                f"every copy would write to {source} (at {inside}); mount it read-only, or write "
                "`shared_volumes: ok` if the program can share it"
            )
    yield from _ties(seen)


def _ties(seen: Body) -> Iterator[str]:
    """To what a container belongs that cannot belong to it twice."""
    config, host = seen["Config"], seen["HostConfig"]
    for key in ("NetworkMode", "IpcMode", "PidMode"):
        if str(host.get(key) or "").startswith("container:"):
            yield f"{key} lives in another container, which may end; give it one of its own"
    if host.get("VolumesFrom"):
        yield "it takes volumes from another container; mount named volumes instead"
    hostname = config.get("Hostname") or ""
    if hostname and hostname != seen["Id"][:12] and host.get("NetworkMode") != "host":
        yield f"its host name {hostname} is set by hand and would not be unique; leave it out"
    if service := (config.get("Labels") or {}).get(SWARM_SERVICE):
        yield f"it is of the Swarm service {service}; scale that: `swarm: {{service: {service}}}`"


def _fixed_addresses(seen: Body) -> Iterator[str]:
    for network, settings in (seen["NetworkSettings"].get("Networks") or {}).items():
        given = (settings or {}).get("IPAMConfig") or {}
        fixed = [given[key] for key in ("IPv4Address", "IPv6Address") if given.get(key)]
        if fixed:
            yield (
                f"its address {' and '.join(fixed)} in network {network} is fixed; write "
                "`static_ip: drop` if copies may have others"
            )


def _is_fixed(binding: Mapping[str, str]) -> bool:
    first, _, last = (binding.get("HostPort") or "0").partition("-")
    return first != "0" and last in ("", first)


def _written(host: Body) -> Iterator[tuple[str, str]]:
    """Named volumes and folders of the host that the container may write to, and where."""
    for bind in host.get("Binds") or ():
        source, inside, options = _bind(bind)
        if "ro" not in options and not _ANONYMOUS.fullmatch(source):
            yield source, inside
    for mount in host.get("Mounts") or ():
        shared = mount.get("Type") in ("bind", "volume", "cluster") and mount.get("Source")
        if shared and not mount.get("ReadOnly"):
            yield mount["Source"], mount["Target"]


def _bind(bind: str) -> tuple[str, str, list[str]]:
    source, _, rest = bind.partition(":")
    inside, _, options = rest.partition(":")
    return source, inside, options.split(",")


# --- what is taken over -------------------------------------------------------------------------


def _labels(seen: Body) -> dict[str, str]:
    """Those of the original, without its number and what concerns scaler; and where it is from."""
    labels: dict[str, str] = seen["Config"].get("Labels") or {}
    kept = {key: value for key, value in labels.items() if not key.startswith(OURS)}
    for own in (NUMBER, f"{COMPOSE}replace"):
        kept.pop(own, None)
    tag = labels.get(IMAGE, seen["Config"].get("Image", ""))
    if tag and tag != seen["Image"]:
        kept[IMAGE] = tag
    return {**kept, NAMES: labels.get(NAMES) or _names(seen["Name"].lstrip("/"), labels)}


def _names(name: str, labels: Mapping[str, str]) -> str:
    """Version 1 of compose joins with `_`; a `container_name` says nothing of that."""
    service = labels.get(f"{COMPOSE}service")
    if not service:
        return f"{name}-"
    project = labels.get(f"{COMPOSE}project", "")
    for joint in ("_", "-"):
        if name.startswith(f"{project}{joint}{service}{joint}"):
            return f"{project}{joint}{service}{joint}"
    joint = "_" if labels.get(f"{COMPOSE}version", "").startswith("1.") else "-"
    return f"{project}{joint}{service}{joint}"


def _mode(seen: Body) -> str:
    """The network of NetworkMode by name; it may stand there by its id."""
    mode: str = seen["HostConfig"]["NetworkMode"]
    for name, settings in (seen["NetworkSettings"].get("Networks") or {}).items():
        if mode == (settings or {}).get("NetworkID"):
            return str(name)
    return mode


def _networks(seen: Body) -> dict[str, Body]:
    """User networks with what can be said again of each, the one of NetworkMode first."""
    networks = seen["NetworkSettings"].get("Networks") or {}
    first = _mode(seen) if seen["HostConfig"].get("NetworkMode") else ""
    own = (seen["Id"][:12], seen["Name"].lstrip("/"))
    found = {}
    for name in sorted(networks, key=lambda name: (name != first, name)):
        if name in UNNAMED_MODES:
            continue
        settings = {key: networks[name][key] for key in ENDPOINT if (networks[name] or {}).get(key)}
        aliases = sorted(set(settings.pop("Aliases", ())) - {*own})
        found[name] = {**settings, "Aliases": aliases} if aliases else settings
    return found


def _link(link: str) -> str:
    """`/db:/web/store` of an inspection as `db:store`."""
    source, _, alias = link.partition(":")
    return f"{source.lstrip('/')}:{alias.rpartition('/')[2]}"


def _renew_anonymous(config: Body, host: Body) -> None:
    """Anonymous volumes that compose has carried over by name are anonymous again."""
    kept = []
    for bind in host.get("Binds") or ():
        source, inside, _ = _bind(bind)
        if _ANONYMOUS.fullmatch(source):
            config["Volumes"] = {**(config.get("Volumes") or {}), inside: {}}
        else:
            kept.append(bind)
    if host.get("Binds"):
        host["Binds"] = kept or None


def _ports(config: Body, host: Body) -> tuple[str, ...]:
    bound = {port for port, bindings in (host.get("PortBindings") or {}).items() if bindings}
    exposed = (config.get("ExposedPorts") or {}) if host.get("PublishAllPorts") else {}
    return tuple(sorted({*bound, *exposed}))


def _free(bindings: Any) -> list[dict[str, str]]:
    """One binding for each address, without a host port."""
    given: list[dict[str, str]] = bindings or [{}]
    addresses = sorted({binding.get("HostIp") or LOCALHOST for binding in given})
    return [{"HostIp": address, "HostPort": ""} for address in addresses]


def _template(body: Body, networks: Mapping[str, Body], ports: Any) -> Template:
    content = _copy([body, networks, list(ports)])
    text = json.dumps([_set(content[0]), *content[1:]], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Template(body=content[0], networks=content[1], ports=tuple(content[2]), hash=digest)


def _set(body: Body) -> Body:
    """Options that are set. A newer engine lists more of them, and that makes no other template."""
    host = {key: value for key, value in body["HostConfig"].items() if value}
    return {key: value for key, value in body.items() if value} | {"HostConfig": host}


def _copy(value: Any) -> Any:
    """A deep copy of what came as JSON."""
    return json.loads(json.dumps(value))


# --- the proof ----------------------------------------------------------------------------------


def _configured(inspected: Mapping[str, Any]) -> Body:
    networks = inspected["NetworkSettings"].get("Networks") or {}
    return {
        "Config": inspected["Config"],
        "HostConfig": inspected["HostConfig"],
        "Networks": {
            name: {"connected": True} | {key: (settings or {}).get(key) for key in _COMPARED}
            for name, settings in networks.items()
        },
    }


_COMPARED: Final = (*ENDPOINT, "IPAMConfig")


def _differing(path: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {*one, *other}:
            inner = f"{path}.{key}" if path else key
            yield from _differing(inner, one.get(key), other.get(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differing(f"{path}.{index}", left, right)
    elif isinstance(one or other, dict) and not (one and other):
        for key, value in (one or other or {}).items():
            yield from _differing(f"{path}.{key}", value, None)
    elif one != other and not (_is_empty(one) and _is_empty(other)):
        yield path


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})
