"""Audit messages, PS3.15 A.5: who did what to whose data, as XML. Pure; nothing is sent from here.

What comes in: an event in this node's words. What goes out: one XML document (the schema of PS3.15 A.5.1,
which is RFC 3881 corrected). The trail names patients by ID, as it must; so it goes to the audit repository
and never to the log.
"""

import base64
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from xml.etree import ElementTree as Xml

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"

Code = tuple[str, str]
"""Code and meaning, of DCM."""


class Event(Enum):
    """Event IDs (PS3.16 CID 400)."""

    APPLICATION = ("110100", "Application Activity")
    BEGIN_TRANSFERRING = ("110102", "Begin Transferring DICOM Instances")
    ACCESSED = ("110103", "DICOM Instances Accessed")
    TRANSFERRED = ("110104", "DICOM Instances Transferred")
    EXPORT = ("110106", "Export")
    QUERY = ("110112", "Query")
    ALERT = ("110113", "Security Alert")
    AUTHENTICATION = ("110114", "User Authentication")


class Kind(Enum):
    """Event types (PS3.16 CID 401)."""

    START = ("110120", "Application Start")
    STOP = ("110121", "Application Stop")
    LOGIN = ("110122", "Login")
    LOGOUT = ("110123", "Logout")
    NODE = ("110126", "Node Authentication")
    SOFTWARE = ("110131", "Software Configuration")
    ROLES = ("110136", "Security Roles Changed")
    USERS = ("110137", "User security Attributes Changed")


class Action(Enum):
    """Event Action Code."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


class Result(Enum):
    """Event Outcome Indicator."""

    SUCCESS = "0"
    MINOR_FAILURE = "4"
    SERIOUS_FAILURE = "8"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who took part: a person, or an application with its AE title."""

    user: str
    requestor: bool
    address: str = ""
    role: Code | None = None


SOURCE: Code = ("110153", "Source Role ID")
DESTINATION: Code = ("110152", "Destination Role ID")
APPLICATION: Code = ("110150", "Application")


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that happened, with everybody and everything that took part."""

    event: Event
    action: Action
    at: datetime
    actors: tuple[Actor, ...]
    result: Result = Result.SUCCESS
    kind: Kind | None = None
    study_uid: str = ""
    patient_id: str = ""
    instances: int | None = None
    sop_class_uid: str = ""
    """Of the information model that a query went to."""
    query: bytes = b""
    """A query's identifier, Explicit VR Little Endian."""
    alert: str = ""
    """What a security alert is about, in a sentence."""
    details: dict[str, str] = field(default_factory=dict)


def message(event: AuditEvent, source_id: str) -> str:
    """The event as an audit message.

    Args:
        event: what happened.
        source_id: this node, as the audit repository knows it.
    """
    root = Xml.Element("AuditMessage")
    identification = Xml.SubElement(
        root,
        "EventIdentification",
        EventActionCode=event.action.value,
        EventDateTime=event.at.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=event.result.value,
    )
    _code(identification, "EventID", event.event.value)
    if event.kind is not None:
        _code(identification, "EventTypeCode", event.kind.value)
    for actor in event.actors:
        _participant(root, actor)
    source = Xml.SubElement(root, "AuditSourceIdentification", AuditSourceID=source_id)
    Xml.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # an application server
    if event.study_uid:
        _study(root, event)
    if event.patient_id:
        _patient(root, event.patient_id)
    if event.query:
        _query(root, event)
    if event.alert:
        _alert(root, event)
    return Xml.tostring(root, encoding="unicode")


def _code(parent: Xml.Element, name: str, code: Code) -> None:
    attributes = {"csd-code": code[0], "codeSystemName": "DCM", "originalText": code[1]}
    Xml.SubElement(parent, name, attributes)


def _participant(root: Xml.Element, actor: Actor) -> None:
    attributes = {"UserID": _clean(actor.user), "UserIsRequestor": str(actor.requestor).lower()}
    if actor.address:
        attributes["NetworkAccessPointID"] = _clean(actor.address)
        attributes["NetworkAccessPointTypeCode"] = "2"  # an IP address
    participant = Xml.SubElement(root, "ActiveParticipant", attributes)
    if actor.role is not None:
        _code(participant, "RoleIDCode", actor.role)


def _study(root: Xml.Element, event: AuditEvent) -> None:
    study = Xml.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_clean(event.study_uid),
        ParticipantObjectTypeCode="2",  # a system object
        ParticipantObjectTypeCodeRole="3",  # a report
    )
    _code(study, "ParticipantObjectIDTypeCode", ("110180", "Study Instance UID"))
    for name, value in event.details.items():
        told = _base64(_clean(value).encode())
        Xml.SubElement(study, "ParticipantObjectDetail", type=name, value=told)
    if event.instances is not None:
        description = Xml.SubElement(study, "ParticipantObjectDescription")
        Xml.SubElement(description, "NumberOfInstances").text = str(event.instances)


def _query(root: Xml.Element, event: AuditEvent) -> None:
    query = Xml.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=event.sop_class_uid,
        ParticipantObjectTypeCode="2",  # a system object
        ParticipantObjectTypeCodeRole="3",  # a report
    )
    _code(query, "ParticipantObjectIDTypeCode", ("110181", "SOP Class UID"))
    Xml.SubElement(query, "ParticipantObjectQuery").text = _base64(event.query)
    syntax = _base64(EXPLICIT_VR_LITTLE_ENDIAN.encode())
    Xml.SubElement(query, "ParticipantObjectDetail", type="TransferSyntax", value=syntax)


def _alert(root: Xml.Element, event: AuditEvent) -> None:
    subject = Xml.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_clean(event.actors[-1].user),
        ParticipantObjectTypeCode="2",  # a system object
        ParticipantObjectTypeCodeRole="13",  # a security resource
    )
    _code(subject, "ParticipantObjectIDTypeCode", ("110182", "Node ID"))
    value = _base64(_clean(event.alert).encode())
    Xml.SubElement(subject, "ParticipantObjectDetail", type="Alert Description", value=value)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _patient(root: Xml.Element, patient_id: str) -> None:
    patient = Xml.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_clean(patient_id),
        ParticipantObjectTypeCode="1",  # a person
        ParticipantObjectTypeCodeRole="1",  # a patient
    )
    attributes = {"csd-code": "2", "codeSystemName": "RFC-3881", "originalText": "Patient Number"}
    Xml.SubElement(patient, "ParticipantObjectIDTypeCode", attributes)


def _clean(text: str) -> str:
    """Without the control characters that XML 1.0 does not know."""
    return "".join(char for char in text if char >= " " or char in "\t\n\r")


def syslog_frame(xml: str, at: datetime, host: str) -> bytes:
    """The message as RFC 5424 syslog in a frame of RFC 5425: facility 10, severity 5, MSGID of PS3.15 A.6."""
    stamp = at.isoformat(timespec="milliseconds")
    header = f"<85>1 {stamp} {host or '-'} dicom-node - DICOM+RFC3881 - \ufeff"
    body = (header + xml).encode()
    return f"{len(body)} ".encode() + body
