"""What grpc.aio itself does: takes messages and answers bytes of the sizes it is told; run by `host.py`.

python bench/echo_server.py SCORE_BYTES BATCH_BYTES
"""

import asyncio
import sys
from typing import Any

import grpc

from scopewatch.v1 import monitor_pb2 as pb

_SERVICE = pb.DESCRIPTOR.services_by_name["MonitorService"].full_name


async def serve(reply_bytes: dict[str, int]) -> None:
    server = grpc.aio.server()
    handlers = {}
    for method, size in reply_bytes.items():
        reply = bytes(size)

        async def answer(_request: bytes, _context: Any, reply: bytes = reply) -> bytes:
            return reply

        handlers[method] = grpc.unary_unary_rpc_method_handler(answer)  # type: ignore[arg-type]
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    score, batch = map(int, sys.argv[1:])
    asyncio.run(serve({"Score": score, "BatchScore": batch}))
