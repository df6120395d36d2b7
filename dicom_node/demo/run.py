"""The demonstration, step by step, as a scanner, a node and a PACS would do it.

What comes in: a folder to work in, optionally DICOM of one's own. What goes out: results in the PACS, an
overlay picture, and where everything lies. It is a success only if the PACS holds the results.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from dicom_node.app.opened import opened_overview
from dicom_node.deliver import scu
from dicom_node.demo.pacs import LOOPBACK, Pacs, folder_pacs, orthanc_pacs
from dicom_node.demo.picture import draw_overlays
from dicom_node.errors import NodeError
from dicom_node.settings import Settings, load_settings
from dicom_node.supervisor import RunningNode, running_node

PHANTOM_SHAPE = (96, 320, 320)
PHANTOM_SPACING_MM = (3.0, 1.2, 1.2)
START_SECONDS = 60.0
ENDED_JOBS = ("STORED", "FAILED", "POISON", "CANCELLED")
ENDED_SERIES = ("HELD", "NO_ROUTE")
ENDED_DELIVERIES = ("CONFIRMED", "DEAD", "WITHDRAWN")


class DemoFailed(NodeError):
    """The demonstration did not reach its end."""


def run_demo(folder: Path, dicom: Path | None, pacs: str, timeout: float, out: Console) -> bool:
    """Run the whole demonstration; True if the PACS holds SEG and SR at the end."""
    folder = folder.absolute()
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    start_pacs = orthanc_pacs if pacs == "orthanc" else folder_pacs
    with (
        _progress(out) as progress,
        start_pacs(folder / "pacs") as receiver,
        _node(folder, receiver, progress) as node,
    ):
        out.print(f"PACS ({pacs}) {receiver.ae_title} on {LOOPBACK}:{receiver.port}")
        out.print(
            f"Node {node.ae_title} on {node.host}:{node.port}, configured by {folder}/node.toml"
        )
        out.print(f"Page {node.page} while the demonstration runs", highlight=False)
        files = _given(dicom) if dicom else _phantom(folder / "scanner", progress)
        sent = _send(node, files, progress)
        settings = load_settings(folder / "node.toml")
        series = _wait_for_results(settings, timeout, progress)
        waited = time.monotonic() - sent
        ok = _check(series, receiver, out)
        pictures = draw_overlays(files, receiver, folder)
    _say_where(out, folder, pictures, waited)
    return ok


def _progress(out: Console) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=out)


@contextmanager
def _node(folder: Path, pacs: Pacs, progress: Progress) -> Iterator[RunningNode]:
    """A node in processes of its own, as `dicom-node serve` starts it."""
    config = folder / "node.toml"
    config.write_text(CONFIGURATION.format(data=folder / "node", host=LOOPBACK, pacs=pacs))
    data_dir = load_settings(config).data_dir
    task = progress.add_task("Starting the node", total=1)
    with (folder / "node.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", "serve", "--config", str(config)],
            stderr=log,
            start_new_session=True,
        )
        try:
            yield _wait_until_it_answers(process, data_dir, folder / "node.log")
        finally:
            progress.update(task, visible=False)
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _wait_until_it_answers(
    process: "subprocess.Popen[bytes]", data_dir: Path, log: Path
) -> RunningNode:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        node = running_node(data_dir)
        if node is not None:
            try:
                scu.echo(scu.Address(node.host, node.port, node.ae_title, "DEMO_SCANNER", 10.0))
                return node
            except NodeError:
                pass
        time.sleep(0.1)
    raise DemoFailed(f"the node did not start; see {log}")


def _phantom(folder: Path, progress: Progress) -> list[Path]:
    from ai_models.phantoms.dicom import write_ct_series
    from ai_models.phantoms.thorax import thorax

    task = progress.add_task("Making a CT of a procedural thorax phantom", total=1)
    phantom = thorax(PHANTOM_SHAPE, PHANTOM_SPACING_MM, seed=7, nodules=3)
    files: list[Path] = write_ct_series(phantom, folder, seed=7)
    progress.update(task, completed=1)
    return files


def _given(folder: Path) -> list[Path]:
    from dicom_node.files import dicom_files

    files = dicom_files([folder])
    if not files:
        raise DemoFailed(f"{folder}: no DICOM files there")
    return files


def _send(node: RunningNode, files: list[Path], progress: Progress) -> float:
    """Send as a scanner does; returns the monotonic time of the last answer."""
    task = progress.add_task("Sending to the node by C-STORE", total=len(files))
    address = scu.Address(node.host, node.port, node.ae_title, "DEMO_SCANNER")
    for path, answer in scu.store(address, files):
        if answer.status != 0:
            raise DemoFailed(
                f"the node answered {path.name} with {answer.status}: {answer.comment}"
            )
        progress.advance(task)
    return time.monotonic()


def _wait_for_results(
    settings: Settings, timeout: float, progress: Progress
) -> list[dict[str, Any]]:
    """Wait until every series has ended: delivered, held, or without a route."""
    task = progress.add_task("Waiting for the results in the PACS", total=None)
    deadline = time.monotonic() + timeout
    series: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        with opened_overview(settings) as view:
            series = view.studies(limit=1000)
        if series and all(_ended(row) for row in series):
            progress.update(task, total=1, completed=1)
            return series
        progress.update(task, description=f"Waiting for the results in the PACS: {_now(series)}")
        time.sleep(0.2)
    raise DemoFailed(f"no results after {timeout:g} s; so far: {_now(series)}")


def _ended(row: dict[str, Any]) -> bool:
    if not row["jobs"]:
        return row["state"] in ENDED_SERIES
    return all(
        job["state"] in ENDED_JOBS
        and all(result["delivery"] in ENDED_DELIVERIES for result in job["results"])
        for job in row["jobs"]
    )


def _now(series: list[dict[str, Any]]) -> str:
    states = [job["state"] for row in series for job in row["jobs"]]
    states += [row["state"] for row in series if not row["jobs"]]
    return ", ".join(sorted({state.lower() for state in states})) or "nothing received"


def _check(series: list[dict[str, Any]], pacs: Pacs, out: Console) -> bool:
    """Whether the PACS holds every result, and a SEG and an SR among them."""
    kept = pacs.received()
    ok = True
    modalities = set()
    for row in series:
        if not row["jobs"]:
            out.print(f"[yellow]{row['state']}[/yellow] {row['modality']}: {row['reason']}")
        for job in row["jobs"]:
            told = filter(None, (job["model"], job["outcome"] or job["state"], job["reason"]))
            out.print(": ".join(told))
            for result in job["results"]:
                if result["sop_instance_uid"] not in kept:
                    out.print(f"[red]missing in the PACS[/red]: {result['description']}")
                    ok = False
                    continue
                found = pacs.read(result["sop_instance_uid"])
                modalities.add(found.Modality)
                out.print(f"  in the PACS: {found.Modality} {found.SeriesDescription}")
    if not {"SEG", "SR"} <= modalities:
        out.print(
            f"[red]The PACS holds {', '.join(sorted(modalities)) or 'nothing'}, not SEG and SR[/red]"
        )
        ok = False
    return ok


def _say_where(out: Console, folder: Path, pictures: list[Path], waited: float) -> None:
    out.print(f"\n[bold]{waited:.1f} s[/bold] from the last image to the last result in the PACS.")
    for picture in pictures:
        out.print(f"Picture   {picture}", soft_wrap=True)
    out.print(f"Results   {folder / 'pacs'}", soft_wrap=True)
    out.print(f"Log       {folder / 'node.log'}", soft_wrap=True)
    out.print(
        "\nTry a study of your own: [bold]DICOM=folder make demo[/bold]. Or start a node that stays with "
        "[bold]make run[/bold]\nand send to it:\n"
        "  storescu -aec DICOM_NODE 127.0.0.1 11112 +sd +r folder\n"
        "  dicom-node send folder\n"
        "  dicom-node status\n"
        "Not for clinical use.",
        highlight=False,
    )


CONFIGURATION = """\
# Written by the demonstration.
data_dir = "{data}"

[receive]
host = "{host}"
port = 0
accept_any_peer = true

[web]
port = 0

[destination.pacs]
ae_title = "{pacs.ae_title}"
host = "{host}"
port = {pacs.port}

[[route]]
name = "ct"
models = ["ct_structures"]
destinations = ["pacs"]
[route.match]
modality = ["CT"]
"""
