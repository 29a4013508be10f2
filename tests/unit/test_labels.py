"""Labels as policies: what they may say, what is said about mistakes, what the operator caps."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from scaler.errors import Unavailable
from scaler.interfaces import Labelled
from scaler.labels import AUTOHEAL, ENABLE, LabelReader
from scaler.policybook import PolicyBook
from scaler.settings import Labels

TARGET: Mapping[str, Any] = {"local": {"command": ["app"]}}


def labelled(name: str = "web", **labels: str) -> Labelled:
    """`max="3"` is the label `scaler.max=3`; two underscores are a dot."""
    written = {f"scaler.{key.replace('__', '.')}": value for key, value in labels.items()}
    return Labelled(name=name, target=TARGET, labels={ENABLE: "true", **written})


def test_labels_are_the_fields_of_a_policy() -> None:
    one = labelled(
        cpu="70%",
        memory="80%",
        min="2",
        max="6",
        every="1s",
        limits__settle_down="2m",
        health__liveness="{http: {path: /healthz}, every: 5s}",
        health__restart__backoff="2s..1m",
        schedule="[{from: 08:00, to: 18:00, min: 3}]",
    )
    found = LabelReader(10).read([one], {})
    assert found.problems == ()
    policy = found.policies["web"]
    assert [metric.name for metric in policy.metrics] == ["cpu", "memory"]
    assert (policy.limits.min, policy.limits.max) == (2, 6)
    assert policy.limits.settle_down == timedelta(minutes=2)
    assert policy.health.liveness is not None
    assert policy.health.restart.backoff.high == timedelta(minutes=1)
    assert policy.schedule[0].min == 3
    assert policy.target.kind == "local"


def test_a_label_may_name_the_policy_and_use_hyphens() -> None:
    one = labelled(name="shop_web_1", cpu="70%")
    one = Labelled(
        name=one.name,
        target=TARGET,
        labels={**one.labels, "scaler.name": "shop", "scaler.settle-down": "1m"},
    )
    found = LabelReader(10).read([one], {})
    assert found.policies["shop"].limits.settle_down == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("labels", "place", "message"),
    [
        pytest.param({"max": "ten"}, (2, 12), "is not a whole number", id="a word for a number"),
        pytest.param({"cpu": "0.7"}, (1, 12), "has no %", id="a share without its sign"),
        pytest.param({"limits__mx": "3"}, (2, 1), 'did you mean "max"', id="a slip of the pen"),
        pytest.param({"target": "x"}, (2, 15), "cannot set target", id="another target"),
        pytest.param({"balancer": "x"}, (1, 17), "cannot set balancer", id="a balancer"),
        pytest.param(
            {"metrics": "[{name: q, source: {http: {url: 'http://inside/'}}}]"},
            (2, 16),
            "its address would be asked by scaler",
            id="an address to ask",
        ),
        pytest.param(
            {"health__liveness__command": "[rm, -rf, /]"},
            (2, 32),
            "it would be run by scaler",
            id="a command to run",
        ),
        pytest.param(
            {"health__liveness": "{http: {host: 10.0.0.1}}"},
            (2, 24),
            "its address would be asked",
            id="another host to ask",
        ),
        pytest.param({"max": "[3"}, (2, 12), "is no valid YAML", id="no YAML"),
        pytest.param(
            {"health": "{}", "health__restart__at_once": "50%"},
            (3, 32),
            "",
            id="a map in two parts is one map",
        ),
    ],
)
def test_a_mistake_points_at_its_label(
    labels: dict[str, str], place: tuple[int, int], message: str
) -> None:
    found = LabelReader(10).read([labelled(**labels)], {})
    if not message:
        assert found.problems == ()
        return
    (problem,) = found.problems
    assert message in problem.message
    assert (problem.place.line, problem.place.column) == place
    assert str(problem.file) == "labels of web"
    assert problem.source.startswith("scaler.")
    assert found.policies == {}


def test_two_labels_cannot_say_two_things_of_one_field() -> None:
    found = LabelReader(10).read([labelled(max="3", limits__max="4")], {})
    assert "keep one of them" in found.problems[0].message


def test_a_label_that_fails_keeps_its_last_good_policy() -> None:
    reader = LabelReader(10)
    assert reader.read([labelled(max="3")], {}).policies["web"].limits.max == 3
    broken = reader.read([labelled(max="ten"), labelled("api", max="4")], {})
    assert broken.policies["web"].limits.max == 3
    assert broken.policies["api"].limits.max == 4
    assert len(broken.problems) == 1


def test_the_operator_caps_what_labels_ask_for() -> None:
    found = LabelReader(5).read([labelled(min="7", max="50")], {})
    assert (found.policies["web"].limits.min, found.policies["web"].limits.max) == (5, 5)
    assert "max 50 is lowered to 5" in found.notes[0]
    unsaid = LabelReader(5).read([labelled(cpu="70%")], {})
    assert unsaid.policies["web"].limits.max == 5
    assert unsaid.notes == ()


def test_a_file_wins_over_a_label() -> None:
    found = LabelReader(10).read([labelled(max="3")], {"web": Path("web.yaml")})
    assert found.policies == {}
    assert "already in web.yaml" in found.problems[0].message


def test_who_only_wants_to_be_healed_is_not_scaled() -> None:
    labels = {AUTOHEAL: "true", "autoheal.stop.timeout": "20"}
    one = Labelled(name="db", target=TARGET, labels=labels)
    policy = LabelReader(10).read([one], {}).policies["db"]
    assert (policy.mode, policy.metrics) == ("heal", ())
    assert policy.target.grace == timedelta(seconds=20)  # type: ignore[attr-defined]


class Platform:
    """Carries labels, and does not always answer."""

    def __init__(self) -> None:
        self.found: Sequence[Labelled] = [labelled(max="3")]
        self.down = False

    async def labelled(self, label: str) -> Sequence[Labelled]:
        if self.down:
            raise Unavailable("nobody listens")
        return [one for one in self.found if one.labels.get(label) == "true"]


async def test_while_nobody_answers_the_labels_known_still_count(tmp_path: Path) -> None:
    platform = Platform()
    rules = Labels(docker=True, autoheal=True)
    book = PolicyBook([tmp_path], rules, lambda _: platform)  # type: ignore[arg-type,return-value]
    (await book.read()).insist()
    assert set(book.policies) == {"web"}
    platform.down = True
    await book.look()
    assert set(book.policies) == {"web"}
    assert "labels cannot be read: nobody listens" in book.notes
    platform.down = False
    platform.found = [
        labelled("web", max="4"),
        Labelled(name="db", target=TARGET, labels={AUTOHEAL: "true"}),
        Labelled(name="api", target=TARGET, labels={AUTOHEAL: "true", ENABLE: "true"}),
    ]
    await book.look()
    assert {n: (p.mode, p.limits.max) for n, p in book.policies.items()} == {
        "web": ("act", 4),
        "db": ("heal", 10),
        "api": ("act", 10),
    }
    assert book.notes == ()
    platform.found = []
    await book.look()
    assert book.policies == {}


def test_a_name_that_no_policy_can_have_is_made_into_one() -> None:
    found = LabelReader(10).read([labelled(name="Shop_web.1", cpu="70%")], {})
    assert set(found.policies) == {"shop-web-1"}


async def test_without_the_operators_word_no_label_is_read(tmp_path: Path) -> None:
    def refuse(_: str) -> Any:
        raise AssertionError("nobody may ask")

    book = PolicyBook([tmp_path], Labels(), refuse)
    await book.read()
    assert not book.looks_at_labels
    assert book.policies == {}
