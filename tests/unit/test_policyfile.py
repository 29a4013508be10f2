"""Policy files: what is read, and what is said about mistakes."""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler import located, policyfile
from scaler.clock import ManualClock
from scaler.core.journal import Facts, policy_of, policy_to_facts
from scaler.core.model import Fleet, History
from scaler.policyfile import PolicyFolder, load

START = datetime(2026, 1, 1, tzinfo=UTC)
BROKEN = sorted(Path("tests/data/broken").glob("*.yaml"))
EXPECT = re.compile(r"# expect: (?P<line>\d+):(?P<column>\d+) (?P<field>\S+) \| (?P<message>.*)")
GOOD = """\
version: 1
policies:
  web:
    target: {local: {command: [sleep, "9"]}}
    limits: {max: 3}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "web.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_there_are_sixty_kinds_of_mistakes() -> None:
    assert len(BROKEN) >= 60


@pytest.mark.parametrize("file", BROKEN, ids=lambda file: file.stem)
def test_a_mistake_is_shown_with_its_place_its_field_and_the_remedy(file: Path) -> None:
    lines = file.read_text().splitlines()
    expected = [match.groupdict() for line in lines if (match := EXPECT.fullmatch(line))]
    found = load([file])
    assert [
        {
            "line": str(problem.place.line),
            "column": str(problem.place.column),
            "field": problem.field or "-",
            "message": problem.message,
        }
        for problem in found.problems
    ] == expected
    for problem in found.problems:
        assert problem.file == file
        assert f"{file}:{problem.place.line}:{problem.place.column}: error: " in problem.text()
        assert re.search(r"; |did you mean|must be|exactly one", problem.message), "no remedy"


def test_a_mistake_is_underlined_in_its_line() -> None:
    problem = load([Path("tests/data/broken/unknown-metric-key.yaml")]).problems[0]
    assert problem.text().splitlines()[1:] == [
        "    7 |       - memry: 80%",
        "      |         ^^^^^",
    ]


def test_the_examples_are_valid() -> None:
    found = load([Path("config/policies")])
    assert not found.problems
    assert set(found.policies) == {"web", "worker", "batch"}


def test_defaults_are_laid_beneath_every_policy(write: Callable[..., Path]) -> None:
    text = GOOD.replace("policies:", "defaults: {every: 30s, limits: {min: 2, max: 9}}\npolicies:")
    web = load([write(text)]).insist()["web"]
    assert web.every == timedelta(seconds=30)
    assert (web.limits.min, web.limits.max) == (2, 3)


def test_a_name_in_two_files_is_a_mistake_of_the_second(write: Callable[..., Path]) -> None:
    first, second = write(GOOD, "a.yaml"), write(GOOD, "b.yaml")
    (problem,) = load([first.parent]).problems
    assert problem.file == second
    assert str(first) in problem.message


def test_a_folder_is_read_without_hidden_and_other_files(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write(GOOD)
    write("not: a policy", ".hidden.yaml")
    write("not: a policy", "notes.txt")
    (tmp_path / "..data").mkdir()
    assert [file.name for file in load([tmp_path]).files] == ["web.yaml"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (problem,) = load([tmp_path / "nothing.yaml"]).problems
    assert "there is no such file" in problem.message


def test_text_that_is_not_utf8_is_shown_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_bytes(b"version: 1\nname: \xff\n")
    (problem,) = load([file]).problems
    assert (problem.place.line, problem.place.column) == (2, 7)
    assert "save it as UTF-8" in problem.message


def test_a_bomb_of_aliases_is_refused(write: Callable[..., Path]) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)]
    problems = load([write("\n".join(rows))]).problems
    assert any("aliases make it too large" in problem.message for problem in problems)


def test_a_file_that_fails_keeps_its_last_good_policies(write: Callable[..., Path]) -> None:
    file = write(GOOD)
    other = write(GOOD.replace("web:", "api:"), "api.yaml")
    folder = PolicyFolder([file.parent])
    before = folder.reload().insist()
    write(GOOD.replace("max: 3", "max: three"))
    write(GOOD.replace("web:", "api:").replace("max: 3", "max: 4"), "api.yaml")
    after = folder.reload()
    assert len(after.problems) == 1
    assert after.policies["web"] is before["web"]
    assert after.policies["api"].limits.max == 4
    other.unlink()
    assert set(folder.reload().policies) == {"web"}


class Watcher:
    """Looks at a folder as the daemon does, in time that the test lets pass."""

    def __init__(self, folder: Path) -> None:
        self._clock = ManualClock()
        self._changes = policyfile.watch([folder], self._clock)
        self._next = asyncio.ensure_future(anext(self._changes))

    async def noticed(self, looks: int) -> bool:
        """Whether within so many looks a change is noticed."""
        for _ in range(looks):
            await asyncio.sleep(0)  # it begins to wait for the clock
            await self._clock.advance(policyfile.LOOK)
            for _ in range(100):  # a look happens in a thread
                await asyncio.sleep(0.001)
                if self._next.done():
                    self._next = asyncio.ensure_future(anext(self._changes))
                    return True
        return False

    async def close(self) -> None:
        self._next.cancel()
        await asyncio.gather(self._next, return_exceptions=True)


async def test_an_edit_is_noticed_when_it_has_settled(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write(GOOD)
    watcher = Watcher(tmp_path)
    assert await watcher.noticed(2), "the start counts, lest an edit before it be missed"
    assert not await watcher.noticed(3)
    for size in (1, 2, 3):
        write(GOOD + "#" * size)
        assert not await watcher.noticed(1), "it is still being written"
    assert await watcher.noticed(1)
    (tmp_path / "web.yaml").unlink()
    assert await watcher.noticed(2)
    assert not await watcher.noticed(3)
    await watcher.close()


async def test_the_swap_of_a_config_map_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    numbers = iter(range(1000))

    def swap() -> None:
        data = folder / f"..{next(numbers)}"
        data.mkdir()
        (data / "web.yaml").write_text(GOOD)
        (folder / "..tmp").symlink_to(data.name)
        (folder / "..tmp").rename(folder / "..data")
        if not (folder / "web.yaml").is_symlink():
            (folder / "web.yaml").symlink_to("..data/web.yaml")

    swap()
    assert set(load([folder]).insist()) == {"web"}
    watcher = Watcher(folder)
    assert await watcher.noticed(2)
    swap()
    assert await watcher.noticed(2)
    await watcher.close()


@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_text_does_more_than_yield_problems(text: str) -> None:
    document = located.parse(Path("any.yaml"), text)
    for problem in document.problems:
        assert problem.place.line >= 1
        assert problem.text()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
@settings(max_examples=200, deadline=None)
def test_no_value_in_place_of_a_policy_does_more_than_yield_problems(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:

    file = tmp_path_factory.mktemp("any") / "any.yaml"
    file.write_text(yaml.safe_dump({"policies": {"web": value}}), encoding="utf-8")
    assert load([file]).problems


def test_a_policy_is_the_same_after_it_was_written_down() -> None:
    for policy in load([Path("config/policies")]).insist().values():
        facts = Facts(
            policy=policy_to_facts(policy),
            fleet=Fleet(target=policy.name, at=START, wanted=1),
            readings={},
            history=History(),
        )
        again = policy_of(facts)
        left_out = {"target", "metrics"}
        assert again.model_dump(exclude=left_out) == policy.model_dump(exclude=left_out)
        assert [m.keep for m in again.metrics] == [m.keep for m in policy.metrics]
        assert [m.when for m in again.metrics] == [m.when for m in policy.metrics]
