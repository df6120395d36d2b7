"""The models that the node can run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.catalogue import ModelDescription, catalogue
from dicom_node.cli.common import ConfigOption, JsonOption, out
from dicom_node.errors import ExitCode
from dicom_node.records import Outcome
from dicom_node.settings import load_settings

commands = typer.Typer(help="The models that the node can run.", no_args_is_help=True)


@commands.command(name="list")
def models_list(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the models."""
    from rich.table import Table

    models = catalogue(load_settings(config).models_dir)
    if as_json:
        rows = [
            model.model_dump(mode="json", include={"model", "input"}) | {"digest": model.digest}
            for model in models.values()
        ]
        out.print_json(json.dumps(rows))
        return
    table = Table("Model", "Task", "Version", "Takes", "On", "Digest")
    for model in models.values():
        takes = f"{', '.join(model.input.modality)} {model.input.dimensions}D"
        enabled = "yes" if model.model.enabled else "no"
        table.add_row(
            model.name, model.model.task, model.model.version, takes, enabled, model.digest[:12]
        )
    out.print(table)


@commands.command(name="show")
def models_show(
    name: Annotated[str, typer.Argument(help="The model's name.")], config: ConfigOption = None
) -> None:
    """Show a model's card."""
    from rich.markdown import Markdown

    (model,) = _chosen(config, name)
    card = model.folder / "docs" / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else "This model has no card."
    out.print(Markdown(text))


@commands.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(help="The model's name; default: all.", show_default=False)
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Load models as the worker would, and compare their files with their checksums."""
    from dicom_node.infer.manage import verify as verify_model

    changed = False
    trusted = load_settings(config).infer.trusted_bundles
    for model in _chosen(config, name):
        found = verify_model(model, trusted=trusted)
        told = f"{found.parameters:,} parameters, loads in {found.load_seconds:.1f} s"
        out.print(f"{model.name}: {told}, digest {found.digest[:12]}", highlight=False)
        for name_of_file in found.changed:
            out.print(f"  [red]differs from its checksum[/red]: {name_of_file}", highlight=False)
        changed |= bool(found.changed)
    if changed:
        raise typer.Exit(int(ExitCode.FAILED))


@commands.command()
def add(
    source: Annotated[Path, typer.Argument(help="A bundle: a folder or a zip file.", exists=True)],
    config: ConfigOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of a model of this name.")
    ] = False,
    draft: Annotated[
        bool, typer.Option("--draft", help="Only print a dicom.toml to fill in.")
    ] = False,
) -> None:
    """Install a MONAI bundle, if it may be run."""
    from dicom_node.infer import manage

    if draft:
        out.print(manage.draft(source), highlight=False, markup=False, soft_wrap=True)
        return
    settings = load_settings(config)
    added = manage.add(
        source, settings.models_dir, replace=replace, trusted=settings.infer.trusted_bundles
    )
    out.print(f"{added.name} {added.model.version} added; digest {added.digest[:12]}")
    out.print("trying the engines of this machine, up to a minute ...")
    choice = manage.choose_engine(added, settings)
    if choice.engine is not None:
        told = f"engine: {choice.engine}, {choice.speedup:.1f} times torch, same answer"
        out.print(told, highlight=False)


@commands.command()
def run(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    folder: Annotated[Path, typer.Argument(help="DICOM files.", exists=True)],
    to: Annotated[Path, typer.Option("--to", help="Where results go.")] = Path("results"),
    config: ConfigOption = None,
) -> None:
    """Run a model on a folder of DICOM, without a node."""
    from dicom_node.infer.standalone import SeriesRun, run_on_folder

    def tell(series: SeriesRun) -> None:
        outcome = series.answer.outcome.value
        told = ": ".join(filter(None, (series.description, outcome, series.answer.reason)))
        out.print(told, highlight=False)
        for result in series.results:
            out.print(f"  {result.path}", highlight=False, soft_wrap=True)

    (model,) = _chosen(config, name)
    runs = run_on_folder(model, folder, to, load_settings(config), tell=tell)
    if all(one.answer.outcome is Outcome.FAILED for one in runs):
        raise typer.Exit(int(ExitCode.FAILED))


def _chosen(config: Path | None, name: str | None) -> list[ModelDescription]:
    models = catalogue(load_settings(config).models_dir)
    if name is None:
        return list(models.values())
    if name not in models:
        raise typer.BadParameter(f"{name!r}; known: {', '.join(models) or 'none'}")
    return [models[name]]
