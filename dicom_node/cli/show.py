"""Results in the terminal: a report as a table, a segmentation over its source, other images as pictures."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.common import ConfigOption, out
from dicom_node.errors import ConfigurationError, ReadError
from dicom_node.settings import Settings, load_settings

if TYPE_CHECKING:
    from pydicom import Dataset

    from dicom_node.records import RawInstance

commands = typer.Typer()


@commands.command()
def show(
    what: Annotated[
        str, typer.Argument(help="A DICOM file, or the Study Instance UID of a study.")
    ],
    source: Annotated[
        Path | None,
        typer.Option(help="The images that a file was made from.", exists=True, show_default=False),
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="Where pictures go.")] = Path(),
    config: ConfigOption = None,
) -> None:
    """Show results: reports as tables, segmentations and images as PNG files."""
    from pydicom import dcmread

    to.mkdir(parents=True, exist_ok=True)
    path = Path(what)
    if path.is_file():
        _show(dcmread(path), _from_folder(source), to)
        return
    for result, instances in _of_study(load_settings(config), what):
        _show(dcmread(result), instances, to)


def _show(result: "Dataset", source: "Iterable[RawInstance]", to: Path) -> None:
    if result.Modality == "SR":
        _table(result)
        return
    from dicom_node.compose.show import frame_png, overlay_png
    from dicom_node.read.volume import read_image
    from dicom_node.records import Volume

    path = to / f"{result.Modality.lower()}-{str(result.SOPInstanceUID)[-8:]}.png"
    if result.Modality == "SEG":
        image = read_image(_referenced(result, source))
        if not isinstance(image, Volume):
            raise ReadError("the source of the segmentation is no volume")
        overlay_png(image, result, path)
    else:
        frame_png(result, path)
    out.print(f"{result.get('SeriesDescription', result.Modality)}: {path}", highlight=False)


def _table(report: "Dataset") -> None:
    from rich.table import Table
    from rich.text import Text

    from dicom_node.compose.show import report_rows

    table = Table("Concept", "Value", title=str(report.get("SeriesDescription", "Report")))
    for row in report_rows(report):
        # Text, since units such as [hnsf'U] look like markup
        table.add_row(Text("  " * row.depth + row.name), Text(row.value))
    out.print(table)


def _referenced(seg: "Dataset", source: "Iterable[RawInstance]") -> "list[RawInstance]":
    wanted = {
        str(item.ReferencedSOPInstanceUID)
        for series in seg.get("ReferencedSeriesSequence") or ()
        for item in series.ReferencedInstanceSequence
    }
    found = [instance for instance in source if instance.sop_instance_uid in wanted]
    if not found:
        raise ReadError("the images that the segmentation was made from are not there (--source)")
    return found


def _from_folder(folder: Path | None) -> "Iterable[RawInstance]":
    from dicom_node.files import dicom_files
    from dicom_node.read.part10 import raw_instance

    return [raw_instance(path) for path in dicom_files([folder])] if folder else []


def _of_study(settings: Settings, study: str) -> "list[tuple[Path, list[RawInstance]]]":
    from dicom_node.offline import results_of

    found = results_of(settings, study)
    if not found:
        raise ConfigurationError(f"{study}: neither a file nor a study with results here")
    return found
