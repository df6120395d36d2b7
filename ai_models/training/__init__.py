"""What every training script needs: seeds, a log, a checkpoint to resume from, a progress bar.

A training script is a module of this package with `main(argv)`; its docstring is the command. What
a run leaves behind (checkpoints, logs, curves) goes to `training/<model>` in the repository, which
git ignores; what is worth keeping goes to the model's bundle.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import pkgutil
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file

MODELS = Path(__file__).resolve().parents[1]
REPOSITORY = MODELS.parent
Item = TypeVar("Item")


def dispatch(package: str, verb: str, argv: list[str]) -> int:
    """Call `main(argv[1:])` of the module `argv[0]` of `package`; list the modules where asked or lost."""
    path = importlib.import_module(package).__path__
    names = sorted(m.name for m in pkgutil.iter_modules(path) if _has_main(package, m.name))
    if not argv or argv[0] in ("-h", "--help") or argv[0] not in names:
        print(f"usage: python -m ai_models.{verb} NAME [--help]\n\nmodels:")
        for name in names:
            print(f"  {name:<24}{_first_line(package, name)}")
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    return importlib.import_module(f"{package}.{argv[0]}").main(argv[1:]) or 0


def _source(package: str, name: str) -> ast.Module:
    spec = importlib.util.find_spec(f"{package}.{name}")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package}.{name}")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _has_main(package: str, name: str) -> bool:
    body = _source(package, name).body
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in body)


def _first_line(package: str, name: str) -> str:
    return (ast.get_docstring(_source(package, name)) or "").partition("\n")[0]


def run_folder(name: str) -> Path:
    """`training/<name>` in the repository, made where it is missing; git ignores it."""
    folder = REPOSITORY / "training" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def seed_everything(seed: int, threads: int = 1) -> torch.Generator:
    """Seed Python, NumPy and torch, fix the number of threads; returns a generator for augmentation."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    return torch.Generator().manual_seed(seed)


class JsonLog:
    """One JSON object a line; `rows()` reads them back for curves. Appends, so that a resumed run goes on."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        if fresh:
            path.unlink(missing_ok=True)

    def write(self, **values: Any) -> None:
        """Append one row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


class Checkpoint:
    """State of a run at the end of an epoch, replaced atomically; parts are whatever has `state_dict`."""

    def __init__(self, path: Path, **parts: Any) -> None:
        self.path, self.parts = path, parts

    def save(self, epoch: int, generator: torch.Generator) -> None:
        """Write the parts and the random states after `epoch` whole epochs."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"epoch": epoch, "rng": torch.get_rng_state(), "augment": generator.get_state()}
        draft = self.path.with_suffix(".part")
        torch.save(state, draft)
        draft.replace(self.path)

    def resume(self, generator: torch.Generator) -> int:
        """Load what `save` wrote, where there is something; returns the epoch to go on with."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["rng"])
        generator.set_state(state["augment"])
        return int(state["epoch"])


def progress(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Yield `items` behind a progress bar on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        for item in items:
            yield item
            bar.advance(task)


@contextmanager
def mixed_precision(device: str = "cpu") -> Iterator[None]:
    """bfloat16 for what gains from it; the weights and the loss stay float32."""
    with torch.autocast(device, torch.bfloat16):
        yield


def save_weights(net: torch.nn.Module, path: Path, notes: Mapping[str, str]) -> None:
    """Write the network's state as safetensors, with `notes` in the file's header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().clone().contiguous() for k, v in net.state_dict().items()}
    save_file(state, path, metadata=dict(notes))


def load_weights(net: torch.nn.Module, path: Path) -> torch.nn.Module:
    """Load weights into the network, every key matched, and set it to evaluation."""
    net.load_state_dict(load_file(path))
    return net.eval()
