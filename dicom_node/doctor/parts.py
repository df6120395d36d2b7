"""The node's own parts: database, models."""

from collections.abc import Iterator
from datetime import datetime

from dicom_node.catalogue import catalogue
from dicom_node.doctor.finding import Finding, failed, passed, skipped, warning
from dicom_node.errors import BundleRefused, ConfigurationError
from dicom_node.settings import Settings
from dicom_node.store.condition import look_at

SKEW_SECONDS = 2.0
BACKUP = "back up data_dir and the database first; deploy/RUNBOOK.md says how"


def database(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Whether it answers, is of a schema that we know, and lies not in our future."""
    try:
        found = look_at(settings.effective_database_url)
    except ConfigurationError as error:
        yield failed("database", str(error), "is it running, and is database_url right?")
        return
    if found is None or found.schema is None:
        yield passed("database.schema", "there is none yet; it is made at the first start")
        return
    if not found.known:
        yield failed(
            "database.schema",
            f"the schema is {found.schema}, which this version does not know",
            "a newer version made it: install that one, or restore a backup",
        )
    elif found.schema != found.head:
        told = f"the schema is {found.schema}; the next start brings it to {found.head}"
        yield warning("database.schema", told, BACKUP)
    else:
        yield passed("database.schema", f"{found.backend}, schema {found.schema}")
    yield from _clocks(found.ahead_seconds, found.newest, now)


def _clocks(ahead: float | None, newest: datetime | None, now: datetime) -> Iterator[Finding]:
    if ahead is not None:
        told = f"the database's clock is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}"
        if abs(ahead) > SKEW_SECONDS:
            yield warning("clock.database", told, "keep both clocks by NTP")
        else:
            yield passed("clock.database", told)
    if newest is None:
        return
    back = (newest - now).total_seconds()
    if back > SKEW_SECONDS:
        yield failed(
            "clock.backwards",
            f"the clock stands {back:.0f} s before the last entry of the database",
            "set the clock; an empty battery on the board does this",
        )
    else:
        yield passed("clock.backwards", "the clock stands after the last entry of the database")


def models(settings: Settings) -> Iterator[Finding]:
    """Whether each model that is asked for loads, is what was installed, and passed the comparison."""
    try:
        known = catalogue(settings.models_dir)
    except BundleRefused as error:
        yield failed("models", str(error), "mend or remove that folder")
        return
    wanted = {name for route in settings.route for name in route.models}
    wanted |= set(settings.canary.models)
    if not wanted:
        yield skipped("models", "no route asks for a model")
    for name in sorted(wanted):
        id = f"model.{name}"
        if name not in known:
            yield failed(id, "no such model", f"known: {', '.join(known) or 'none'}")
        else:
            yield _model(id, settings, name)


def _model(id: str, settings: Settings, name: str) -> Finding:
    from dicom_node.infer.manage import verify

    description = catalogue(settings.models_dir)[name]
    trusted = settings.infer.trusted_bundles
    try:
        found = verify(description, trusted=trusted, compiled_dir=settings.data_dir / "compiled")
    except BundleRefused as error:
        return failed(id, str(error), f"dicom-node models verify {name}")
    if found.changed:
        told = f"differs from its checksums: {', '.join(found.changed)}"
        return failed(id, told, "install it anew: dicom-node models add --replace")
    if not description.model.enabled:
        told = "its authors left it off: its card says why"
        return warning(id, told, f"dicom-node models show {name}")
    if found.compiled is False:
        told = "the compiled network does not give what torch gives, so torch is used: slower"
        return warning(id, told, "nothing; or infer.cpu_engine = 'torch' to not try")
    told = f"version {description.model.version}, digest {found.digest[:12]}"
    return passed(id, told + ("; compiled, and agrees with torch" if found.compiled else ""))
