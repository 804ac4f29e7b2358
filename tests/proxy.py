"""A TCP proxy that slows, swallows, cuts, resets and falsifies what goes through it."""

import asyncio
import contextlib
import socket
import struct
from typing import Self


class Proxy:
    """Forwards 127.0.0.1:`port` to another local port; its faults can be set and cleared at any time.

    Args:
        target_port: Where to.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0
        self.delay_s = 0.0
        """Wait before every piece of an answer."""
        self.dribble = False
        """Answers come one byte at a time, with the delay between them."""
        self.black_hole = False
        """What comes in, from either side, is gone."""
        self.cut_after: int | None = None
        """Bytes of answers after which a connection is reset."""
        self.lies: dict[bytes, bytes] = {}
        """Answers given in the target's place to requests that hold a word."""
        self.accepted = 0
        """Connections so far."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.accepted += 1
        try:
            upstream, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            try:
                questions = asyncio.create_task(self._ask(reader, upstream_writer, writer))
                answers = asyncio.create_task(self._answer(upstream, writer))
                try:
                    await asyncio.wait((questions, answers), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in (questions, answers):
                        pump.cancel()
                    await asyncio.gather(questions, answers, return_exceptions=True)
            finally:
                upstream_writer.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _ask(
        self, client: asyncio.StreamReader, target: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        while data := await client.read(65536):
            lie = next((answer for word, answer in self.lies.items() if word in data), None)
            if self.black_hole:
                continue
            if lie is not None:
                back.write(lie)
                continue
            target.write(data)
            await target.drain()

    async def _answer(self, target: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        sent = 0
        while data := await target.read(65536):
            if self.black_hole:
                continue
            for piece in [data[i : i + 1] for i in range(len(data))] if self.dribble else [data]:
                await asyncio.sleep(self.delay_s)
                if self.cut_after is not None and sent + len(piece) > self.cut_after:
                    client.write(piece[: self.cut_after - sent])
                    with contextlib.suppress(OSError):
                        await client.drain()
                    reset(client)
                    return
                client.write(piece)
                await client.drain()
                sent += len(piece)


def reset(writer: asyncio.StreamWriter) -> None:
    """Closes a connection with RST instead of FIN."""
    link = writer.transport.get_extra_info("socket")
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
