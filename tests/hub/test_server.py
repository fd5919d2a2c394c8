"""The test server itself: what the real clients put there comes back, in both ways of large files."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import huggingface_hub
import pytest

from tests.hub import calls
from tests.hub_server import Client, ClientError, HubServer

README = "---\nlicense: mit\ntags:\n- test\n---\n# A repository\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose large files nobody has seen before."""
    files = {"README.md": README.encode(), "notes.txt": b"words", "empty.txt": b""}
    files |= {"deep/weights.safetensors": os.urandom(200_000), "picture.png": b"\x89PNG\0" + os.urandom(3_000)}
    for name, content in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    return tmp_path / "folder"


def digests(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): sha256(file.read_bytes()) for file in files}


def test_a_folder_comes_back(hub: HubServer, client: Client, folder: Path) -> None:
    repo = f"ann/folder-{client.mode}"
    assert client.call(calls.api, "create_repo", repo).endswith(repo)
    first = client.call(calls.upload_folder, repo, folder)
    assert (hub.log.lines("GET", "xet-write-token") != []) == (client.mode == "xet")
    assert (hub.log.lines("PUT", "/lfs/") != []) == (client.mode == "lfs")
    assert hub.repositories[repo].head().oid == first["oid"]
    got = client.call(calls.snapshot, repo)
    assert got.pop(".gitattributes")
    assert got == digests(folder)
    assert client.call(calls.tree, repo, recursive=True, expand=True) == sorted(
        [*digests(folder), ".gitattributes", "deep"]
    )
    assert client.call(calls.tree, repo, path_in_repo="deep") == ["deep/weights.safetensors"]

    assert client.call(calls.upload_folder, repo, folder)["oid"] == first["oid"], "nothing changed, so no commit"
    (folder / "notes.txt").write_text("other words")
    (folder / "picture.png").write_bytes(b"\x89PNG\0" + os.urandom(3_000))
    client.call(calls.upload_folder, repo, folder)
    assert [commit.title for commit in hub.repositories[repo].history()][1:] == [
        "Upload folder using huggingface_hub",
        "initial commit",
    ]
    assert client.call(calls.download, repo, "picture.png") == digests(folder)["picture.png"]
    assert client.call(calls.download, repo, "notes.txt", revision=first["oid"]) == sha256(b"words")


def test_every_way_of_downloading(
    hub: HubServer, xet_client: Client, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that came by Xet reach a plain client too, with and without redirects."""
    repo = "ann/ways"
    xet_client.call(calls.api, "create_repo", repo)
    xet_client.call(calls.upload_folder, repo, folder)
    for number, (large, regular) in enumerate([(True, False), (False, True)]):
        monkeypatch.setattr(hub, "redirect_large", large)
        monkeypatch.setattr(hub, "redirect_regular", regular)
        hub.log.clear()
        with Client(hub.endpoint, tmp_path / f"home{number}") as fresh:
            assert {**digests(folder)}.items() <= fresh.call(calls.snapshot, repo).items()
        assert (hub.log.lines("GET", "/cdn/") != []) == large
        assert (hub.log.lines("GET", "/resolve-cache/") != []) == regular


def test_the_ids_are_git_s(hub: HubServer, lfs_client: Client, folder: Path, tmp_path: Path) -> None:
    """The same files in a real git repository have the same tree."""
    lfs_client.call(calls.api, "create_repo", "ann/ids")
    lfs_client.call(calls.upload_folder, "ann/ids", folder)
    commit = hub.repositories["ann/ids"].head()
    for path, blob in commit.files.items():
        (tmp_path / "git" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "git" / path).write_bytes(blob.content)
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    who = {f"GIT_{role}_{part}": "ann" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}

    def git(*words: str, **more: str) -> str:
        # Filters off: the pointers are the files here, as on the hub.
        command = ["git", "-c", "core.attributesFile=/dev/null", *words]
        return subprocess.run(
            command, cwd=tmp_path / "git", env={**clean, **more}, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    git("add", "--force", ".")
    tree = git("write-tree")
    who = {name: "ann" if name.endswith("NAME") else "ann@users.noreply.hub" for name in who}
    dates = {f"GIT_{role}_DATE": f"{commit.seconds} +0000" for role in ("AUTHOR", "COMMITTER")}
    parent = hub.repositories["ann/ids"].commits[str(commit.parent)]
    alone = git("commit-tree", tree, "-m", commit.title, **who, **dates)
    ours = type(commit)(commit.files, None, commit.title, "", "ann", commit.seconds)
    assert ours.oid == alone
    assert commit.oid not in (alone, parent.oid)


def test_a_stale_parent_is_refused(hub: HubServer, client: Client, folder: Path) -> None:
    repo = f"ann/stale-{client.mode}"
    client.call(calls.api, "create_repo", repo)
    old = hub.repositories[repo].head().oid
    one = {"notes.txt": folder / "notes.txt"}
    made = client.call(calls.create_commit, repo, one, parent_commit=old[:7])
    with pytest.raises(ClientError, match="(?s)412.*The branch was updated since"):
        client.call(calls.create_commit, repo, {"other.txt": folder / "notes.txt"}, parent_commit=old)
    assert hub.repositories[repo].head().oid == made["oid"]
    assert "other.txt" not in hub.repositories[repo].files()


def test_pull_requests(hub: HubServer, client: Client, folder: Path) -> None:
    repo = f"ann/pull-{client.mode}"
    client.call(calls.api, "create_repo", repo)
    before = hub.repositories[repo].head().oid
    made = client.call(calls.create_commit, repo, {"picture.png": folder / "picture.png"}, create_pr=True)
    assert made["pr"] == f"{hub.endpoint}/{repo}/discussions/1"
    assert client.call(calls.upload_folder, repo, folder, create_pr=True)["revision"] == "refs/pr/2"
    assert hub.repositories[repo].head().oid == before, "main is as it was"
    for revision in ("refs/pr/1", "refs/pr/2"):
        got = client.call(calls.download, repo, "picture.png", revision=revision)
        assert got == digests(folder)["picture.png"]
    # A reader may propose, and may not write.
    foreign = client.call(
        calls.create_commit, repo, {"notes.txt": folder / "notes.txt"}, create_pr=True, token="hf_bob_write"
    )
    assert foreign["revision"] == "refs/pr/3"
    with pytest.raises(ClientError, match="403 Forbidden"):
        client.call(calls.create_commit, repo, {"notes.txt": folder / "notes.txt"}, token="hf_bob_write")


def test_who_may_what(hub: HubServer, lfs_client: Client, folder: Path) -> None:
    call = lfs_client.call
    assert call(calls.api, "whoami")["orgs"][0]["name"] == "lab"
    assert call(calls.api, "whoami", token="hf_ann_read")["auth"]["accessToken"]["role"] == "read"
    with pytest.raises(ClientError, match="Invalid user token"):
        call(calls.api, "whoami", token="hf_nobody")
    for repo, token in (("bob/x", "hf_ann_write"), ("ann/x", "hf_ann_read"), ("lab/x", "hf_bob_write")):
        with pytest.raises(ClientError, match="403 Forbidden.*You don't have the rights to create a model"):
            call(calls.api, "create_repo", repo, token=token)
    call(calls.api, "create_repo", "lab/secret", private=True)
    call(calls.upload_folder, "lab/secret", folder)
    for token, sees in (("hf_ann_write", True), ("hf_bob_read", True), ("hf_eve_read", False), (False, False)):
        hub.users.add("eve")
        assert call(calls.api, "repo_exists", "lab/secret", token=token) is sees, token
        assert call(calls.api, "file_exists", "lab/secret", "notes.txt", token=token) is sees, token
    with pytest.raises(ClientError) as refused:
        call(calls.api, "list_repo_refs", "lab/secret", token=False)
    assert "RepositoryNotFoundError" in refused.value.classes
    with pytest.raises(ClientError, match="403 Forbidden"):
        call(calls.create_commit, "lab/secret", {"x.txt": folder / "notes.txt"}, token="hf_bob_write")


def test_gated_repositories(hub: HubServer, lfs_client: Client, folder: Path) -> None:
    lfs_client.call(calls.api, "create_repo", "ann/gated")
    lfs_client.call(calls.upload_folder, "ann/gated", folder)
    lfs_client.call(calls.api, "update_repo_settings", "ann/gated", gated="auto")
    for token in ("hf_bob_read", False):
        with pytest.raises(ClientError) as refused:
            lfs_client.call(calls.download, "ann/gated", "notes.txt", token=token)
        assert "GatedRepoError" in refused.value.classes, refused.value
    hub.repositories["ann/gated"].admitted.add("bob")
    assert lfs_client.call(calls.download, "ann/gated", "notes.txt", token="hf_bob_read") == sha256(b"words")


def test_missing_things_have_their_names(hub: HubServer, lfs_client: Client, folder: Path) -> None:
    lfs_client.call(calls.api, "create_repo", "ann/here")
    wanted = [
        ("RepositoryNotFoundError", ("ann/nowhere", "x"), {}),
        ("RevisionNotFoundError", ("ann/here", "x"), {"revision": "v9"}),
        ("RemoteEntryNotFoundError", ("ann/here", "x"), {}),
    ]
    for name, where, more in wanted:
        with pytest.raises(ClientError) as refused:
            lfs_client.call(calls.download, *where, **more)
        assert refused.value.classes[0] == name
    with pytest.raises(ClientError, match="A file with this name doesn't exist"):
        lfs_client.call(calls.api, "delete_file", "x", "ann/here")
    with pytest.raises(ClientError, match="already created"):
        lfs_client.call(calls.api, "create_repo", "ann/here")
    lfs_client.call(calls.api, "create_repo", "ann/here", exist_ok=True)
    lfs_client.call(calls.api, "delete_repo", "ann/here")
    lfs_client.call(calls.api, "delete_repo", "ann/here", missing_ok=True)
    assert "ann/here" not in hub.repositories


def test_files_and_folders_can_be_removed(hub: HubServer, lfs_client: Client, folder: Path) -> None:
    lfs_client.call(calls.api, "create_repo", "ann/less")
    lfs_client.call(calls.upload_folder, "ann/less", folder)
    lfs_client.call(calls.api, "create_tag", "ann/less", tag="v1")
    lfs_client.call(calls.api, "create_branch", "ann/less", branch="side")
    lfs_client.call(calls.api, "delete_folder", "deep", "ann/less")
    lfs_client.call(calls.api, "delete_file", "notes.txt", "ann/less")
    assert sorted(hub.repositories["ann/less"].files()) == [".gitattributes", "README.md", "empty.txt", "picture.png"]
    for revision in ("v1", "side"):
        assert lfs_client.call(calls.download, "ann/less", "notes.txt", revision=revision) == sha256(b"words")
    lfs_client.call(calls.api, "move_repo", from_id="ann/less", to_id="lab/more")
    assert "lab/more" in hub.repositories
    assert "ann/less" not in hub.repositories


def test_large_files_in_parts(
    hub: HubServer, lfs_client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.large, "multipart_threshold", 1_000)
    monkeypatch.setattr(hub.large, "chunk_size", 4_096)
    file = tmp_path / "big.bin"
    file.write_bytes(os.urandom(10_000))
    lfs_client.call(calls.api, "create_repo", "ann/parts")
    lfs_client.call(calls.create_commit, "ann/parts", {"big.bin": file})
    assert len(hub.log.lines("PUT", "/lfs/")) == 3
    assert lfs_client.call(calls.download, "ann/parts", "big.bin") == sha256(file.read_bytes())


def test_what_a_bad_client_gets(hub: HubServer, lfs_client: Client) -> None:
    """The server notices what it must: unknown large files, a token sent to the storage, unsigned addresses, ..."""
    lfs_client.call(calls.api, "create_repo", "ann/strict")
    head = {"key": "header", "value": {"summary": "x"}}
    large = {"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 3}}
    escape = {"key": "file", "value": {"path": "../x", "content": "", "encoding": "base64"}}
    storage = hub.large.address(hub.endpoint, "0" * 64)
    asked = [
        ("POST", "/api/models/ann/strict/commit/main", [head, large], {}, 400, "does not exist"),
        ("POST", "/api/models/ann/strict/commit/main", [head, escape], {}, 400, "Invalid path"),
        ("POST", "/api/models/ann/strict/commit/main", [large], {}, 400, "header"),
        ("GET", storage.removeprefix(hub.endpoint), None, {}, 400, "a token was sent"),
        ("GET", "/cdn/" + "0" * 64, None, {"Authorization": None}, 403, "not signed"),
        ("GET", "/api/unheard-of", None, {}, 404, "no route"),
    ]
    for method, path, lines, headers, status, text in asked:
        answer = lfs_client.call(calls.raw, method, path, lines, headers)
        assert answer["status"] == status
        assert text in answer["text"], answer


def test_ranges(hub: HubServer, lfs_client: Client, folder: Path) -> None:
    lfs_client.call(calls.api, "create_repo", "ann/ranges")
    lfs_client.call(calls.upload_folder, "ann/ranges", folder)
    for name in ("README.md", "deep/weights.safetensors"):
        whole = (folder / name).read_bytes()
        for asked, start, end in (
            ("0-9", 0, 10),
            ("5-", 5, None),
            ("-7", len(whole) - 7, None),
            ("3-999999999", 3, None),
        ):
            path = f"/ann/ranges/resolve/main/{name}"
            answer = lfs_client.call(calls.raw, "GET", path, None, {"Range": f"bytes={asked}", "Authorization": None})
            assert (answer["status"], answer["sha256"]) == (206, sha256(whole[start:end])), (name, asked)
        past = lfs_client.call(calls.raw, "GET", path, None, {"Range": f"bytes={len(whole)}-", "Authorization": None})
        assert past["status"] == 416


def test_lists_come_in_pages(hub: HubServer, lfs_client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "page_size", 2)
    lfs_client.call(calls.api, "create_repo", "ann/pages")
    lfs_client.call(calls.upload_folder, "ann/pages", folder)
    for number in range(3):
        (folder / "notes.txt").write_text(str(number))
        lfs_client.call(calls.upload_folder, "ann/pages", folder)
    assert lfs_client.call(calls.tree, "ann/pages", recursive=True) == sorted(
        [*digests(folder), ".gitattributes", "deep"]
    )
    assert len(lfs_client.call(calls.commits, "ann/pages")) == 5


@pytest.mark.skipif(int(huggingface_hub.__version__.split(".")[0]) < 2, reason="asks huggingface.co about cards")
def test_cards(hub: HubServer, lfs_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    lfs_client.call(calls.api, "create_repo", "ann/card")
    assert lfs_client.call(calls.push_card, "ann/card", README)["license"] == "mit"
    assert lfs_client.call(calls.update_metadata, "ann/card", {"license": "apache-2.0"})["license"] == "apache-2.0"
    assert b"license: apache-2.0" in hub.read("ann/card", "README.md")
    before = hub.repositories["ann/card"].head().oid
    with pytest.raises(ClientError, match="must be a string or a list of strings"):
        lfs_client.call(calls.push_card, "ann/card", "---\ntags:\n- 1\n---\n")
    nameless = {"content": "---\nmodel-index:\n- results: []\n---\n", "repoType": "model"}
    answer = lfs_client.call(calls.raw, "POST", "/api/validate-yaml", [nameless], {})
    assert (answer["status"], "model-index[0].name" in answer["text"]) == (400, True)
    assert hub.repositories["ann/card"].head().oid == before
    monkeypatch.setattr(hub, "warnings", ["a licence would be nice"])
    lfs_client.call(calls.push_card, "ann/card", README + "more")
    assert "a licence would be nice" in lfs_client.printed()


def test_datasets(hub: HubServer, client: Client, tmp_path: Path) -> None:
    """An imagefolder with captions comes back through load_dataset, whole and streamed."""
    from PIL import Image

    repo = f"ann/pictures-{client.mode}"
    colours = ["red", "green", "blue"]
    for number, colour in enumerate(colours):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.new("RGB", (8 + number, 8), colour).save(tmp_path / "data" / f"{number}.png")
    lines = [f'{{"file_name": "{number}.png", "text": "{colour}"}}' for number, colour in enumerate(colours)]
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(lines))
    client.call(calls.api, "create_repo", repo, repo_type="dataset", private=True)
    client.call(calls.upload_folder, repo, tmp_path / "data", repo_type="dataset")
    assert f"datasets/{repo}" in hub.repositories
    wanted = [[8 + number, colour] for number, colour in enumerate(colours)]
    for streaming in (False, True):
        assert client.call(calls.load_dataset, repo, streaming=streaming) == wanted
