"""Serving the application on a socket until told to stop."""

import logging
import socket
import threading

import uvicorn

from dicom_node.settings import Settings
from dicom_node.web import passwords
from dicom_node.web.app import make_app
from dicom_node.web.login import FIRST_NAME, FIRST_PASSWORD_FILE
from dicom_node.web.parts import Parts

STOP_SECONDS = 5


def make_first_account(parts: Parts) -> None:
    """Make the admin where there is no account; its password lies in a file that only we may read."""
    if parts.accounts.all():
        return
    file, given = parts.settings.data_dir / FIRST_PASSWORD_FILE, passwords.made_up()
    hashed = passwords.hash_password(given)
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(given + "\n")
    if not parts.accounts.add_first(FIRST_NAME, hashed):
        file.unlink()  # another process was quicker


def serve_page(
    parts: Parts, settings: Settings, listener: socket.socket, stop: threading.Event
) -> None:
    """Answer requests on `listener` until `stop` is set."""
    make_first_account(parts)
    web = settings.web
    app = make_app(parts)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # addresses hold study UIDs
        server_header=False,
        proxy_headers=web.plain_http,
        forwarded_allow_ips="*" if web.plain_http else None,
        ssl_certfile=str(web.certificate) if web.certificate else None,
        ssl_keyfile=str(web.private_key) if web.private_key else None,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=STOP_SECONDS,
        limit_concurrency=256,
        h11_max_incomplete_event_size=32 * 1024,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while thread.is_alive() and not stop.wait(0.2):
        pass
    server.should_exit = True
    thread.join(STOP_SECONDS + 2.0)
    app.state.studio.close()
