"""Makes `dicom_node/privacy/annex_e.json`: `python docs/generate_confidentiality.py part15.xml`.

What comes in: the DocBook source of PS3.15, as NEMA publishes it. What goes out: the actions of its tables
E.1-1 (attributes), E.3.4-1 (content items) and E.3.10-1 (private attributes that are safe), and nothing else
of it. A table whose head is not the one expected is refused: a column that moved would clean the wrong thing.
"""

import hashlib
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TO = Path(__file__).resolve().parent.parent / "dicom_node" / "privacy" / "annex_e.json"
DOCBOOK = "{http://docbook.org/ns/docbook}"
ID = "{http://www.w3.org/XML/1998/namespace}id"
OPTIONS = {
    "Rtn. Safe Priv. Opt.": "retain-safe-private",
    "Rtn. UIDs Opt.": "retain-uids",
    "Rtn. Dev. Id. Opt.": "retain-device",
    "Rtn. Inst. Id. Opt.": "retain-institution",
    "Rtn. Pat. Chars. Opt.": "retain-patient-characteristics",
    "Rtn. Long. Full Dates Opt.": "retain-full-dates",
    "Rtn. Long. Modif. Dates Opt.": "retain-modified-dates",
    "Clean Desc. Opt.": "clean-descriptors",
    "Clean Struct. Cont. Opt.": "clean-structured-content",
    "Clean Graph. Opt.": "clean-graphics",
}
OF_CONTENT = [label for label in OPTIONS if not re.search(r"Priv|Struct|Graph", label)]
HEADS = {
    "table_E.1-1": ["Attribute Name", "Tag", "Retd.", "In Std. Comp. IOD", "Basic Prof.", *OPTIONS],
    "table_E.3.4-1": [
        *("Code Meaning", "Code Value", "Coding Scheme Designator", "Value Type"),
        *("Retd.", "In Std. Tpl.", "Basic Prof.", *OF_CONTENT),
    ],
    "table_E.3.10-1": ["Data Element", "Private Creator", "VR", "VM", "Meaning"],
}


def tables(path: Path) -> dict[str, Any]:
    """The three tables.

    Raises:
        ValueError: this is not PS3.15, or a table does not look as it did.
    """
    content = path.read_bytes()
    root = ElementTree.fromstring(content)
    edition = re.search(rb"DICOM PS3\.15 (\d{4}[a-z]?) - ", content)
    if edition is None:
        raise ValueError("this file does not say that it is PS3.15")
    found = {name: list(_rows(root, name)) for name in HEADS}
    return {
        "edition": edition[1].decode(),
        "sha256": hashlib.sha256(content).hexdigest(),
        "attributes": {_tag(row["Tag"]): _actions(row) for row in found["table_E.1-1"]},
        "content": [
            [row["Code Value"], row["Coding Scheme Designator"], row["Value Type"], *_actions(row)]
            for row in found["table_E.3.4-1"]
        ],
        "private": sorted(
            {(_tag(row["Data Element"]), row["Private Creator"]) for row in found["table_E.3.10-1"]}
        ),
    }


def _rows(root: ElementTree.Element, name: str) -> Iterator[dict[str, str]]:
    (table,) = [one for one in root.iter() if one.get(ID) == name]
    head, *rows = [
        [" ".join("".join(cell.itertext()).replace("\u200b", "").split()) for cell in row]
        for row in table.iter(f"{DOCBOOK}tr")
    ]
    labels = [re.sub(r" \(from ?\)$", "", label) for label in head]
    if labels != HEADS[name]:
        raise ValueError(f"{name} has other columns than expected: {labels}")
    for row in rows:
        yield dict(zip(labels, row, strict=True))


def _tag(text: str) -> str:
    """`(0008,0050)` as `00080050`; an x stands for any digit, `gggg` for any odd group."""
    match = re.fullmatch(r"\(([0-9A-Fa-fxg]{4}),([0-9A-Fa-fxe]{4})\)(?: where gggg is odd)?", text)
    if match is None:
        raise ValueError(f"not a tag: {text}")
    group, element = match.groups()
    return (group + element).upper().replace("X", "x").replace("G", "g").replace("E" * 4, "eeee")


def _actions(row: dict[str, str]) -> list[Any]:
    options = {OPTIONS[label]: row[label] for label in OPTIONS if row.get(label)}
    return [row["Basic Prof."], options]


if __name__ == "__main__":
    made = tables(Path(sys.argv[1]))
    lines = [f'"edition": "{made["edition"]}"', f'"sha256": "{made["sha256"]}"']
    attributes = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in made["attributes"].items()]
    lines.append('"attributes": {\n' + ",\n".join(attributes) + "\n}")
    lines += [
        f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in made[name]) + "\n]"
        for name in ("content", "private")
    ]
    TO.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{len(attributes)} attributes of PS3.15 {made['edition']} written to {TO.name}")
