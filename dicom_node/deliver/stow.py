"""The DICOMweb side of a PACS, as its client: STOW-RS (PS3.18 10.5), QIDO-RS (PS3.18 10.6).

What comes in: a service's address and files. What goes out: one answer for each file, as a C-STORE status,
since Failure Reason (0008,1197) has those. Only a service that cannot be had is an error. No decisions.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from dicom_node.deliver.scu import Answer
from dicom_node.errors import DimseStatus, PeerRefused, PeerUnreachable

DICOM = "application/dicom"
JSON = "application/dicom+json"
COMING_BACK = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may pass."""
_FAILED_SOP_SEQUENCE = "00081198"
_FAILURE_REASON = "00081197"
_WARNING_REASON = "00081196"
_REFERENCED_SOP_SEQUENCE = "00081199"
_SOP_INSTANCE_UID = "00080018"


class StowService:
    """One service."""

    def __init__(self, url: str, authorization_file: Path | None, timeout: float) -> None:
        self._url = url.rstrip("/")
        self._authorization_file = authorization_file
        self._timeout = timeout

    def __str__(self) -> str:
        return self._url

    @contextmanager
    def storing(self) -> Iterator[Callable[[Path], Answer]]:
        """A connection that is kept; the value stores one file.

        Raises:
            PeerUnreachable: nobody answers, or not now; also what the value raises.
            PeerRefused: the service lets us in nowhere.
        """
        with self._client() as client:
            yield lambda path: self._store(client, path)

    def holds(self, study_uid: str, sop_instance_uids: Iterable[str]) -> set[str]:
        """Which of these instances the service lists for the study; errors as in `storing`."""
        with self._client() as client:
            answer = self._ask(client, "GET", f"/studies/{study_uid}/instances", accept=JSON)
        if answer.status_code in (204, 404):
            return set()
        if answer.status_code != 200:
            raise PeerRefused(f"{self} answered the query with HTTP {answer.status_code}")
        return set(sop_instance_uids) & {_first(one, _SOP_INSTANCE_UID) for one in _json(answer)}

    def _client(self) -> httpx.Client:
        headers = {}
        if self._authorization_file is not None:
            try:
                headers["Authorization"] = self._authorization_file.read_text().strip()
            except OSError as error:
                raise PeerRefused(f"authorization_file: {error.strerror}") from error
        return httpx.Client(timeout=self._timeout, headers=headers)

    def _store(self, client: httpx.Client, path: Path) -> Answer:
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: {DICOM}\r\n\r\n".encode()
        body = head + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        kind = f'multipart/related; type="{DICOM}"; boundary={boundary}'
        answer = self._ask(client, "POST", "/studies", accept=JSON, content=body, kind=kind)
        if answer.status_code in (200, 202, 409):
            return _answer(answer)
        return Answer(None, f"HTTP {answer.status_code} from {self}")

    def _ask(
        self,
        client: httpx.Client,
        method: str,
        path: str,
        *,
        accept: str,
        content: bytes | None = None,
        kind: str | None = None,
    ) -> httpx.Response:
        headers = {"Accept": accept} | ({"Content-Type": kind} if kind else {})
        try:
            answer = client.request(method, self._url + path, headers=headers, content=content)
        except httpx.HTTPError as error:
            raise PeerUnreachable(f"{self} does not answer ({type(error).__name__})") from error
        if answer.status_code in COMING_BACK:
            raise PeerUnreachable(f"{self} answered HTTP {answer.status_code}")
        if answer.status_code in (401, 403, 407):
            raise PeerRefused(f"{self} answered HTTP {answer.status_code}")
        return answer


def _answer(response: httpx.Response) -> Answer:
    """The Store Instances Response Module (PS3.18 I.2.2) of one instance as a C-STORE status."""
    for data_set in _json(response):
        for failed in _items(data_set, _FAILED_SOP_SEQUENCE):
            reason = _first(failed, _FAILURE_REASON)
            return Answer(int(reason or DimseStatus.PROCESSING_FAILURE), "failed by STOW-RS")
        for stored in _items(data_set, _REFERENCED_SOP_SEQUENCE):
            warning = int(_first(stored, _WARNING_REASON) or 0)
            return Answer(warning if warning >> 12 == 0xB else int(DimseStatus.SUCCESS))
    if response.status_code == 200:
        return Answer(int(DimseStatus.SUCCESS))
    return Answer(int(DimseStatus.PROCESSING_FAILURE), f"HTTP {response.status_code}")


def _json(response: httpx.Response) -> list[dict[str, Any]]:
    try:
        found = response.json()
    except ValueError:
        return []
    data_sets: Sequence[Any] = found if isinstance(found, list) else [found]
    return [one for one in data_sets if isinstance(one, dict)]


def _items(data_set: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    return list((data_set.get(tag) or {}).get("Value") or [])


def _first(data_set: dict[str, Any], tag: str) -> str:
    values = (data_set.get(tag) or {}).get("Value") or [""]
    return str(values[0])
