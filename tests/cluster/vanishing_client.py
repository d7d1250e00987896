"""Read many streams at once and say when all of them run; made to be killed.

Its own process because a client that vanishes is one that the kernel ends.
"""

from __future__ import annotations

import asyncio
import sys

from protos.jouleserve.client import AsyncClient


async def main(address: str, model: str, streams: int) -> None:
    """Read; print a line once every stream has had its first token."""
    async with AsyncClient(address) as client:
        waiting = streams

        async def read() -> None:
            nonlocal waiting
            reply = client.generate(model, "hello", max_tokens=2000)
            await anext(reply)
            waiting -= 1
            if not waiting:
                sys.stdout.write("all run\n")
                sys.stdout.flush()
            await reply.complete()

        await asyncio.gather(*(read() for _ in range(streams)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
