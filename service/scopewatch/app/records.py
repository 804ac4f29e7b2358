"""What is written down of what happens: lines of the log, the audit log, and texts where the operator keeps them."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch.audit.ledger import Audit
from scopewatch.audit.recent_flags import RecentFlags
from scopewatch.audit.texts import Texts
from scopewatch.config import Config
from scopewatch.doors.auth import Roles
from scopewatch.errors import NotKept
from scopewatch.events import PairsFailed, PairsScored
from scopewatch.logs.verdict_log import VerdictLog
from scopewatch.types import Caller, ScoreJob

if TYPE_CHECKING:
    from scopewatch.tracing.tracing import Tracing

log = logging.getLogger(__name__)


class Records:
    """What is written down; made by `records`.

    Args:
        listeners: Are told of every pair that is scored.
        audit: The audit log; None where there is none.
        texts: The texts that are kept; None where none are.
        flags: The pairs that were flagged lately; nobody tells it of them where nothing shows them.
        failure_listeners: Are told of every pair that got an error.
    """

    def __init__(
        self,
        listeners: Sequence[PairsScored],
        audit: Audit | None,
        texts: Texts | None = None,
        flags: RecentFlags | None = None,
        failure_listeners: Sequence[PairsFailed] = (),
    ) -> None:
        self.listeners = listeners
        self.failure_listeners = failure_listeners
        self.flags = flags or RecentFlags(text_kept=False)
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
async def records(config: Config, tracing: "Tracing | None" = None) -> AsyncIterator[Records]:
    """Opens what settings ask for, and writes it to the end on leaving.

    Args:
        config: Settings.
        tracing: Makes spans of pairs; None makes none.

    Raises:
        ConfigError: The folder cannot be written.
    """
    secret = config.cache_secret.get_secret_value().encode()
    verdicts = VerdictLog(pass_share=config.log_pass_share, secret=secret)
    listeners: list[PairsScored] = [verdicts.scored]
    failure_listeners: list[PairsFailed] = [verdicts.failed]
    if tracing:
        listeners.append(tracing.pairs_scored)
        failure_listeners.append(tracing.pairs_failed)
    audit = texts = None
    flags = RecentFlags(text_kept=config.audit_text != "none")
    if config.watch_address:
        listeners.append(flags.remember)
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
        yield Records(listeners, audit, texts, flags, failure_listeners)
