"""What is written down of what happens: lines of the log, the audit log, and texts where the operator keeps them."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from scopewatch.audit.ledger import Audit
from scopewatch.audit.texts import Texts
from scopewatch.config import Config
from scopewatch.doors.auth import Roles
from scopewatch.events import PairsScored
from scopewatch.logs import log_verdicts

log = logging.getLogger(__name__)


class Records:
    """What is written down; made by `records`.

    Args:
        listeners: Are told of every pair that is scored.
        audit: The audit log; None where there is none.
    """

    def __init__(self, listeners: Sequence[PairsScored], audit: Audit | None) -> None:
        self.listeners = listeners
        self._audit = audit

    def asked(self, action: str, caller: str) -> None:
        """Records that somebody wants something done; blocks until it is on the disk.

        Raises:
            NotReady: It cannot be recorded, and so it must not be done.
        """
        if self._audit:
            self._audit.record(action, caller, "asked")

    def told(self, action: str, outcome: str, /, *, caller: str = "", **detail: object) -> None:
        """Notes what came of it."""
        if self._audit:
            self._audit.note(action, caller, outcome, **detail)

    async def follow_roles(self, roles: Roles, every_s: float) -> None:
        """Reads the role file again and again, and notes which roles count.

        Args:
            roles: The roles.
            every_s: The time between two looks, in seconds; 0 for none.
        """
        if roles.digest:
            self.told("roles", "loaded", digest=roles.digest)
        while every_s:
            await asyncio.sleep(every_s)
            # A file of a thousand callers takes seconds to check.
            if (outcome := await asyncio.to_thread(roles.refresh)) != "same":
                self.told("roles", outcome, digest=roles.digest)


@asynccontextmanager
async def records(config: Config) -> AsyncIterator[Records]:
    """Opens what settings ask for, and writes it to the end on leaving.

    Raises:
        ConfigError: The folder cannot be written.
    """
    listeners: list[PairsScored] = [partial(log_verdicts, pass_share=config.log_pass_share)]
    audit = None
    async with AsyncExitStack() as opened:
        if config.audit_dir:
            folder = Path(config.audit_dir)
            audit = await asyncio.to_thread(Audit, folder, instance=socket.gethostname(), days=config.audit_days)
            opened.push_async_callback(asyncio.to_thread, audit.close)
            listeners.append(audit.evidence_given)
            if config.audit_text != "none":
                texts = await asyncio.to_thread(Texts, folder, which=config.audit_text, days=config.text_days)
                opened.push_async_callback(asyncio.to_thread, texts.close)
                listeners.append(texts.keep)
        yield Records(listeners, audit)
