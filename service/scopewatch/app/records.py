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
from scopewatch.errors import NotKept
from scopewatch.events import PairsScored
from scopewatch.logs import log_verdicts
from scopewatch.types import Caller, ScoreJob

log = logging.getLogger(__name__)


class Records:
    """What is written down; made by `records`.

    Args:
        listeners: Are told of every pair that is scored.
        audit: The audit log; None where there is none.
        texts: The texts that are kept; None where none are.
    """

    def __init__(self, listeners: Sequence[PairsScored], audit: Audit | None, texts: Texts | None = None) -> None:
        self.listeners = listeners
        self._audit = audit
        self._texts = texts

    def asked(self, action: str, caller: str, **detail: object) -> None:
        """Records that somebody wants something done; blocks until it is on the disk.

        Raises:
            NotReady: It cannot be recorded, and so it must not be done.
        """
        if self._audit:
            self._audit.record(action, caller, "asked", **detail)

    def told(self, action: str, outcome: str, /, *, caller: str = "", **detail: object) -> None:
        """Notes what came of it."""
        if self._audit:
            self._audit.note(action, caller, outcome, **detail)

    def kept_pair(self, request_id: str, caller: Caller) -> ScoreJob:
        """The pair of this id whose texts are kept; blocks, and records first that they are asked for.

        Raises:
            NotKept: There is none, or it is another tenant's.
            NotReady: It cannot be recorded.
        """
        if not self._texts:
            raise NotKept("this service keeps no texts of pairs; see audit_text")
        self.asked("read_kept_text", caller.name, request_id=request_id)
        return self._texts.find(request_id, caller)

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
    audit = texts = None
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
        yield Records(listeners, audit, texts)
