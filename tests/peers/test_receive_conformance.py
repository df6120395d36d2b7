"""The conformance statement holds: a receiver accepts what it lists, and nothing that it does not."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom._uid_dict import UID_dictionary

from tests.builders.raw_peer import IMPLEMENTATION_ITEM, RawPeer, associate_rq
from tests.receiving import Listening, listening

STATEMENT = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text()
UID_ROW = re.compile(r"^\| .* \| ([0-9.]+) \|$", re.MULTILINE)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    with listening(tmp_path) as running:
        yield running


def _section(start: str, stop: str) -> tuple[list[str], list[str]]:
    """SOP classes and transfer syntaxes of a section."""
    section = STATEMENT[STATEMENT.index(start) : STATEMENT.index(stop)]
    classes, syntaxes = section.split("with one of")
    return UID_ROW.findall(classes), UID_ROW.findall(syntaxes)


def _results(node: Listening, pairs: list[tuple[str, tuple[str, ...]]]) -> list[int]:
    found = []
    for start in range(0, len(pairs), 128):
        part = pairs[start : start + 128]
        with RawPeer(node.address) as peer:
            contexts = [(2 * i + 1, uid, syntaxes) for i, (uid, syntaxes) in enumerate(part)]
            found += [result for _, result in sorted(peer.associate(contexts).items())]
    return found


def test_what_is_listed_is_accepted(node: Listening) -> None:
    classes, syntaxes = _section("#### 4.2.1", "### 4.3")
    verification, its_syntaxes = _section("#### Verification", "#### 4.2.1")
    assert len(classes) > 180
    assert set(_results(node, [(uid, (syntaxes[0],)) for uid in classes])) == {0}
    assert set(_results(node, [(classes[0], (syntax,)) for syntax in syntaxes])) == {0}
    assert set(_results(node, [(verification[0], (syntax,)) for syntax in its_syntaxes])) == {0}


def test_what_is_not_listed_is_not_accepted(node: Listening) -> None:
    classes, syntaxes = _section("#### 4.2.1", "### 4.3")
    others = [
        uid
        for uid, (_, kind, *_rest) in UID_dictionary.items()
        if kind in ("SOP Class", "Meta SOP Class") and uid not in {*classes, "1.2.840.10008.1.1"}
    ]
    assert len(others) > 80
    assert set(_results(node, [(uid, (syntaxes[0],)) for uid in others])) == {3}
    strange = [
        uid
        for uid, (_, kind, *_rest) in UID_dictionary.items()
        if kind == "Transfer Syntax" and uid not in syntaxes
    ]
    assert "1.2.840.10008.1.2.1.99" in strange
    assert set(_results(node, [(classes[0], (uid,)) for uid in strange])) == {4}


def test_the_node_says_what_the_statement_says_it_is(node: Listening) -> None:
    with RawPeer(node.address) as peer:
        peer.send(associate_rq([(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",))]))
        _, body = peer.read_pdu()
    (uid,) = re.findall(r"Implementation Class UID \| `([0-9.]+)`", STATEMENT)
    at = body.index(bytes((IMPLEMENTATION_ITEM, 0)) + len(uid).to_bytes(2, "big"))
    assert body[at + 4 : at + 4 + len(uid)] == uid.encode()
