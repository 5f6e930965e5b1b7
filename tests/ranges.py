"""A web server of one folder that answers ranges, as object stores do: python ranges.py FOLDER prints its port, then
the number of bytes of each answer. A process of its own, because GDAL waits for it without letting other threads run.
"""

import re
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Ranges(SimpleHTTPRequestHandler):
    """Parts of files on request; of a file in busy/ every other request is refused for the moment."""

    asked = 0

    def send_head(self) -> Any:
        if self.path.startswith("/busy/"):
            Ranges.asked += 1
            if Ranges.asked % 2:
                self.send_error(503)
                return None
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not asked or not path.is_file():
            return super().send_head()
        content = path.read_bytes()
        first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(content[first : last + 1])
        sys.stdout.write(f"{last - first + 1}\n")
        sys.stdout.flush()
        return None

    def log_message(self, *_: Any) -> None:
        """Quiet."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=sys.argv[1]))
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
