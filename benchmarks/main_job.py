"""From the last image to the last result in the PACS, stage by stage.

    python -m benchmarks.main_job [--folder DICOM] [--times 5] [--pacs orthanc|folder]

Starts a node and a PACS as `make demo` does, sends a series over DIMSE several times (each time under fresh
UIDs, so that each is a study of its own), and prints medians of the stages, taken from the node's own record
of every move. The last line is what a radiologist waits for. Nothing else may run beside it.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import generate_uid

from ai_models.phantoms.dicom import write_ct_series
from ai_models.phantoms.thorax import thorax
from dicom_node.app.opened import opened_overview
from dicom_node.deliver import scu
from dicom_node.demo.pacs import folder_pacs, orthanc_pacs
from dicom_node.files import dicom_files
from tests.harness import Node, ct_to, node, settled


def main() -> None:
    """Run the benchmark and print its table."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        start = orthanc_pacs if options.pacs == "orthanc" else folder_pacs
        with start(work / "pacs") as pacs, node(work / "node", ct_to(pacs)) as running:
            rows = list(_measure(running, _source(options.folder, work / "source"), options.times))
    print(
        f"{rows[0]['slices']:.0f} slices, median of {options.times} (the first, on a cold worker, left out)\n"
    )
    for stage in rows[-1]:
        if stage != "slices":
            print(f"{stage:42s} {statistics.median(row[stage] for row in rows[1:]):6.2f} s")


def _options() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="a series of your own; default: a phantom")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--pacs", choices=("orthanc", "folder"), default="orthanc")
    return parser.parse_args()


def _source(folder: Path | None, work: Path) -> list[Path]:
    if folder is not None:
        work.mkdir()
        return [Path(shutil.copy(path, work)) for path in dicom_files([folder])]
    return write_ct_series(thorax((120, 512, 512), (2.5, 0.75, 0.75), seed=3), work)


def _measure(running: Node, files: list[Path], times: int) -> Iterator[dict[str, float]]:
    address = scu.Address("127.0.0.1", running.address.port, running.address.ae_title, "BENCH")
    for number in range(times + 1):
        study = _renew(files)
        for _path, answer in scu.store(address, files):
            assert answer.status == 0, answer
        sent, began = datetime.now().astimezone(), time.monotonic()
        running.wait_for(settled(number + 1), 600)
        with opened_overview(running.settings) as view:
            moves = {(m["entity"], m["new"]): m["at"].timestamp() for m in view.story(study)}
        marks = [
            ("last image acknowledged -> complete", sent.timestamp(), moves["series", "STABLE"]),
            (
                "complete -> claimed by the worker",
                moves["series", "STABLE"],
                moves["job", "RUNNING"],
            ),
            ("read, infer, compose, store", moves["job", "RUNNING"], moves["job", "STORED"]),
            ("stored -> in the PACS", moves["job", "STORED"], moves["delivery", "SENT"]),
        ]
        row = {"slices": float(len(files))} | {name: end - start for name, start, end in marks}
        yield row | {"last image -> last result in the PACS": time.monotonic() - began}


def _renew(files: list[Path]) -> str:
    """Give the files fresh UIDs in place; returns the study's."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for path in files:
        found = dcmread(path)
        found.StudyInstanceUID, found.SeriesInstanceUID = study, series
        found.FrameOfReferenceUID = frame
        found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        found.save_as(path)
    return str(study)


if __name__ == "__main__":
    main()
