"""The address where a cloud's machines ask about themselves, as AWS answers at it.

Runs on a test host: `python metadata.py FOLDER`; gives notice once there is a file called `notice`
in the folder.
"""

import http.server
import sys
from pathlib import Path

_LATEST = "/latest/meta-data/"


class Metadata(http.server.BaseHTTPRequestHandler):
    """Version 2, which wants a token first."""

    folder: Path

    def do_PUT(self) -> None:
        asked = self.path == "/latest/api/token"
        self._answer("a-token" if asked and self._has("ttl-seconds") else None)

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != "a-token":
            self._answer(None)
        elif self.path == _LATEST + "instance-life-cycle":
            self._answer("spot")
        elif self.path == _LATEST + "spot/instance-action":
            is_leaving = (self.folder / "notice").exists()
            self._answer('{"action": "terminate"}' if is_leaving else None)
        else:
            self._answer(None)

    def _has(self, end: str) -> bool:
        return any(name.lower().endswith(end) for name in self.headers)

    def _answer(self, text: str | None) -> None:
        self.send_response(200 if text else 404)
        self.end_headers()
        self.wfile.write((text or "").encode())


if __name__ == "__main__":
    Metadata.folder = Path(sys.argv[1])
    http.server.ThreadingHTTPServer(("127.0.0.1", 8169), Metadata).serve_forever()
