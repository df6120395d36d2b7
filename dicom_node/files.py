"""DICOM files on a disk: which ones a folder holds."""

from collections.abc import Iterable
from pathlib import Path


def dicom_files(paths: Iterable[Path]) -> list[Path]:
    """The files named, and those in the folders named that begin as DICOM files do (PS3.10 7.1)."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file())
            found += [file for file in inside if is_part10(file)]
        else:
            found.append(path)
    return found


def is_part10(path: Path) -> bool:
    """Whether a file has the preamble and prefix of a DICOM file."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
