"""The spool as plain files: what lies in it, and how to get it back without a database."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, out
from dicom_node.records import SegmentAddress
from dicom_node.settings import load_settings
from dicom_node.store.spool import SUFFIX, RecordMeta, digest, owner, part10, records

commands = typer.Typer(help="What was received, as it lies on the disk.", no_args_is_help=True)


@commands.command(name="list")
def list_segments(config: ConfigOption = None) -> None:
    """List the segments: who sent them, how many instances they hold."""
    from rich.table import Table

    spool_dir = load_settings(config).spool_dir
    table = Table("Segment", "From", "To", "Opened", "Instances", "MB")
    for path in sorted(spool_dir.glob(f"*{SUFFIX}")):
        of = owner(path)
        count = sum(1 for _ in records(path, verify=False))
        size = f"{path.stat().st_size / 1e6:.1f}"
        if of is None:
            table.add_row(path.name, "damaged head", "", "", str(count), size)
            continue
        sender = f"{of.peer.calling_ae} at {of.peer.host}"
        opened = f"{of.opened_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(path.name, sender, of.peer.called_ae, opened, str(count), size)
    out.print(table)


@commands.command()
def export(
    to: Annotated[Path, typer.Argument(help="The folder to write DICOM files to.")],
    study: Annotated[
        str | None, typer.Option(help="Only this Study Instance UID.", show_default=False)
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Write what was received as plain DICOM files, whatever the database says of it.

    Files are numbered: a name is never made from what a peer sent. What was sent twice is written once.
    """
    spool_dir = load_settings(config).spool_dir
    to.mkdir(parents=True, exist_ok=True)
    written: set[tuple[str, str]] = set()
    for meta, address in _everything(spool_dir):
        same = (meta.sop_instance_uid, digest(spool_dir, address))
        if same in written or study not in (None, _study_of(spool_dir, meta, address)):
            continue
        written.add(same)
        (to / f"{len(written):06d}.dcm").write_bytes(part10(spool_dir, meta, address))
    out.print(f"{len(written)} instances written to {to}", highlight=False)


def _everything(spool_dir: Path) -> Iterator[tuple[RecordMeta, SegmentAddress]]:
    for path in sorted(spool_dir.glob(f"*{SUFFIX}")):
        yield from records(path)


def _study_of(spool_dir: Path, meta: RecordMeta, address: SegmentAddress) -> str:
    from dicom_node.read.header import read_header
    from dicom_node.store.spool import open_data_set

    return read_header(open_data_set(spool_dir, address), meta.transfer_syntax_uid).study_uid
