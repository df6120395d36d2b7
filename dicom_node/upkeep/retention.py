"""Clears the disk: images of delivered series after their time, segments and results that nobody needs.

What comes in: settings, the spool and results folders, the wall clock (an age is for people; a clock that
jumps can only make what is delivered go too early or too late). What goes out: purged instances, deleted
files. Rows move first and files go after them, so that a crash in between leaves a file too many, which
the next sweep takes, and never a row that names a file that is gone.
"""

import re
import shutil
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from dicom_node.observe.logging import get_logger, hashed
from dicom_node.settings import Settings
from dicom_node.store.database import utc_now
from dicom_node.store.retention import Purgeable, Retention

log = get_logger(__name__)

MEGABYTE = 1 << 20
WRITABLE = 0o222
CLAIM_FOLDER = re.compile(r"[0-9a-f]{32}-(\d+)-(\d+)")
"""The folder of one claim's results: job key, job, token."""
YOUNG_SECONDS = 3600.0
"""What a worker began to write less than this ago is left alone, whatever the database says."""


class Sweeper:
    """Clears up one node's data folder."""

    def __init__(
        self,
        settings: Settings,
        retention: Retention,
        free_octets: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._settings = settings
        self._retention = retention
        self._free_octets = free_octets
        self._now = now

    def sweep(self) -> None:
        """Purge what is due, then delete files that nothing needs."""
        self._purge(self.due())
        self._delete_segments()
        self._delete_abandoned_results()

    def due(self) -> list[Purgeable]:
        """What a sweep would purge now: what is old enough, and more where the disk is low."""
        limit = self._now() - timedelta(days=self._settings.retention.days)
        due = self._retention.purgeable(limit)
        wanted = self._settings.retention.keep_free_mb * MEGABYTE
        missing = wanted - self._free_octets(self._settings.data_dir) - _octets(due)
        if missing > 0:
            for candidate in self._retention.purgeable(self._now())[len(due) :]:
                due.append(candidate)
                missing -= candidate.octets
                if missing <= 0:
                    break
        return due

    def _purge(self, due: list[Purgeable]) -> None:
        for one in due:
            age = f"delivered, last instance of {one.last_received_at:%Y-%m-%d %H:%M}"
            purged = self._retention.purge(one.key, age)
            if purged:
                for path in self._retention.result_files(one.key):
                    Path(path).unlink(missing_ok=True)
                log.info("purged", series=hashed(one.key.series_uid), instances=purged)

    def _delete_segments(self) -> None:
        spool = self._settings.spool_dir
        if not spool.is_dir():
            return
        # a segment whose permission to write was taken away is finished and indexed
        sealed = {
            path.relative_to(spool).as_posix(): path
            for path in spool.rglob("*.segment")
            if not path.stat().st_mode & WRITABLE
        }
        for name in self._retention.needless_segments(sealed):
            sealed[name].unlink(missing_ok=True)
            log.info("segment deleted", segment=name)

    def _delete_abandoned_results(self) -> None:
        """Folders of claims that were lost: their worker died, or came too late."""
        results = self._settings.results_dir
        if not results.is_dir():
            return
        for folder in results.iterdir():
            named = CLAIM_FOLDER.fullmatch(folder.name)
            if named is None or time.time() - folder.stat().st_mtime < YOUNG_SECONDS:
                continue
            if not self._retention.claim_is_live(int(named[1]), int(named[2])):
                shutil.rmtree(folder, ignore_errors=True)


def _octets(purgeable: list[Purgeable]) -> int:
    return sum(one.octets for one in purgeable)
