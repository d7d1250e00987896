"""A process that sends one share of a load: `python -m loadtest.live.worker FILE_DESCRIPTOR`.

It hears from whoever started it, and answers, through one connection: it gets an `Order`, says
that it is ready, begins at the instant that it is told, tells its progress, and gives its pages.
When the other end is gone it stops.

Its own module because it is the root of a process: event loop, garbage collection, signals.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import uvloop

from loadtest.live.crew_words import Done, Ready, Refused, Start, Stop
from loadtest.live.ledger import Ledger
from loadtest.live.sender import Sender
from loadtest.schedule import Schedule

if TYPE_CHECKING:
    from loadtest.live.crew_words import Order
    from loadtest.live.exchanges import Target
    from loadtest.live.sender import Bodies

PROGRESS_S = 0.5
# Replies are garbage by reference counts alone; what is left is collected in small portions.
_COLLECT_EVERY = 50_000


def _ends(order: Order, schedule: Schedule) -> tuple[Target, Bodies]:
    """Make what speaks the target's protocol; needs a running event loop."""
    if order.target.protocol == "grpc":
        from loadtest.live.grpc_bodies import GrpcBodies
        from loadtest.live.grpc_target import GrpcTarget

        bodies = GrpcBodies(order.scenario, schedule, order.target, order.salt)
        return GrpcTarget(order.target), bodies
    from loadtest.live.openai_bodies import OpenaiBodies
    from loadtest.live.openai_target import OpenaiTarget

    return OpenaiTarget(order.target), OpenaiBodies(
        order.scenario, schedule, order.target, order.salt
    )


async def _work(connection: Connection, order: Order) -> None:
    loop = asyncio.get_running_loop()
    schedule = Schedule(order.scenario, order.seed)
    target, bodies = _ends(order, schedule)
    ledger = Ledger(len(order.scenario.class_names))
    sender = Sender(order.scenario, schedule, order.share, target, bodies, ledger, order.limits)
    connection.send(Ready())
    start: object = await asyncio.to_thread(connection.recv)
    if not isinstance(start, Start):
        await target.close()
        return

    hearing = threading.Thread(target=_hear, args=(connection, loop, sender), daemon=True)
    hearing.start()
    telling = asyncio.create_task(_tell(connection, sender))
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY, 20, 100)
    used_s = time.process_time()
    await sender.run(start.at_s)
    used_s = time.process_time() - used_s
    telling.cancel()
    connection.send(sender.progress)
    connection.send(Done(order.share.index, ledger.close(), sender.trouble, used_s))
    with suppress(TimeoutError):
        async with asyncio.timeout(2.0):
            await target.close()


def _hear(connection: Connection, loop: asyncio.AbstractEventLoop, sender: Sender) -> None:
    """Wait for the word to stop; a thread does, for a loop would make the connection its own."""
    try:
        word = connection.recv()
        reason = word.reason if isinstance(word, Stop) else "told to stop"
    except (EOFError, OSError):
        reason = "whoever started it is gone"
    with suppress(RuntimeError):  # The loop has ended by itself.
        loop.call_soon_threadsafe(sender.stop, reason)


async def _tell(connection: Connection, sender: Sender) -> None:
    """Tell the progress; the other end reads all the time, so that sending waits for nothing."""
    while True:
        await asyncio.sleep(PROGRESS_S)
        connection.send(sender.progress)


def main() -> None:
    """Run a worker; Ctrl-C is for whoever started it, who then tells."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # Where it may: what else runs here must not make it late.
        os.nice(-10)
    connection = Connection(int(sys.argv[1]))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        order = connection.recv()
        try:
            uvloop.run(_work(connection, order))
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # noqa: BLE001 (whoever started it must hear of anything)
            connection.send(Refused(f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    main()
