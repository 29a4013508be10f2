"""What the demo writes before it begins: a policy, a cache and a partition set to look after."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scaler.demo.door import BACKEND, Door
from scaler.demo.ledger.watcher import MARK
from scaler.errors import ConfigError

NAME: Final = "ledger"  # of the policy, the cache and the database
METRIC: Final = "requests"
PACE: Final = 60  # requests per second that one instance answers at most
MOST: Final = 6  # instances
PORTS: Final = 20
GUESS: Final = 30  # requests per second and instance, until it is measured
POLICY: Final = """\
# The policy of the demo. Each field: scaler schema --docs
version: 1
policies:
  ledger:
    every: 1s
    target:
      local:
        command: {command}
        port: {ports}
        env: {env}
        grace: 5s
        on_exit: stop{balancer}
    metrics:
      - name: requests
        source: {{http: {{url: "http://{{host}}:{{port}}/load", json: $.requests_per_second}}}}
        goal:
          per_instance: {guess}          # a guess, until it is measured
        window: 3s
    limits:
      min: 1
      max: {most}
      settle_down: 6s              # short, to be seen; 5m when not given
      shrink: {{at_most: 1, per: 2s}}
    health:
      startup: {{http: {{path: /readyz}}, every: 200ms, fail_after: 75}}
      readiness: {{http: {{path: /readyz}}, every: 500ms, timeout: 500ms, fail_after: 2}}
      liveness: {{http: {{path: /healthz}}, every: 1s, timeout: 1s, fail_after: 2}}
      restart: {{backoff: 2s..1m}}   # counted from the last start; 1s..5m when not given
"""
BALANCER: Final = """
    balancer:
      haproxy: {{backend: {backend}, socket: {socket}, drain: 5s, check: true}}"""
CACHES: Final = """\
# The cache of the demo: looked at every 3 s, and keys that would stay for ever get an end.
version: 1
caches:
  ledger:
    url: {url}
    prefixes: ["ledger:"]
    every: 3s
    full_lap: 8s
    act: {{missing_ttl: 1h}}
"""
PARTITIONS: Final = """\
# The table of the demo: a partition for each month, three of them ahead.
version: 1
databases:
  ledger:
    dsn: {dsn}
    every: 5s
    partitions:
      - {{table: public.transactions, by: created_at, every: 1 month, ahead: 3}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The folder of one run."""

    folder: Path
    dsn: str = ""  # of PostgreSQL; all is kept in memory without
    redis: str = ""

    @property
    def policy(self) -> Path:
        return self.folder / "policies" / "ledger.yaml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def caches(self) -> Path | None:
        return self.folder / "caches.yaml" if self.redis else None

    @property
    def partitions(self) -> Path | None:
        return self.folder / "partitions.yaml" if self.dsn else None

    def write(self, door: Door, first_port: int) -> None:
        """All files, in place of those of an earlier run.

        Raises:
            ConfigError: the folder cannot be written.
        """
        try:
            self.policy.parent.mkdir(parents=True, exist_ok=True)
            self.state.mkdir(exist_ok=True)
            for old in self.state.glob("scaler.db*"):
                old.unlink()
            # It holds how many instances there were when an earlier run was interrupted.
            shutil.rmtree(self.state / "local", ignore_errors=True)
            self.policy.write_text(self._policy(door, first_port))
            if self.caches:
                self.caches.write_text(CACHES.format(url=self.redis))
            if self.partitions:
                self.partitions.write_text(PARTITIONS.format(dsn=json.dumps(self.dsn)))
        except OSError as error:
            raise ConfigError(
                f"cannot write {error.filename}: {error.strerror}; choose another place with "
                "--folder"
            ) from error

    def _policy(self, door: Door, first_port: int) -> str:
        command = [sys.executable, "-m", "scaler.demo.ledger", "serve", "--port", "{port}",
                   "--pace", str(PACE)]  # fmt: skip
        env = {MARK: str(door.folder)}
        if self.dsn:
            env["LEDGER_DSN"] = self.dsn
            command += ["--connections", "4"]
        else:
            command += ["--memory"]
        if self.redis:
            env["LEDGER_REDIS"] = self.redis
        balancer = ""
        if door.admin:
            balancer = BALANCER.format(backend=BACKEND, socket=door.admin)
        else:
            command += ["--shared-port", str(door.port)]
        return POLICY.format(
            command=json.dumps(command),
            env=json.dumps(env),
            ports=f"{first_port}-{first_port + PORTS - 1}",
            balancer=balancer,
            guess=GUESS,
            most=MOST,
        )
