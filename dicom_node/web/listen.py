"""Where the page listens, and whether it may.

What comes in: settings. What goes out: a bound socket, or a `ConfigurationError`. It loads nothing else of
the page, so that the supervisor can bind before any child starts.
"""

import socket

from dicom_node.errors import ConfigurationError
from dicom_node.settings import WebSettings

LOOPBACK = ("127.0.0.1", "::1", "localhost")
BACKLOG = 128


def check_web(web: WebSettings) -> None:
    """What can be known before the page is served.

    Raises:
        ConfigurationError: passwords would cross the network in the clear.
    """
    if (web.certificate is None) != (web.private_key is None):
        raise ConfigurationError("web.certificate and web.private_key belong together")
    safe = web.host in LOOPBACK or web.certificate is not None or web.plain_http
    if web.enabled and not safe:
        raise ConfigurationError(
            f"web.host: {web.host} is not loopback; set web.certificate and web.private_key, "
            "or web.plain_http where a proxy in front ends TLS"
        )


def bind(web: WebSettings) -> socket.socket:
    """A socket that listens where the page is to be.

    Raises:
        ConfigurationError: the address is taken, or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((web.host, web.port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"web.port: cannot listen on {web.host}:{web.port} ({error.strerror})"
        ) from error
    listener.listen(BACKLOG)
    return listener


def url_of(web: WebSettings, listener: socket.socket) -> str:
    """The address that a browser on this machine opens."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if web.certificate else "http"
    host = "127.0.0.1" if host == "0.0.0.0" else "[::1]" if host == "::" else host
    return f"{scheme}://{f'[{host}]' if ':' in host and '[' not in host else host}:{port}/"
