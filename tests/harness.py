"""A node in processes of its own, as an admin starts it, for tests from outside."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.app.opened import opened_overview
from dicom_node.demo.pacs import Pacs
from dicom_node.settings import Settings, load_settings
from dicom_node.supervisor import RunningNode, running_node

START_SECONDS = 60.0


def ct_to(pacs: Pacs) -> str:
    """Configuration: every CT gets `ct_structures`, and the results go to a PACS."""
    return f"""
[destination.pacs]
ae_title = "{pacs.ae_title}"
host = "127.0.0.1"
port = {pacs.port}

[[route]]
name = "ct"
models = ["ct_structures"]
destinations = ["pacs"]
[route.match]
modality = ["CT"]
"""


@dataclass(frozen=True)
class Node:
    """A node that runs, with what a test wants to know of it."""

    address: RunningNode
    config: Path
    settings: Settings
    log: Path
    process: "subprocess.Popen[bytes]"

    def series(self) -> list[dict[str, Any]]:
        """What `status` shows."""
        with opened_overview(self.settings) as view:
            return view.studies(limit=1000)

    def wait_for(
        self, condition: Callable[[list[dict[str, Any]]], bool], seconds: float = 120.0
    ) -> list[dict[str, Any]]:
        """Wait until a condition on what `status` shows holds; fail with the log if it never does."""
        deadline = time.monotonic() + seconds
        series: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            series = self.series()
            if condition(series):
                return series
            time.sleep(0.1)
        tail = self.log.read_text()[-3000:]
        raise AssertionError(f"not within {seconds:g} s; status: {series}\nlog: {tail}")


def settled(count: int) -> Callable[[list[dict[str, Any]]], bool]:
    """That many series are known, and each has ended: delivered, held or without a route."""

    def condition(series: list[dict[str, Any]]) -> bool:
        return len(series) >= count and all(map(_ended, series))

    return condition


def _ended(row: dict[str, Any]) -> bool:
    if not row["jobs"]:
        return row["state"] in ("HELD", "NO_ROUTE")
    return all(
        job["state"] not in ("QUEUED", "RUNNING")
        and all(r["delivery"] in ("CONFIRMED", "DEAD", "WITHDRAWN") for r in job["results"])
        for job in row["jobs"]
    )


@contextmanager
def node(folder: Path, toml: str, environment: dict[str, str] | None = None) -> Iterator[Node]:
    """Run a node for the length of the block.

    Args:
        folder: its data and its configuration go here.
        toml: configuration beyond `data_dir` and the listener.
        environment: further variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "node.toml"
    head = f'data_dir = "{folder / "data"}"\n'
    listener = "" if "[receive]" in toml else "[receive]\nport = 0\naccept_any_peer = true\n"
    config.write_text(head + toml + "\n" + listener)
    log = folder / "node.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", "serve", "--config", str(config)],
            stderr=stream,
            env={**os.environ, "DICOM_NODE_WEB__PORT": "0", **(environment or {})},
        )
        try:
            settings = load_settings(config)
            yield Node(_wait_for(process, settings, log), config, settings, log, process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _wait_for(process: "subprocess.Popen[bytes]", settings: Settings, log: Path) -> RunningNode:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the node ended: {log.read_text()}"
        if found := running_node(settings.data_dir):
            return found
        time.sleep(0.05)
    raise AssertionError(f"the node did not start: {log.read_text()}")
