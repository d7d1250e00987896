"""Whose joules they were: a gateway's accounts by tenant, service class and variant.

Its own module because replicas know requests and no tenants. What a request has used that
did not finish comes later than its end, from the replica, and is its tenant's all the same.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serve.calls import Journey, Outcome

OTHER = "other"
"""The tenant of all that came when the books were full."""

# Requests whose replica has yet to say what they used; it does so within half a second.
MOST_OPEN = 16_384


class Key(NamedTuple):
    """Whose account it is.

    Attributes:
        tenant: empty for nobody in particular.
        service_class: of the requests.
        variant: that served them.

    """

    tenant: str
    service_class: str
    variant: str


@dataclass(slots=True)
class Account:
    """What requests have used.

    Attributes:
        requests: that have ended, in number.
        prompt_tokens: of those that finished.
        completion_tokens: of those that finished.
        energy_j: of all, finished or not.
        gco2e: grams, as far as an intensity was known.

    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    energy_j: float = 0.0
    gco2e: float = 0.0


class EnergyBooks:
    """Accounts since the gateway started; their number is bounded."""

    def __init__(self, max_tenants: int) -> None:
        """Open no account yet.

        Args:
            max_tenants: with accounts of their own; later ones share that of `OTHER`.

        """
        self._max_tenants = max_tenants
        self._tenants: set[str] = set()
        self._accounts: dict[Key, Account] = {}
        self._open: OrderedDict[int, Key] = OrderedDict()

    def __iter__(self) -> Iterator[tuple[Key, Account]]:
        """Give every account."""
        return iter(self._accounts.items())

    def began(self, number: int, journey: Journey, variant: str) -> None:
        """Note whose an attempt is, until it is known what it has used.

        Args:
            number: of the attempt, used once.
            journey: of the call.
            variant: that serves it.

        """
        tenant = self._known(journey.call.wishes.tenant)
        self._open[number] = Key(tenant, journey.service_class, variant)
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)

    def finished(self, number: int, outcome: Outcome) -> None:
        """Book an attempt that has served its request to the end."""
        key = self._open.pop(number, None)
        if key is None:
            return
        account = self._account(key)
        account.requests += 1
        account.prompt_tokens += outcome.finish.prompt_tokens
        account.completion_tokens += outcome.finish.completion_tokens
        account.energy_j += outcome.energy.energy_j
        account.gco2e += outcome.gco2e or 0.0

    def dropped(self, number: int, energy_j: float, gco2e: float | None) -> None:
        """Book what an attempt has used that ended otherwise."""
        key = self._open.pop(number, None)
        if key is None:
            return
        account = self._account(key)
        account.requests += 1
        account.energy_j += energy_j
        account.gco2e += gco2e or 0.0

    def _known(self, tenant: str) -> str:
        if not tenant or tenant in self._tenants:
            return tenant
        if len(self._tenants) >= self._max_tenants:
            return OTHER
        self._tenants.add(tenant)
        return tenant

    def _account(self, key: Key) -> Account:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account()
        return account
