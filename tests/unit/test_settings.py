"""Settings that guard each other."""

from pathlib import Path

import pytest

from scaler import settings
from scaler.errors import ConfigError


def written(folder: Path, text: str) -> settings.Settings:
    file = folder / "scaler.yaml"
    file.write_text(text)
    return settings.load(file)


def test_a_sidecar_answers_where_it_is_told_to(tmp_path: Path) -> None:
    rules = written(tmp_path, "sidecar: {listen: '[::]:9109', token_file: /run/token}").sidecar
    assert (rules.listen, rules.port, rules.token_file) == ("[::]:9109", 9109, "/run/token")
    assert written(tmp_path, "{}").sidecar.listen == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("{listen: '0.0.0.0:9109'}", "write token_file: as well", id="no secret"),
        pytest.param("{listen: everywhere, token_file: t}", "sidecar.listen", id="no address"),
        pytest.param("{listn: ''}", "listen", id="misspelt"),
    ],
)
def test_a_sidecar_that_cannot_be_is_said(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        written(tmp_path, f"sidecar: {text}")
