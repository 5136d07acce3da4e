"""A registry of images on loopback, from which the Docker daemon pulls; it has what it is given.

Source: https://distribution.github.io/distribution/spec/api/, of which a pull asks for little.
"""

import gzip
import hashlib
import json
import subprocess
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import TracebackType
from typing import Any

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class ImageRegistry:
    """Serves images under `<host>/<name>:<tag>`."""

    def __init__(self) -> None:
        self.num_requests = 0
        self._blobs: dict[str, tuple[str, bytes]] = {}
        self._tags: dict[str, str] = {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.num_requests += 1
                reference = self.path.rpartition("/")[2]
                digest = registry._tags.get(self.path, reference)
                kind, body = registry._blobs.get(digest, ("application/json", b"{}"))
                self.send_response(200 if self.path == "/v2/" or digest in registry._blobs else 404)
                for name, value in (
                    ("Content-Type", kind),
                    ("Content-Length", str(len(body))),
                    ("Docker-Content-Digest", digest),
                ):
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def put(self, name: str, tag: str, image: str) -> str:
        """Serve a local image under a name and tag, instead of an older one; return what to pull."""
        saved = subprocess.run(["docker", "save", image], capture_output=True, check=True, timeout=120).stdout
        with tarfile.open(fileobj=BytesIO(saved)) as archive:

            def read(path: str) -> bytes:
                file = archive.extractfile(path)
                assert file is not None
                return file.read()

            (listed,) = json.loads(read("manifest.json"))
            config = self._keep(_CONFIG, read(listed["Config"]))
            layers = [self._keep(_LAYER, gzip.compress(read(path))) for path in listed["Layers"]]
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
        kept = self._keep(_MANIFEST, json.dumps(manifest).encode())
        self._tags[f"/v2/{name}/manifests/{tag}"] = kept["digest"]
        return f"{self.host}/{name}:{tag}"

    def __enter__(self) -> "ImageRegistry":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _keep(self, kind: str, content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._blobs[digest] = (kind, content)
        return {"mediaType": kind, "size": len(content), "digest": digest}
