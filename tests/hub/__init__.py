"""Tests against `tests.hub_server`; a package, so that its fixtures live as long as its tests."""
