"""A model that takes two series of a study together, through the whole node."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage, generate_uid

from dicom_node.deliver import scu
from tests.builders import images
from tests.builders.bundles import THRESHOLD_NETWORK, configuration, write_bundle
from tests.builders.pacs import pacs_that
from tests.harness import Node, node, settled

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("killed_node")]

TOML = """
models_dir = "{models}"
[assemble]
settle_seconds = 0.5
[infer]
device = "cpu"
threads = 1
[web]
enabled = false
[destination.pacs]
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
[[route]]
name = "difference"
models = ["difference"]
destinations = ["pacs"]
[[route.series]]
name = "with"
match = {{ series_description = ["with*"] }}
[[route.series]]
name = "without"
match = {{ series_description = ["without*"] }}
"""


def difference_model(folder: Path) -> None:
    """Calls 1 what is brighter by 100 in the first series than in the second."""
    weights = {
        "encode.encode_0.conv.weight": torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1, 1),
        "encode.encode_0.conv.bias": torch.zeros(1),
        "decode.decode_0.conv.conv.weight": torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1, 1),
        "decode.decode_0.conv.conv.bias": torch.tensor([0.0, -100.0]),
    }
    config = configuration(network={**THRESHOLD_NETWORK, "in_channels": 2})
    write_bundle(folder, config, weights, channels=2)


def sent(to: Node, data_sets: list[Dataset], folder: Path, description: str) -> None:
    folder.mkdir()
    paths = []
    for index, one in enumerate(data_sets):
        one.SeriesDescription = description
        paths.append(folder / f"{index}.dcm")
        paths[-1].write_bytes(images.part10(images.raw(one)))
    address = scu.Address(to.address.host, to.address.port, to.address.ae_title, "SCANNER")
    assert {answer.status for _, answer in scu.store(address, paths)} == {0}


def test_two_series_make_one_result(tmp_path: Path) -> None:
    difference_model(tmp_path / "models" / "difference")
    study, shape = images.Study(), (6, 20, 24)
    bright = np.zeros(shape, np.int16)
    bright[1:4, 5:9, 6:12] = 500
    both = images.pattern(shape)
    first = images.series(both + bright, images.affine(), study=study)
    second = images.series(both, images.affine(), study=study, series_uid=generate_uid())
    with pacs_that(takes=[SegmentationStorage, Comprehensive3DSRStorage]) as pacs:
        toml = TOML.format(models=tmp_path / "models", port=pacs.port)
        with node(tmp_path / "node", toml) as running:
            # the one whose grid the result lies on comes first, and waits for the other
            sent(running, first, tmp_path / "first", "with contrast")
            (alone,) = running.wait_for(settled(1))
            assert alone["reason"] == "difference waits for without"
            sent(running, second, tmp_path / "second", "without contrast")
            rows = running.wait_for(settled(2))
    assert [row["state"] for row in rows] == ["QUEUED"] * 2
    jobs = {row["description"]: row["jobs"] for row in rows}
    assert [len(found) for found in jobs.values()] == [1, 1]
    (job,) = jobs["with contrast"]
    assert (job["state"], job["outcome"]) == ("STORED", "succeeded")
    made = {str(one.SOPClassUID): one for one in pacs.kept.values()}
    assert len(pacs.kept) == 2
    segmentation = made[SegmentationStorage]
    assert int(segmentation.pixel_array.sum()) == int((bright > 0).sum())
    (referred,) = segmentation.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == first[0].SeriesInstanceUID
    # the report says what else it was made from
    assert str(second[0].SeriesInstanceUID) in made[Comprehensive3DSRStorage].to_json()
