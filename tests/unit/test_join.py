"""Several series for one model: which, when, and why not yet."""

from typing import Any

import pytest

from dicom_node.assemble.explain import explain
from dicom_node.assemble.join import Joined, Waiting, join, joint_job, with_others
from dicom_node.assemble.route import OUR_MANUFACTURER, job_of, route
from dicom_node.catalogue import ModelDescription
from dicom_node.errors import ConfigurationError
from dicom_node.lifecycle import SeriesState
from dicom_node.records import OpenSeries, SeriesKey
from dicom_node.settings import RouteSettings, Settings, load_settings
from tests.builders.store import SCANNER, facts_of, open_series, slice_attributes
from tests.unit.test_route import a_route, models, settings

__all__ = ["models"]  # a fixture

STABLE, OPEN, HELD = SeriesState.STABLE, SeriesState.OPEN, SeriesState.HELD
PAIR = {
    "name": "pair",
    "series": [
        {"name": "soft", "match": {"kernel": ["B*"]}},
        {"name": "sharp", "match": {"kernel": ["L*"]}},
    ],
}


def pair() -> tuple[Settings, RouteSettings]:
    made = settings(a_route(**PAIR))
    return made, made.route[0]


def of(number: int, kernel: str, slices: int = 5, **attributes: Any) -> OpenSeries:
    values = slice_attributes(0) | {"kernel": kernel} | attributes
    key = SeriesKey("1.2.3", f"1.2.3.{number}")
    return open_series(slices=slices, id=number, key=key, attributes=values)


def test_each_name_gets_a_series_of_its_own() -> None:
    _, one = pair()
    joined = join(one, [(of(1, "L30"), STABLE), (of(2, "B30"), SeriesState.NO_ROUTE)])
    assert isinstance(joined, Joined)
    assert [(name, series.id) for name, series in joined.members] == [("soft", 2), ("sharp", 1)]


@pytest.mark.parametrize(
    ("study", "told"),
    [
        ([], "pair waits for soft"),
        ([(of(1, "B30"), STABLE)], "pair waits for sharp"),
        ([(of(1, "B30"), STABLE), (of(2, "L30"), HELD)], "pair waits for sharp"),
        ([(of(1, "B30"), STABLE), (of(2, "L30"), OPEN)], "pair waits until sharp is complete"),
        # a better one may be on its way
        (
            [(of(1, "B30"), STABLE), (of(2, "L30"), STABLE), (of(3, "B31"), OPEN)],
            "pair waits until soft is complete",
        ),
        (
            [(of(1, "B30"), STABLE), (of(2, "L30", manufacturer=OUR_MANUFACTURER), STABLE)],
            "pair waits for sharp",
        ),
    ],
)
def test_what_is_waited_for(study: list[tuple[OpenSeries, SeriesState]], told: str) -> None:
    assert join(pair()[1], study) == Waiting(told)


def test_of_several_the_one_with_the_most_images_and_none_twice() -> None:
    twins = settings(a_route(**PAIR | {"series": [{"name": "a"}, {"name": "b"}]})).route[0]
    study = [(of(n, "B30", slices), STABLE) for n, slices in ((1, 5), (2, 9), (3, 9))]
    joined = join(twins, study)
    assert isinstance(joined, Joined)
    assert [series.id for _, series in joined.members] == [2, 3]


def test_a_name_that_fits_everything_leaves_the_others_theirs() -> None:
    greedy = settings(
        a_route(**PAIR | {"series": [{"name": "any"}, PAIR["series"][1]]})  # type: ignore[index]
    ).route[0]
    joined = join(greedy, [(of(1, "L30", 9), STABLE), (of(2, "B30", 5), STABLE)])
    assert isinstance(joined, Joined)
    assert [series.id for _, series in joined.members] == [2, 1]


def test_the_job_is_another_when_the_series_change_places(
    models: dict[str, ModelDescription],
) -> None:
    made, one = pair()
    plain = job_of(models["alpha"], [one], made)
    other = open_series([facts_of(n, sha256=f"x{n}") for n in range(5)], id=2)
    ab = joint_job(plain, Joined((("soft", of(1, "B30")), ("sharp", other))))
    ba = joint_job(plain, Joined((("soft", other), ("sharp", of(1, "B30")))))
    assert len({plain.settings_digest, ab.settings_digest, ba.settings_digest}) == 3
    assert ab.members == (("soft", 1), ("sharp", 2))


def test_a_series_waits_and_has_its_own_route_all_the_same(
    models: dict[str, ModelDescription],
) -> None:
    made = settings(a_route("ct"), a_route(**PAIR))
    soft, sharp = of(1, "B30"), of(2, "L30")
    alone = route(soft, made, models)
    waits = with_others(alone, soft, lambda: [(soft, STABLE)], made, models)
    assert [job.members for job in waits.jobs] == [()]
    assert waits.reason == "route ct; pair waits for sharp"
    study = [(soft, STABLE), (sharp, SeriesState.QUEUED)]
    both = with_others(alone, soft, lambda: study, made, models)
    assert [job.members for job in both.jobs] == [(), (("soft", 1), ("sharp", 2))]
    assert both.reason == "route ct; route pair"
    third = of(3, "B30", slices=2)
    spare = with_others(
        route(third, made, models), third, lambda: [*study, (third, STABLE)], made, models
    )
    assert spare.reason == "route ct; pair takes other series of the study"


def test_what_concerns_nobody_does_not_ask_for_the_study(
    models: dict[str, ModelDescription],
) -> None:
    made, _ = pair()
    other = of(1, "X")
    alone = route(other, made, models)
    assert with_others(alone, other, lambda: pytest.fail("asked"), made, models) is alone
    assert "soft: kernel X is not B*, sharp: kernel X is not L*" in alone.reason


def test_files_are_explained_together(models: dict[str, ModelDescription]) -> None:
    made, _ = pair()
    headers = [
        (
            SeriesKey("1.2.3", f"1.2.3.{kernel}"),
            facts_of(n, attributes=slice_attributes(n) | {"kernel": kernel}),
        )
        for kernel in ("B30", "L30")
        for n in range(4)
    ]
    soft, sharp = explain(headers, SCANNER, made, models)
    assert [one.name for one in soft.models] == [one.name for one in sharp.models] == ["alpha"]
    assert soft.routes[0].miss is None
    (alone,) = explain(headers[:4], SCANNER, made, models)
    assert (alone.models, alone.reason) == ((), "pair waits for sharp")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ('series = [{name = "a"}]', "two or more"),
        ('series = [{name = "a"}, {name = "a"}]', "differently"),
        ('match = {modality = ["CT"]}\nseries = [{name = "a"}, {name = "b"}]', "either `match`"),
    ],
)
def test_a_route_takes_one_series_or_several(wrong: str, told: str, tmp_path: Any) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f'[[route]]\nname = "r"\nmodels = ["m"]\ndestinations = ["p"]\n{wrong}\n')
    with pytest.raises(ConfigurationError, match=told):
        load_settings(file)
