"""TLS on the listener: the BCP 195 profiles of PS3.15 B.12, and certificates to try it with.

What comes in: PEM files. What goes out: a server context that speaks TLS 1.2 with forward secrecy and
authenticated encryption, or 1.3, and nothing older; and, for a test bench, an authority of its own with
certificates for as many names as are wanted. Private keys are written for their owner alone.
"""

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dicom_node.errors import ConfigurationError
from dicom_node.settings import TlsSettings

CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""For TLS 1.2 (RFC 9325 section 4.2); those of TLS 1.3 are all fit."""
_VALID_DAYS = 825


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """The context for connections that come in.

    Raises:
        ConfigurationError: a file is missing, or certificate and key do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # every connection proves itself anew
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    required = settings.require_client_certificate
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    for key, path in (("certificate", settings.certificate), ("key", settings.key)):
        if not path.is_file():
            raise ConfigurationError(f"receive.tls.{key}: {path}: no such file")
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=_no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise ConfigurationError(
            f"receive.tls: certificate and key cannot be used together ({error})"
        ) from error
    try:
        context.load_verify_locations(settings.ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(
            f"receive.tls.ca: {settings.ca} cannot be used ({error})"
        ) from error
    return context


def _no_password() -> str:
    raise ValueError("the key must not be encrypted: nobody is there to type its password")


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a certificate and its key were written."""

    certificate: Path
    key: Path


def make_test_certificates(folder: Path, names: tuple[str, ...]) -> dict[str, CertificateFiles]:
    """Make an authority and a certificate for each name, for trying TLS. Not for a hospital's network.

    Args:
        folder: gets `ca.pem`, and `NAME.pem` and `NAME.key` for each name. The authority's own key is
            never written: nobody can sign more with it later.
        names: host names, addresses or AE titles; each becomes a common name and, where it may be one,
            a DNS name or address, so that it serves as server and as client.

    Raises:
        ConfigurationError: a name cannot be one, or a file exists already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("dicom-node test authority")
    usage = _key_usage(signs_certificates=True)
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    _write(folder / "ca.pem", ca.public_bytes(serialization.Encoding.PEM), 0o644)
    return {name: _one(folder, name, ca, ca_key) for name in names}


def _one(
    folder: Path, name: str, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey
) -> CertificateFiles:
    if not name or len(name) > 64 or not name.isascii() or {"/", "\0"} & set(name) or name == "ca":
        raise ConfigurationError(f"{name!r} cannot be the name of a certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(_name(name), ca.subject, key.public_key(), ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName([_other_name(name)]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    files = CertificateFiles(folder / f"{name}.pem", folder / f"{name}.key")
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(files.certificate, certificate.public_bytes(pem), 0o644)
    _write(files.key, plain, 0o600)
    return files


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _other_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise ConfigurationError(f"{path} exists already; it is not overwritten") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
