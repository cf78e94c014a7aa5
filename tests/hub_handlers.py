"""What the Hub of `hub_server.py` answers, request by request: the Hub itself and its storage host.

Requires only the standard library and PyYAML. Each answer names the place in huggingface_hub's source (paths inside the
installed package) that it follows.
"""

import base64
import dataclasses
import hashlib
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml
from hub_rules import (
    Commit,
    HubError,
    Repo,
    apply,
    check_card,
    check_repo_id,
    entries,
    entry_of,
    lfs_of,
    upload_mode,
)

if TYPE_CHECKING:
    from hub_server import HubServer

USER = "tester"
TOKENS = {"hf_write": "write", "hf_read": "read"}
MAX_BODY = 1 << 30


@dataclasses.dataclass(frozen=True)
class Seen:
    """One request, as the tests read it."""

    method: str
    path: str
    status: int
    received: int
    authorized: bool


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: "HubServer"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is part of the tests; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def serve(hub: "HubServer", handler: type[BaseHTTPRequestHandler]) -> _Server:
    server = _Server(("127.0.0.1", 0), handler)
    server.hub = hub
    return server


class _Handler(BaseHTTPRequestHandler):
    """Reading a request, dispatching it by path, answering it."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _Server
    routes: ClassVar[list[tuple[str, str, str]]]

    def log_message(self, format: str, *args: Any) -> None:
        pass  # requests are kept in `HubServer.seen`

    def read_body(self, drop: str | None = None) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") or length > MAX_BODY:
            # Storage hosts want the length first; `_commit_api.py: as_file` gives files of known length for that.
            raise HubError(411, "Content-Length is required and must be below 1 GiB")
        if drop is not None and self.server.hub.drop(drop):
            self.rfile.read(length // 2)
            self.connection.close()
            raise ConnectionAbortedError("dropped by the fault switch")
        body = self.rfile.read(length)
        if len(body) != length:
            raise ConnectionAbortedError("the client went away")
        return body

    def read_json(self) -> dict[str, Any]:
        try:
            return json.loads(self.read_body())
        except json.JSONDecodeError as error:
            raise HubError(400, f"Invalid JSON: {error}") from error

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        # Noted before it is sent: a test may look as soon as the client has its answer.
        received = int(self.headers.get("Content-Length") or 0)
        authorized = "Authorization" in self.headers
        self.server.hub.seen.append(Seen(self.command, urlsplit(self.path).path, status, received, authorized))
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def answer_file(self, content: bytes, headers: dict[str, str]) -> None:
        """A file, or the range of it that was asked for (`file_download.py: http_get` resumes with `bytes=N-`)."""
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.answer(200, content, headers)
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if start > end:  # `utils/_http.py: hf_raise_for_status` shows the Content-Range of a 416
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self.answer(206, content[start : end + 1], headers)

    def handle_request(self) -> None:
        path = urlsplit(self.path).path
        self.query = parse_qs(urlsplit(self.path).query)
        try:
            for method, pattern, name in self.routes:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split("|"):
                    return getattr(self, name)(**{key: unquote(value) for key, value in match.groupdict("").items()})
            raise HubError(404, f"This Hub does not speak {self.command} {path}")
        except HubError as error:
            self.close_connection = True  # a body may be left unread
            self.answer_json(error.body, error.status, {"Connection": "close", **error.headers})
        except ConnectionError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = handle_request


class HubHandler(_Handler):
    """The Hub itself."""

    _repo: ClassVar[str] = r"/api/models/(?P<repo_id>[^/]+/[^/]+)"
    routes: ClassVar = [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("GET", r"/api/agent-harnesses", "harnesses"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", _repo + r"/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", _repo + r"/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", _repo + r"/branch/(?P<name>[^/]+)", "branch"),
        ("POST", _repo + r"/tag/(?P<revision>[^/]+)", "tag"),
        ("GET", _repo + r"/refs", "refs"),
        ("GET", _repo + r"/commits/(?P<revision>[^/]+)", "commits"),
        ("GET", _repo + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
        ("POST", _repo + r"/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("GET", _repo + r"(?:/revision/(?P<revision>[^/]+))?", "info"),
        ("POST", r"/(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("POST", r"/(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/verify", "lfs_verify"),
        ("POST", r"/(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/complete", "lfs_complete"),
        ("HEAD|GET", r"/api/resolve-cache/models/(?P<repo_id>[^/]+/[^/]+)/(?P<oid>\w{40})/(?P<path>.+)", "cached"),
        ("HEAD|GET", r"/(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ]

    def role(self) -> str | None:
        """One of "write", "read", and None for a request without a token (`utils/_headers.py: build_hf_headers`)."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        role = TOKENS.get(header.removeprefix("Bearer "))
        if role is None:
            # `utils/_http.py: hf_raise_for_status` tells this exact message from a missing repository.
            raise HubError(401, "Invalid credentials in Authorization header")
        return role

    def repo(self, repo_id: str, write: bool = False) -> Repo:
        role = self.role()
        repo = self.server.hub.repos.get(repo_id)
        if repo is None or (repo.private and role is None):
            # `utils/_http.py: hf_raise_for_status`: 401 without a token, 404 with one, both RepoNotFound.
            raise HubError(401 if role is None else 404, "Repository not found", "RepoNotFound")
        if write and role is None:
            raise HubError(401, "Invalid username or password.")
        if write and (role != "write" or not repo_id.startswith(f"{USER}/")):
            # `utils/_http.py: hf_raise_for_status`, the 403 branch: "Make sure your token has the correct permissions."
            raise HubError(403, "Forbidden: you need write access to this repository")
        return repo

    def whoami(self) -> None:
        role = self.role()
        if role is None:  # `hf_api.py: _inner_whoami` turns this into "Invalid user token."
            raise HubError(401, "Invalid username or password.")
        token = {"type": "access_token", "accessToken": {"displayName": role, "role": role}}
        self.answer_json({"type": "user", "id": "1", "name": USER, "fullname": USER, "orgs": [], "auth": token})

    def harnesses(self) -> None:
        """`utils/_detect_agent.py: _fetch_registry`, which every client asks once; an empty one is its own default."""
        self.answer_json({"standardEnvVars": [], "harnesses": {}})

    def create(self) -> None:
        asked = self.read_json()
        role = self.role()
        if role is None:
            raise HubError(401, "Invalid username or password.")
        repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
        check_repo_id(repo_id)
        if asked.get("type", "model") != "model":
            raise HubError(400, "This Hub holds models only")
        url = {"url": f"{self.server.hub.endpoint}/{repo_id}"}
        if role != "write" or not repo_id.startswith(f"{USER}/"):
            # `hf_api.py: create_repo`: "403 -> if no write permission on the namespace"
            raise HubError(403, f"You don't have the rights to create a model as {repo_id}")
        with self.server.hub.lock:
            if repo_id in self.server.hub.repos:
                # ibid.: 409 is accepted with exist_ok=True, and its body still carries the url.
                raise HubError(409, "You already created this model repo", body=url)
            self.server.hub.add_repo(repo_id, private=asked.get("visibility") == "private")
        self.answer_json({**url, "name": repo_id})

    def validate_yaml(self) -> None:
        errors, warnings = check_card(self.read_json()["content"])
        report = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
        if errors:  # `hf_api.py: _validate_yaml` reads the list from the body of a 400
            raise HubError(400, "Invalid metadata in README.md", body=report)
        self.answer_json(report)

    def preupload(self, repo_id: str, revision: str) -> None:
        body = self.read_json()
        repo = self.repo(repo_id, write=True)
        files = repo.resolve(revision).files
        if "gitIgnore" in body:
            raise HubError(400, "This Hub does not read .gitignore files")
        answers = []
        for file in body["files"]:
            mode = upload_mode(files, file["path"], file["size"], base64.b64decode(file["sample"]))
            # `_commit_api.py: CommitOperationAdd._local_oid`: sha256 of a large file, git's sha1 of a regular one.
            there = files.get(file["path"])
            oid = None if there is None else there.sha256 if there.lfs else there.git_oid
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer_json({"files": answers})

    def lfs_batch(self, repo_id: str) -> None:
        body = self.read_json()
        repo = self.repo(repo_id, write=True)
        if body.get("operation") != "upload" or body.get("hash_algo") != "sha256":
            raise HubError(422, "operation must be upload and hash_algo sha256")
        hub = self.server.hub
        answers: list[dict[str, Any]] = []
        for asked in body["objects"]:
            oid, size = asked["oid"], asked["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            answers.append(answer)
            if not re.fullmatch(r"[0-9a-f]{64}", oid) or not 0 < size <= MAX_BODY:
                # `lfs.py: _validate_batch_error` wants a code and a message per object.
                answer["error"] = {"code": 422, "message": "An object needs a sha256 and 1 byte to 1 GiB"}
                continue
            if oid in repo.objects:
                continue  # `lfs.py: lfs_upload`, step 0: no actions means that it is there already
            verify = {"href": f"{hub.endpoint}/{repo_id}.git/info/lfs/objects/verify"}
            if size <= hub.multipart_size or "multipart" not in body["transfers"]:
                answer["actions"] = {"upload": {"href": hub.sign(repo_id, oid)}, "verify": verify}
                continue
            # `lfs.py: _get_sorted_parts_urls`: chunk_size and one URL per part, numbered from 1.
            count = -(-size // hub.multipart_size)
            header = {str(n): hub.sign(repo_id, oid) + f"&part={n}" for n in range(1, count + 1)}
            header["chunk_size"] = str(hub.multipart_size)
            complete = f"{hub.endpoint}/{repo_id}.git/info/lfs/objects/complete?size={size}"
            answer["actions"] = {"upload": {"href": complete, "header": header}, "verify": verify}
        self.answer_json({"transfer": "basic", "objects": answers})

    def lfs_complete(self, repo_id: str) -> None:
        """`lfs.py: _upload_multi_part`, step 3. The client sends no token here, so nothing is asked of it."""
        body = self.read_json()
        hub = self.server.hub
        parts = hub.parts.pop((repo_id, body["oid"]), {})
        wanted = [(part["partNumber"], part["etag"].strip('"')) for part in body["parts"]]
        if wanted != [(n, hashlib.md5(parts[n]).hexdigest()) for n in sorted(parts)]:
            raise HubError(400, "The parts do not match what was uploaded")
        _store(hub, repo_id, body["oid"], b"".join(parts[n] for n in sorted(parts)))
        self.answer_json({})

    def lfs_verify(self, repo_id: str) -> None:
        """`lfs.py: lfs_upload`, step 3."""
        body = self.read_json()
        stored = self.repo(repo_id, write=True).objects.get(body["oid"])
        if stored is None or len(stored) != body["size"]:
            raise HubError(404, "Object does not exist or has another size")
        self.answer_json({})

    def commit(self, repo_id: str, revision: str) -> None:
        body = self.read_body(drop="commit")
        repo = self.repo(repo_id, write=True)
        if self.headers.get("Content-Type") != "application/x-ndjson":  # `_commit_api.py: _send_commit`
            raise HubError(400, "A commit is sent as application/x-ndjson")
        header, *operations = (json.loads(line) for line in body.splitlines())
        if header["key"] != "header" or not header["value"].get("summary"):  # ibid.: _prepare_commit_payload
            raise HubError(400, "The first line must be a header with a summary")
        with self.server.hub.lock:
            if revision not in repo.branches:
                # `hf_api.py: create_commit`, about `revision`: a commit id is not a branch to commit on.
                raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            head = repo.commits[repo.branches[revision]]
            parent = header["value"].get("parentCommit")
            if parent is not None and not head.oid.startswith(parent):
                # ibid., about `parent_commit`: "the commit will fail if `revision` does not point to `parent_commit`"
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            for operation in operations:
                apply(repo, files, operation["key"], operation["value"])
            commit = repo.commit(revision, header["value"]["summary"], files)
        url = f"{self.server.hub.endpoint}/{repo_id}/commit/{commit.oid}"
        self.answer_json({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def branch(self, repo_id: str, name: str) -> None:
        body = self.read_json()
        repo = self.repo(repo_id, write=True)
        if name in repo.branches:  # `hf_api.py: create_branch` accepts a 409 with exist_ok=True
            raise HubError(409, f"Reference {name} already exists")
        repo.branches[name] = repo.resolve(body.get("startingPoint", "main")).oid
        self.answer_json({})

    def tag(self, repo_id: str, revision: str) -> None:
        body = self.read_json()
        repo = self.repo(repo_id, write=True)
        if body["tag"] in repo.tags:  # `hf_api.py: create_tag`, the same
            raise HubError(409, f"Tag {body['tag']} already exists")
        repo.tags[body["tag"]] = repo.resolve(revision).oid
        self.answer_json({})

    def refs(self, repo_id: str) -> None:
        repo = self.repo(repo_id)
        kinds = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
        self.answer_json(
            {"converts": []}
            | {
                kind: [{"name": n, "ref": f"refs/{prefix}/{n}", "targetCommit": oid} for n, oid in refs.items()]
                for kind, (prefix, refs) in kinds.items()
            }
        )

    def commits(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id)
        history: list[Commit] = [repo.resolve(revision)]
        while (parent := history[-1].parent) is not None:
            history.append(repo.commits[parent])
        author = [{"user": USER}]
        self.answer_json(
            [{"id": c.oid, "title": c.title, "message": "", "date": c.date, "authors": author} for c in history]
        )

    def info(self, repo_id: str, revision: str) -> None:
        """What `hf_api.py: ModelInfo` reads."""
        repo = self.repo(repo_id)
        commit = repo.resolve(revision or "main")
        card: dict[str, Any] = {}
        if "README.md" in commit.files:
            front = re.match(r"\A---\n(.*?)\n---", commit.files["README.md"].content.decode(), re.DOTALL)
            card = yaml.safe_load(front[1]) if front else {}
        siblings: list[dict[str, Any]] = [
            {"rfilename": path}
            | (
                {"size": len(b.content), "blobId": b.git_oid, "lfs": lfs_of(b, "sha256")}
                if "blobs" in self.query
                else {}
            )
            for path, b in sorted(commit.files.items())
        ]
        self.answer_json(
            {
                **{"_id": "1", "id": repo_id, "modelId": repo_id, "author": USER, "sha": commit.oid},
                **{"private": repo.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0},
                **{"createdAt": commit.date, "lastModified": commit.date, "siblings": siblings, "cardData": card},
                **{"tags": card.get("tags", []), "model-index": card.get("model-index")},
                **{"pipeline_tag": card.get("pipeline_tag"), "library_name": card.get("library_name")},
            }
        )

    def tree(self, repo_id: str, revision: str, path: str) -> None:
        """What `hf_api.py: RepoFile` and `RepoFolder` read."""
        files = self.repo(repo_id).resolve(revision).files
        prefix = f"{path}/" if path else ""
        inside = {name: blob for name, blob in sorted(files.items()) if name.startswith(prefix)}
        if path and not inside:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        self.answer_json(list(entries(inside, prefix, recursive)))

    def paths_info(self, repo_id: str, revision: str) -> None:
        """`hf_api.py: get_paths_info`; paths that are not there are left out."""
        asked = parse_qs(self.read_body().decode()).get("paths", [])
        files = self.repo(repo_id).resolve(revision).files
        self.answer_json([entry_of(path, files[path]) for path in asked if path in files])

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        """What `file_download.py: get_hf_file_metadata` reads: the commit, the ETag, the size and where the file is."""
        commit = self.repo(repo_id).resolve(revision)
        if path not in commit.files:
            # ibid.: _get_metadata_or_catch_error remembers the absence under the commit of the answer.
            raise HubError(404, "Entry not found", "EntryNotFound", commit=commit.oid)
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid}
        if blob.lfs:  # another host, so the client stops here and drops its token
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
            headers |= {"Location": self.server.hub.sign(repo_id, blob.sha256)}
            return self.answer(302, b"", headers)
        # `utils/_http.py: _httpx2_follow_hub_redirects_with_backoff`: a relative redirect is followed.
        headers["Location"] = f"/api/resolve-cache/models/{repo_id}/{commit.oid}/{quote(path)}"
        return self.answer(307, b"", headers)

    def cached(self, repo_id: str, oid: str, path: str) -> None:
        blob = self.repo(repo_id).commits[oid].files[path]
        self.answer_file(blob.content, {"X-Repo-Commit": oid, "ETag": f'"{blob.git_oid}"'})


class StorageHandler(_Handler):
    """The storage host: signed URLs, no tokens."""

    routes: ClassVar = [("PUT", r"/(?P<oid>\w{64})", "put"), ("HEAD|GET", r"/(?P<oid>\w{64})", "get")]

    def signed(self, oid: str) -> str:
        # `file_download.py: _get_metadata_or_catch_error`: "Remove authorization header when downloading a LFS blob"
        # and `lfs.py: _upload_single_part`, which sends none: a signed URL and a token together are refused.
        if "Authorization" in self.headers:
            raise HubError(400, "Only one auth mechanism allowed")
        repo_id, signed_oid = self.server.hub.signatures.get(self.query.get("signature", [""])[0], ("", ""))
        if signed_oid != oid:
            raise HubError(403, "The signature does not match")
        return repo_id

    def put(self, oid: str) -> None:
        repo_id = self.signed(oid)
        body = self.read_body(drop="upload")
        hub = self.server.hub
        if "part" in self.query:
            hub.parts.setdefault((repo_id, oid), {})[int(self.query["part"][0])] = body
        else:
            _store(hub, repo_id, oid, body)
        # `lfs.py: _get_completion_payload` sends the ETag of each part back.
        self.answer(200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def get(self, oid: str) -> None:
        self.answer_file(self.server.hub.repos[self.signed(oid)].objects[oid], {"ETag": f'"{oid}"'})


def _store(hub: "HubServer", repo_id: str, oid: str, content: bytes) -> None:
    # `lfs.py: post_lfs_batch_info` promises the sha256 of the content as its name.
    if hashlib.sha256(content).hexdigest() != oid:
        raise HubError(400, "The content does not have the promised sha256")
    hub.repos[repo_id].objects[oid] = content
