"""Service accounts of pods and kubeconfigs, with tokens that change."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaler.clients import kube_login
from scaler.clock import ManualClock
from scaler.errors import ConfigError

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """As the kubelet mounts it, with the authorities of this machine."""
    import ssl  # noqa: PLC0415

    (tmp_path / "token").write_text("first\n")
    (tmp_path / "namespace").write_text("shop")
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
    (tmp_path / "ca.crt").write_text(ssl.DER_cert_to_PEM_cert(certificates[0]))
    return tmp_path


async def test_a_pod_has_an_identity(account: Path, clock: ManualClock) -> None:
    login = kube_login.of_pod(clock, POD, account)
    assert (login.url, login.namespace) == ("https://10.0.0.1:6443", "shop")
    assert await login.headers() == {"Authorization": "Bearer first"}


async def test_a_pod_on_ipv6(account: Path, clock: ManualClock) -> None:
    login = kube_login.of_pod(clock, {"KUBERNETES_SERVICE_HOST": "fd00::1"}, account)
    assert login.url == "https://[fd00::1]:443"


async def test_a_new_token_of_the_kubelet_is_used(account: Path, clock: ManualClock) -> None:
    login = kube_login.of_pod(clock, POD, account)
    await login.headers()
    (account / "token").write_text("second")
    assert await login.headers() == {"Authorization": "Bearer first"}
    await clock.advance(timedelta(minutes=1))
    assert await login.headers() == {"Authorization": "Bearer second"}


@pytest.mark.parametrize("missing", ["ca.crt", "namespace"])
def test_what_is_missing_is_named(account: Path, clock: ManualClock, missing: str) -> None:
    (account / missing).unlink()
    with pytest.raises(ConfigError, match=missing):
        kube_login.of_pod(clock, POD, account)


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A file with one user and two contexts."""

    def write(user: dict[str, Any], **cluster: Any) -> Path:
        file = tmp_path / "config"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "home",
            "clusters": [
                {"name": "one", "cluster": {"server": "http://127.0.0.1:8001", **cluster}},
                {"name": "two", "cluster": {"server": "https://prod.example:6443/"}},
            ],
            "contexts": [
                {"name": "home", "context": {"cluster": "one", "user": "me"}},
                {
                    "name": "prod",
                    "context": {"cluster": "two", "user": "me", "namespace": "shop"},
                },
            ],
            "users": [{"name": "me", "user": user}],
        }
        file.write_text(yaml.safe_dump(document))
        monkeypatch.setenv("KUBECONFIG", str(file))
        return file

    return write


async def test_the_current_context_of_a_kubeconfig(
    kubeconfig: Callable[..., Path], clock: ManualClock
) -> None:
    kubeconfig({"token": "secret"})
    login = await kube_login.login("", clock)
    assert (login.url, login.namespace, login.tls) == ("http://127.0.0.1:8001", "default", None)
    assert await login.headers() == {"Authorization": "Bearer secret"}
    assert "context home" in login.about
    assert "secret" not in login.about


async def test_another_context(kubeconfig: Callable[..., Path], clock: ManualClock) -> None:
    kubeconfig({"token": "secret"})
    login = await kube_login.login("prod", clock)
    assert (login.url, login.namespace) == ("https://prod.example:6443", "shop")
    assert login.tls is not None


async def test_a_context_that_is_not_there(
    kubeconfig: Callable[..., Path], clock: ManualClock
) -> None:
    kubeconfig({"token": "secret"})
    with pytest.raises(ConfigError, match="staging"):
        await kube_login.login("staging", clock)


async def test_a_token_in_a_file_is_read_again(
    kubeconfig: Callable[..., Path], clock: ManualClock, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("first")
    kubeconfig({"tokenFile": str(tmp_path / "token")})
    login = await kube_login.login("", clock)
    (tmp_path / "token").write_text("second")
    await clock.advance(timedelta(minutes=1))
    assert await login.headers() == {"Authorization": "Bearer second"}


async def test_a_plug_in_runs_again_when_its_token_has_ended(
    kubeconfig: Callable[..., Path], clock: ManualClock, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    count.write_text("")
    status = {"token": "TOKEN", "expirationTimestamp": "2020-01-01T00:00:00Z"}
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": status,
    }
    script = tmp_path / "plug-in.py"
    script.write_text(
        "import pathlib\n"
        f"count = pathlib.Path({str(count)!r})\n"
        "count.write_text(count.read_text() + 'x')\n"
        f"print({json.dumps(answer)!r}.replace('TOKEN', 'token' + str(len(count.read_text()))))\n"
    )
    plug_in = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": [str(script)],
        "interactiveMode": "Never",
    }
    kubeconfig({"exec": plug_in})
    login = await kube_login.login("", clock)
    assert await login.headers() == {"Authorization": "Bearer token1"}
    await clock.advance(timedelta(minutes=1))
    assert await login.headers() == {"Authorization": "Bearer token2"}


@pytest.mark.parametrize("text", ["", "[]", "clusters: 7", "a: [", "current-context: home"])
async def test_a_damaged_kubeconfig_says_where_it_is(
    kubeconfig: Callable[..., Path], clock: ManualClock, text: str
) -> None:
    file = kubeconfig({"token": "secret"})
    file.write_text(text)
    with pytest.raises(ConfigError, match=str(file)):
        await kube_login.login("", clock)


async def test_nothing_at_all_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="set KUBECONFIG"):
        await kube_login.login("", clock)
