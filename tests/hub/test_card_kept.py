"""What a user wrote into the card on the Hub is kept: a card that cannot be read is not replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub import publish_calls
from tests.hub_server import Client, HubServer
from tests.hub_server.objects import Blob
from tests.publishing_runs import write_run

MARK = "<!-- own section: about (kept when this card is written again) -->\n"
OWN = "She was found in a shelter."


def write_own_section(hub: HubServer, repo: str) -> None:
    """As a user does on the repository's page."""

    def change(files: dict[str, Blob]) -> None:
        text = files["README.md"].content.decode()
        assert MARK in text
        files["README.md"] = Blob.regular(text.replace(MARK, f"{MARK}{OWN}\n").encode())

    hub.repositories[repo].commit("main", [change], "about her", "", "ann", "")


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
