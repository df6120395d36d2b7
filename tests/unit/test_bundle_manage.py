"""Installing, checking and running models without a node."""

import json
import stat
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.catalogue import catalogue
from dicom_node.errors import BundleRefused, ReadError
from dicom_node.infer import accelerate
from dicom_node.infer.engine import LocalEngine
from dicom_node.infer.manage import add, choose_engine, draft, verify
from dicom_node.infer.standalone import run_on_folder
from dicom_node.records import Outcome
from dicom_node.settings import InferSettings, Settings
from tests.builders import images
from tests.builders.bundles import WINDOWS, configuration, write_bundle
from tests.builders.volumes import asymmetric_block

SETTINGS = Settings(infer=InferSettings(device="cpu", threads=1))


def test_a_bundle_is_installed_with_a_manifest_and_verified(tmp_path: Path) -> None:
    source = write_bundle(tmp_path / "download/model_a")
    (source.folder / "notes.txt").write_text("not part of a bundle")
    added = add(source.folder, tmp_path / "models")
    assert added.digest == source.digest
    assert not (added.folder / "notes.txt").exists()
    assert list(catalogue(tmp_path / "models")) == ["model_a"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["model_a"]
    checked = verify(added)
    assert checked.digest == source.digest
    assert checked.changed == ()
    assert checked.parameters == 6
    (added.folder / "configs/inference.json").write_text(
        (added.folder / "configs/inference.json").read_text() + "\n"
    )
    assert verify(added).changed == ("configs/inference.json",)


def test_a_folder_of_another_name_is_installed_under_the_models_name(tmp_path: Path) -> None:
    write_bundle(tmp_path / "model_a").folder.rename(tmp_path / "download-17")
    assert add(tmp_path / "download-17", tmp_path / "models").folder.name == "model_a"


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    source = write_bundle(tmp_path / "download/model_a")
    add(source.folder, tmp_path / "models")
    with pytest.raises(BundleRefused, match="a model of this name is installed"):
        add(source.folder, tmp_path / "models")
    assert add(source.folder, tmp_path / "models", replace=True).digest == source.digest


def test_a_bundle_that_would_not_run_leaves_nothing_behind(tmp_path: Path) -> None:
    evil = configuration(preprocessing=[{"_target_": "os.system", "command": "true"}])
    source = write_bundle(tmp_path / "download/model_a", evil)
    with pytest.raises(BundleRefused, match=r"os\.system is not on the list"):
        add(source.folder, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_zip_file_is_unpacked(tmp_path: Path) -> None:
    source = write_bundle(tmp_path / "model_a")
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        for path in source.folder.rglob("*"):
            archive.write(path, path.relative_to(tmp_path))
    assert add(tmp_path / "bundle.zip", tmp_path / "models").digest == source.digest


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "model_a/../../evil", "a\\..\\evil"])
def test_a_zip_file_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(BundleRefused, match="leads out of the bundle"):
        add(tmp_path / "bundle.zip", tmp_path / "models")


def test_a_link_in_a_zip_file_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("model_a/configs/inference.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BundleRefused, match="leads out of the bundle"):
        add(tmp_path / "bundle.zip", tmp_path / "models")


@pytest.mark.parametrize("name", ["../up", "a/b", ".."])
def test_a_models_name_is_no_path(name: str, tmp_path: Path) -> None:
    source = write_bundle(tmp_path / "model_a").folder
    sidecar = (source / "dicom.toml").read_text().replace('name = "model_a"', f'name = "{name}"')
    (source / "dicom.toml").write_text(sidecar)
    with pytest.raises(BundleRefused, match="is no name"):
        add(source, tmp_path / "models")


def test_a_bundle_without_a_sidecar_gets_a_draft(tmp_path: Path, shared: Path) -> None:
    with pytest.raises(BundleRefused, match=r"dicom\.toml: no such file.*--draft"):
        add(shared / "zoo/spleen_ct_segmentation", tmp_path / "models")
    values = tomllib.loads(draft(shared / "zoo/spleen_ct_segmentation"))
    assert values["model"]["version"] == "0.5.9"
    assert values["input"] == {"modality": ["CT"], "dimensions": 3}
    assert [segment["label"] for segment in values["segments"]] == ["spleen"]


def test_a_folder_of_dicom_is_run_without_a_node(tmp_path: Path) -> None:
    model = write_bundle(tmp_path / "model_a")
    study = images.Study()
    block = (asymmetric_block((12, 24, 30)) + 1024).astype(np.int16)
    for name, modality in (("one", "CT"), ("two", "MR")):
        (tmp_path / "in" / name).mkdir(parents=True)
        made = images.series(block, images.affine("sagittal"), modality=modality, study=study)
        for number, dataset in enumerate(made):
            path = tmp_path / "in" / name / f"{number}.dcm"
            path.write_bytes(images.part10(images.raw(dataset)))
    (tmp_path / "in/readme.txt").write_text("no DICOM")
    told = []
    runs = run_on_folder(model, tmp_path / "in", tmp_path / "out", SETTINGS, tell=told.append)
    assert told == runs
    assert {run.answer.outcome for run in runs} == {Outcome.SUCCEEDED, Outcome.NOT_APPLICABLE}
    (done,) = [run for run in runs if run.answer.outcome is Outcome.SUCCEEDED]
    assert {"seg", "sr"} <= {result.kind for result in done.results}
    (seg,) = [dcmread(result.path) for result in done.results if result.kind == "seg"]
    assert seg.pixel_array.sum() == (block > 1124).sum()
    again = run_on_folder(model, tmp_path / "in", tmp_path / "again", SETTINGS)
    uids = [[result.sop_instance_uid for result in run.results] for run in runs]
    assert [[result.sop_instance_uid for result in run.results] for run in again] == uids


def test_the_worker_finds_the_engine_that_was_chosen_when_the_model_was_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate, "WORTH", 0.0)
    source = write_bundle(tmp_path / "model_a", configuration(inferer=WINDOWS)).folder
    settings = Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models")
    added = add(source, settings.models_dir)
    choice = choose_engine(added, settings)
    assert choice.complete
    assert choice.engine is not None
    worker = LocalEngine(settings.infer, compiled_dir=settings.data_dir / "compiled")
    assert worker.load(added).fast
    assert not worker.accelerate(), "nothing is left to try"
    record = json.loads(next((tmp_path / "data/compiled").glob("*.json")).read_text())
    assert record["engines"][choice.engine]["used"]


def test_a_folder_without_dicom_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match="no DICOM files"):
        run_on_folder(
            write_bundle(tmp_path / "model_a"), tmp_path / "empty", tmp_path / "out", SETTINGS
        )
    (tmp_path / "empty" / "image").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(ReadError, match=r"none of its 1 DICOM files can be read \(image: "):
        run_on_folder(
            write_bundle(tmp_path / "model_b"), tmp_path / "empty", tmp_path / "out", SETTINGS
        )
