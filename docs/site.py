"""Builds the site with what lies outside of docs/: model cards, the runbook, threats, what changed.

What comes in: mkdocs' list of files and its pages. What goes out: more files, a list of the decisions, and
links that fit: the Markdown files are written so that their links work in the repository, where most people
read them. A link to a file that the site does not have becomes plain text.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
DECISIONS = "decisions/index.md"
OUTSIDE = {
    "deploy/README.md": "operations/install.md",
    "deploy/RUNBOOK.md": "operations/runbook.md",
    "deploy/THREATS.md": "operations/threats.md",
    "CHANGELOG.md": "operations/changes.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_PICTURES = frozenset({".png", ".jpg", ".svg"})


def on_files(files: Files, config: Any) -> Files:
    """Add the files from elsewhere, and an index of the decisions."""
    outside = dict(OUTSIDE)
    for card in sorted(ROOT.glob("ai_models/*/docs/README.md")):
        name = card.parent.parent.name
        outside[card.relative_to(ROOT).as_posix()] = f"models/{name}.md"
        for picture in card.parent.iterdir():
            if picture.suffix in _PICTURES:
                outside[picture.relative_to(ROOT).as_posix()] = f"models/{name}-{picture.name}"
    for source, target in outside.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    titles = [
        f"- [{path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}]({path.name})"
        for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))
    ]
    content = (
        "# Decisions\n\nWhy things are as they are, a page each.\n\n" + "\n".join(titles) + "\n"
    )
    files.append(File.generated(config, DECISIONS, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Point links at where the site has what they name."""
    if page.file.src_uri == DECISIONS:
        return markdown
    places = {_source(one): one.src_uri for one in files}
    here = PurePosixPath(_source(page.file)).parent

    def fitted(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in target or target.startswith("mailto:"):
            return match[0]
        wanted = _joined(here, path)
        if wanted not in places:
            return f"`{wanted}`" if mark else text
        up = "../" * (len(PurePosixPath(page.file.src_uri).parts) - 1)
        return f"{mark}[{text}]({up}{places[wanted]}{'#' + anchor if anchor else ''})"

    return _LINK.sub(fitted, markdown)


def _source(file: File) -> str:
    """Where a file of the site lies in the repository."""
    path = file.abs_src_path
    if path is None or not Path(path).is_relative_to(ROOT):
        return f"docs/{file.src_uri}"
    return Path(path).relative_to(ROOT).as_posix()


def _joined(folder: PurePosixPath, path: str) -> str:
    parts: list[str] = list(folder.parts)
    for part in PurePosixPath(path).parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
