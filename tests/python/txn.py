"""Stories of the transactional API through the Python client, on a fresh cluster of API version 1.

Usage: txn.py SCHEDULER_ADDRESS. Exits with 0 after the line "all stories hold", or with a traceback.
"""

import asyncio
import os
import sys

from tikv_client.asynchronous import TransactionClient


async def snapshot(client):
    return client.snapshot(await client.current_timestamp(), pessimistic=False)


async def what_is_committed_is_seen_by_who_begins_later(client):
    before = await snapshot(client)
    txn = await client.begin(pessimistic=False)
    await txn.put(b"a", b"1")
    await txn.put(b"b", b"2")
    assert await txn.get(b"a") == b"1", "it sees what it wrote"
    assert await (await snapshot(client)).get(b"a") is None, "nobody else does"
    await txn.commit()
    after = await snapshot(client)
    assert await after.get(b"a") == b"1"
    assert await after.key_exists(b"b")
    assert await before.get(b"a") is None, "the past stays"


async def what_is_rolled_back_was_never_there(client):
    for pessimistic in (False, True):
        txn = await client.begin(pessimistic=pessimistic)
        await txn.put(b"never", b"v")
        await txn.rollback()
        assert not await (await snapshot(client)).key_exists(b"never")


async def batches_and_scans(client):
    txn = await client.begin(pessimistic=False)
    for letter in (b"p", b"q", b"r", b"s"):
        await txn.put(letter, letter * 2)
    await txn.delete(b"q")
    found = await txn.scan(b"p", b"z", 10)
    assert [key for key, _ in found] == [b"p", b"r", b"s"], found
    await txn.commit()
    now = await snapshot(client)
    assert sorted(await now.batch_get([b"s", b"x", b"p"])) == [(b"p", b"pp"), (b"s", b"ss")]
    assert list(await now.scan(b"p", b"s", 10)) == [(b"p", b"pp"), (b"r", b"rr")]
    assert list(await now.scan_keys(b"p", b"z", 2)) == [b"p", b"r"]


async def of_two_that_write_one_key_the_second_fails(client):
    first = await client.begin(pessimistic=False)
    second = await client.begin(pessimistic=False)
    for txn in (first, second):
        await txn.get(b"k")
        await txn.put(b"k", b"v")
    await first.commit()
    try:
        await second.commit()
    except Exception:
        await second.rollback()
    else:
        raise AssertionError("it read what was no longer true")


async def locked_keys_are_counted_one_after_the_other(client):
    async def add_one():
        while True:
            txn = await client.begin(pessimistic=True)
            try:
                number = int(await txn.get_for_update(b"counter") or b"0")
                await txn.put(b"counter", b"%d" % (number + 1))
                await txn.commit()
                return
            except Exception:
                await txn.rollback()

    await asyncio.gather(*(add_one() for _ in range(8)))
    assert await (await snapshot(client)).get(b"counter") == b"8"


async def a_thousand_keys_at_once(client):
    keys = [b"many/%04d" % number for number in range(1000)]
    txn = await client.begin(pessimistic=False)
    for key in keys:
        await txn.put(key, key)
    await txn.commit()
    found = list(await (await snapshot(client)).scan(b"many/", b"many0", 2000))
    assert found == [(key, key) for key in keys]


async def main(address):
    client = await TransactionClient.connect([address])
    for story in (
        what_is_committed_is_seen_by_who_begins_later,
        what_is_rolled_back_was_never_there,
        batches_and_scans,
        of_two_that_write_one_key_the_second_fails,
        locked_keys_are_counted_one_after_the_other,
        a_thousand_keys_at_once,
    ):
        print(story.__name__.replace("_", " "), flush=True)
        await asyncio.wait_for(story(client), timeout=60)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
    print("all stories hold", flush=True)
    # Without taking the interpreter apart: threads of the client may still be in it, and then it aborts.
    os._exit(0)
