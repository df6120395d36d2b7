"""The documentation says what the code does."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from dicom_node.app.checks import check
from dicom_node.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_references_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == generate.configuration(), "run `python docs/generate.py`"
    written = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert written == generate.models(), "run `python docs/generate.py`"


def test_the_example_configuration_can_be_used() -> None:
    settings = load_settings(ROOT / "deploy" / "example.toml")
    assert set(check(settings)) >= {route.models[0] for route in settings.route}


def test_the_site_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "operations" / "runbook.html").exists()
    linked = re.findall(
        r'href="(0\d{3}[^"]+)"', (tmp_path / "decisions" / "index.html").read_text()
    )
    assert len(set(linked)) >= len(list((ROOT / "docs" / "decisions").glob("*.md")))
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for card in ROOT.glob("ai_models/*/docs/README.md"):
        assert f"models/{card.parent.parent.name}.md" in navigation, "a card that nobody finds"
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(
            r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?|png))"', page.read_text()
        )
        assert not fetched, f"{page.name} loads {fetched}"


def test_the_links_of_the_repository_lead_somewhere() -> None:
    """Where most people read them: Markdown files as they lie."""
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), (page.name, target)


def test_every_dependency_is_pinned() -> None:
    """`constraints.txt` names each direct dependency, so that an install is the one that was tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = (
        project["dependencies"] + extras["dev"] + extras["train"] + extras["fast"] + extras["onnx"]
    )
    wanted = [name for name in wanted if "dicom-node" not in name]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    names = {name.split(">")[0].split("<")[0].split("=")[0].strip().lower() for name in wanted}
    assert names <= pinned, sorted(names - pinned)
