"""Commands that speak to other systems over DIMSE."""

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import err, out
from dicom_node.errors import ExitCode

commands = typer.Typer()


@commands.command()
def send(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders.", exists=True)],
    host: Annotated[str, typer.Option(help="The receiver's host.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The receiver's port.")] = 11112,
    called: Annotated[str, typer.Option(help="The receiver's AE title.")] = "DICOM_NODE",
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "DICOM_SEND",
) -> None:
    """Send DICOM files or folders to any AE by C-STORE."""
    from rich.progress import track

    from dicom_node.deliver import scu
    from dicom_node.files import dicom_files

    files = dicom_files(paths)
    if not files:
        raise typer.BadParameter("no DICOM files there")
    address = scu.Address(host, port, called, calling)
    refused = []
    answers = scu.store(address, files)
    for path, answer in track(answers, "Sending", total=len(files), console=err):
        if answer.status != 0:
            refused.append((path, answer))
    for path, answer in refused:
        status = "no context" if answer.status is None else f"{answer.status:04X}"
        err.print(f"{path}: {status} {answer.comment}", highlight=False)
    out.print(f"{len(files) - len(refused)} of {len(files)} accepted by {address}", highlight=False)
    if refused:
        raise typer.Exit(int(ExitCode.REFUSED))


@commands.command()
def echo(
    host: Annotated[str, typer.Argument(help="The peer's host.")] = "127.0.0.1",
    port: Annotated[int, typer.Argument(help="The peer's port.")] = 11112,
    called: Annotated[str, typer.Option(help="The peer's AE title.")] = "DICOM_NODE",
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "DICOM_ECHO",
) -> None:
    """Ask a peer whether it is there (C-ECHO)."""
    from dicom_node.deliver import scu

    address = scu.Address(host, port, called, calling)
    scu.echo(address)
    out.print(f"{address} answers", highlight=False)


@commands.command()
def certs(
    names: Annotated[
        list[str], typer.Argument(help="Host names, addresses or AE titles, one pair each.")
    ],
    to: Annotated[Path, typer.Option("--to", help="Where they go.")] = Path("certificates"),
) -> None:
    """Make a test authority and certificates for trying TLS. Not for a hospital's network."""
    from dicom_node.receive.certificates import make_test_certificates

    for name, pair in make_test_certificates(to, tuple(names)).items():
        out.print(f"{name}: {pair.certificate}, {pair.key}", highlight=False)
    out.print(f"Authority: {to / 'ca.pem'}", highlight=False)
