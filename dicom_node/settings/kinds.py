"""Kinds of value that settings share: AE titles, ports, durations, a table of the file."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _is_ae_title(value: str) -> str:
    """PS3.5 6.2, VR AE: at most 16 characters of ASCII without backslash or control characters."""
    stripped = value.strip(" ")
    if not stripped or len(stripped) > 16:
        raise ValueError("an AE title has 1 to 16 characters")
    if "\\" in stripped or not all(0x20 <= ord(c) < 0x7F for c in stripped):
        raise ValueError("an AE title is printable ASCII without backslash")
    return stripped


AETitle = Annotated[str, AfterValidator(_is_ae_title)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A table of the file: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
