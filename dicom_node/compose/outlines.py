"""Outlines drawn on the source's slices as Secondary Captures, for viewers that show no SEG."""

import numpy as np

from dicom_node.compose import secondary
from dicom_node.compose.context import ComposeContext, DicomFile
from dicom_node.compose.findings import Findings
from dicom_node.compose.picture import Outlined, panel, windowed
from dicom_node.compose.show import window_of
from dicom_node.records import Volume

HEIGHT = 768


def outline_captures(ctx: ComposeContext, volume: Volume, findings: Findings) -> list[DicomFile]:
    """A picture of each slice that holds a finding, in slice order, square pixels, mark burned in."""
    of = secondary.output("outlines", 5, "outlines")
    centre, width = window_of(volume)
    touched = np.zeros(volume.array.shape[0], dtype=bool)
    for finding in findings.found:
        touched |= finding.measured.areas > 0
    header = volume.headers[0]
    files: list[DicomFile] = []
    for z in np.flatnonzero(touched):
        here = [one for one in findings.found if one.measured.areas[z]]
        outlined = [
            Outlined(findings.numbers[z] == one.number, one.segment.color_rgb) for one in here
        ]
        grey = windowed(volume.array[z], centre, width)
        spacing = (volume.spacing[1], volume.spacing[2])
        drawn = np.asarray(panel(grey, outlined, spacing, HEIGHT, fill=0.0))
        picture = secondary.burned(ctx, drawn, [", ".join(one.label for one in here)[:120]])
        files.append(
            secondary.capture(
                ctx, header, of, len(files) + 1, picture, volume.frames[z], "secondary_capture"
            )
        )
    return files
