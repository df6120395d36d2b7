"""Start-up checks: what would go wrong on this machine, with this configuration, and what to do about it.

What comes in: settings. What goes out: findings, each with an id that never changes and a hint. A check looks
and changes nothing that lasts; it never keeps a node from starting, which is `app.check`'s to decide.
"""

from dicom_node.doctor.examine import examine, examine_quickly
from dicom_node.doctor.finding import Finding, Verdict

__all__ = ["Finding", "Verdict", "examine", "examine_quickly"]
