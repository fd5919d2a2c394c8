"""Whether the Hub takes a card, asked before anything is sent."""

from __future__ import annotations

from huggingface_hub import RepoCard
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.utils import get_session, hf_raise_for_status

__all__ = ["validate"]

_REFUSED = 400


def validate(card: RepoCard, repo_type: str) -> None:
    """Ask the Hub whether it takes a card's metadata.

    This is ``RepoCard.validate``, but for the address: before huggingface_hub 2, the newest for Python 3.10, that asks
    huggingface.co whatever ``HF_ENDPOINT`` says.

    Args:
        card: The card.
        repo_type: Kind of the repository, such as "model".

    Raises:
        ValueError: The Hub refuses it; the text says why.
        HfHubHTTPError: The question itself failed.
    """
    question = {"repoType": repo_type, "content": str(card)}
    answer = get_session().post(f"{ENDPOINT}/api/validate-yaml", json=question, headers={"Accept": "text/plain"})
    if answer.status_code == _REFUSED:
        raise ValueError(answer.text)
    hf_raise_for_status(answer)
