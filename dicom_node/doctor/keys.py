"""Keys, certificates and secrets on the disk: who may read them, and how long they hold."""

import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from dicom_node.doctor.finding import Finding, failed, passed, skipped, warning
from dicom_node.settings import Settings

SOON = timedelta(days=30)
FIRST_PASSWORD_FILE = "first-password"
OTHERS = stat.S_IRWXO
GROUP_WRITES = stat.S_IWGRP


def secrets(settings: Settings) -> Iterator[Finding]:
    """Whether anybody but us may read what must stay ours."""
    found = _private_files(settings)
    for name, path in found.items():
        id = f"key.{name}"
        try:
            mode = path.stat().st_mode
        except OSError as error:
            yield failed(id, f"{path}: {error.strerror}", f"mend {name} in the configuration")
            continue
        if mode & (OTHERS | GROUP_WRITES):
            yield failed(
                id,
                f"{path} may be read or changed by others (mode {stat.S_IMODE(mode):03o})",
                f"chmod 600 {path}",
            )
        else:
            yield passed(id, f"{path}: mode {stat.S_IMODE(mode):03o}")
    if not found:
        yield skipped("key", "no key or secret is configured")
    if settings.data_dir.is_dir():
        mode = settings.data_dir.stat().st_mode
        if mode & OTHERS:
            yield warning(
                "data_dir.mode",
                f"data_dir may be entered by every user of this machine (mode {stat.S_IMODE(mode):03o})",
                f"chmod 700 {settings.data_dir}",
            )
        else:
            yield passed("data_dir.mode", f"mode {stat.S_IMODE(mode):03o}")
    if (settings.data_dir / FIRST_PASSWORD_FILE).exists():
        yield warning(
            "page.first_password",
            "the first admin has not yet chosen a password",
            f"log in with the one in {settings.data_dir / FIRST_PASSWORD_FILE} and change it",
        )


def certificates(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Whether each certificate holds, for how long, and fits its key."""
    pairs = _certificates(settings)
    if not pairs:
        yield skipped("certificate", "no certificate is configured")
    for name, (certificate, key) in pairs.items():
        yield _certificate(f"certificate.{name}", certificate, key, now)


def _certificate(id: str, path: Path, key: Path | None, now: datetime) -> Finding:
    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
        fits = key is None or _public(key) == _encoded(chain[0].public_key())
    except (OSError, ValueError, TypeError) as error:
        told = error.strerror if isinstance(error, OSError) else "no PEM that can be read"
        return failed(id, f"{path}: {told}", "a PEM file without a password")
    first = min(chain, key=lambda one: one.not_valid_after_utc)
    until = f"{first.not_valid_after_utc:%Y-%m-%d}"
    if not fits:
        return failed(id, f"{path} does not belong to the key beside it", "name the right pair")
    if first.not_valid_after_utc <= now:
        return failed(id, f"{path} ended on {until}: TLS peers refuse it", "renew it, then reload")
    if any(one.not_valid_before_utc > now for one in chain):
        return failed(id, f"{path} does not hold yet", "look at this machine's clock")
    if first.not_valid_after_utc <= now + SOON:
        days = (first.not_valid_after_utc - now).days
        return warning(id, f"{path} ends in {days} days, on {until}", "renew it, then reload")
    return passed(id, f"holds until {until}")


def _public(key: Path) -> bytes:
    loaded = serialization.load_pem_private_key(key.read_bytes(), password=None)
    return _encoded(loaded.public_key())


def _encoded(key: object) -> bytes:
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.DER, spki)  # type: ignore[attr-defined, no-any-return]


def _private_files(settings: Settings) -> dict[str, Path]:
    found = {
        "web.private_key": settings.web.private_key,
        "audit.private_key": settings.audit.private_key,
    }
    if settings.receive.tls is not None:
        found["receive.tls.key"] = settings.receive.tls.key
    for name, destination in settings.destination.items():
        found[f"destination.{name}.authorization_file"] = destination.authorization_file
    return {name: path for name, path in found.items() if path is not None}


def _certificates(settings: Settings) -> dict[str, tuple[Path, Path | None]]:
    found: dict[str, tuple[Path | None, Path | None]] = {
        "web": (settings.web.certificate, settings.web.private_key),
        "audit": (settings.audit.certificate, settings.audit.private_key),
        "audit.ca": (settings.audit.ca_file, None),
    }
    if (tls := settings.receive.tls) is not None:
        found |= {"receive.tls": (tls.certificate, tls.key), "receive.tls.ca": (tls.ca, None)}
    return {name: (path, key) for name, (path, key) in found.items() if path is not None}
