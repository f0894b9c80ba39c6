"""Plain TCP: each new connection goes to the next address that takes it.

A process of its own, since some clients hold the interpreter's lock while they wait for an answer. Started with the
addresses as arguments it prints the port that it listens on, and ends with its standard input.
"""

import asyncio
import itertools
import sys

PIECE = 1 << 18
CONNECT_DEADLINE_S = 2


async def connect(addresses, turn):
    first = next(turn)
    for step in range(len(addresses)):
        host, port = addresses[(first + step) % len(addresses)].rsplit(":", 1)
        try:
            return await asyncio.wait_for(asyncio.open_connection(host, int(port)), CONNECT_DEADLINE_S)
        except (OSError, TimeoutError):
            continue
    return None


async def pass_on(reader, writer):
    try:
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        # The other direction hears of it too.
        writer.transport.abort()


async def main(addresses):
    turn = itertools.count()

    async def serve(reader, writer):
        server = await connect(addresses, turn)
        if server is None:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(pass_on(reader, server[1]), pass_on(server[0], writer))
        finally:
            writer.close()
            server[1].close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=256)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
