"""Python code of a bundle's own, for bundles that an admin has named in `infer.trusted_bundles`.

What comes in: the bytes that were hashed, a `scripts.module.Class` that the configuration names. What goes
out: that class. For any other bundle this module is never reached. The code may then do whatever the worker
may do: trust is the admin's word, and the job's digest makes sure that it was given to these very bytes.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "scripts"


class ScriptFailed(Exception):
    """A module or class of the bundle's code cannot be had; the message says which and why."""


def script_class(files: Mapping[str, bytes], target: str) -> Any:
    """The class `scripts.module.Class` of a bundle.

    Raises:
        ScriptFailed: there is no such module or class, or importing it broke.
    """
    module_name, _, name = target.rpartition(".")
    with _importing_from(files):
        try:
            module = importlib.import_module(module_name)
            return getattr(module, name)
        except Exception as error:
            raise ScriptFailed(f"{target}: {type(error).__name__}: {error}") from error


class _Finder(MetaPathFinder, Loader):
    """Finds `scripts` and what is in it among files that were read already."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != PACKAGE and not fullname.startswith(PACKAGE + "."):
            return None
        folder = fullname.replace(".", "/")
        is_package = any(name.startswith(folder + "/") for name in self._files)
        if not is_package and f"{folder}.py" not in self._files:
            return None
        return ModuleSpec(fullname, self, is_package=is_package)

    def exec_module(self, module: ModuleType) -> None:
        folder = module.__name__.replace(".", "/")
        name = f"{folder}/__init__.py" if hasattr(module, "__path__") else f"{folder}.py"
        source = self._files.get(name, b"")
        exec(compile(source, f"<{name}>", "exec"), module.__dict__)


@contextmanager
def _importing_from(files: Mapping[str, bytes]) -> Iterator[None]:
    """Every bundle calls its package `scripts`: this one's is there while the block runs, and then gone."""
    finder = _Finder(files)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
            del sys.modules[name]
