"""Stories of the raw API through the Python client, on a fresh cluster of API version 1.

Usage: raw.py SCHEDULER_ADDRESS. Exits with 0 after the line "all stories hold", or with a traceback. The
client has no call for TTLs and compare-and-swap.
"""

import asyncio
import os
import sys

from tikv_client.asynchronous import RawClient, TransactionClient


async def puts_and_gets(client):
    assert await client.get(b"k") is None
    await client.put(b"k", b"one")
    assert await client.get(b"k") == b"one"
    await client.put(b"k", b"two")
    assert await client.get(b"k") == b"two"
    await client.delete(b"k")
    assert await client.get(b"k") is None


async def empty_and_large_values(client):
    await client.put(b"empty", b"")
    assert await client.get(b"empty") == b""
    large = bytes(range(256)) * 4096
    await client.put(b"large", large)
    assert await client.get(b"large") == large
    await client.batch_delete([b"empty", b"large"])


async def batches(client):
    await client.batch_put({b"a": b"aa", b"b": b"bb", b"c": b"cc", b"d": b"dd"})
    found = await client.batch_get([b"d", b"nothing", b"a"])
    assert sorted(found) == [(b"a", b"aa"), (b"d", b"dd")], found


async def scans(client):
    found = await client.scan(b"a", end=b"c", limit=100, include_start=True, include_end=False)
    assert found == [(b"a", b"aa"), (b"b", b"bb")], found
    found = await client.scan(b"a", end=b"c", limit=2, include_start=False, include_end=True)
    assert found == [(b"b", b"bb"), (b"c", b"cc")], found
    keys = await client.scan_keys(b"b", end=b"d", limit=1, include_start=True, include_end=True)
    assert keys == [b"b"], keys


async def deletes_of_ranges(client):
    await client.delete_range(b"b", end=b"d", include_start=True, include_end=False)
    found = await client.batch_get([b"a", b"b", b"c", b"d"])
    assert sorted(found) == [(b"a", b"aa"), (b"d", b"dd")], found


async def refusals(client):
    try:
        await client.put(b"", b"v")
    except Exception as error:
        assert "empty" in str(error), error
    else:
        raise AssertionError("an empty key was taken")


async def many_at_once(client):
    keys = [b"many/%04d" % number for number in range(500)]
    await asyncio.gather(*(client.put(key, key * 2) for key in keys))
    found = await client.batch_get(keys)
    assert sorted(found) == [(key, key * 2) for key in keys]


async def timestamps(address):
    client = await TransactionClient.connect([address])
    found = await asyncio.gather(*(client.current_timestamp() for _ in range(100)))
    # A timestamp of this client has no field to look at: that all are answered is what can be asked here.
    assert all(timestamp is not None for timestamp in found)


async def main(address):
    client = await RawClient.connect([address])
    for story in (
        puts_and_gets,
        empty_and_large_values,
        batches,
        scans,
        deletes_of_ranges,
        refusals,
        many_at_once,
    ):
        print(story.__name__.replace("_", " "), flush=True)
        await asyncio.wait_for(story(client), timeout=60)
    await asyncio.wait_for(timestamps(address), timeout=60)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
    print("all stories hold", flush=True)
    # Without taking the interpreter apart: threads of the client may still be in it, and then it aborts.
    os._exit(0)
