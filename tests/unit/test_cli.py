"""The command line as its user sees it: help, exit codes, one sentence for each error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dicom_node", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = run("--help", folder=tmp_path)
    assert shown.returncode == 0
    for command in (
        *(
            "serve",
            "demo",
            "status",
            "config",
            "doctor",
            "send",
            "echo",
            "certs",
            "hold",
            "release",
            "complete",
        ),
        *(
            "cancel",
            "retry",
            "rerun",
            "resend",
            "dead",
            "purge",
            "show",
            "export",
            "models",
            "route",
            "spool",
            "users",
        ),
    ):
        assert command in shown.stdout


def test_an_unknown_key_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "dicom-node.toml").write_text("[receive]\nprot = 104\n")
    refused = run("config", "--check", folder=tmp_path)
    assert refused.returncode == 3
    assert "receive.prot: no such setting; did you mean 'port'?" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_route_to_nowhere_is_refused(tmp_path: Path) -> None:
    text = '[[route]]\nname = "a"\nmodels = ["ct_structures"]\ndestinations = ["pacs"]\n'
    (tmp_path / "dicom-node.toml").write_text(text)
    refused = run("config", "--check", folder=tmp_path)
    assert refused.returncode == 3
    assert "'pacs', which is no destination" in refused.stderr


def test_the_effective_configuration_can_be_read_back(tmp_path: Path) -> None:
    text = (
        '[destination.pacs]\nae_title = "PACS"\nhost = "h"\nport = 104\n'
        '[[route]]\nname = "ct"\nmodels = ["model_a"]\ndestinations = ["pacs"]\n'
        '[route.match]\nmodality = ["CT"]\nseries_description = ["a \\"b\\" \\\\ c*"]\n'
        '[[route]]\nname = "two"\nmodels = ["model_a"]\ndestinations = ["pacs"]\n'
        '[[route.series]]\nname = "a"\nmatch = {kernel = ["B*"]}\n[[route.series]]\nname = "b"\n'
    )
    models = tmp_path / "models" / "model_a"
    models.mkdir(parents=True)
    (models / "dicom.toml").write_text(
        '[model]\nname = "model_a"\ntitle = "A"\nversion = "1"\ntask = "denoising"\nlimits = "none"\n'
        '[input]\nmodality = ["CT"]\ndimensions = 3\n'
    )
    (tmp_path / "dicom-node.toml").write_text('models_dir = "models"\n' + text)
    first = run("config", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    (tmp_path / "again.toml").write_text(first.stdout)
    second = run("config", "--config", "again.toml", folder=tmp_path)
    assert second.stdout == first.stdout


def test_the_environment_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dicom-node.toml").write_text("[receive]\nport = 104\n")
    monkeypatch.setenv("DICOM_NODE_RECEIVE__PORT", "105")
    shown = run("config", "--json", folder=tmp_path)
    assert json.loads(shown.stdout)["receive"]["port"] == 105


def test_status_of_a_node_that_never_ran(tmp_path: Path) -> None:
    asked = run("status", folder=tmp_path)
    assert asked.returncode == 3
    assert "no node has run on" in asked.stderr


def test_echo_to_nobody_says_so(tmp_path: Path) -> None:
    asked = run("echo", "127.0.0.1", "1", folder=tmp_path)
    assert asked.returncode == 4
    assert "does not answer" in asked.stderr


def test_sending_what_is_not_dicom_says_which_file(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no DICOM at all, but long enough to have a preamble" * 4)
    asked = run("send", "note.txt", "--port", "1", folder=tmp_path)
    assert asked.returncode != 0
    assert "note.txt" in asked.stderr


def test_the_command_line_starts_without_torch(tmp_path: Path) -> None:
    code = "import sys, dicom_node.cli, dicom_node.app.run, dicom_node.app.page; "
    code += "print({'torch', 'monai'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"


def test_certificates_for_trying_tls(tmp_path: Path) -> None:
    made = run("certs", "localhost", "SCANNER", "--to", "tls", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    names = {path.name for path in (tmp_path / "tls").iterdir()}
    assert names == {"ca.pem", "localhost.pem", "localhost.key", "SCANNER.pem", "SCANNER.key"}
    again = run("certs", "localhost", "--to", "tls", folder=tmp_path)
    assert again.returncode == 3
