"""What the loopback Hub stores and what it refuses: repositories, commits, and the rules that the real Hub enforces.

Requires only the standard library and PyYAML. Each rule names the place in huggingface_hub's source (paths inside the
installed package, version 2.4) that it follows.
"""

import base64
import dataclasses
import datetime
import fnmatch
import functools
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import yaml

# `_commit_api.py: CommitOperationAdd._local_oid`: a regular file is "guaranteed to be <=5MB".
MAX_REGULAR = 5_000_000
# What a new repository starts with on the Hub: a .gitattributes that sends weights to large file storage.
LFS_SUFFIXES = ("bin", "ckpt", "gz", "h5", "model", "npy", "npz", "onnx", "parquet", "pkl", "pt", "pth", "safetensors")
GITATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


class HubError(Exception):
    """An answer that is not a success: the status, the message, the code that the client branches on, and the rest."""

    def __init__(self, status: int, message: str, code: str | None = None, body: Any = None, commit: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.body = status, message, {"error": message, **(body or {})}
        # `utils/_http.py: hf_raise_for_status` reads the first two headers.
        headers = {"X-Error-Message": message.splitlines()[0], "X-Error-Code": code or "", "X-Repo-Commit": commit}
        self.headers = {key: value for key, value in headers.items() if value}


@dataclasses.dataclass(frozen=True)
class Blob:
    """One file of a commit."""

    content: bytes
    lfs: bool

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        lines = (
            "version https://git-lfs.github.com/spec/v1",
            f"oid sha256:{self.sha256}",
            f"size {len(self.content)}\n",
        )
        return "\n".join(lines).encode()

    @functools.cached_property
    def git_oid(self) -> str:
        """As in `utils/sha.py: git_hash`; for a large file, of its pointer."""
        data = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclasses.dataclass(frozen=True)
class Commit:
    """An immutable state of a repository."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, Blob]
    date: str


@dataclasses.dataclass
class Repo:
    """A repository with its branches, tags and the large objects that were uploaded to it."""

    id: str
    private: bool
    commits: dict[str, Commit] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    objects: dict[str, bytes] = dataclasses.field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        listing = "".join(f"{path} {blob.git_oid}\n" for path, blob in sorted(files.items()))
        oid = hashlib.sha1(f"{parent}\n{title}\n{len(self.commits)}\n{listing}".encode()).hexdigest()
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.commits[oid] = Commit(oid, parent, title, dict(files), date)
        self.branches[branch] = oid
        return self.commits[oid]

    def resolve(self, revision: str) -> Commit:
        """A branch, a tag, a full commit id or its first characters (`hf_api.py: create_commit`, "shorthands")."""
        for refs in (self.branches, self.tags):
            if revision in refs:
                return self.commits[refs[revision]]
        found = [oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)]
        if len(found) != 1:
            # `utils/_http.py: hf_raise_for_status`: this code becomes RevisionNotFoundError.
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[found[0]]


def check_repo_id(repo_id: str) -> None:
    """The rules of `utils/_validators.py: validate_repo_id`, which the Hub enforces too."""
    name = r"[A-Za-z0-9_](?:[\w\-.]{0,94}[A-Za-z0-9_])?"
    valid = re.fullmatch(rf"{name}/{name}", repo_id, re.ASCII)
    if not valid or "--" in repo_id or ".." in repo_id or repo_id.endswith(".git"):
        raise HubError(400, f"Invalid repo name: {repo_id}")


def check_path(path: str) -> None:
    """The rules of `_commit_api.py: _validate_path_in_repo`, enforced on the server's side."""
    parts = path.split("/")
    if not path or any(part in ("", ".", "..", ".git", ".cache") for part in parts):
        raise HubError(400, f"Invalid path in repo: {path}")


def check_card(content: str) -> tuple[list[str], list[str]]:
    """Errors and warnings in a model card's metadata, as `hf_api.py: _validate_yaml` receives them."""
    match = re.match(r"\A---\r?\n(.*?)\r?\n---\r?(\n|\Z)", content, re.DOTALL)
    if not match:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"Failed to parse YAML metadata: {error}"], []
    if not isinstance(data, dict):
        return ['"metadata" must be of type object'], []
    # Types as `repocard_data.py: ModelCardData` documents them.
    errors = [
        f'"{key}" must be a string'
        for key in ("license", "library_name", "pipeline_tag", "license_name", "license_link")
        if key in data and not isinstance(data[key], str)
    ]
    for key in ("tags", "datasets", "metrics", "language", "base_model"):
        value = data.get(key, [])
        if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            errors.append(f'"{key}" must be a string or an array of strings')
    if data.get("license") == "other" and "license_name" not in data:
        errors.append('"license_name" is required when "license" is "other"')
    # The fields that `repocard_data.py: model_index_to_eval_results` reads without a default.
    try:
        for entry in data.get("model-index", []):
            entry["name"]
            for result in entry["results"]:
                result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]
                for metric in result["metrics"]:
                    metric["type"], metric["value"]
    except (KeyError, TypeError) as error:
        errors.append(f'"model-index" is malformed: {error!r}')
    return errors, []


def upload_mode(files: dict[str, Blob], path: str, size: int, sample: bytes) -> str:
    """How a file has to travel: what `_commit_api.py: _fetch_upload_modes` asks the Hub to decide."""
    if size == 0:  # ibid.: "Empty files cannot be uploaded as LFS"
        return "regular"
    attributes = files[".gitattributes"].content.decode() if ".gitattributes" in files else ""
    patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
    if any(fnmatch.fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in patterns):
        return "lfs"
    return "lfs" if size > MAX_REGULAR or b"\0" in sample else "regular"


def apply(repo: Repo, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
    """One line of a commit, as `_commit_api.py: _prepare_commit_payload` writes it."""
    path = value["path"]
    check_path(path.rstrip("/"))
    rejected = "Your push was rejected because "
    if key == "file":
        content = base64.b64decode(value["content"], validate=True)
        if upload_mode(files, path, len(content), content[:512]) == "lfs":
            # The answer of preupload binds: `_commit_api.py: _fetch_upload_modes`.
            raise HubError(400, f"{rejected}it contains a binary or large file that belongs in LFS: {path}")
        errors = check_card(content.decode())[0] if path == "README.md" else []
        if errors:  # the rule of `hf_api.py: _validate_yaml`, for a client that skipped the question
            raise HubError(400, f"{rejected}the metadata of README.md is invalid: {'; '.join(errors)}")
        files[path] = Blob(content, lfs=False)
    elif key == "lfsFile":
        stored = repo.objects.get(value["oid"])
        if value.get("algo") != "sha256" or stored is None or len(stored) != value.get("size", len(stored)):
            # `hf_api.py: preupload_lfs_files` has to come before the commit.
            raise HubError(400, f"{rejected}an LFS pointer pointed to a file that does not exist: {path}")
        files[path] = Blob(stored, lfs=True)
    elif key in ("deletedFile", "deletedFolder"):
        prefix = path.rstrip("/") + "/"
        gone = [name for name in files if name == path or (key == "deletedFolder" and name.startswith(prefix))]
        if not gone:  # `hf_api.py: create_commit` looks for this sentence
            raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for name in gone:
            del files[name]
    else:
        raise HubError(400, f"Unknown operation {key}")


def lfs_of(blob: Blob, oid_key: str) -> dict[str, Any] | None:
    return {oid_key: blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)} if blob.lfs else None


def entry_of(path: str, blob: Blob) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "oid": blob.git_oid, "size": len(blob.content)}
    return entry | ({"lfs": lfs_of(blob, "oid")} if blob.lfs else {})


def entries(files: dict[str, Blob], prefix: str, recursive: bool) -> Iterator[dict[str, Any]]:
    folders: set[str] = set()
    for path, blob in files.items():
        steps = path[len(prefix) :].split("/")[:-1]
        for depth in range(1, len(steps) + 1 if recursive else min(2, len(steps) + 1)):
            folder = prefix + "/".join(steps[:depth])
            if folder not in folders:
                folders.add(folder)
                yield {"type": "directory", "path": folder, "oid": hashlib.sha1(folder.encode()).hexdigest(), "size": 0}
        if recursive or not steps:
            yield entry_of(path, blob)
