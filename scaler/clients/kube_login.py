"""How to reach a Kubernetes API server, and as whom.

In a pod the three files of its service account say it; they are read here, because the library's
loader costs 10 MiB of a sidecar's 64. Anywhere else a kubeconfig does, and its exec plug-ins, OIDC
and client certificates are the library's work.
"""

import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from scaler.clock import Clock
from scaler.errors import ConfigError

if TYPE_CHECKING:
    from kubernetes.aio.client.configuration import Configuration

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_EVERY: Final = timedelta(minutes=1)  # the kubelet writes a new token long before the old ends

_MALFORMED: Final = (ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Login:
    """One identity at one API server."""

    url: str
    namespace: str
    tls: ssl.SSLContext | None  # None: plain http
    headers: Callable[[], Awaitable[Mapping[str, str]]]  # what proves who we are, fresh each time
    about: str  # for people: where this was found
    proxy: str | None = None
    server_name: str | None = None  # the name in the certificate, when it differs


def in_pod(environ: Mapping[str, str] = os.environ, folder: Path = ACCOUNT) -> bool:
    """Whether this process runs in a pod with a service account."""
    return bool(environ.get("KUBERNETES_SERVICE_HOST")) and (folder / "token").exists()


async def login(context: str, clock: Clock) -> Login:
    """The identity of this pod, or that of a kubeconfig when a context is named or we are in none.

    Raises:
        ConfigError: there is neither, or it cannot be used; the message says what was looked for.
    """
    if not context and in_pod():
        return of_pod(clock)
    return await of_kubeconfig(context, clock)


def of_pod(clock: Clock, environ: Mapping[str, str] = os.environ, folder: Path = ACCOUNT) -> Login:
    """The service account of this pod. Its token is read again every minute.

    Raises:
        ConfigError: a file is missing or cannot be used.
    """
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    bracketed = f"[{host}]" if ":" in host else host
    token, read_at = "", -TOKEN_EVERY

    async def headers() -> Mapping[str, str]:
        nonlocal token, read_at
        if clock.monotonic() - read_at >= TOKEN_EVERY:
            token, read_at = _text(folder / "token"), clock.monotonic()
        return {"Authorization": f"Bearer {token}"}

    try:
        tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    except OSError as error:
        raise ConfigError(f"{folder / 'ca.crt'}: {error.strerror or error}") from error
    return Login(
        url=f"https://{bracketed}:{port}",
        namespace=_text(folder / "namespace"),
        tls=tls,
        headers=headers,
        about="the service account of this pod",
    )


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error


async def of_kubeconfig(context: str, clock: Clock) -> Login:
    """The current context of KUBECONFIG or ~/.kube/config, or the one named.

    Raises:
        ConfigError: there is no such file or context, or its plug-in fails.
    """
    files = _kubeconfig()
    from kubernetes.aio import config  # noqa: PLC0415 - heavy
    from kubernetes.aio.client.configuration import Configuration  # noqa: PLC0415

    found = Configuration()
    load: Any = config.load_kube_config  # without types
    names: Any = config.list_kube_config_contexts
    try:
        loader = await load(files, context or None, found, persist_config=False)
        contexts, current = names(files)
        chosen = next((c for c in contexts if c["name"] == context), current)
        tls = _tls(found)
    except (config.ConfigException, yaml.YAMLError, OSError, *_MALFORMED) as error:
        raise ConfigError(f"{files}: {error}") from error
    return Login(
        url=found.host.rstrip("/"),
        namespace=chosen["context"].get("namespace") or "default",
        tls=tls if found.host.startswith("https") else None,
        headers=_headers_of(found, loader, clock),
        about=f"context {chosen['name']} of {files}",
        proxy=found.proxy,
        server_name=found.tls_server_name,
    )


def _kubeconfig() -> str:
    files = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if not any(Path(file).is_file() for file in files.split(os.pathsep)):
        raise ConfigError(
            "no Kubernetes API server is known: this is no pod with a service account, and "
            f"{files} does not exist; set KUBECONFIG"
        )
    return files


def _headers_of(
    found: "Configuration", loader: Any, clock: Clock
) -> Callable[[], Awaitable[Mapping[str, str]]]:
    """Files of tokens are read again every minute, and a plug-in runs again when its token ends."""
    read_at = clock.monotonic()

    async def headers() -> Mapping[str, str]:
        nonlocal read_at
        if clock.monotonic() - read_at >= TOKEN_EVERY:
            read_at = clock.monotonic()
            await loader.load_and_set(found)
        token = found.api_key.get("BearerToken")
        return {"Authorization": token} if token else {}

    return headers


def _tls(found: "Configuration") -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=found.ssl_ca_cert, cadata=found.ca_cert_data)
    if found.cert_file:
        tls.load_cert_chain(found.cert_file, keyfile=found.key_file)
    if not found.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls
