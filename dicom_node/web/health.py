"""Whether the node is well, for programs: `/healthz`, `/readyz`. No login, no patient data."""

import shutil

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from dicom_node.observe.intake import stopped_intake
from dicom_node.web.guard import parts_of

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
def healthz() -> Response:
    """This process answers."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
def readyz(request: Request) -> Response:
    """The database answers and there is room for what comes in; else 503 with the reason."""
    parts = parts_of(request)
    try:
        parts.worklist.ages()
    except Exception as error:  # whatever keeps the database from answering
        return PlainTextResponse(f"database: {type(error).__name__}\n", 503)
    free = shutil.disk_usage(parts.settings.data_dir).free
    if free < parts.settings.receive.disk_reserve_mb * 2**20:
        return PlainTextResponse("disk: less is free than receive.disk_reserve_mb\n", 503)
    if reasons := stopped_intake(parts.settings.spool_dir):
        return PlainTextResponse(f"intake stopped: {reasons[0]}\n", 503)
    return PlainTextResponse("ok\n")
