"""Which models a series gets, why, and why not."""

from pathlib import Path
from typing import Any

import pytest

from dicom_node.assemble.route import OUR_MANUFACTURER, mismatch, route
from dicom_node.catalogue import ModelDescription, catalogue
from dicom_node.compose import equipment
from dicom_node.settings import RouteMatch, Settings
from tests.builders.store import facts_of, open_series, slice_attributes

SIDECAR = """
[model]
name = "{name}"
title = "T"
version = "1"
task = "denoising"
limits = "None."
[input]
modality = ["CT"]
dimensions = 3
"""


@pytest.fixture
def models(tmp_path: Path) -> dict[str, ModelDescription]:
    for name in ("alpha", "beta"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dicom.toml").write_text(SIDECAR.format(name=name))
    return catalogue(tmp_path)


def settings(*routes: dict[str, Any], **destinations: dict[str, Any]) -> Settings:
    pacs = {"ae_title": "P", "host": "h", "port": 104}
    named = {"one": pacs, "two": pacs} | {k: pacs | v for k, v in destinations.items()}
    return Settings(destination=named, route=routes)  # type: ignore[arg-type]


def a_route(name: str = "r", **values: Any) -> dict[str, Any]:
    return {"name": name, "models": ["alpha"], "destinations": ["one"]} | values


def test_a_model_that_two_routes_ask_for_runs_once_for_all_their_destinations(
    models: dict[str, ModelDescription],
) -> None:
    routing = route(
        open_series(),
        settings(
            a_route("first", priority=1),
            a_route("second", destinations=["two", "one"], models=["beta", "alpha"], priority=7),
        ),
        models,
    )
    assert [(job.model, job.destinations) for job in routing.jobs] == [
        ("alpha", ("one", "two")),
        ("beta", ("two", "one")),
    ]
    assert [job.priority for job in routing.jobs] == [7, 7]
    assert routing.jobs[0].route == "first, second"
    assert routing.reason == "route first, second"


def test_without_a_match_the_reason_names_each_route_and_its_clause(
    models: dict[str, ModelDescription],
) -> None:
    routing = route(
        open_series(),
        settings(
            a_route("mr", match={"modality": ["MR"]}),
            a_route("big", match={"modality": ["CT"], "min_instances": 50}),
        ),
        models,
    )
    assert routing.jobs == ()
    assert "mr: modality CT is not MR" in routing.reason
    assert "big: 5 instances, fewer than 50" in routing.reason
    assert route(open_series(), settings(), models).reason == "no routes are configured"


@pytest.mark.parametrize("where", ["series", "instance"])
@pytest.mark.parametrize(
    "mark",
    [{"manufacturer": "dicom-node"}, {"contributing_manufacturers": ["CT Ltd", "dicom-node"]}],
)
def test_the_node_does_not_process_its_own_output(
    models: dict[str, ModelDescription], mark: dict[str, Any], where: str
) -> None:
    marked = slice_attributes(0) | mark
    series = (
        open_series(attributes=marked)
        if where == "series"
        else open_series([facts_of(0), facts_of(1, attributes=marked)])
    )
    assert "own output" in route(series, settings(a_route()), models).reason


def test_the_mark_is_the_one_that_the_node_writes() -> None:
    assert OUR_MANUFACTURER == equipment.MANUFACTURER


@pytest.mark.parametrize(
    ("match", "values", "miss"),
    [
        ({}, {}, None),
        ({"modality": ["MR", "CT"]}, {}, None),
        ({"modality": ["MR"]}, {}, "modality CT is not MR"),
        ({"calling_ae": ["CT*"]}, {}, None),
        ({"calling_ae": ["ct1"]}, {}, None),
        ({"called_ae": ["STAT"]}, {}, "called_ae DICOM_NODE is not STAT"),
        ({"body_part": ["CHEST"]}, {"attributes": {}}, "body_part absent is not CHEST"),
        (
            {"series_description": ["*lung*"]},
            {"attributes": {"series_description": "Lung B70"}},
            None,
        ),
        ({"image_type": ["AXIAL"]}, {}, None),
        ({"image_type": ["LOCALIZER"]}, {}, "image_type ORIGINAL/PRIMARY/AXIAL is not LOCALIZER"),
        ({"kernel": ["B*"]}, {"attributes": {"kernel": "B30f"}}, None),
        ({"study_description": ["CT*"]}, {"attributes": {"study_description": " CT "}}, None),
        ({"max_instances": 4}, {}, "5 instances, more than 4"),
        ({"min_instances": 5, "max_instances": 5}, {}, None),
    ],
)
def test_clauses(match: dict[str, Any], values: dict[str, Any], miss: str | None) -> None:
    assert mismatch(RouteMatch(**match), open_series(**values)) == miss


def digest_of(models: dict[str, ModelDescription], made: Settings) -> str:
    return route(open_series(), made, models).jobs[0].settings_digest


def test_the_settings_digest_follows_what_changes_the_objects_and_nothing_else(
    models: dict[str, ModelDescription],
) -> None:
    base = digest_of(models, settings(a_route()))
    assert digest_of(models, settings(a_route("renamed", priority=9))) == base
    assert digest_of(models, settings(a_route(), one={"port": 105, "ae_title": "Q"})) == base
    assert digest_of(models, settings(a_route(), one={"segmentation": "labelmap"})) != base
    assert digest_of(models, settings(a_route(), one={"objects": ["sr"]})) != base
    clinical = settings(a_route()).model_copy(update={"not_for_clinical_use": False})
    assert digest_of(models, clinical) != base


def test_a_canary_takes_its_own_way_and_no_other(models: dict[str, ModelDescription]) -> None:
    canary = {"every_seconds": 60, "ae_title": "CT1", "models": ["beta"], "destinations": ["two"]}
    made = Settings.model_validate(
        settings(a_route()).model_dump() | {"canary": canary, "peer": [{"ae_title": "CT1"}]}
    )
    (job,) = route(open_series(), made, models).jobs
    assert (job.model, job.route, job.destinations) == ("beta", "canary", ("two",))
    (job,) = route(open_series(calling_ae="CT2"), made, models).jobs
    assert (job.model, job.route) == ("alpha", "r")
