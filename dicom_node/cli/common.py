"""What every command shares: consoles and options."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

out = Console()
err = Console(stderr=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="TOML file; default $DICOM_NODE_CONFIG, else ./dicom-node.toml if there is one.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StudyArgument = Annotated[str, typer.Argument(help="Study Instance UID.")]
WhyOption = Annotated[str, typer.Option("--why", help="The reason, kept with the study's story.")]
