"""What would become of files: the same decisions, asked without storing anything."""

from dicom_node.assemble.explain import RouteAnswer, explain
from dicom_node.catalogue import ModelDescription
from dicom_node.records import SeriesKey
from tests.builders.store import SCANNER, facts_of, slice_attributes
from tests.unit.test_route import a_route, models, settings

__all__ = ["models"]  # a fixture

KEY, OTHER = SeriesKey("1.2.3", "1.2.3.1"), SeriesKey("1.2.3", "1.2.3.2")


def test_each_series_with_its_routes_and_models(models: dict[str, ModelDescription]) -> None:
    made = settings(
        a_route("ct", match={"modality": ["CT"]}), a_route("mr", match={"modality": ["MR"]})
    )
    mr = slice_attributes(0) | {"modality": "MR", "series_description": "T1"}
    headers = [(KEY, facts_of(n)) for n in range(4)] + [(OTHER, facts_of(0, attributes=mr))]
    first, second = explain(headers, SCANNER, made, models)
    assert (first.key, first.instances, first.geometry, first.held) == (KEY, 4, None, None)
    assert first.routes == (RouteAnswer("ct", None), RouteAnswer("mr", "modality CT is not MR"))
    assert [(one.name, one.not_applicable) for one in first.models] == [("alpha", None)]
    assert second.description == "T1"
    assert second.geometry == "a single slice has no neighbours"
    assert [one.not_applicable for one in second.models] == ["modality is MR, the model takes CT"]


def test_what_would_be_held_and_what_has_no_route(models: dict[str, ModelDescription]) -> None:
    headers = [(KEY, facts_of(0)), (KEY, facts_of(1, patient_id="P2"))]
    (only,) = explain(headers, SCANNER, settings(), models)
    assert only.held == "instances of one series name different patients"
    assert only.reason == "no routes are configured"
    assert only.models == ()


def test_no_files_no_series() -> None:
    assert explain([], SCANNER, settings(), {}) == []
