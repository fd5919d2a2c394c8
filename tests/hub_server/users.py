"""Who may do what: users, organisations with roles, and tokens that read or write."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tests.hub_server.messages import RefusedError

Role = Literal["admin", "write", "contributor", "read"]


@dataclass(frozen=True)
class Token:
    """What one token stands for."""

    user: str
    writes: bool
    text: str


@dataclass
class Users:
    """All accounts. A token's text is `hf_NAME_write` or `hf_NAME_read` unless another is given."""

    names: list[str] = field(default_factory=list)
    organisations: dict[str, dict[str, Role]] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)

    def add(self, name: str) -> str:
        """Make a user with a token of each kind; returns the one that writes."""
        self.names.append(name)
        for role in ("read", "write"):
            text = f"hf_{name}_{role}"
            self.tokens[text] = Token(name, role == "write", text)
        return f"hf_{name}_write"

    def add_organisation(self, name: str, **roles: Role) -> None:
        self.organisations[name] = roles

    def who(self, authorization: str | None) -> Token | None:
        """The token of a request, or None without one.

        Raises:
            RefusedError: Nobody has this token.
        """
        if not authorization:
            return None
        kind, _, text = authorization.partition(" ")
        if kind.lower() != "bearer" or text not in self.tokens:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return self.tokens[text]

    def role(self, user: str, namespace: str) -> Role | None:
        """What a user is in a namespace."""
        return "admin" if user == namespace else self.organisations.get(namespace, {}).get(user)

    def may_write(self, token: Token | None, namespace: str) -> bool:
        return token is not None and token.writes and self.role(token.user, namespace) in ("admin", "write")

    def may_read(self, token: Token | None, namespace: str) -> bool:
        return token is not None and self.role(token.user, namespace) is not None

    def whoami(self, token: Token) -> dict[str, Any]:
        """The answer of `/api/whoami-v2`."""
        roles = {name: members[token.user] for name, members in self.organisations.items() if token.user in members}
        return {
            "type": "user",
            "id": f"id-{token.user}",
            "name": token.user,
            "fullname": token.user.title(),
            "email": f"{token.user}@example.com",
            "emailVerified": True,
            "isPro": False,
            "canPay": False,
            "orgs": [
                {"type": "org", "id": f"id-{name}", "name": name, "fullname": name.title(), "roleInOrg": role}
                for name, role in roles.items()
            ],
            "auth": {
                "type": "access_token",
                "accessToken": {"displayName": "test", "role": "write" if token.writes else "read"},
            },
        }
