"""What people do at the page, for the audit trail."""

from typing import Any

from fastapi import Request

from dicom_node.observe.audit import (
    Action,
    Actor,
    AuditEvent,
    Event,
    Kind,
    Result,
    message,
)
from dicom_node.store.database import utc_now
from dicom_node.web.parts import Parts


def _add(
    parts: Parts, request: Request, user: str, event: Event, action: Action, **more: Any
) -> None:
    address = request.client.host if request.client else ""
    told = AuditEvent(
        event=event,
        action=action,
        at=utc_now(),
        actors=(
            Actor(user, requestor=True, address=address),
            Actor(parts.settings.receive.ae_title, requestor=False),
        ),
        **more,
    )
    parts.audit.add(message(told, parts.settings.receive.ae_title))


def login(request: Request, user: str, succeeded: bool) -> None:
    """Somebody logged in, or tried to."""
    result = Result.SUCCESS if succeeded else Result.MINOR_FAILURE
    _add(
        request.app.state.parts,
        request,
        user,
        Event.AUTHENTICATION,
        Action.EXECUTE,
        kind=Kind.LOGIN,
        result=result,
    )


def logout(request: Request, user: str) -> None:
    """Somebody logged out."""
    parts = request.app.state.parts
    _add(parts, request, user, Event.AUTHENTICATION, Action.EXECUTE, kind=Kind.LOGOUT)


def account_changed(request: Request, user: str, whose: str, what: str) -> None:
    """An account was made, changed or removed."""
    parts = request.app.state.parts
    actors = f"{user} ({what} {whose})"
    _add(parts, request, actors, Event.ALERT, Action.EXECUTE, kind=Kind.USERS)


def reloaded(request: Request, user: str) -> None:
    """Somebody had the configuration read anew."""
    parts = request.app.state.parts
    _add(parts, request, user, Event.ALERT, Action.EXECUTE, kind=Kind.SOFTWARE)


def seen(request: Request, user: str, study: dict[str, Any]) -> None:
    """Somebody looked at a study or a picture of it."""
    _study(request, user, study, Action.READ, {})


def ordered(request: Request, user: str, study: dict[str, Any], order: str) -> None:
    """Somebody gave an order for a study."""
    _study(request, user, study, Action.UPDATE, {"order": order})


def _study(
    request: Request, user: str, study: dict[str, Any], action: Action, details: dict[str, str]
) -> None:
    _add(
        request.app.state.parts,
        request,
        user,
        Event.ACCESSED,
        action,
        study_uid=study["study_uid"],
        patient_id=study["patient_id"],
        details=details,
    )
