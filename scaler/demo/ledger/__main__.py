"""The command line of the ledger: `python -m scaler.demo.ledger --help`.

What needs PostgreSQL's library is imported where it is used: `serve --memory` does without.
"""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import click

from scaler.clock import SystemClock
from scaler.demo.ledger.app import Ledger
from scaler.demo.ledger.memory import MemoryStore
from scaler.demo.ledger.records import Store
from scaler.errors import ScalerError, Unsupported
from scaler.maintenance.cache import CacheManager

T = TypeVar("T")
DSN = click.option("--dsn", envvar="LEDGER_DSN", required=True, help="Address of PostgreSQL.")
ROWS = click.option("--rows", default=2_000_000, show_default=True, help="Lines of transactions.")
ACCOUNTS = click.option("--accounts", default=1000, show_default=True, help="Accounts.")
HOST = click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
PORT = click.option("--port", type=click.IntRange(0, 65535), envvar="PORT", default=0,
                    help="Port, which instances share; 0 takes a free one.")  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def ledger() -> None:
    """A small financial-data API: accounts, transfers, ranges, reports, quotes."""


@ledger.command()
@HOST
@PORT
@click.option("--dsn", envvar="LEDGER_DSN", default="", help="Address of PostgreSQL.")
@click.option("--redis", envvar="LEDGER_REDIS", default="", help="Address of Redis, if any.")
@click.option("--memory", is_flag=True, help="Keep all in memory; for one instance.")
@click.option("--connections", type=click.IntRange(1, 64), default=8, help="To PostgreSQL.")
@click.option("--shared-port", type=click.IntRange(1, 65535), help="A second one, for all.")
@click.option("--pace", type=click.FloatRange(0.1, 10_000), metavar="N",
              help="Answer N requests per second at most, as slow work would.")  # fmt: skip
def serve(**given: Any) -> None:
    """One instance, until SIGTERM; it ends when its last request is answered."""
    if bool(given["dsn"]) == given.pop("memory"):
        raise click.UsageError("write either --dsn ADDRESS or --memory")
    _run(_serve(**given))


async def _serve(
    *,
    host: str,
    port: int,
    dsn: str = "",
    redis: str = "",
    connections: int = 8,
    shared_port: int | None = None,
    pace: float | None = None,
) -> None:
    ending = _ending()
    store = _store(dsn, connections)
    await store.open()
    cache = CacheManager(redis, namespace="ledger") if redis else None
    instance = Ledger(store, cache, pace=pace)
    try:
        await instance.start(host, port, shared=shared_port)
        click.echo(f"listening on http://{host}:{instance.port}")
        await ending.wait()
    except OSError as error:
        raise click.ClickException(f"port {port} cannot be used: {error.strerror}") from None
    finally:
        await instance.drain()


def _store(dsn: str, connections: int) -> Store:
    if not dsn:
        return MemoryStore(SystemClock(), accounts=1000)
    from scaler.demo.ledger.store import PostgresStore  # noqa: PLC0415

    return PostgresStore(dsn, connections=connections)


@ledger.command()
@DSN
@ROWS
@ACCOUNTS
@click.option("--convert/--plain", default=True, help="Partition transactions by month.")
def seed(dsn: str, rows: int, accounts: int, convert: bool) -> None:
    """Make the schema and fill it; the plain table becomes partitioned by month."""
    _run(_seed(dsn, rows, accounts, convert=convert))


async def _seed(dsn: str, rows: int, accounts: int, *, convert: bool) -> None:
    from scaler.demo.ledger.store import PostgresStore, Seed  # noqa: PLC0415

    wanted = Seed(accounts=accounts, rows=rows)
    store = PostgresStore(dsn, connections=2)
    clock = SystemClock()
    begin = clock.monotonic()
    try:
        await store.open()
        await store.make(wanted, clock.now())
        took = (clock.monotonic() - begin).total_seconds()
        click.echo(f"{wanted.rows // 2 * 2} lines for {wanted.accounts} accounts in {took:.1f} s")
        if convert:
            await store.convert()
            took = (clock.monotonic() - begin).total_seconds() - took
            click.echo(f"transactions is partitioned by month, {took:.1f} s later")
    finally:
        await store.aclose()


@ledger.command()
@HOST
@PORT
@ROWS
@ACCOUNTS
def up(host: str, port: int, rows: int, accounts: int) -> None:
    """All of it on this machine: PostgreSQL and Valkey of its own, a seed, one instance."""
    _run(_up(host, port, rows, accounts))


async def _up(host: str, port: int, rows: int, accounts: int) -> None:
    from scaler.demo.ledger.embedded import Embedded  # noqa: PLC0415

    async with AsyncExitStack() as stack:
        servers = Embedded()
        stack.push_async_callback(servers.stop)
        try:
            await servers.start()
        except Unsupported as error:
            click.echo(f"kept in memory, since {error}", err=True)
            await _serve(host=host, port=port)
            return
        if servers.missing:
            click.echo(f"nothing is cached: {servers.missing}", err=True)
        click.echo(f"PostgreSQL: {servers.dsn}\nRedis: {servers.redis or 'none'}")
        await _seed(servers.dsn, rows, accounts, convert=True)
        await _serve(host=host, port=port, dsn=servers.dsn, redis=servers.redis)


@ledger.command()
@DSN
@click.option("--acknowledged", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="What clients were told: lines of JSON.")  # fmt: skip
def check(dsn: str, acknowledged: Path | None) -> None:
    """Whether the books are right to the cent. Ends with 1 when they are not."""
    sys.exit(_run(_check(dsn, acknowledged)))


async def _check(dsn: str, acknowledged: Path | None) -> int:
    from scaler.demo.ledger.check import check as check_books  # noqa: PLC0415
    from scaler.demo.ledger.check import read_acknowledged  # noqa: PLC0415
    from scaler.demo.ledger.store import PostgresStore  # noqa: PLC0415

    store = PostgresStore(dsn, connections=1)
    try:
        told = read_acknowledged(acknowledged) if acknowledged else []
        await store.open()
        found = await check_books(store.pool, told)
    finally:
        await store.aclose()
    for text in found.wrong:
        click.echo(text)
    word = "not right" if found.wrong else "right to the cent"
    click.echo(
        f"{word}: {found.lines} lines, {found.transfers} transfers asked for, "
        f"{found.acknowledged} acknowledged ones compared"
    )
    return 1 if found.wrong else 0


def _ending() -> asyncio.Event:
    """Set by SIGTERM and Ctrl-C."""
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    return ending


def _run(work: Coroutine[None, None, T]) -> T:
    try:
        return asyncio.run(work)
    except ScalerError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    ledger()
