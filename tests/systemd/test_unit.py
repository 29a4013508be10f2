"""The unit file by systemd's own judgement, and the daemon under a real service manager."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path("systemd/scaler.service")
SCALER = Path(sys.executable).with_name("scaler")
# A user manager of its own: in its own mount, cgroup and process namespaces, with a tmpfs over the
# runtime folder, so it can neither see nor reach a manager of this machine. It ends with them.
MANAGER = """\
set -eu
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/user/0
mount -t cgroup2 cgroup2 /sys/fs/cgroup
export XDG_RUNTIME_DIR=/run/user/0
/lib/systemd/systemd --user --log-level=warning --log-target=console 2>"$HOME/log" &
manager=$!
show() {{ systemctl --user show t -p ActiveState,StatusText,NRestarts --value | xargs; }}
say() {{ echo "$1: $(show)"; }}
for _ in $(seq 100); do [ -S /run/user/0/systemd/private ] && break; sleep 0.1; done
systemctl --user start t
say ready
systemctl --user reload t
for _ in $(seq 50); do show | grep -q '3 instances' && break; sleep 0.1; done
say reloaded
systemctl --user kill --kill-whom=main --signal=STOP t
for _ in $(seq 200); do show | grep -q 'wanted 1 ' && break; sleep 0.1; done
for _ in $(seq 100); do show | grep -q '3 instances wanted 1 active' && break; sleep 0.1; done
say restarted
systemctl --user stop t
kill $manager
wait $manager || true
"""
UNSHARE = "unshare --mount --cgroup --pid --fork --mount-proc --kill-child sh -s"
SERVICE = """\
[Service]
Type=notify
Environment=SCALER_STATE_DIR={folder}/state SCALER_SOCKET={folder}/s
ExecStart={scaler} run {folder}/policies
ExecReload=/bin/sh -c "sed -i s/min..1/min:\\\\ 3/ {folder}/policies/web.yaml; kill -HUP $MAINPID"
WatchdogSec=3
TimeoutAbortSec=1
Restart=always
RestartSec=0
"""
POLICY = """\
policies:
  web:
    every: 500ms
    target: {local: {command: [sleep, "600"], on_exit: stop}}
    limits: {min: 1}
"""


def test_the_unit_is_valid(tmp_path: Path) -> None:
    unit = tmp_path / "scaler.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/scaler", "/bin/true"))
    for drop_in in Path("systemd/drop-ins").glob("*.conf"):
        folder = tmp_path / f"{drop_in.stem}.service.d"
        folder.mkdir()
        (folder / "drop-in.conf").write_text(drop_in.read_text())
        (tmp_path / f"{drop_in.stem}.service").write_text(unit.read_text())
    for checked in tmp_path.glob("*.service"):
        ended = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(checked)],
            capture_output=True,
            text=True,
            check=False,
        )
        mine = [line for line in ended.stderr.splitlines() if str(tmp_path) in line]
        assert ended.returncode == 0, ended.stderr
        assert mine == []


def test_the_unit_is_shut_off_from_what_it_does_not_need() -> None:
    ended = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"exposure level for scaler.service: ([\d.]+)", ended.stdout)
    assert found is not None
    assert float(found[1]) <= 1.5


@pytest.mark.live
@pytest.mark.systemd
def test_under_a_service_manager_it_is_ready_reloads_and_is_restarted_when_it_stands_still(
    tmp_path: Path,
) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "web.yaml").write_text(POLICY)
    units = tmp_path / ".config" / "systemd" / "user"
    units.mkdir(parents=True)
    (units / "t.service").write_text(SERVICE.format(folder=tmp_path, scaler=SCALER))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "SCALER_"))}
    ended = subprocess.run(
        UNSHARE.split(),
        input=MANAGER.format(),
        env={**kept, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    told = dict(line.split(": ", 1) for line in ended.stdout.splitlines())
    log = tmp_path / "log"
    detail = f"{ended.stdout}\n{ended.stderr}\n{log.read_text() if log.exists() else ''}"
    assert ended.returncode == 0, detail
    assert "active" in told["ready"], detail
    assert "1 target" in told["ready"], detail
    assert "3 instances wanted" in told["reloaded"], detail
    assert "3 instances wanted 1 active" in told["restarted"], detail
