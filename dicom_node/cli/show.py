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

    from dicom_node.records import RawInstance, Volume

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
    from dicom_node.compose.show import (
        frame_png,
        overlay_png,
        referenced_frames,
        referenced_instances,
    )

    path = to / f"{result.Modality.lower()}-{str(result.SOPInstanceUID)[-8:]}.png"
    if result.Modality == "SEG":
        made_from = referenced_frames(result)
        listed = referenced_instances(result) | {uid for uid, _ in made_from}
        overlay_png(_source_of(source, listed, made_from), result, path)
    elif result.Modality == "RTSTRUCT":
        _regions(result, source, path)
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


def _source_of(
    source: "Iterable[RawInstance]", listed: set[str], referenced: set[tuple[str, int | None]]
) -> "Volume":
    """The stack that a result was made from, of the images that it lists and that are at hand."""
    from dicom_node.read.volume import read_referenced

    found = [instance for instance in source if instance.sop_instance_uid in listed]
    if not found:
        raise ReadError("the images that it was made from are not there (--source)")
    return read_referenced(found, referenced)


def _regions(structures: "Dataset", source: "Iterable[RawInstance]", path: Path) -> None:
    """An RT Structure Set, whoever wrote it, over its images."""
    from dicom_node.compose.show import regions_png
    from dicom_node.read.structures import referenced_images, regions

    listed = referenced_images(structures)
    volume = _source_of(source, listed, {(uid, None) for uid in listed})
    found = regions(structures, volume)
    title = str(structures.get("StructureSetLabel") or "Structure set")
    regions_png(volume, found, path, title=title)
    for one in found:
        if one.left_out:
            lost = f"{one.left_out} contour{'s' * (one.left_out != 1)}"
            out.print(f"{one.name}: {lost} on none of these images", highlight=False)


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
