"""Orders of an operator: hold, release, complete, cancel, retry, run again, send again, purge. On record."""

import getpass
from typing import Annotated, Any

import typer

from dicom_node.cli.common import ConfigOption, JsonOption, StudyArgument, WhyOption, out
from dicom_node.settings import load_settings

commands = typer.Typer()


@commands.command()
def hold(study: StudyArgument, why: WhyOption = "", config: ConfigOption = None) -> None:
    """Begin nothing on a study until it is released."""
    _report(_ordered(config, "hold", study, why=why), "series held")


@commands.command()
def release(study: StudyArgument, why: WhyOption = "", config: ConfigOption = None) -> None:
    """Go on with a study that was held, or had no route."""
    _report(_ordered(config, "release", study, why=why), "series released")


@commands.command()
def complete(study: StudyArgument, why: WhyOption = "", config: ConfigOption = None) -> None:
    """Call a study complete without waiting for a proof."""
    _report(_ordered(config, "complete", study, why=why), "series called complete")


@commands.command()
def cancel(study: StudyArgument, why: WhyOption = "", config: ConfigOption = None) -> None:
    """Cancel the jobs of a study."""
    _report(_ordered(config, "cancel", study, why=why), "jobs cancelled")


@commands.command()
def retry(
    study: Annotated[
        str | None,
        typer.Argument(
            help="Study Instance UID; default: every dead delivery.", show_default=False
        ),
    ] = None,
    why: WhyOption = "",
    config: ConfigOption = None,
) -> None:
    """Try again what was given up: jobs and deliveries of a study, or every dead delivery."""
    if study is None:
        _report(_ordered(config, "revive", why=why), "deliveries tried again")
        return
    for what, count in _ordered(config, "retry", study, why=why).items():
        _report(count, f"{what} tried again")


@commands.command()
def rerun(
    study: StudyArgument,
    model: Annotated[str, typer.Option("--model", help="The model to run once more.")],
    why: WhyOption = "",
    config: ConfigOption = None,
) -> None:
    """Run a model once more on a study, whatever came of it before."""
    from dicom_node.app.checks import check

    models = check(load_settings(config))
    if model not in models:
        raise typer.BadParameter(f"{model!r}; known: {', '.join(models) or 'none'}")
    _report(_ordered(config, "rerun", study, model, models[model].digest, why), "jobs queued")


@commands.command()
def resend(
    study: StudyArgument,
    destination: Annotated[
        str | None, typer.Option(help="Only to this destination.", show_default=False)
    ] = None,
    why: WhyOption = "",
    config: ConfigOption = None,
) -> None:
    """Send the results of a study once more, where a destination has lost them."""
    known = load_settings(config).destination
    if destination is not None and destination not in known:
        raise typer.BadParameter(f"{destination!r}; known: {', '.join(known) or 'none'}")
    _report(_ordered(config, "resend", study, destination, why), "deliveries sent again")


@commands.command()
def dead(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the deliveries that were given up, and why."""
    import json

    from rich.table import Table

    rows = _ordered(config, "dead")
    if as_json:
        out.print_json(json.dumps(rows, default=str))
        return
    if not rows:
        out.print("No delivery is dead.")
        return
    table = Table(*(str(name) for name in rows[0]))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    out.print(table)


@commands.command()
def purge(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Delete what was delivered and is older than the retention time."""
    from dicom_node.offline import opened_sweeper

    with opened_sweeper(load_settings(config)) as sweeper:
        due = sweeper.due()
        for one in due:
            told = f"{one.instances} images, {one.octets / 1e6:.1f} MB, {one.last_received_at:%Y-%m-%d}"
            out.print(f"{one.key.series_uid}: {told}", highlight=False)
        if not dry_run:
            sweeper.sweep()
    _report(len(due), "series " + ("would be purged" if dry_run else "purged"))


def _ordered(config: Any, order: str, *arguments: Any, **named: Any) -> Any:
    from dicom_node.offline import opened_operator

    with opened_operator(load_settings(config), getpass.getuser()) as operator:
        return getattr(operator, order)(*arguments, **named)


def _report(count: int, what: str) -> None:
    out.print(f"{count} {what}")
