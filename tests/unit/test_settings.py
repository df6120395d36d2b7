"""The configuration: what is refused, and how it is said."""

from pathlib import Path

import pytest

from dicom_node.errors import ConfigurationError
from dicom_node.settings import load_settings


def refused(tmp_path: Path, toml: str) -> str:
    file = tmp_path / "node.toml"
    file.write_text(toml)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file)
    return str(caught.value)


PACS = '[destination.pacs]\nae_title = "P"\nhost = "h"\nport = 104\n'


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("data_dri = 'x'", "data_dri: no such setting; did you mean 'data_dir'?"),
        (
            "[receive]\nae_titel = 'X'",
            "receive.ae_titel: no such setting; did you mean 'ae_title'?",
        ),
        ("[recieve]\nport = 1", "did you mean 'receive'?"),
        ("[[peer]]\nae_title='A'\nadress = 'x'", "did you mean 'address'?"),
        (PACS + "prot = 1", "did you mean 'port'?"),
        (
            PACS + "[[route]]\nname='r'\nmodels=['m']\ndestinations=['pacs']\n"
            "[route.match]\nmodalitie=['CT']",
            "did you mean 'modality'?",
        ),
        ("[deliver]\nxyzzy = 1", "known here: "),
        ("[receive]\nport = 99999", "receive.port"),
        ("[receive]\nport = 'a'", "receive.port"),
        ("[receive]\nae_title = 'ABCDEFGHIJKLMNOPQ'", "1 to 16 characters"),
        ("[receive]\nae_title = 'A\\\\B'", "backslash"),
        ("[assemble]\nidle_seconds = 0", "assemble.idle_seconds"),
        ("[infer.concurrency]\nm = 0", "infer.concurrency.m"),
        (
            "[[route]]\nname='r'\nmodels=['m']\ndestinations=['pcas']\n" + PACS,
            "no destination (known: pacs)",
        ),
        ("[[route]]\nname='r'\nmodels=[]\ndestinations=['pacs']\n" + PACS, "route.0.models"),
        (
            PACS + 2 * "[[route]]\nname='r'\nmodels=['m']\ndestinations=['pacs']\n",
            "r stands twice",
        ),
        (PACS + "confirm = 'maybe'", "destination.pacs.confirm"),
        (PACS + "stow_url = 'ftp://x'", "destination.pacs.stow_url"),
        (PACS + "stow_url = 'http://x'\nconfirm = 'commitment'", "storage commitment is DIMSE's"),
        ("[canary]\nevery_seconds = 60", "a canary needs models and destinations"),
        (
            PACS + "[canary]\nevery_seconds = 60\nmodels = ['m']\ndestinations = ['pacs']",
            "calls as DN_CANARY, which is no [[peer]]",
        ),
        ("[canary]\nevery_seconds = 60\nmodels = ['m']\ndestinations = ['x']", "no destination"),
        ("[receive", "node.toml:"),
    ],
)
def test_refused_with_a_reason(tmp_path: Path, toml: str, told: str) -> None:
    assert told in refused(tmp_path, toml)


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    said = refused(tmp_path, "a = 1\n[receive]\nprot = 1\n[deliver]\nb = 2")
    assert said.count("no such setting") == 3


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load_settings(tmp_path / "none.toml")


def test_the_environment_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[receive]\nport = 1\nae_title = 'A'\n")
    monkeypatch.setenv("DICOM_NODE_RECEIVE__PORT", "2")
    settings = load_settings(file)
    assert (settings.receive.port, settings.receive.ae_title) == (2, "A")


def test_an_unknown_variable_of_a_section_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOM_NODE_RECEIVE__PROT", "2")
    assert "did you mean 'port'?" in refused(tmp_path, "")


def test_folders_follow_the_data_folder(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f"data_dir = '{tmp_path}/d'")
    settings = load_settings(file)
    assert settings.spool_dir == tmp_path / "d" / "spool"
    assert settings.effective_database_url == f"sqlite:///{tmp_path}/d/node.sqlite"
