"""A hub on this machine: serves folders as revisions of models, by the requests that `huggingface_hub` makes."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


@contextmanager
def hub(models: Path):
    """Serve `models`/OWNER/NAME/REVISION/FILE; gives its address and the list of files that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            api, parts = False, urlsplit(self.path).path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                api, parts = True, parts[2:]
            owner, name, what, revision, *rest = parts
            by_commit = {
                hashlib.sha1(path.name.encode()).hexdigest(): path for path in (models / owner / name).glob("*")
            }
            by_name = {path.name: commit for commit, path in by_commit.items()}
            if not by_commit:
                return self.answer(404, error="RepoNotFound")
            if what == "revision":
                if revision not in by_name:
                    return self.answer(404, error="RevisionNotFound")
                siblings = [{"rfilename": file.name} for file in by_commit[by_name[revision]].iterdir()]
                return self.answer(
                    200, json.dumps({"id": f"{owner}/{name}", "sha": by_name[revision], "siblings": siblings})
                )
            commit = by_name.get(revision, revision)
            files = sorted(by_commit[commit].iterdir())
            if api:
                tree = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": self.tag(file)} for file in files]  # fmt: skip
                return self.answer(200, json.dumps(tree))
            file = by_commit[commit] / rest[0]
            if self.command == "GET":
                asked.append(file.name)
            return self.answer(200, file.read_bytes(), commit=commit, tag=self.tag(file))

        do_HEAD = do_GET

        def tag(self, file):
            return hashlib.sha1(file.read_bytes()).hexdigest()

        def answer(self, status, body=b"", *, error=None, commit=None, tag=None):
            body = body.encode() if isinstance(body, str) else body
            self.send_response(status)
            headers = {"X-Error-Code": error, "X-Repo-Commit": commit, "ETag": tag and f'"{tag}"'}
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                if value is not None:
                    self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
