"""Certificates to try TLS with: an authority of its own, and a certificate for each name.

What comes in: a folder and names. What goes out: PEM files. Not for a hospital's network. Private keys are
written for their owner alone, and that of the authority not at all. Apart from `tls`, so that a receiver
does not load what it never needs.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dicom_node.errors import ConfigurationError

_VALID_DAYS = 825


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
    authority = Authority.make(folder)
    return {name: authority.issue(name) for name in names}


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority of a folder, and its key, as long as this object lives."""

    folder: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, folder: Path) -> Self:
        """A new one, its certificate in `ca.pem`."""
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("dicom-node test authority")
        certificate = (
            _builder(name, name, key.public_key(), key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        return cls(folder, certificate, key)

    def issue(self, name: str) -> CertificateFiles:
        """Sign a certificate with this name."""
        return _one(self.folder, name, self.certificate, self.key)


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
