"""The API does what its description says: schemathesis asks a page that is served, as an admin's program."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_node.store.accounts import UserRole
from tests.builders.worklist import Site
from tests.page import served

SETTINGS: dict[str, Any] = {
    "destination": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 1}},
    "route": [{"name": "ct", "models": ["ct_structures"], "destinations": ["pacs"]}],
}
CONFIG = """
[checks]
# that a file has to be DICOM is nothing that OpenAPI can say
positive_data_acceptance.enabled = false

[parameters]
study_uid = "1.2.826.0.1.4"
"""


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """No 5xx, no answer outside of its schema, no refusal of the wrong kind, nothing without a login."""
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    with served(tmp_path / "data", **SETTINGS) as page:
        Site(page.engine, tmp_path).one_of_each()
        name = page.account(UserRole.ADMIN, "robot")
        token = page.parts.accounts.open_login(name, timedelta(days=1), "token")
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{page.url}/api/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {token}", "--no-color"),
            *(
                "--max-examples",
                "5",
                "--max-time",
                "25",
                "--seed",
                "1",
                "--generation-deterministic",
            ),
        ]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stdout
    assert "0 selected" not in done.stdout
