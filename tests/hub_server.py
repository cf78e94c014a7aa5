"""A small Hub on loopback that speaks the protocol of huggingface_hub 2.4 with `HF_HUB_DISABLE_XET=1`.

Requires only the standard library and PyYAML. Repositories live in memory, commits are immutable, every byte that
arrives is hashed, and what the real Hub rejects is rejected; each rule names the place in huggingface_hub's source
(paths inside the installed package) that it follows. A second port plays the storage host: pre-signed URLs, no tokens.
"""

import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from hub_handlers import HubHandler, Seen, StorageHandler, serve
from hub_rules import GITATTRIBUTES, Blob, Repo


class HubServer:
    """A Hub on `127.0.0.1` with one user, a write token `hf_write` and a read token `hf_read`.

    Args:
        multipart_size: an object larger than this is uploaded in parts of this size (`lfs.py: _upload_multi_part`).

    Attributes:
        seen: every request that was answered, oldest first.
        drops: fault switch: how many more requests of a kind ("upload" or "commit") lose their connection half-way.

    Example:
        >>> with HubServer() as hub:
        ...     hub.run("import huggingface_hub as h; print(h.whoami()['name'])", home=tmp_path).stdout
        'tester\\n'
    """

    def __init__(self, multipart_size: int = 50_000_000) -> None:
        self.multipart_size = multipart_size
        self.repos: dict[str, Repo] = {}
        self.seen: list[Seen] = []
        self.drops: dict[str, int] = {"upload": 0, "commit": 0}
        self.lock = threading.RLock()
        self.signatures: dict[str, tuple[str, str]] = {}
        self.parts: dict[tuple[str, str], dict[int, bytes]] = {}
        self._servers = [serve(self, HubHandler), serve(self, StorageHandler)]
        self.endpoint, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> "HubServer":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def environment(self, home: Path, token: str | None = "hf_write") -> dict[str, str]:
        """Environment of a client process: this Hub as the only one, and a cache of its own in `home`."""
        unset = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HF_MODULES_CACHE")
        env = {k: v for k, v in os.environ.items() if k not in unset and not k.lower().endswith("_proxy")}
        env |= {"HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
        return env if token is None else env | {"HF_TOKEN": token}

    def run(
        self, code: str, home: Path, token: str | None = "hf_write", timeout: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Runs Python code in a client process; its output is in the result, whatever the exit status."""
        command = [sys.executable, "-c", code]
        env = self.environment(home, token)
        # A question that nobody answers is an error, not a wait.
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        return subprocess.run(command, env=env, cwd=home, timeout=timeout, **options)

    def add_repo(self, repo_id: str, private: bool = False) -> None:
        """A new repository, as the Hub makes one: with a commit that holds .gitattributes."""
        self.repos[repo_id] = Repo(repo_id, private)
        self.repos[repo_id].commit("main", "initial commit", {".gitattributes": Blob(GITATTRIBUTES, lfs=False)})

    def uploads(self) -> list[Seen]:
        """The uploads of large objects that arrived whole."""
        return [request for request in self.seen if request.method == "PUT" and request.status == 200]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What a revision of a repository holds: path -> content."""
        return {path: blob.content for path, blob in self.repos[repo_id].resolve(revision).files.items()}

    def drop(self, kind: str) -> bool:
        with self.lock:
            if not self.drops[kind]:
                return False
            self.drops[kind] -= 1
            return True

    def sign(self, repo_id: str, oid: str) -> str:
        signature = secrets.token_urlsafe(8)
        self.signatures[signature] = (repo_id, oid)
        return f"{self.storage}/{oid}?signature={signature}"
