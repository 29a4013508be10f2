"""Pods of one application with a scaler beside it, each in namespaces of its own.

The processes of a pod see each other and nobody else, as with `shareProcessNamespace`, and the
scaler finds a service account where the kubelet puts it. Needs root, as the kubelet does.
"""

import asyncio
import os
import ssl
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.kube_cluster import Cluster
from tests.fakes.kube_objects import Json
from tests.fakes.kubernetes import Server

PORT = 19109  # of readings; each pod has an address of its own
ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"
GROUPS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))  # each container has its own
POLICY = """\
policies:
  web:
    every: 1s
    target: {kubernetes: self}
    metrics: [{cpu: 70%, window: 0s}]
    limits:
      {min: 3, max: 8, settle_down: 3s, reversals: 100 per 1h, grow: {at_most: 100, per: 1s}}
"""
SETTINGS = """\
policies: [policies]
store: memory
lease: {{store: kubernetes, name: web-scaler, ttl: {ttl}s}}
sidecar: {{listen: "{address}:{port}", token_file: {token}}}
"""
# The application: burns the share of a core that a file says, in slices of 50 ms.
BURN = """
import sys, time, pathlib
wanted = pathlib.Path(sys.argv[1])
while True:
    share = float(wanted.read_text() or 0)
    end = time.perf_counter() + 0.05 * share
    while time.perf_counter() < end:
        pass
    time.sleep(0.05 * (1 - share))
"""
# Where the kubelet mounts the service account, as seen by this process and its children only.
MOUNT = f"""
set -e
mount -t tmpfs tmpfs /run
mkdir -p {ACCOUNT}
cp ACCOUNT_FILES/* {ACCOUNT}/
[ -e /var/run/secrets ] || mount --bind /run /var/run
"""
START = """
{mount}
( echo 0 >{group}/cgroup.procs; exec {python} -c '{burn}' {folder}/load ) &
exec {scaler}
"""


def certified(folder: Path) -> ssl.SSLContext:
    """A certificate for 127.0.0.1 in `folder`, which is also its own authority."""
    key, crt = folder / "key.pem", folder / "ca.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", key,
         "-out", crt, "-subj", "/CN=kube", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(crt, key)
    return tls


def account(folder: Path, authority: Path, token: str) -> None:
    """The files of a service account, in `folder/account`."""
    (folder / "account").mkdir()
    (folder / "account" / "token").write_text(token)
    (folder / "account" / "namespace").write_text("default")
    (folder / "account" / "ca.crt").write_text(authority.read_text())


class SidecarPod:
    """One pod of the fake cluster and the processes that would be in it."""

    def __init__(self, folder: Path, server: Server, pod: Json, token: str, *, ttl: float) -> None:
        self.name = str(pod["metadata"]["name"])
        self.address = str(pod["status"]["podIP"])
        self.folder = folder / self.name
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None
        self.folder.mkdir()
        account(self.folder, folder / "ca.crt", token)
        (self.folder / "policies").mkdir()
        (self.folder / "policies" / "web.yaml").write_text(POLICY)
        (self.folder / "token").write_text("shared-between-pods")
        settings = SETTINGS.format(
            ttl=f"{ttl:g}", address=self.address, port=PORT, token=self.folder / "token"
        )
        (self.folder / "scaler.yaml").write_text(settings)
        groups = next(path for path in GROUPS if path.exists())
        self._group = groups / f"scaler-{os.getpid()}-{self.name}"
        self.burn(0)

    def burn(self, share: float) -> None:
        """How much of a core the application uses from now on."""
        fresh = self.folder / "load.new"
        fresh.write_text(str(share))
        fresh.replace(self.folder / "load")

    def start(self) -> None:
        self._group.mkdir()
        # Without rich, which structlog loads when a development tool has brought it along.
        run = 'import sys; sys.modules["rich"] = None; from scaler.__main__ import main; main()'
        scaler = (
            f"{sys.executable} -c '{run}' --config {self.folder}/scaler.yaml "
            f"--socket {self.folder}/s run"
        )
        script = START.format(
            mount=MOUNT.replace("ACCOUNT_FILES", str(self.folder / "account")),
            folder=self.folder,
            python=sys.executable,
            burn=BURN.strip(),
            group=self._group,
            scaler=scaler,
        )
        environment = {
            "PATH": os.environ["PATH"],
            "POD_NAME": self.name,
            "POD_NAMESPACE": "default",
            "KUBERNETES_SERVICE_HOST": self._server.host,
            "KUBERNETES_SERVICE_PORT": str(self._server.port),
            "SCALER_STATE_DIR": str(self.folder / "state"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MALLOC_ARENA_MAX": "1",  # as the image has it
        }
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script],
                env=environment,
                stdout=log,
                stderr=log,
            )

    @property
    def scaler_pid(self) -> int:
        """Of the first process of the pod, as this machine sees it."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return int(children.read_text().split()[0])

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def kill(self) -> None:
        """At once and all of it, as when the node is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None
            while (self._group / "cgroup.procs").read_text():
                time.sleep(0.01)
            self._group.rmdir()


async def application(
    folder: Path, server: Server, cluster: Cluster, count: int, *, ttl: float = 15
) -> list[SidecarPod]:
    """A Deployment of `count` pods, each with its scaler, which may do what the example's may."""
    cluster.deploy("web", count, cpu="200m")
    async with asyncio.timeout(30):
        while len(cluster.ready()) < count:
            await asyncio.sleep(0.05)
    pods = [SidecarPod(folder, server, pod, server.admin, ttl=ttl) for pod in cluster.ready()]
    for pod in pods:
        pod.start()
    return pods


def leader(server: Server) -> str:
    """Who holds the lease, as its record says."""
    found = [item for item in server.all("Lease") if item["metadata"]["name"] == "web-scaler"]
    return str(found[0]["spec"].get("holderIdentity") or "") if found else ""
