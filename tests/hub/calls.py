"""What the tests let a client's process do: the real clients' functions, with arguments and results as JSON."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def api(method: str, *arguments: Any, **named: Any) -> Any:
    """A method of HfApi whose result is text, a truth value, a mapping or nothing; others give their `repr`."""
    from huggingface_hub import HfApi

    result = getattr(HfApi(), method)(*arguments, **named)
    return result if isinstance(result, str | bool | dict | None) else repr(result)


def create_commit(repo_id: str, files: dict[str, str], **named: Any) -> dict[str, Any]:
    """One commit that adds files: path in the repository -> path here."""
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [CommitOperationAdd(path, file) for path, file in files.items()]
    named.setdefault("commit_message", "add")
    info = HfApi().create_commit(repo_id, operations, **named)
    return {"oid": info.oid, "url": info.commit_url, "pr": info.pr_url, "revision": info.pr_revision}


def upload_folder(repo_id: str, folder: str, **named: Any) -> dict[str, Any]:
    from huggingface_hub import HfApi

    info = HfApi().upload_folder(repo_id=repo_id, folder_path=folder, **named)
    return {"oid": info.oid, "pr": info.pr_url, "revision": info.pr_revision}


def download(repo_id: str, filename: str, **named: Any) -> str:
    """Sha256 of a downloaded file."""
    from huggingface_hub import hf_hub_download

    return hashlib.sha256(Path(hf_hub_download(repo_id, filename, **named)).read_bytes()).hexdigest()


def snapshot(repo_id: str, **named: Any) -> dict[str, str]:
    """Path -> sha256 of every file of a downloaded repository."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(repo_id, **named))
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def tree(repo_id: str, **named: Any) -> list[str]:
    from huggingface_hub import HfApi

    return [entry.path for entry in HfApi().list_repo_tree(repo_id, **named)]


def raw(method: str, path: str, lines: list[Any] | None, headers: dict[str, str | None]) -> dict[str, Any]:
    """A request by hand, as the clients' HTTP session sends it."""
    import json
    import os

    from huggingface_hub.utils import get_session

    sent = {"Authorization": f"Bearer {os.environ['HF_TOKEN']}", **headers}
    response = get_session().request(
        method,
        os.environ["HF_ENDPOINT"] + path,
        content=None if lines is None else "\n".join(map(json.dumps, lines)),
        headers={name: text for name, text in sent.items() if text is not None},
    )
    digest = hashlib.sha256(response.content).hexdigest()
    return {"status": response.status_code, "text": response.text, "sha256": digest}


def commits(repo_id: str, **named: Any) -> list[str]:
    from huggingface_hub import HfApi

    return [commit.title for commit in HfApi().list_repo_commits(repo_id, **named)]


def push_card(repo_id: str, content: str) -> dict[str, Any]:
    """Push a card; returns the data of what is there then."""
    from huggingface_hub import ModelCard

    ModelCard(content, ignore_metadata_errors=True).push_to_hub(repo_id)
    data: dict[str, Any] = ModelCard.load(repo_id).data.to_dict()
    return data


def update_metadata(repo_id: str, values: dict[str, Any]) -> dict[str, Any]:
    from huggingface_hub import ModelCard, metadata_update

    metadata_update(repo_id, values, overwrite=True)
    data: dict[str, Any] = ModelCard.load(repo_id).data.to_dict()
    return data


def load_dataset(repo_id: str, *, streaming: bool, captions: bool = True) -> list[list[Any]]:
    """Width and caption of every picture of an imagefolder."""
    from datasets import load_dataset as load

    rows = load(repo_id, split="train", streaming=streaming)
    return [[row["image"].width, row["text"] if captions else None] for row in rows]


def push(repo_id: str, files: dict[str, str], waits: list[float], token: str | None = None, **named: Any) -> Any:
    """`hub_cards.push` of files that lie here; returns what it returns as a mapping."""
    return _push(repo_id, {name: Path(file) for name, file in files.items()}, waits, token, **named)


def push_texts(repo_id: str, texts: dict[str, str], **named: Any) -> Any:
    """The same of files with these texts, without long pauses."""
    return _push(repo_id, {name: text.encode() for name, text in texts.items()}, [0.01] * 3, None, **named)


def _push(repo_id: str, contents: dict[str, Any], waits: list[float], token: str | None, **named: Any) -> Any:
    from dataclasses import asdict

    from hub_cards.push import Publication, push

    publication = Publication(repo_id, contents, "Publish", **named)
    return asdict(push(publication, token=token, waits=waits))
