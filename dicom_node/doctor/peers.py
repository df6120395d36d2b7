"""Peers: whether each answers, and what its clock says."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime

import httpx

from dicom_node.deliver import scu
from dicom_node.doctor.finding import Finding, failed, passed, skipped, warning
from dicom_node.errors import PeerRefused, PeerUnreachable
from dicom_node.settings import DestinationSettings, Settings
from dicom_node.store.database import utc_now

SECONDS = 5.0
AT_ONCE = 8
SKEW_SECONDS = 5.0


def answers(settings: Settings) -> Iterator[Finding]:
    """C-ECHO to each destination and to whoever is asked for counts; HTTP to a DICOMweb service."""
    calling = settings.deliver.ae_title or settings.receive.ae_title
    dimse = {
        f"destination.{name}": scu.Address(one.host, one.port, one.ae_title, calling, SECONDS)
        for name, one in settings.destination.items()
        if one.stow_url is None
    }
    dimse |= {
        f"peer.{one.ae_title}": scu.Address(
            one.query_host, one.query_port, one.query_ae_title or one.ae_title, calling, SECONDS
        )
        for one in settings.peer
        if one.query_host
    }
    web = {f"destination.{n}": one for n, one in settings.destination.items() if one.stow_url}
    if not dimse and not web:
        yield skipped("destination", "no destination is configured")
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(_echo, dimse, dimse.values())
        for found in pool.map(_ask, web, web.values()):
            yield from found


def _echo(id: str, address: scu.Address) -> Finding:
    try:
        scu.echo(address)
    except PeerUnreachable as error:
        return failed(
            id, str(error), "is it on, is the port open on the way, are host and port right?"
        )
    except PeerRefused as error:
        hint = f"let it know AE title {address.calling_ae} at this machine's address"
        return failed(id, str(error), hint)
    return passed(id, f"{address} answers C-ECHO")


def _ask(id: str, destination: DestinationSettings) -> list[Finding]:
    """Whether a DICOMweb service is there: any answer but one of a broken service will do."""
    try:
        answer = httpx.get(f"{destination.stow_url}/studies?limit=1", timeout=SECONDS)
    except httpx.HTTPError as error:
        told = f"{destination.stow_url} does not answer ({type(error).__name__})"
        return [failed(id, told, "is it on, and is stow_url right?")]
    told = f"{destination.stow_url} answered HTTP {answer.status_code}"
    if answer.status_code >= 500:
        return [failed(id, told, "look at its own log")]
    if answer.status_code in (401, 403) and destination.authorization_file is None:
        return [failed(id, told, "set authorization_file")]
    return [passed(id, told), *_clock(id, answer.headers.get("date"), utc_now())]


def _clock(id: str, date: str | None, now: datetime) -> Iterator[Finding]:
    try:
        there = parsedate_to_datetime(date or "")
    except ValueError:
        return
    ahead = (there - now).total_seconds()
    told = f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours"
    id = f"clock.{id}"
    if abs(ahead) > SKEW_SECONDS:
        yield warning(id, told, "keep both clocks by NTP")
    else:
        yield passed(id, told)
