"""Pictures of results: a page with a slice slider, and the images that it shows.

What comes in: a result's number. What goes out: a page, JSON, PNG. The reading and decoding is done by
`drawing` in a process of its own, which ends when nobody looks any more.
"""

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, HTTPException, Query, Request
from starlette.responses import JSONResponse, Response

from dicom_node.errors import NodeError, ReadError
from dicom_node.web import drawing, trail
from dicom_node.web.api import BEARER, PREFIX, REFUSED, UNKNOWN, RowId, refusal
from dicom_node.web.guard import AnyCaller, Caller, parts_of
from dicom_node.web.parts import Parts
from dicom_node.web.render import page
from dicom_node.web.views import View

T = TypeVar("T")

router = APIRouter()
SECONDS = 60.0
"""The longest that a picture may take; the first of a series reads all of it."""
IDLE_SECONDS = 120.0
SHOWN = ("seg", "secondary_capture", "heatmap", "heatmap-pictures", "denoised", "sr")
"""Kinds of result that the page shows; a report as a table."""
# what is refused is told in JSON, hence the response class of these routes
PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}
NO_PICTURE = refusal(422, "It cannot be shown, or the request is not understood.")


class PngResponse(Response):
    """A picture."""

    media_type = "image/png"


class SegmentView(View):
    """A segment that can be switched."""

    number: int
    label: str
    color: tuple[int, int, int]
    ml: float


class Preset(View):
    """A window."""

    name: str
    centre: float
    width: float


class PictureView(View):
    """What a viewer needs to know of a result."""

    slices: int
    first: int
    spacing: tuple[float, float]
    segments: list[SegmentView]
    window: tuple[float, float]
    presets: list[Preset]


class ReportRowView(View):
    """A content item of a report."""

    depth: int
    name: str
    value: str


class Studio:
    """The process that draws; started when it is wanted, ended when it is not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._timer: threading.Timer | None = None

    def do(self, act: Callable[..., T], *arguments: Any) -> T:
        """Run `act` there.

        Raises:
            ReadError: it took too long, or broke the process.
            NodeError: whatever `act` raised.
        """
        with self._lock:
            pool = self._started()
            try:
                return pool.submit(act, *arguments).result(SECONDS)
            except (BrokenProcessPool, TimeoutError, MemoryError) as error:
                self._end()
                raise ReadError("this picture took too long or too much memory") from error

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _started(self) -> ProcessPoolExecutor:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(IDLE_SECONDS, self.close)
        self._timer.daemon = True
        self._timer.start()
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=drawing.limit)
        return self._pool

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            self._pool = None


@router.get("/results/{result_id}", include_in_schema=False)
def result_page(request: Request, caller: AnyCaller, result_id: RowId) -> Response:
    """A result as a picture."""
    found = _result(parts_of(request), result_id)
    study = parts_of(request).worklist.study(found["study_uid"])
    if study is None:
        raise HTTPException(404, "There is no such study.")
    trail.seen(request, caller.account.name, study)
    view = caller.viewer.study(study)
    if found["kind"] == "sr":
        rows = _report(request, caller, result_id)
        return page(request, "report.html", caller=caller, result=found, study=view, rows=rows)
    return page(request, "picture.html", caller=caller, result=found, study=view)


@router.get(
    f"{PREFIX}/results/{{result_id}}/report",
    tags=["results"],
    dependencies=[BEARER],
    responses=REFUSED | UNKNOWN | NO_PICTURE,
)
def report(request: Request, caller: AnyCaller, result_id: RowId) -> list[ReportRowView]:
    """A structured report, row by row in the order of its content tree."""
    return _report(request, caller, result_id)


@router.get(
    f"{PREFIX}/results/{{result_id}}/picture",
    tags=["results"],
    dependencies=[BEARER],
    responses=REFUSED | UNKNOWN | NO_PICTURE,
)
def picture(request: Request, _caller: AnyCaller, result_id: RowId) -> PictureView:
    """Slices, segments and windows of a result."""
    return PictureView(**_drawn(request, result_id, drawing.about))


@router.get(
    f"{PREFIX}/results/{{result_id}}/picture/{{z}}/image.png",
    tags=["results"],
    dependencies=[BEARER],
    responses=PNG | REFUSED | UNKNOWN | NO_PICTURE,
    response_class=JSONResponse,
)
def image(
    request: Request,
    _caller: AnyCaller,
    result_id: RowId,
    z: int,
    centre: Annotated[float | None, Query(ge=-1e6, le=1e6)] = None,
    width: Annotated[float | None, Query(gt=0, le=1e6)] = None,
) -> Response:
    """A slice through a window, PNG."""
    window = None if centre is None or width is None else (centre, width)
    _check(request, result_id, z)
    return PngResponse(_drawn(request, result_id, drawing.image, z, window))


@router.get(
    f"{PREFIX}/results/{{result_id}}/picture/{{z}}/labels.png",
    tags=["results"],
    dependencies=[BEARER],
    responses=PNG | REFUSED | UNKNOWN | NO_PICTURE,
    response_class=JSONResponse,
)
def labels(request: Request, _caller: AnyCaller, result_id: RowId, z: int) -> Response:
    """The segments' numbers on a slice, 8-bit PNG."""
    _check(request, result_id, z)
    return PngResponse(_drawn(request, result_id, drawing.labels, z))


def _report(request: Request, caller: Caller, result_id: int) -> list[ReportRowView]:
    rows = _drawn(request, result_id, drawing.report)
    hidden = not caller.viewer.identities
    return [
        ReportRowView(depth=depth, name=name, value="" if person and hidden else value)
        for depth, name, value, person in rows
    ]


def _check(request: Request, result_id: int, z: int) -> None:
    slices = _drawn(request, result_id, drawing.about)["slices"]
    if not 0 <= z < slices:
        raise HTTPException(404, f"There are {slices} slices.")


def _drawn(request: Request, result_id: int, act: Callable[..., T], *arguments: Any) -> T:
    parts = parts_of(request)
    found = _result(parts, result_id)
    wanted = drawing.Wanted(
        result_id=result_id,
        kind=found["kind"],
        path=found["path"],
        spool_dir=parts.settings.spool_dir,
        inputs=tuple(parts.worklist.inputs(found["job_id"])),
    )
    studio: Studio = request.app.state.studio
    try:
        return studio.do(act, wanted, *arguments)
    except (NodeError, OSError) as error:
        told = str(error) if isinstance(error, NodeError) else "its file is gone"
        raise HTTPException(422, f"This cannot be shown: {told}") from error


def _result(parts: Parts, result_id: int) -> dict[str, Any]:
    found = parts.worklist.result(result_id)
    if found is None:
        raise HTTPException(404, "There is no such result.")
    return found
