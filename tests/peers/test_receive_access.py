"""Who may come in: nobody by default, then by AE title, address, certificate and user; TLS by B.12."""

import contextlib
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from dicom_node.errors import ConfigurationError
from dicom_node.receive.certificates import Authority, CertificateFiles, make_test_certificates
from dicom_node.receive.transport import Patience
from tests.builders.raw_peer import CT, EXPLICIT, RawPeer, associate_rq, item
from tests.receiving import Listening, listening


def _identity(user: str, passcode: str | None) -> bytes:
    primary, secondary = user.encode(), (passcode or "").encode()
    kind = 1 if passcode is None else 2
    value = struct.pack(">BBH", kind, 1, len(primary)) + primary
    return item(0x58, value + struct.pack(">H", len(secondary)) + secondary)


@pytest.mark.parametrize(
    ("peer", "options", "expected"),
    [
        ([{"ae_title": "CT1"}], {"calling": "CT1"}, None),
        ([{"ae_title": "CT1"}], {"calling": "CT2"}, (1, 1, 3)),
        ([{"ae_title": "CT1", "address": "127.0.0.1"}], {"calling": "CT1"}, None),
        ([{"ae_title": "CT1", "address": "127.0.0.0/8"}], {"calling": "CT1"}, None),
        ([{"ae_title": "CT1", "address": "10.0.0.0/8"}], {"calling": "CT1"}, (1, 1, 3)),
        ([{"ae_title": "CT1", "address": "2001:db8::/32"}], {"calling": "CT1"}, (1, 1, 3)),
        ([{"ae_title": "A"}, {"ae_title": "B"}], {"calling": "B"}, None),
        ([{"ae_title": "A", "user": "u"}], {"calling": "A", "extra": _identity("u", None)}, None),
        ([{"ae_title": "A", "user": "u"}], {"calling": "A"}, (1, 1, 3)),
        (
            [{"ae_title": "A", "user": "u", "passcode": "p"}],
            {"calling": "A", "extra": _identity("u", "p")},
            None,
        ),
        (
            [{"ae_title": "A", "user": "u", "passcode": "p"}],
            {"calling": "A", "extra": _identity("u", "q")},
            (1, 1, 3),
        ),
        (
            [{"ae_title": "A", "user": "u", "passcode": "p"}],
            {"calling": "A", "extra": _identity("u", None)},
            (1, 1, 3),
        ),
    ],
)
def test_peers_are_known_by_what_they_show(
    tmp_path: Path,
    peer: list[dict[str, str]],
    options: dict[str, Any],
    expected: tuple[int, ...] | None,
) -> None:
    with listening(tmp_path, peer=peer) as node, RawPeer(node.address) as connected:
        if expected is None:
            connected.associate(**options)
        else:
            assert tuple(connected.rejection(**options)) == expected


def test_nobody_may_come_in_by_default(tmp_path: Path) -> None:
    with listening(tmp_path, accept_any_peer=False) as node, RawPeer(node.address) as peer:
        assert tuple(peer.rejection()) == (1, 1, 3)


def test_called_titles(tmp_path: Path) -> None:
    with listening(tmp_path, ae_title="NODE", called_ae_titles=["CHEST"]) as node:
        for called in ("NODE", "CHEST"):
            with RawPeer(node.address) as peer:
                peer.associate(called=called)
        with RawPeer(node.address) as peer:
            assert tuple(peer.rejection(called="OTHER")) == (1, 1, 7)


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CertificateFiles]:
    folder = tmp_path_factory.mktemp("certificates")
    return make_test_certificates(folder, ("localhost", "CT1", "CT2"))


def _tls(certificates: dict[str, CertificateFiles], **more: Any) -> dict[str, Any]:
    own = certificates["localhost"]
    ca = own.certificate.with_name("ca.pem")
    return {"certificate": own.certificate, "key": own.key, "ca": ca, **more}


def _client(certificates: dict[str, CertificateFiles], name: str | None = "CT1") -> ssl.SSLContext:
    ca = certificates["localhost"].certificate.with_name("ca.pem")
    context = ssl.create_default_context(cafile=str(ca))
    if name is not None:
        context.load_cert_chain(certificates[name].certificate, certificates[name].key)
    return context


@pytest.fixture
def secure(tmp_path: Path, certificates: dict[str, CertificateFiles]) -> Iterator[Listening]:
    peers = [{"ae_title": "CT1", "certificate_name": "CT1"}]
    patience = Patience(negotiation=3.0)
    with listening(tmp_path, patience, tls=_tls(certificates), peer=peers) as node:
        yield node


def test_tls_with_the_right_certificate(
    secure: Listening, certificates: dict[str, CertificateFiles]
) -> None:
    with RawPeer(secure.address, tls=_client(certificates)) as peer:
        assert peer.socket.version() == "TLSv1.3"  # type: ignore[attr-defined]
        peer.associate(calling="CT1")
        peer.release()
    older = _client(certificates)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with RawPeer(secure.address, tls=older) as peer:
        assert "ECDHE" in peer.socket.cipher()[0]  # type: ignore[attr-defined]
        peer.associate(calling="CT1")


def test_tls_with_another_certificate_or_none(
    secure: Listening, certificates: dict[str, CertificateFiles]
) -> None:
    with RawPeer(secure.address, tls=_client(certificates, "CT2")) as peer:
        assert tuple(peer.rejection(calling="CT1")) == (1, 1, 3)
    with (
        pytest.raises((ssl.SSLError, AssertionError, ConnectionError)),
        RawPeer(secure.address, tls=_client(certificates, None)) as peer,
    ):
        peer.associate(calling="CT1")
    with RawPeer(secure.address) as plain:
        plain.send(associate_rq([(1, CT, (EXPLICIT,))]))
        assert plain.read_pdu()[0] != 2


def _revoked(authority: Authority, certificates: list[CertificateFiles]) -> Path:
    """A list of revoked certificates (RFC 5280 section 5), in date."""
    now = datetime.now(UTC)
    name, key = authority.certificate.subject, authority.key
    builder = x509.CertificateRevocationListBuilder(name, now, now + timedelta(days=1))
    builder = builder.add_extension(x509.CRLNumber(1), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    for files in certificates:
        serial = x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(entry.build())
    path = authority.folder / "revoked.pem"
    crl = builder.sign(key, hashes.SHA256())
    path.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_revoked_certificate_opens_nothing(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "certificates")
    files = {name: authority.issue(name) for name in ("localhost", "CT1", "CT2")}
    tls = _tls(files, crl=_revoked(authority, [files["CT2"]]))
    with listening(tmp_path, Patience(negotiation=3.0), tls=tls) as node:
        with RawPeer(node.address, tls=_client(files, "CT1")) as peer:
            peer.associate()
            peer.release()
        with (
            pytest.raises((ssl.SSLError, AssertionError, ConnectionError)),
            RawPeer(node.address, tls=_client(files, "CT2")) as peer,
        ):
            peer.associate()
    tls["crl"] = tls["ca"]
    with pytest.raises(ConfigurationError, match="no list"), listening(tmp_path / "b", tls=tls):
        pass


def test_tls_below_1_2_is_refused(
    secure: Listening, certificates: dict[str, CertificateFiles]
) -> None:
    context = _client(certificates)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        RawPeer(secure.address, tls=context)


def test_silent_tls_clients_stop_nobody(
    secure: Listening, certificates: dict[str, CertificateFiles]
) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(secure.address)) for _ in range(40)]
        with RawPeer(secure.address, tls=_client(certificates)) as peer:
            peer.associate(calling="CT1")
            peer.release()
        silent[0].settimeout(10)
        assert silent[0].recv(100) == b""


@pytest.mark.peer("dcmtk")
def test_dcmtk_over_tls(secure: Listening, certificates: dict[str, CertificateFiles]) -> None:
    own = certificates["CT1"]
    ca = own.certificate.with_name("ca.pem")
    host, port = secure.address
    command = ["echoscu", "-aet", "CT1", "+tls", str(own.key), str(own.certificate)]
    command += ["+cf", str(ca), host, str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_certificates_that_cannot_be_used_are_told(
    tmp_path: Path, certificates: dict[str, CertificateFiles]
) -> None:
    for wrong, word in (
        ({"key": tmp_path / "none"}, "no such file"),
        ({"key": certificates["CT1"].key}, "together"),
        ({"ca": certificates["CT1"].key}, "receive.tls.ca"),
    ):
        with (
            pytest.raises(ConfigurationError, match=word),
            listening(tmp_path / word, tls=_tls(certificates, **wrong)),
        ):
            pass
    with (
        pytest.raises(ConfigurationError, match="certificate_name"),
        listening(tmp_path, peer=[{"ae_title": "A", "certificate_name": "A"}]),
    ):
        pass


def test_test_certificates_are_never_overwritten(tmp_path: Path) -> None:
    files = make_test_certificates(tmp_path, ("A",))
    assert files["A"].key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigurationError, match="exists"):
        make_test_certificates(tmp_path, ("B",))
    with pytest.raises(ConfigurationError, match="name"):
        make_test_certificates(tmp_path / "other", ("../A",))
