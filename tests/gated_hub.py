"""A hub on this machine that asks for a token: what a plan and a worker see of a gated model."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40
GOOD_TOKEN = "hf_may_read"
CONFIG = json.dumps(
    {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 256,
    }
).encode()


class Handler(BaseHTTPRequestHandler):
    """`open/...` is for everyone; `gated/...` needs a token that may read."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        said = self.headers.get("Authorization")
        self.server.authorizations.append(said)
        closed = "/gated/" in self.path
        if self.path.startswith("/api/") and not self.path.endswith("/auth-check"):
            name = "/".join(self.path.split("/")[3:5])
            self.answer(200, json.dumps({"id": name, "sha": COMMIT, "gated": "manual" if closed else False}).encode())
        elif closed and said != f"Bearer {GOOD_TOKEN}":
            self.answer(
                403 if said else 401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}
            )
        elif self.path.endswith("/auth-check"):
            self.answer(200, b"{}")
        elif self.path.endswith("/config.json"):
            etag = hashlib.sha1(CONFIG).hexdigest()
            self.answer(200, CONFIG, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def gated_hub():
    """(address, what each request said in its Authorization header) while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.authorizations = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.authorizations
    finally:
        server.shutdown()
        server.server_close()
