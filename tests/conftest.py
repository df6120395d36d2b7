"""What every test may use: the folder of real DICOM, and peers that are there or loudly missing."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# in CI the same examples each time: a red run is the change's fault, never the dice's
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("here", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")

ROOT = Path(__file__).resolve().parent.parent
VENV_BIN = ROOT / ".venv" / "bin"
PROGRAMS = {
    "dcmtk": ("storescu", "storescp", "dcmsend", "echoscu", "dsrdump"),
    "orthanc": ("Orthanc",),
    "dicom3tools": ("dciodvfy",),
    "dcmqi": ("segimage2itkimage", "tid1500reader"),
    "chromium": ("chromium",),
    "postgresql": ("postgres",),
}


def program(name: str) -> str | None:
    """Where a program lies, also outside the PATH of an ordinary user.

    The environment's own folder comes last: pynetdicom brings a `storescu` that is not DCMTK's.
    """
    places = [
        place for place in os.environ.get("PATH", "").split(os.pathsep) if place != str(VENV_BIN)
    ]
    places += ["/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin")), str(VENV_BIN)]
    return shutil.which(name, path=os.pathsep.join(places))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("peer"):
        missing = [name for name in PROGRAMS[mark.args[0]] if program(name) is None]
        if missing:
            told = f"{mark.args[0]} is not installed ({', '.join(missing)} not found)"
            if os.environ.get("DICOM_NODE_REQUIRE_PEERS"):
                pytest.fail(told)
            pytest.skip(told)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real DICOM, `../shared/data` or `$DICOM_NODE_SHARED`; absent, the test is skipped."""
    folder = Path(os.environ.get("DICOM_NODE_SHARED", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the folder of real DICOM is not there ({folder})")
    return folder
