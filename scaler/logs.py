"""One pipeline for our log lines and those of libraries, which never blocks the event loop.

Lines go through a bounded queue to a thread that writes them. A reader of stderr who stops reading
stops that thread and nothing else: lines beyond the queue are dropped, counted, and said later.
"""

import logging
import os
import queue
import re
import sys
import threading
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import structlog

from scaler.core.journal import Entry, Kind

MOST_LINES: Final = 5_000
LAST_WORDS: Final = 1.0  # seconds to write what is left at the end
SECRET: Final = re.compile(
    r"pass(word|wd|phrase)?$|secret|token|authorization|api_?key|cookie", re.IGNORECASE
)
IN_TEXT: Final = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/@:]*:[^\s/@]+@"
    r"|(?P<name>\b(?:password|passwd|secret|token|api_?key|authorization)\b\s*[=:]\s*)"
    r"(?:bearer\s+|basic\s+)?[^\s,;&\"']+",
    re.IGNORECASE,
)
HIDDEN: Final = "***"
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Writer:
    """Writes lines to a file descriptor in its own thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_LINES)
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Take a line, or count it as lost. Returns at once."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            lost, self._lost = self._lost, 0
            said = f"{lost} log lines were lost: nobody read them in time\n" if lost else ""
            try:
                _write(self._descriptor, f"{said}{line}\n".encode(errors="backslashreplace"))
            except OSError:
                self._lost += lost + 1  # closed or broken: perhaps it comes back

    def close(self) -> None:
        """Write what is left, but wait no longer than `LAST_WORDS`."""
        try:
            self._lines.put(None, timeout=LAST_WORDS)
        except queue.Full:
            return
        self._thread.join(LAST_WORDS)


def _write(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]


class _Handler(logging.Handler):
    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put(self.format(record))
        except (ValueError, TypeError, KeyError):
            self._writer.put(f"a log record could not be written: {record.msg!r}")


def configure(level: str, form: str, descriptor: int = 2) -> Writer:
    """Send everything that is logged to `descriptor`. Close the writer at the end.

    `form` is `json`, `console`, or `auto`: `console` on a terminal.
    """
    terminal = os.isatty(descriptor)
    chosen = form if form != "auto" else ("console" if terminal else "json")
    writer = Writer(descriptor)
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redacted,
    ]
    last: list[structlog.types.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta
    ]
    if chosen == "json":
        last.append(structlog.processors.JSONRenderer(ensure_ascii=False))
    else:
        colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        last += [_one_line, structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=0)]
    handler = _Handler(writer)
    formatter = structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for chatty in ("apscheduler", "aiohttp.access", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    return writer


def redacted(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The event without passwords, tokens and the like, however deep they stand."""
    return {key: _clean(key, value) for key, value in event.items()}


def _clean(key: object, value: Any) -> Any:
    if isinstance(key, str) and SECRET.search(key):
        return HIDDEN
    if isinstance(value, str):
        return IN_TEXT.sub(
            lambda m: f"{m['scheme'] or m['name']}{HIDDEN}{'@' if m['scheme'] else ''}", value
        )
    if isinstance(value, Mapping):
        return {k: _clean(k, v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", v) for v in value]
    return value


def _one_line(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Nobody forges a line or moves the cursor: control characters are written as escapes."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception":
            event[key] = CONTROL.sub(lambda m: repr(m[0])[1:-1], value)
    return event


def tell(entry: Entry) -> None:
    """A journal entry as a log line."""
    log = structlog.get_logger()
    quiet = entry.kind is Kind.ACTED and entry.ok
    say = log.debug if quiet else log.info if entry.ok else log.warning
    if entry.kind is Kind.PARKED:
        say = log.error
    more = {key: value for key, value in entry.data.items() if key != "traceback"}
    if "traceback" in entry.data:
        more["exception"] = entry.data["traceback"]
    if entry.target:
        more["target"] = entry.target
    say(entry.summary, kind=entry.kind.value, **more)


def warn(text: str) -> None:
    """Something that is no fact about a target and so no journal entry."""
    structlog.get_logger().warning(text)


def last_resort(text: str) -> None:
    """A word before logging is set up or after it has ended."""
    sys.stderr.write(f"scaler: {text}\n")
