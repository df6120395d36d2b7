"""Commands that run a node, or say how one is."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, JsonOption, out
from dicom_node.errors import ConfigurationError, ExitCode
from dicom_node.settings import load_settings

commands = typer.Typer()


@commands.command()
def serve(
    config: ConfigOption = None,
    role: Annotated[
        str | None,
        typer.Option(
            help="Run one role only: receive, assemble, infer, deliver, share or web.",
            show_default=False,
        ),
    ] = None,
    supervised: Annotated[bool, typer.Option(hidden=True)] = False,
    listen_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the node: listener, assembler, inference worker, courier and page."""
    from dicom_node import roles, supervisor
    from dicom_node.app.stretch import Role
    from dicom_node.observe.logging import configure

    settings = load_settings(config)
    configure(settings.log)
    if role is None:
        supervisor.serve(settings, config)
        return
    if role not in [known.value for known in Role]:
        raise typer.BadParameter(f"{role!r}; known: {', '.join(known.value for known in Role)}")
    if supervised and config is not None:
        roles.run_supervised(Role(role), config, listen_fd)
    else:
        roles.run_alone(Role(role), settings, config)


@commands.command()
def reload(config: ConfigOption = None) -> None:
    """Have the node that runs read its configuration anew; open associations stay open."""
    from dicom_node.supervisor import reload_running

    outcome = reload_running(load_settings(config).data_dir)
    if outcome.error:
        raise ConfigurationError(outcome.error)
    out.print(f"Changed: {', '.join(outcome.changed) or 'nothing'}", highlight=False)
    if outcome.waiting:
        out.print(f"Wait for a restart: {', '.join(outcome.waiting)}", highlight=False)


@commands.command()
def alerts(config: ConfigOption = None) -> None:
    """Send a message by every way that [alerts] names, to see whether it arrives."""
    from dicom_node.upkeep.alarms import channels_of, send_test

    channels = channels_of(load_settings(config))
    if not channels:
        raise ConfigurationError("alerts: neither email_to nor webhook_url is set")
    failed = False
    for channel in channels:
        error = send_test(channel)
        failed |= bool(error)
        out.print(f"{channel.name}: {error or 'sent'}", highlight=False)
    if failed:
        raise typer.Exit(int(ExitCode.FAILED))


@commands.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where to work; made anew.")] = Path("demo"),
    dicom: Annotated[
        Path | None,
        typer.Option(help="Send these DICOM files instead of a phantom.", show_default=False),
    ] = None,
    pacs: Annotated[
        str, typer.Option(help="The PACS that receives the results: folder or orthanc.")
    ] = "folder",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the results.")] = 300.0,
) -> None:
    """Try everything: start a node and a PACS, send a study, wait for the results, show them."""
    from dicom_node.demo.run import run_demo

    if pacs not in ("folder", "orthanc"):
        raise typer.BadParameter(f"{pacs!r}; known: folder, orthanc")
    if not run_demo(folder, dicom, pacs, timeout, out):
        raise typer.Exit(int(ExitCode.FAILED))


@commands.command()
def status(
    study: Annotated[
        str | None,
        typer.Argument(
            help="Only this Study Instance UID, with its whole story.", show_default=False
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option(help="The most series to show.")] = 50,
) -> None:
    """Say where every study is, and why."""
    from dicom_node import supervisor
    from dicom_node.app.opened import opened_overview
    from dicom_node.status import print_status

    settings = load_settings(config)
    node = supervisor.running_node(settings.data_dir)
    with opened_overview(settings) as view:
        studies = view.studies(study, limit)
        story = view.story(study) if study else []
        counts = view.counts()
    if as_json:
        running = None if node is None else asdict(node)
        value = {"node": running, "counts": counts, "series": studies, "story": story}
        out.print_json(json.dumps(value, default=str))
    else:
        print_status(out, node, counts, studies, story)


@commands.command(name="config")
def show_config(
    config: ConfigOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether it can be used.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the effective configuration, or check it."""
    from dicom_node.app.checks import check as check_all
    from dicom_node.status import as_toml

    settings = load_settings(config)
    check_all(settings)
    if check:
        out.print("The configuration can be used.")
    elif as_json:
        out.print_json(settings.model_dump_json())
    else:
        out.print(as_toml(settings), highlight=False, markup=False, soft_wrap=True)
