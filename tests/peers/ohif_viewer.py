"""OHIF in headless Chromium over an Orthanc's DICOMweb: what a radiologist's browser makes of our results.

OHIF's built application and playwright-core come from npm into a cache outside the repository, once. A small
HTTP server gives both the application and the DICOMweb the same origin.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OHIF, PLAYWRIGHT = "@ohif/app@3.13.2", "playwright-core@1.65.1"
SCRIPT = Path(__file__).parent / "ohif" / "view.mjs"
PLUGINS = Path("/usr/share/orthanc/plugins")
CONFIG = """
window.config = {
  routerBasename: null, extensions: [], modes: [], showStudyList: true, maxNumberOfWebWorkers: 2,
  showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false,
  strictZSpacingForVolumeViewport: true,
  investigationalUseDialog: { option: 'never' },
  defaultDataSourceName: 'orthanc',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'orthanc',
    configuration: {
      friendlyName: 'Orthanc', name: 'orthanc', qidoRoot: '/dicom-web', wadoRoot: '/dicom-web',
      wadoUriRoot: '/wado', qidoSupportsIncludeField: true, imageRendering: 'wadors',
      thumbnailRendering: 'wadors', enableStudyLazyLoad: true, supportsFuzzyMatching: false,
      supportsWildcard: true, singlepart: 'bulkdata,video', bulkDataURI: { enabled: true },
    },
  }],
};
"""


def cache() -> Path:
    """Where the two packages are kept."""
    home = os.environ.get("DICOM_NODE_OHIF_CACHE")
    return Path(home) if home else Path.home() / ".cache" / "dicom-node" / "ohif-3.13.2"


def missing() -> str | None:
    """Why OHIF cannot be tried here; installs it from npm where that is possible."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if chromium() is None:
        return "Chromium is not installed"
    if not (PLUGINS / "libOrthancDicomWeb.so").exists():
        return "Orthanc's DICOMweb plug-in is not installed"
    if (cache() / "app" / "dist" / "index.html").exists():
        return None
    return _install()


def dicom_web() -> dict[str, Any]:
    """What an Orthanc needs to speak DICOMweb."""
    plugin = str(PLUGINS / "libOrthancDicomWeb.so")
    return {"Plugins": [plugin], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


def _install() -> str | None:
    home = cache()
    home.mkdir(parents=True, exist_ok=True)
    for package, folder in ((OHIF, "app"), (PLAYWRIGHT, "playwright-core")):
        packed = subprocess.run(
            ["npm", "pack", package, "--silent"],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=280,
        )
        if packed.returncode:
            return f"npm has no {package}: {packed.stderr.strip()[-200:]}"
        archive = home / packed.stdout.split()[-1]
        subprocess.run(["tar", "xzf", archive.name], cwd=home, check=True)
        shutil.rmtree(home / folder, ignore_errors=True)
        (home / "package").rename(home / folder)
        archive.unlink()
    return None


@dataclass
class Viewer:
    """OHIF at an address."""

    url: str

    def show(
        self, study_uid: str, series: Sequence[str], expected: int, screenshot: str = ""
    ) -> dict[str, Any]:
        """Open a study, show the given series one after the other, and tell what OHIF holds.

        Args:
            series: a modality, or a part of a series description.
            expected: how many series the study has.
            screenshot: a path with `{}` for the modality; empty for none.
        """
        task = {
            "url": f"{self.url}/viewer?StudyInstanceUIDs={study_uid}",
            "series": list(series),
            "expected": expected,
            "screenshot": screenshot,
            "chromium": chromium(),
            "playwright": str(cache() / "playwright-core"),
            "timeout": 45_000,
        }
        done = subprocess.run(
            ["node", str(SCRIPT), json.dumps(task)], capture_output=True, text=True, timeout=200
        )
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


@contextmanager
def ohif(orthanc_url: str, config: str = CONFIG) -> Iterator[Viewer]:
    """Serve OHIF, configured so, with this Orthanc behind it, for the length of the block."""
    dist = cache() / "app" / "dist"

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(dist))

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path.startswith(("/dicom-web", "/wado")):
                return self._proxy()
            if path == "/app-config.js":
                return self._answer(200, "text/javascript", config.encode())
            if not (dist / path.lstrip("/")).is_file():
                self.path = "/index.html"
            return super().do_GET()

        def _proxy(self) -> None:
            request = urllib.request.Request(orthanc_url + self.path)
            if accept := self.headers.get("Accept"):
                request.add_header("Accept", accept)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    self._answer(200, answer.headers.get("Content-Type", ""), answer.read())
            except urllib.error.HTTPError as error:
                self._answer(error.code, "text/plain", error.read())

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def end_headers(self) -> None:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, *args: object) -> None:
            del args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Viewer(f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
