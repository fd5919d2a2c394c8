"""What a user wrote into the card on the Hub is kept: a card that cannot be read is not replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub import calls, publish_calls
from tests.hub_server import Client, HubServer
from tests.hub_server.objects import Blob
from tests.publishing_runs import learn_without, write_run

MARK = "<!-- own section: about (kept when this card is written again) -->\n"
OWN = "She was found in a shelter."


def write_own_section(hub: HubServer, repo: str, branch: str = "main") -> None:
    """As a user does on the repository's page."""

    def change(files: dict[str, Blob]) -> None:
        text = files["README.md"].content.decode()
        assert MARK in text
        files["README.md"] = Blob.regular(text.replace(MARK, f"{MARK}{OWN}\n").encode())

    hub.repositories[repo].commit(branch, [change], "about her", "", "ann", "")


@pytest.mark.parametrize("refusal", [401, 403, 404])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_card_that_cannot_be_read_is_not_replaced(
    hub: HubServer, lfs_client: Client, tmp_path: Path, method: str, refusal: int
) -> None:
    repo = f"ann/kept-{method}-{refusal}".lower()
    run = write_run(tmp_path / "run")
    words = ["publish", str(run), "--repo_id", repo, "--license", "mit"]
    assert lfs_client.call(publish_calls.command, *words)["code"] == 0, lfs_client.printed()[-2000:]
    write_own_section(hub, repo)
    (run / "previews" / "step-000040.png").unlink()  # so that there is something new to publish
    fault = hub.faults.add("status", method, r"/resolve/.*README\.md", times=None, status=refusal)
    status = lfs_client.call(publish_calls.command, *words)["code"]
    assert fault.met
    assert OWN in hub.read(repo, "README.md").decode(), lfs_client.printed()[-2000:]
    assert status != 0
    assert len(hub.repositories[repo].history()) == 3
    hub.faults.clear()
    assert lfs_client.call(publish_calls.command, *words)["code"] == 0
    assert OWN in hub.read(repo, "README.md").decode()


def test_a_branch_of_the_data_set_is_taken_for_the_pictures_too(
    hub: HubServer, lfs_client: Client, tmp_path: Path
) -> None:
    places = {"ann/side": "model", "datasets/ann/side-images": "dataset"}
    run = write_run(tmp_path / "run")
    words = ["publish", str(run), "--repo_id", "ann/side", "--license", "mit", "--with_dataset", "--revision", "dev"]
    for place, kind in places.items():
        name = place.removeprefix("datasets/")
        lfs_client.call(calls.api, "create_repo", name, repo_type=kind)
        lfs_client.call(calls.api, "create_branch", name, branch="dev", repo_type=kind)
    assert lfs_client.call(publish_calls.command, *words)["code"] == 0, lfs_client.printed()[-2000:]
    write_own_section(hub, "datasets/ann/side-images", "dev")
    learn_without(run, "0.png")  # so that there is something new to publish
    assert lfs_client.call(publish_calls.command, *words)["code"] == 0, lfs_client.printed()[-2000:]
    assert OWN in hub.repositories["datasets/ann/side-images"].files("dev")["README.md"].content.decode()
    for place in places:
        assert len(hub.repositories[place].history("main")) == 1, place
        assert len(hub.repositories[place].history("dev")) > 1, place
