"""Accounts and miscellany."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.hub_server.hub import Hub
from tests.hub_server.messages import Answer, RefusedError, Request

FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|\Z)", re.DOTALL)


def metadata_of(readme: str) -> dict[str, Any]:
    """The YAML block of a README; without one, nothing.

    Raises:
        RefusedError: It is no YAML mapping.
    """
    block = FRONT_MATTER.match(readme)
    if block is None:
        return {}
    try:
        data = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        raise RefusedError(400, f"YAML metadata is invalid: {error}") from error
    if data is not None and not isinstance(data, dict):
        raise RefusedError(400, "YAML metadata must be a mapping")
    return data or {}


def faults_of(data: dict[str, Any]) -> list[str]:
    """What the public Hub is known to refuse in a card; its whole list is not public."""
    found = []
    for name in ("tags", "datasets", "metrics"):
        value = data.get(name)
        texts = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(text, str) for text in texts):
            found.append(f'"{name}" must be a string or a list of strings')
    for name in ("license", "pipeline_tag", "library_name"):
        if data.get(name) is not None and not isinstance(data[name], str):
            found.append(f'"{name}" must be a string')
    index = data.get("model-index")
    if index is not None:
        for entry in index if isinstance(index, list) else [None]:
            found += _faults_of_results(entry)
    return found


def _faults_of_results(entry: Any) -> list[str]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return ['"model-index[0].name" is required']
    found = []
    for number, result in enumerate(entry.get("results") or []):
        place = f"model-index[0].results[{number}]"
        if not isinstance(result, dict) or "type" not in result.get("task", {}):
            found.append(f'"{place}.task.type" is required')
        elif not {"type", "name"} <= set(result.get("dataset", {})):
            found.append(f'"{place}.dataset.type" and "name" are required')
        elif not all({"type", "value"} <= set(metric) for metric in result.get("metrics") or [{}]):
            found.append(f'"{place}.metrics" need "type" and "value"')
    return found


def whoami(hub: Hub, request: Request) -> Answer:
    token = hub.token(request)
    if token is None:
        raise RefusedError(401, "Invalid username or password.")
    return Answer.of(hub.users.whoami(token))


def validate_yaml(hub: Hub, request: Request) -> Answer:
    hub.token(request)
    warnings = [{"message": text} for text in hub.warnings]
    try:
        errors = faults_of(metadata_of(request.json()["content"]))
    except RefusedError as refusal:
        errors = [str(refusal)]
    told = {"errors": [{"message": text} for text in errors], "warnings": warnings}
    return Answer.of(told, 400 if errors else 200)


def agent_harnesses(hub: Hub, request: Request) -> Answer:
    return Answer.of({"standardEnvVars": [], "harnesses": {}})


def telemetry(hub: Hub, request: Request) -> Answer:
    return Answer()
