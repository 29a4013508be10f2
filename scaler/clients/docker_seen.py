"""What an engine says of one container, as values: inspect in, `Seen` out.

Pure. Only what is needed stays: hundreds of containers are kept in memory between two looks.
"""

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

POLICY: Final = "scaler.policy"
INSTANCE: Final = "scaler.instance"
TEMPLATE: Final = "scaler.template"
CREATED_BY: Final = "scaler.created-by"
PROJECT: Final = "com.docker.compose.project"
SERVICE: Final = "com.docker.compose.service"
NUMBER: Final = "com.docker.compose.container-number"
ONE_OFF: Final = "com.docker.compose.oneoff"
CONFIG: Final = "com.docker.compose.config-hash"
LONGEST_SAYING: Final = 300  # characters of a health check's output
GRACE: Final = timedelta(seconds=10)  # of the engine itself
_UNITS: Final = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
    "year": 31_536_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine of an engine; zero is what nobody says."""

    cores: float
    memory: float  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One container."""

    id: str
    name: str
    labels: Mapping[str, str]
    status: str  # created, running, paused, restarting, removing, exited, dead
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int = 0
    error: str = ""  # why it could not be started
    oom: bool = False
    pid: int | None = None
    health: str = ""  # empty without a health check
    health_said: str = ""
    health_changed_at: datetime | None = None  # when we saw it turn
    restart_policy: str = ""
    tries_left: bool = True  # the restart policy would start it once more
    auto_remove: bool = False
    stop_signal: str = "SIGTERM"
    grace: timedelta = GRACE
    cores: float | None = None  # its limit
    memory: float | None = None  # bytes, its limit
    network_mode: str = ""
    addresses: Mapping[str, str] = field(default_factory=dict)  # by network, the first one first
    published: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # by "8080/tcp"
    exposed: Sequence[int] = ()  # TCP, lowest first
    by_hand: bool = False  # somebody stopped it
    ending: bool = False  # somebody sends it signals; whether that is a stop shows in a moment
    with_engine: bool = False  # it ended when the engine did

    @property
    def number(self) -> int:
        """Its place in the row: of compose, else the number at the end of its name."""
        written = self.labels.get(NUMBER, "")
        if written.isdigit():
            return int(written)
        found = re.search(r"[-_](\d{1,6})$", self.name)
        return int(found[1]) if found else 1

    @property
    def incarnation(self) -> str:
        """The id and, after an `@`, what changes with every start."""
        return f"{self.id[:12]}@{self.started_at.isoformat() if self.started_at else ''}"


def seen(inspected: Mapping[str, Any]) -> Seen:
    """What is worth keeping of an inspected container."""
    config, host = inspected["Config"], inspected["HostConfig"]
    state, net = inspected["State"], inspected.get("NetworkSettings") or {}
    health = state.get("Health") or {}
    policy = host.get("RestartPolicy") or {}
    most = policy.get("MaximumRetryCount") or 0
    timeout = config.get("StopTimeout")
    name = policy.get("Name") or "no"
    return Seen(
        id=inspected["Id"],
        name=inspected["Name"].lstrip("/"),
        labels=config.get("Labels") or {},
        status=state["Status"],
        created_at=moment(inspected.get("Created")),
        started_at=moment(state.get("StartedAt")),
        finished_at=moment(state.get("FinishedAt")),
        exit_code=state.get("ExitCode") or 0,
        error=state.get("Error") or "",
        oom=bool(state.get("OOMKilled")),
        pid=state.get("Pid") or None,
        health="" if health.get("Status") in (None, "none") else health["Status"],
        health_said=_said(health),
        restart_policy=name if name != "no" else "",
        tries_left=name in ("always", "unless-stopped")
        or (bool(state.get("ExitCode")) and (not most or inspected.get("RestartCount", 0) < most)),
        auto_remove=bool(host.get("AutoRemove")),
        stop_signal=config.get("StopSignal") or "SIGTERM",
        grace=GRACE if timeout is None else timedelta(seconds=timeout),
        cores=cores(host),
        memory=float(host["Memory"]) if host.get("Memory") else None,
        network_mode=host.get("NetworkMode") or "",
        addresses=_addresses(host.get("NetworkMode") or "", net.get("Networks") or {}),
        published=_published(net.get("Ports") or {}),
        exposed=_exposed(config, host),
    )


def moment(written: object) -> datetime | None:
    """A moment as the engine writes it; None for its year 1, which means never."""
    if not isinstance(written, str) or written.startswith("0001-"):
        return None
    short = re.sub(r"(\.\d{6})\d+", r"\1", written)  # Python reads microseconds
    return datetime.fromisoformat(short)


def cores(host: Mapping[str, Any]) -> float | None:
    """The limit in cores: `--cpus`, else quota and period, else the set of cores."""
    if host.get("NanoCpus"):
        return float(host["NanoCpus"]) / 1e9
    if (host.get("CpuQuota") or 0) > 0:
        return float(host["CpuQuota"]) / float(host.get("CpuPeriod") or 100_000)
    written = host.get("CpusetCpus") or ""
    count = 0
    for part in filter(None, written.split(",")):
        low, _, high = part.partition("-")
        count += int(high or low) - int(low) + 1
    return float(count) or None


def _said(health: Mapping[str, Any]) -> str:
    log = health.get("Log") or []
    return str(log[-1].get("Output") or "").strip()[-LONGEST_SAYING:] if log else ""


def _addresses(mode: str, networks: Mapping[str, Any]) -> dict[str, str]:
    first = sorted(networks, key=lambda name: (name != mode, name))
    return {name: networks[name]["IPAddress"] for name in first if networks[name].get("IPAddress")}


def _published(ports: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Where each port is published; a loopback address before all others, IPv4 before IPv6."""
    found = {}
    for port, places in ports.items():
        if places:
            best = min(places, key=lambda p: ":" in (p.get("HostIp") or ""))
            host = best.get("HostIp") or ""
            any_address = host in ("", "0.0.0.0", "::")  # noqa: S104 - read, not bound
            found[port] = ("127.0.0.1" if any_address else host, int(best["HostPort"]))
    return found


def _exposed(config: Mapping[str, Any], host: Mapping[str, Any]) -> tuple[int, ...]:
    written = {*(config.get("ExposedPorts") or {}), *(host.get("PortBindings") or {})}
    return tuple(sorted(int(p.split("/")[0]) for p in written if not p.endswith(("/udp", "/sctp"))))


def ended(code: int, *, oom: bool = False, error: str = "") -> str:
    """Why a container is not running any more, in words."""
    if error:
        return f"could not start: {error}"
    if oom:
        return "out of memory: killed by the kernel; raise its memory limit"
    if code > 128:
        try:
            return f"killed by {signal.Signals(code - 128).name}"
        except ValueError:
            pass
    return f"ended with {code}"


def age(status: str) -> timedelta | None:
    """About how long ago it started or ended, by the words of a list: `Up 3 minutes (healthy)`.

    None when the words say nothing of it. They are rounded down, at worst to a half.
    """
    if "Less than a second" in status:
        return timedelta()
    found = re.search(r"(\d+|About an?) (second|minute|hour|day|week|month|year)s?", status)
    if found is None:
        return None
    count = int(found[1]) if found[1].isdigit() else 1
    return timedelta(seconds=count * _UNITS[found[2]])


def key(listed: Mapping[str, Any]) -> tuple[str, ...]:
    """What changes in a list when a container has to be inspected again."""
    found = re.search(r"\((healthy|unhealthy|health: starting|Paused)\)", listed.get("Status", ""))
    return listed["State"], found[1] if found else "", *sorted(listed.get("Names") or ())


def restarted(known: Seen, status: str, now: datetime) -> bool:
    """Whether a list shows a younger start or end than is known, in the same state."""
    listed = age(status)
    since = known.started_at if known.status == "running" else known.finished_at
    if listed is None or since is None:
        return False
    return listed < (now - since) / 2 - timedelta(seconds=5)
