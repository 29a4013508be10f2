"""`scaler init`: the first settings and the first policy, ready to be tried and changed."""

import sys
from pathlib import Path
from typing import Final

import click

from scaler.errors import ConfigError

SETTINGS: Final = """\
# Settings of the daemon itself. Everything has a default; `scaler doctor` shows what is in force.
policies: [policies]
"""
POLICY: Final = """\
# One service as local processes. `scaler check` looks for mistakes, `scaler plan` shows what
# would happen, `scaler run` does it. All fields: `scaler schema --docs`.
version: 1
policies:
  hello:
    mode: observe            # decides and explains only; `act` starts and stops instances
    target:
      local:
        command: [{python}, -m, http.server, --bind, 127.0.0.1, "{{port}}"]
        port: 8800-8809      # each instance gets its own, as {{port}} and as $PORT
    limits: {{min: 1, max: 4}}
    metrics:
      - cpu: 70%             # of one core, averaged over the instances
    health:
      liveness: {{http: {{path: /}}}}
"""


def write(folder: Path) -> None:
    """Write both files, and say what to do next.

    Raises:
        ConfigError: a file is in the way, or the folder cannot be written.
    """
    files = {
        folder / "scaler.yaml": SETTINGS,
        folder / "policies" / "hello.yaml": POLICY.format(python=sys.executable),
    }
    for path in files:
        if path.exists():
            raise ConfigError(f"{path} exists and is not overwritten; move it or name a new folder")
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            click.echo(f"wrote {path}")
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename}: {error.strerror}") from error
    click.echo(
        "\nIt only observes: change `mode: observe` to `act` when you like what you see.\n"
        f"Next: scaler -c {folder / 'scaler.yaml'} check, then plan, then run",
        err=True,
    )
