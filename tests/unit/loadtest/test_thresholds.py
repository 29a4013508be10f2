import pytest

from scaler.loadtest import thresholds


@pytest.mark.parametrize(
    ("written", "figures", "holds"),
    [
        pytest.param("p99<250ms", {"p99": 0.249}, True, id="below"),
        pytest.param("p99<250ms", {"p99": 0.25}, False, id="at the limit"),
        pytest.param("p99<=250ms", {"p99": 0.25}, True, id="at the limit that counts"),
        pytest.param("service_p99.9 < 1s", {"service_p99.9": 2}, False, id="service time"),
        pytest.param("errors<0.1%", {"errors": 0.0009}, True, id="a share"),
        pytest.param("not_sent<=0%", {"not_sent": 0.0}, True, id="nothing unsent"),
        pytest.param("rate>=490/s", {"rate": 489.0}, False, id="a rate"),
        pytest.param("max<1s", {}, False, id="what was not measured fails"),
    ],
)
def test_a_threshold_holds_or_not(written: str, figures: dict[str, float], holds: bool) -> None:
    (judged,) = thresholds.judge(thresholds.parse(written), figures)
    assert judged.holds is holds
    assert str(judged)


def test_several_stand_between_commas_and_are_written_as_they_were_read() -> None:
    several = thresholds.parse(["p99<250ms, errors<0.1%", "rate>=490/s,mean<1s500ms"])
    assert [str(one) for one in several] == [
        "p99<250ms", "errors<0.1%", "rate>=490/s", "mean<1s500ms",
    ]  # fmt: skip
    assert thresholds.parse([str(one) for one in several]) == several
    assert several[0].percentile == 0.99
    assert several[1].percentile is None


@pytest.mark.parametrize(
    ("written", "message"),
    [
        pytest.param("p99", "is no threshold", id="no limit"),
        pytest.param("p99<250", "250 has no unit", id="no unit"),
        pytest.param("errors<0.1", "has no %", id="no percent"),
        pytest.param("speed<1s", "is no figure of a run", id="unknown"),
        pytest.param("service_errors<1%", "is no figure of a run", id="no service time"),
        pytest.param("p0<1s", "lowest is p1", id="no percentile"),
        pytest.param(3, "is no list of thresholds", id="a number"),
    ],
)
def test_a_threshold_that_cannot_be_read_says_how_to_write_it(
    written: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        thresholds.parse(written)
