"""The receiver: accepts connections, gives each a thread, and ends cleanly.

What comes in: settings, the store's `Intake`, and a listening socket, which several receiver processes may
share. What goes out: instances in custody, rows behind them. Owns the life of threads and sockets: a peer
can only ever block its own thread. Decisions are `admit`'s, the protocol is `association`'s.
"""

import selectors
import socket
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext

from pynetdicom import AE
from pynetdicom.presentation import PresentationContext
from structlog.contextvars import bound_contextvars

from dicom_node.compose.uids import IMPLEMENTATION_CLASS_UID
from dicom_node.observe.exchange import Throttle, refused
from dicom_node.observe.intake import receiving
from dicom_node.observe.logging import get_logger
from dicom_node.observe.recording import record
from dicom_node.receive import pdu
from dicom_node.receive.admit import AccessRules, admit
from dicom_node.receive.association import AssociationAborted, Messages
from dicom_node.receive.contexts import (
    IMPLEMENTATION_VERSION_NAME,
    storage_sop_classes,
    supported_contexts,
)
from dicom_node.receive.custody import Custody, Readiness
from dicom_node.receive.index import Indexer
from dicom_node.receive.pdu import AbortReason, ProtocolError
from dicom_node.receive.slots import Slot, Slots
from dicom_node.receive.tls import server_context
from dicom_node.receive.transport import Connection, Patience, PeerGone, PeerSilent
from dicom_node.receive.upper_layer import AcceptedAssociation, application_entity
from dicom_node.records import Ending, Peer
from dicom_node.settings import Settings
from dicom_node.store.intake import Intake

log = get_logger(__name__)

BACKLOG = 128
MAX_PDU = 128 << 10
MAX_HALF_OPEN = 128
"""Connections without an association; above it the oldest of the greediest host is closed."""
STOP_SECONDS = 15.0
SLOT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a new association is offered; it keeps them to its end."""

    rules: AccessRules
    contexts: list[PresentationContext]
    ae: AE
    tls: SSLContext | None
    patience: Patience
    max_bytes: int

    @classmethod
    def of(cls, settings: Settings, patience: Patience | None) -> "_Terms":
        receive = settings.receive
        title = receive.ae_title
        return cls(
            rules=AccessRules.of(settings),
            contexts=supported_contexts(storage_sop_classes(receive.private_sop_classes)),
            ae=application_entity(title, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME),
            tls=server_context(receive.tls) if receive.tls else None,
            patience=patience
            or Patience(negotiation=receive.negotiation_timeout, idle=receive.network_timeout),
            max_bytes=receive.max_instance_mb << 20,
        )


class Receiver:
    """A DICOM listener: C-STORE and C-ECHO as SCP."""

    def __init__(
        self,
        settings: Settings,
        intake: Intake,
        *,
        listen_socket: socket.socket | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Prepare, without accepting yet.

        Args:
            settings: the node's configuration.
            intake: where rows go.
            listen_socket: a bound socket, perhaps shared with other processes; without one, the
                address of the settings is bound.
            patience: deadlines; without it, those of the settings.

        Raises:
            ConfigurationError: an access rule makes no sense, or the certificates cannot be used.
            OSError: the address cannot be bound.
        """
        settings.spool_dir.mkdir(parents=True, exist_ok=True)
        receive = settings.receive
        self._spool_dir = settings.spool_dir
        self._given_patience = patience
        self._terms = _Terms.of(settings, patience)
        self._indexer = Indexer(settings.spool_dir, intake)
        reserve = receive.disk_reserve_mb << 20
        self._readiness = Readiness(settings.spool_dir, reserve, self._indexer)
        self._slots = Slots(
            settings.spool_dir / "associations.lock",
            total=receive.max_associations,
            per_peer=receive.max_associations_per_peer,
        )
        self._listener = listen_socket or _bind(receive.host, receive.port)
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._wake, self._waker = socket.socketpair()
        self._connections = _Connections()
        self._throttle = Throttle()
        self._stopping = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name="acceptor", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        host, port = self._listener.getsockname()[:2]
        return host, port

    def start(self) -> None:
        """Recover what a dead process left, and accept associations."""
        self._indexer.start()
        self._alive = receiving(self._spool_dir)
        self._acceptor.start()

    def adopt(self, settings: Settings) -> None:
        """Go on with other settings: associations that are open keep theirs, new ones get these.

        Host, port and folder stay as they are.

        Raises:
            ConfigurationError: they cannot be used; nothing has changed.
        """
        self._terms = _Terms.of(settings, self._given_patience)
        receive = settings.receive
        self._readiness.keep_free(receive.disk_reserve_mb << 20)
        self._slots.allow(receive.max_associations, receive.max_associations_per_peer)

    def stop(self, deadline: float = STOP_SECONDS) -> None:
        """Accept nothing more, let open associations end, cut those that do not, and index the rest.

        Nothing that was acknowledged is lost, however short the deadline is. Stopping twice is harmless.

        Args:
            deadline: seconds for all of it.
        """
        if self._stopping.is_set():
            return
        until = time.monotonic() + deadline
        self._stopping.set()
        self._waker.send(b".")
        self._acceptor.join()
        self._listener.close()
        if not self._connections.wait_until_empty(deadline / 2):
            self._connections.cut_all()
            self._connections.wait_until_empty(max(0.0, until - time.monotonic()) / 2)
        self._indexer.stop(max(0.1, until - time.monotonic()))
        self._slots.close()
        self._alive.close()
        self._wake.close()
        self._waker.close()

    def join(self) -> None:
        """Wait until it no longer accepts."""
        self._acceptor.join()

    # --- accepting ----------------------------------------------------------------------------

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while not self._stopping.is_set():
                selector.select()
                self._accept_one()

    def _accept_one(self) -> None:
        try:
            sock, address = self._listener.accept()
        except BlockingIOError:
            return  # another process was faster
        except OSError as error:
            # out of descriptors, or the peer is already gone: neither may end the listener
            log.warning("connection not accepted", reason=error.strerror)
            self._stopping.wait(0.05)
            return
        terms = self._terms
        connection = self._connect(sock, str(address[0]), terms)
        if connection is None:
            return
        try:
            threading.Thread(target=self._serve, args=(connection, terms), daemon=True).start()
        except RuntimeError:
            log.warning("connection not accepted", reason="the system gives no thread")
            connection.close()
            self._connections.remove(connection)

    # --- one connection -----------------------------------------------------------------------

    def serve(self, sock: socket.socket, host: str) -> None:
        """Serve one connection in the thread that calls, until it is over; never raises."""
        terms = self._terms
        if (connection := self._connect(sock, host, terms)) is not None:
            self._serve(connection, terms)

    def _connect(self, sock: socket.socket, host: str, terms: "_Terms") -> Connection | None:
        """Remember a connection, so that nobody has too many and `stop` knows of it."""
        try:
            connection = Connection(sock, host, terms.patience)
        except OSError:
            sock.close()
            return None
        for victim in self._connections.add(connection):
            log.warning("half-open connection closed to make room", host=victim.host)
            victim.cut()
        return connection

    def _serve(self, connection: Connection, terms: "_Terms") -> None:
        try:
            if terms.tls is not None:
                connection.secure(terms.tls)
            association = AcceptedAssociation(terms.ae, connection, terms.contexts, MAX_PDU)
            try:
                self._answer(connection, association, terms)
            except ProtocolError as error:
                log.warning("protocol error", host=connection.host, reason=str(error))
                association.send_abort(error.reason)
            connection.finish()
        except PeerSilent as error:
            log.warning("peer cut off", host=connection.host, reason=str(error))
        except PeerGone as error:
            log.info("no association", host=connection.host, reason=str(error))
        except Exception as error:
            _log_bug(error)
        finally:
            connection.close()
            self._connections.remove(connection)

    def _answer(
        self, connection: Connection, association: AcceptedAssociation, terms: "_Terms"
    ) -> None:
        applicant = association.await_request()
        if applicant is None:
            return
        peer = Peer(applicant.calling_ae, applicant.called_ae, applicant.host)
        rejection = admit(applicant, terms.rules, congestion=self._readiness.congestion)
        slot = None if rejection is not None else self._take_slot(connection.host)
        if slot is None:
            rejection = rejection or pdu.TEMPORARY_CONGESTION
            log.warning("association rejected", **_who(peer), rejection=str(rejection))
            association.reject(rejection)
            if rejection != pdu.TEMPORARY_CONGESTION and self._throttle.passes(
                peer.calling_ae, peer.host
            ):
                why = f"association rejected ({rejection})"
                record(refused(peer.called_ae, peer.calling_ae, peer.host, why))
            return
        try:
            self._connections.promote(connection)
            abort = self._associate(connection, association, peer, terms.max_bytes)
        finally:
            self._slots.give_back(slot)
        if abort is not None:
            association.send_abort(abort)

    def _take_slot(self, host: str) -> Slot | None:
        """A slot, at once or when one becomes free in a moment: a peer may reconnect faster than we tidy."""
        until = time.monotonic() + SLOT_SECONDS
        while (slot := self._slots.take(host)) is None:
            if time.monotonic() > until or self._stopping.wait(0.02):
                return None
        return slot

    def _associate(
        self,
        connection: Connection,
        association: AcceptedAssociation,
        peer: Peer,
        max_bytes: int,
    ) -> AbortReason | None:
        """Serve an association to its end; why it is to be aborted, None where it ended otherwise."""
        custody = Custody(self._spool_dir, peer, self._indexer, self._readiness, max_bytes)
        association.accept()
        connection.negotiated()
        messages = Messages(connection, association, custody)
        ending, reason, abort = Ending.LOST, "", None
        try:
            with bound_contextvars(association=custody.association_id):
                messages.serve()
            ending = Ending.RELEASED
        except AssociationAborted:
            ending, reason = Ending.ABORTED, "the peer aborted"
        except ProtocolError as error:
            ending, reason, abort = Ending.ABORTED, str(error), error.reason
        except (PeerGone, PeerSilent) as error:
            reason = str(error)
        except Exception as error:
            reason, abort = "a bug of ours", AbortReason.NOT_SPECIFIED
            _log_bug(error)
        finally:
            custody.end(ending)
        log.info(
            "association ended",
            association=custody.association_id,
            **_who(peer),
            ending=ending.value,
            reason=reason,
            stored=messages.stored,
            refused=messages.refused,
        )
        return abort


class _Connections:
    """The open connections of a receiver, and which of them have no association yet. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._all: set[Connection] = set()
        self._half_open: dict[Connection, None] = {}  # in the order of their coming

    def add(self, connection: Connection) -> list[Connection]:
        """Remember a new connection, and name one to close where there are too many half-open."""
        with self._condition:
            self._all.add(connection)
            self._half_open[connection] = None
            if len(self._half_open) <= MAX_HALF_OPEN:
                return []
            greediest, _ = Counter(c.host for c in self._half_open).most_common(1)[0]
            victim = next(c for c in self._half_open if c.host == greediest)
            del self._half_open[victim]
            return [victim]

    def promote(self, connection: Connection) -> None:
        """It has an association."""
        with self._condition:
            self._half_open.pop(connection, None)

    def remove(self, connection: Connection) -> None:
        """It is closed."""
        with self._condition:
            self._half_open.pop(connection, None)
            self._all.discard(connection)
            self._condition.notify_all()

    def cut_all(self) -> None:
        """End them all."""
        with self._condition:
            for connection in self._all:
                connection.cut()

    def wait_until_empty(self, seconds: float) -> bool:
        """Wait until the last one is closed; False where it took longer."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._all, seconds)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _who(peer: Peer) -> dict[str, str]:
    return {"calling_ae": peer.calling_ae, "called_ae": peer.called_ae, "host": peer.host}


def _log_bug(error: Exception) -> None:
    # where, never what: the message of an error may quote what a peer sent
    where = traceback.extract_tb(error.__traceback__)[-1]
    log.error(
        "bug in the listener",
        error=type(error).__name__,
        place=f"{Path(where.filename).name}:{where.lineno}",
    )
