"""What is said of a cache from look to look: once when it is new, once when it is gone."""

import pytest

from scaler.maintenance.cache_job import LOOKS, LOOKS_SLOW, Findings
from scaler.maintenance.cache_plan import Finding, Found


def finding(kind: Found, subject: str = "a") -> Finding:
    return Finding(kind=kind, subject=subject, number=1, unit="", because="b", remedy="r")


def test_a_finding_is_new_once() -> None:
    findings = Findings()
    idle = finding(Found.IDLE)
    assert findings.take([idle], whole=True) == ([idle], [])
    assert findings.take([idle], whole=True) == ([], [])
    other = finding(Found.IDLE, "b")
    assert findings.take([idle, other], whole=True) == ([other], [])


def test_a_sample_ends_nothing_that_it_may_have_missed() -> None:
    findings = Findings()
    big = finding(Found.BIG_KEY)
    findings.take([big], whole=True)
    for _ in range(10):
        assert findings.take([], whole=False) == ([], [])
    assert findings.take([], whole=True) == ([], [big])
    assert findings.take([big], whole=False) == ([big], [])


@pytest.mark.parametrize(
    ("kind", "looks"),
    [
        pytest.param(Found.POLICY, LOOKS, id="a setting"),
        pytest.param(Found.SLOW, LOOKS_SLOW, id="slow commands come and go"),
    ],
)
def test_a_finding_about_the_server_is_gone_after_some_looks(kind: Found, looks: int) -> None:
    findings = Findings()
    it = finding(kind)
    findings.take([it], whole=False)
    for _ in range(looks - 1):
        assert findings.take([], whole=False) == ([], [])
    findings.take([it], whole=False)  # it comes back, so the count begins anew
    for _ in range(looks - 1):
        assert findings.take([], whole=False) == ([], [])
    assert findings.take([], whole=False) == ([], [it])
