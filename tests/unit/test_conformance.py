"""The conformance statement is made from the code, and is what is in the repository."""

import importlib.util
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).resolve().parents[2] / "docs"


def generator() -> ModuleType:
    path = DOCS / "generate_conformance.py"
    spec = importlib.util.spec_from_file_location("generate_conformance", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_conformance_statement_is_up_to_date() -> None:
    written = (DOCS / "conformance.md").read_text(encoding="utf-8")
    assert written == generator().conformance(), "run `python docs/generate_conformance.py`"
    assert "{{" not in written
