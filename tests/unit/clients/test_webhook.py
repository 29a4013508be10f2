"""Messages to people: what is sent, what is not, and what an address that fails costs."""

import asyncio
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scaler.clients.webhook import LINES_AT_ONCE, MOST_WAITING, RETRIES, Webhook
from scaler.clock import ManualClock
from scaler.core.journal import Entry, Kind
from scaler.core.model import Decision, InstanceId, Restart
from tests.fakes.chat import Chat, chatting
from tests.integration.running import SCALER

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def chat() -> Iterator[Chat]:
    with chatting() as it:
        yield it


def entry(summary: str, kind: Kind = Kind.NOTICED, decision: Decision | None = None) -> Entry:
    return Entry(at=NOW, kind=kind, target="web", summary=summary, decision=decision)


def decision(*restarts: str) -> Decision:
    chosen = tuple(Restart(instance=InstanceId(name), because="it ended") for name in restarts)
    return Decision(target="web", at=NOW, current=2, desired=2, restarts=chosen)


async def test_restarts_and_what_needs_a_person_are_sent_and_daily_work_is_not(chat: Chat) -> None:
    hook = Webhook(chat.url, "text", ManualClock(NOW))
    hook.tell(entry("web 2 → 3: cpu", Kind.DECIDED, decision()))
    hook.tell(entry("web restart web-1: it ended", Kind.DECIDED, decision("web-1")))
    hook.tell(entry("web: asked the platform to restart web-1", Kind.ACTED))
    hook.tell(entry("web: permission denied", Kind.PARKED))
    await hook.aclose()
    assert chat.lines == ["web restart web-1: it ended", "web: permission denied"]
    assert set(chat.got[0]) == {"text"}


async def test_a_bad_night_is_a_few_messages(chat: Chat) -> None:
    hook = Webhook(chat.url, "text", ManualClock(NOW))
    for number in range(MOST_WAITING + 30):
        hook.tell(entry(f"trouble {number}"))
    await hook.aclose()
    assert len(chat.got) == MOST_WAITING / LINES_AT_ONCE
    assert chat.lines[0] == "trouble 30"
    assert "and 30 older messages that could not be sent in time" in chat.lines


@pytest.mark.parametrize(
    ("answers", "arrives", "said"),
    [
        pytest.param([503, 429, 500], True, "", id="what may pass is tried again"),
        pytest.param([500] * 4, False, "answered 500", id="but not for ever"),
        pytest.param([404], False, "look at notify.url", id="what will not pass is not"),
    ],
)
async def test_an_address_that_refuses(
    chat: Chat, answers: list[int], arrives: bool, said: str
) -> None:
    clock, troubles = ManualClock(NOW), list[str]()
    chat.answers = list(answers)
    hook = Webhook(chat.url, "text", clock, troubles.append)
    hook.tell(entry("trouble"))
    for _ in range(1000):
        if hook._sender is not None and hook._sender.done():
            break
        await clock.advance(max(RETRIES))
        await asyncio.sleep(0.005)
    await hook.aclose()
    assert bool(chat.got) is arrives
    assert [said in trouble for trouble in troubles] == ([True] if said else [])
    assert "/hook" not in "".join(troubles), "the address may hold a secret"


def test_the_daemon_tells(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "web.yaml").write_text(
        "policies: {web: {target: {local: {command: [/no/such/program]}}}}\n"
    )
    (tmp_path / "scaler.yaml").write_text(
        f"policies: [policies]\nstate_dir: {tmp_path}/state\nsocket: {tmp_path}/s\n"
        f"notify: {{url: '{chat.url}'}}\n"
    )
    command = [SCALER, "--config", str(tmp_path / "scaler.yaml"), "run", "--once"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert any("restart web-0" in line for line in chat.lines), ended.stderr
    assert chat.url not in ended.stderr
