"""A node's database, opened by who is no role of it: commands, tests, the supervisor."""

from collections.abc import Iterator
from contextlib import contextmanager

from dicom_node.errors import ConfigurationError
from dicom_node.settings import Settings
from dicom_node.store.canary import CanaryLog
from dicom_node.store.database import Engine, open_database
from dicom_node.store.overview import Overview


@contextmanager
def opened_database(settings: Settings) -> Iterator[Engine]:
    """A node's database, whether the node runs or not.

    Raises:
        ConfigurationError: there is no database yet.
    """
    if settings.database_url is None and not (settings.data_dir / "node.sqlite").exists():
        raise ConfigurationError(f"data_dir: no node has run on {settings.data_dir} yet")
    engine = open_database(settings.effective_database_url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def opened_overview(settings: Settings) -> Iterator[Overview]:
    """Questions about a node's state; errors as `opened_database`."""
    with opened_database(settings) as engine:
        yield Overview(engine)


def canary_log(settings: Settings, engine: Engine) -> CanaryLog:
    """What became of the canaries; for a metric, an alarm and the page."""
    return CanaryLog(engine, settings.canary.ae_title, settings.canary.late_seconds)
