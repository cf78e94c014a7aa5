"""The loopback Hub, spoken to by the real huggingface_hub in processes of its own."""

import base64
import hashlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hub_server import HubServer

CLIENT = "import json, sys, time\nfrom huggingface_hub import HfApi, hf_hub_download, hf_hub_url, snapshot_download\n"
CLIENT += "api = HfApi()\n"
REPO = "tester/model"
CARD = b"---\nlicense: mit\ntags: [emotion]\n---\n# Model\n"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_repo(REPO)
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_bytes(CARD)
    (folder / "config.json").write_text('{"model_type": "liminal"}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 400)
    (folder / "sub" / "notes.txt").write_text("two words")
    return folder


def client(hub: HubServer, home: Path, code: str, token: str | None = "hf_write") -> str:
    """What the client prints; the test fails with the client's traceback if it fails."""
    done = hub.run(CLIENT + code, home, token)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def errors(hub: HubServer, home: Path, calls: list[str], token: str | None = "hf_write") -> list[str]:
    """Type and message of the error that each call raises in the client."""
    code = f"""
for call in {calls!r}:
    try:
        exec(call)
    except Exception as error:
        print(json.dumps(f"{{type(error).__name__}} {{error}}"))
    else:
        print(json.dumps("no error"))
"""
    return [json.loads(line) for line in client(hub, home, code, token).splitlines()]


def send(hub: HubServer, path: str, body: bytes, token: str = "hf_write", **headers: str) -> tuple[int, Any]:
    """A request that the client itself would not send."""
    connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=10)
    connection.request("POST", path, body, {"Authorization": f"Bearer {token}", **headers})
    answer = connection.getresponse()
    status, content = answer.status, json.loads(answer.read())
    connection.close()
    return status, content


def upload(folder: Path) -> str:
    return f"print(api.upload_folder(repo_id='{REPO}', folder_path={str(folder)!r}).oid)\n"


def test_upload_reload_and_old_revision(hub: HubServer, tmp_path: Path, folder: Path) -> None:
    first = client(hub, tmp_path, upload(folder))
    sent = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {k: v for k, v in hub.files(REPO).items() if k != ".gitattributes"} == sent
    assert [hub.repos[REPO].resolve(first).files[p].lfs for p in ("model.safetensors", "config.json")] == [True, False]
    # The storage host saw the bytes and no token; the Hub saw the token.
    (put,) = hub.uploads()
    assert put.received == 102_400 and not put.authorized
    assert put.path.removeprefix("/") == hashlib.sha256(sent["model.safetensors"]).hexdigest()

    (folder / "config.json").write_text('{"model_type": "changed"}')
    hub.seen.clear()
    second = client(hub, tmp_path, upload(folder))
    assert hub.uploads() == []
    assert second != first and hub.repos[REPO].commits[second].parent == first

    code = f"""
for revision in (None, {first!r}, {first[:8]!r}):
    path = snapshot_download('{REPO}', revision=revision)
    print(path.rsplit('/', 1)[-1], open(path + '/config.json').read())
print(len(open(path + '/model.safetensors', 'rb').read()), open(path + '/sub/notes.txt').read())
info = api.model_info('{REPO}', files_metadata=True)
files = [(s.rfilename, s.size, s.lfs and s.lfs.sha256) for s in info.siblings]
print(info.sha, info.card_data.license, info.tags, files)
paths = sorted(f.path for f in api.list_repo_tree('{REPO}', recursive=True))
print(paths, [f.path for f in api.list_repo_tree('{REPO}', 'sub')])
print([c.title for c in api.list_repo_commits('{REPO}')], api.list_repo_refs('{REPO}').branches[0].target_commit)
print(api.get_paths_info('{REPO}', ['config.json', 'none'])[0].blob_id, api.whoami()['name'])
"""
    lines = client(hub, tmp_path, code).splitlines()
    assert lines[0] == f'{second} {{"model_type": "changed"}}'
    assert lines[1] == lines[2] == f'{first} {{"model_type": "liminal"}}'
    assert lines[3] == "102400 two words"
    assert lines[4].startswith(f"{second} mit ['emotion']")
    assert f"('model.safetensors', 102400, '{put.path[1:]}')" in lines[4]
    names = [".gitattributes", "README.md", "config.json", "model.safetensors", "sub", "sub/notes.txt"]
    assert lines[5] == f"{names} ['sub/notes.txt']"
    assert lines[6] == f"{['Upload folder using huggingface_hub'] * 2 + ['initial commit']} {second}"
    assert lines[7] == f"{hub.repos[REPO].commits[second].files['config.json'].git_oid} tester"
    # No token crosses to the storage host on the way down either, and nothing was asked that this Hub does not speak.
    downloads = [r for r in hub.seen if r.method == "GET" and r.path == put.path]
    assert downloads and not any(r.authorized for r in downloads)
    assert not [r for r in hub.seen if r.status >= 400]


def test_an_unchanged_folder_makes_no_commit(hub: HubServer, tmp_path: Path, folder: Path) -> None:
    first, second = client(hub, tmp_path, upload(folder) + upload(folder)).splitlines()
    assert first == second and len(hub.repos[REPO].commits) == 2


def test_branches_and_tags(hub: HubServer, tmp_path: Path, folder: Path) -> None:
    code = f"""
api.create_branch('{REPO}', branch='a/b')
oid = api.upload_folder(repo_id='{REPO}', folder_path={str(folder)!r}, revision='a/b').oid
api.create_tag('{REPO}', tag='v1', revision='a/b')
api.create_branch('{REPO}', branch='a/b', exist_ok=True)
print(oid, api.model_info('{REPO}', revision='v1').sha, api.file_exists('{REPO}', 'config.json'))
print(api.file_exists('{REPO}', 'config.json', revision='a/b'))
"""
    oid, tagged, on_main, on_branch = client(hub, tmp_path, code).split()
    assert oid == tagged and (on_main, on_branch) == ("False", "True")


def test_upload_in_parts(tmp_path: Path, folder: Path) -> None:
    with HubServer(multipart_size=30_000) as hub:
        client(hub, tmp_path, f"api.create_repo('{REPO}')\n" + upload(folder))
        assert hub.files(REPO)["model.safetensors"] == (folder / "model.safetensors").read_bytes()
        assert [r.received for r in hub.uploads()] == [30_000, 30_000, 30_000, 12_400]


def test_deleting(hub: HubServer, tmp_path: Path, folder: Path) -> None:
    code = f"api.delete_file('config.json', '{REPO}'); api.delete_folder('sub', '{REPO}')\n"
    client(hub, tmp_path, upload(folder) + code)
    assert sorted(hub.files(REPO)) == [".gitattributes", "README.md", "model.safetensors"]
    assert errors(hub, tmp_path, [f"api.delete_file('config.json', '{REPO}')"])[0].startswith("RemoteEntryNotFound")


@pytest.mark.parametrize(
    ("token", "calls"),
    [
        ("hf_wrong", {
            "api.whoami()": "HfHubHTTPError Invalid user token",
            "api.create_repo('tester/new')": "Invalid credentials in Authorization header",
        }),
        (None, {
            "api.create_repo('tester/new')": "401 Unauthorized",
            "api.model_info('tester/none')": "RepositoryNotFoundError 401",
            "api.model_info('tester/private')": "RepositoryNotFoundError 401",
            "hf_hub_download('tester/private', 'config.json')": "RepositoryNotFoundError 401",
            f"api.model_info('{REPO}')": "no error",
        }),
        ("hf_read", {
            "api.create_repo('tester/new')": "403 Forbidden: You don't have the rights",
            f"api.upload_file(path_or_fileobj=b'x', path_in_repo='x', repo_id='{REPO}')": "403 Forbidden",
            "api.model_info('tester/private')": "no error",
        }),
        ("hf_write", {
            "api.create_repo('another/new')": "403 Forbidden: You don't have the rights",
            "api.create_repo('tester/new', repo_type='dataset')": "holds models only",
            f"api.create_repo('{REPO}')": "You already created this model repo",
            f"api.create_repo('{REPO}', exist_ok=True)": "no error",
            "api.model_info('tester/none')": "RepositoryNotFoundError 404",
            "hf_hub_download('tester/none', 'config.json')": "RepositoryNotFoundError 404",
            "api.upload_file(path_or_fileobj=b'x', path_in_repo='x', repo_id='tester/none')": "RepositoryNotFoundError",
            f"hf_hub_download('{REPO}', 'none.json')": "RemoteEntryNotFoundError 404",
            f"hf_hub_download('{REPO}', 'none.json', revision='none')": "RevisionNotFoundError 404",
            f"api.model_info('{REPO}', revision='none')": "RevisionNotFoundError 404",
        }),
    ],
)  # fmt: skip
def test_what_the_client_is_told(hub: HubServer, tmp_path: Path, token: str | None, calls: dict[str, str]) -> None:
    hub.add_repo("tester/private", private=True)
    told = dict(zip(calls, errors(hub, tmp_path, list(calls), token), strict=True))
    assert [call for call, expected in calls.items() if expected not in told[call]] == [], told


def test_a_new_private_repository(hub: HubServer, tmp_path: Path) -> None:
    client(hub, tmp_path, "api.create_repo('tester/new', private=True)")
    assert hub.repos["tester/new"].private and list(hub.files("tester/new")) == [".gitattributes"]


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("---\nlicense: [\n---\n", "Failed to parse YAML"),
        ("---\nlicense: 3\n---\n", '"license" must be a string'),
        ("---\ntags: {a: 1}\n---\n", '"tags" must be a string or an array of strings'),
        ("---\nlicense: other\n---\n", '"license_name" is required'),
        ("---\nmodel-index: [{name: a, results: [{task: {type: b}}]}]\n---\n", '"model-index" is malformed'),
    ],
)
def test_invalid_card(hub: HubServer, tmp_path: Path, card: str, message: str) -> None:
    code = f"api.upload_file(path_or_fileobj={card.encode()!r}, path_in_repo='README.md', repo_id='{REPO}')"
    assert message in errors(hub, tmp_path, [code])[0]
    # A client that does not ask first is stopped at the commit.
    lines = [{"key": "header", "value": {"summary": "a"}}, file_line("README.md", card.encode())]
    status, answer = commit(hub, lines)
    assert status == 400 and message in answer["error"]
    assert list(hub.files(REPO)) == [".gitattributes"]


def test_a_card_without_metadata_is_a_warning(hub: HubServer, tmp_path: Path) -> None:
    code = f"""
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    api.upload_file(path_or_fileobj=b'# Model', path_in_repo='README.md', repo_id='{REPO}')
print(caught[0].message)
"""
    assert "empty or missing yaml metadata" in client(hub, tmp_path, code)


def file_line(path: str, content: bytes) -> dict[str, Any]:
    value = {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}
    return {"key": "file", "value": value}


def commit(hub: HubServer, lines: list[Any], branch: str = "main", kind: str = "x-ndjson") -> tuple[int, Any]:
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return send(hub, f"/api/models/{REPO}/commit/{branch}", body, **{"Content-Type": f"application/{kind}"})


def test_what_a_commit_may_not_hold(hub: HubServer, tmp_path: Path) -> None:
    header = {"key": "header", "value": {"summary": "a"}}
    absent = {"path": "a.safetensors", "algo": "sha256", "oid": "0" * 64, "size": 3}
    head = hub.repos[REPO].branches["main"]
    for status, message, lines, options in [
        (400, "LFS pointer pointed to a file that does not exist", [header, {"key": "lfsFile", "value": absent}], {}),
        (400, "belongs in LFS", [header, file_line("a.safetensors", b"abc")], {}),
        (400, "belongs in LFS", [header, file_line("a.txt", b"a\0b")], {}),
        (400, "belongs in LFS", [header, file_line("a.txt", b"a" * 5_000_001)], {}),
        (400, "Invalid path", [header, file_line("../a.txt", b"a")], {}),
        (400, "Invalid path", [header, file_line(".git/config", b"a")], {}),
        (400, "header with a summary", [{"key": "header", "value": {"summary": ""}}], {}),
        (400, "application/x-ndjson", [header], {"kind": "json"}),
        (400, "Unknown operation", [header, {"key": "moved", "value": {"path": "a"}}], {}),
        (404, "Invalid rev id", [header, file_line("a.txt", b"a")], {"branch": head}),
        (412, "A commit has happened", [{"key": "header", "value": {"summary": "a", "parentCommit": "0" * 40}}], {}),
    ]:  # fmt: skip
        answer = commit(hub, lines, **options)
        assert answer[0] == status and message in answer[1]["error"], (answer, lines)
    assert len(hub.repos[REPO].commits) == 1
    assert commit(hub, [header, file_line("a.txt", b"a")])[0] == 200


def test_parent_commit(hub: HubServer, tmp_path: Path) -> None:
    code = f"""
base = api.model_info('{REPO}').sha
for name in ('first', 'second'):
    api.upload_file(path_or_fileobj=b'x', path_in_repo=name, repo_id='{REPO}', parent_commit=base)
"""
    assert "412" in errors(hub, tmp_path, [code])[0]
    assert sorted(hub.files(REPO)) == [".gitattributes", "first"]


@pytest.mark.parametrize("name", ["a--b", "a..b", ".a", "a-", "a.git", "a" * 97, "a b"])
def test_invalid_names(hub: HubServer, name: str) -> None:
    assert send(hub, "/api/repos/create", json.dumps({"name": name}).encode())[0] == 400
    assert list(hub.repos) == [REPO]


def test_large_objects_are_checked(hub: HubServer, tmp_path: Path) -> None:
    objects = [{"oid": hashlib.sha256(b"abc").hexdigest(), "size": 3}, {"oid": "0" * 64, "size": 0}]
    body = {"operation": "upload", "hash_algo": "sha256", "transfers": ["basic"], "objects": objects}
    status, answer = send(hub, f"/{REPO}.git/info/lfs/objects/batch", json.dumps(body).encode())
    assert status == 200 and answer["objects"][1]["error"]["code"] == 422
    url = urlsplit(answer["objects"][0]["actions"]["upload"]["href"])
    target = f"{url.path}?{url.query}"

    def put(target: str, content: bytes, **headers: str) -> int:
        connection = http.client.HTTPConnection(url.netloc, timeout=10)
        connection.request("PUT", target, content, headers)
        status = connection.getresponse().status
        connection.close()
        return status

    assert put(target, b"abd") == 400  # another sha256
    assert put(url.path, b"abc") == 403  # no signature
    assert put(target, b"abc", Authorization="Bearer hf_write") == 400  # a token on the storage host
    verify = (f"/{REPO}.git/info/lfs/objects/verify", json.dumps(objects[0]).encode())
    assert send(hub, *verify)[0] == 404
    assert put(target, b"abc") == 200 and send(hub, *verify)[0] == 200
    # A client that goes away in the middle leaves nothing behind.
    with socket.create_connection((url.hostname, url.port), timeout=10) as raw:
        raw.sendall(f"PUT {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc".encode())
    assert list(hub.repos[REPO].objects) == [objects[0]["oid"]]


def test_ranges(hub: HubServer, tmp_path: Path, folder: Path) -> None:
    client(hub, tmp_path, upload(folder))
    code = f"""
from huggingface_hub.utils import get_session
for name in ('config.json', 'model.safetensors'):
    for asked in ('bytes=5-', 'bytes=0-4', 'bytes=999999-'):
        answer = get_session().get(hf_hub_url('{REPO}', name), headers={{'Range': asked}})
        print(answer.status_code, answer.headers['Content-Range'], len(answer.content))
"""
    assert client(hub, tmp_path, code).splitlines() == [
        "206 bytes 5-24/25 20", "206 bytes 0-4/25 5", "416 bytes */25 0",
        "206 bytes 5-102399/102400 102395", "206 bytes 0-4/102400 5", "416 bytes */102400 0",
    ]  # fmt: skip


def test_a_dropped_upload_is_tried_again(hub: HubServer, tmp_path: Path, folder: Path) -> None:
    hub.drops["upload"] = 1
    client(hub, tmp_path, upload(folder))
    assert hub.drops["upload"] == 0 and len(hub.uploads()) == 1
    assert hub.files(REPO)["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_connection_that_stays_down(hub: HubServer, tmp_path: Path, folder: Path) -> None:
    hub.drops["upload"] = 6  # `utils/_http.py: http_backoff` tries six times; the waits between are cut short here
    error = errors(hub, tmp_path, ["time.sleep = lambda seconds: None\n" + upload(folder)])[0]
    assert "Error while uploading 'model.safetensors'" in error and hub.drops["upload"] == 0
    assert list(hub.files(REPO)) == [".gitattributes"] and hub.repos[REPO].objects == {}
    # Dropped in the commit: nothing is published, and the next push does not send the weights again.
    hub.drops["commit"] = 1
    assert "no error" not in errors(hub, tmp_path, [upload(folder)])[0]
    assert list(hub.files(REPO)) == [".gitattributes"] and len(hub.uploads()) == 1
    client(hub, tmp_path, upload(folder))
    assert len(hub.files(REPO)) == 5 and len(hub.uploads()) == 1
