"""A small server that speaks the Hub's protocol on loopback, for the real clients. See README.md."""

from tests.hub_server.clients import Client, ClientError, Mode, settings
from tests.hub_server.faults import Fault
from tests.hub_server.server import HubServer

__all__ = ["Client", "ClientError", "Fault", "HubServer", "Mode", "settings"]
