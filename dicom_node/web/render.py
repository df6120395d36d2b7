"""Templates to HTML. Everything that is filled in is escaped; nothing is marked safe but model cards,
whose own HTML is shown as text.
"""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.responses import HTMLResponse

from dicom_node import __version__
from dicom_node.observe.reload import last_reload

HERE = Path(__file__).parent
CARD_PICTURE = re.compile(r"[A-Za-z0-9_-]+\.(png|jpg)")
_environment = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table")


def _when(moment: datetime | None) -> Markup:
    """A time element; the browser shows it in its own zone."""
    if moment is None:
        return Markup("")
    iso = moment.isoformat(timespec="milliseconds")
    return Markup('<time datetime="{}">{}</time>').format(iso, f"{moment:%Y-%m-%d %H:%M:%S} UTC")


def _markup_of(markdown: str, folder: str) -> Markup:
    """Markdown as HTML; a picture beside the text is asked for in `folder`, any other is left out."""
    tokens = _markdown.parse(markdown)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                name = str(child.attrGet("src") or "")
                child.attrSet("src", f"{folder}/{name}" if CARD_PICTURE.fullmatch(name) else "")
    return Markup(_markdown.renderer.render(tokens, _markdown.options, {}))


_environment.filters["when"] = _when
_environment.filters["markdown"] = _markup_of
_environment.globals["version"] = __version__


def page(request: Request, template: str, code: int = 200, **values: Any) -> HTMLResponse:
    """A page, or the part of one that htmx asked for."""
    values.setdefault("caller", None)
    values.setdefault("error", None)
    settings = request.app.state.parts.settings
    told = _environment.get_template(template).render(
        path=request.url.path,
        marked=settings.not_for_clinical_use,
        reload=last_reload(settings.data_dir),
        sso=settings.web.oidc.button if settings.web.oidc else None,
        **values,
    )
    return HTMLResponse(told, code)
