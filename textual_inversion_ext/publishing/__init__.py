"""From a run's folder to the Hub: which files, cleaned of what is nobody's business, with a card, in one commit.

`hub_cards` knows cards and the Hub, the rest of this package knows runs; here the two meet.
"""

from __future__ import annotations

from textual_inversion_ext.publishing.cards import write_card
from textual_inversion_ext.publishing.collection import prepare_collection, publish_collection
from textual_inversion_ext.publishing.sending import check_hub, describe, prepare_run, publish_concept, publish_run
from textual_inversion_ext.publishing.settings import PublishSettings, command_for

__all__ = [
    "PublishSettings",
    "check_hub",
    "command_for",
    "describe",
    "prepare_collection",
    "prepare_run",
    "publish_collection",
    "publish_concept",
    "publish_run",
    "write_card",
]
