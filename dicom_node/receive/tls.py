"""TLS on the listener: the BCP 195 profiles of PS3.15 B.12.

What comes in: PEM files. What goes out: a server context that speaks TLS 1.2 with forward secrecy and
authenticated encryption, or 1.3, and nothing older.
"""

import ssl
from pathlib import Path

from dicom_node.errors import ConfigurationError
from dicom_node.settings import TlsSettings

CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""For TLS 1.2 (RFC 9325 section 4.2); those of TLS 1.3 are all fit."""


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
    if settings.crl is not None:
        _check_revocation(context, settings.crl)
    return context


def _check_revocation(context: ssl.SSLContext, crl: Path) -> None:
    lists = context.cert_store_stats()["crl"]
    try:
        context.load_verify_locations(crl)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"receive.tls.crl: {crl} cannot be used ({error})") from error
    if context.cert_store_stats()["crl"] == lists:
        raise ConfigurationError(f"receive.tls.crl: {crl} holds no list of revoked certificates")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _no_password() -> str:
    raise ValueError("the key must not be encrypted: nobody is there to type its password")
