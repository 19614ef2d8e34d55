//! Who waits for whom: compare-and-swap, `for_cas` writes, and clients that hang up in the middle.
//! The writer is turned by hand, so that every moment between two steps can be looked at.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::storage::local::Writer;

fn world_by_hand() -> (World, Writer) {
    let (version, engine) = (ApiVersion::V1, Arc::new(MemoryEngine::new()));
    let regions = World::regions(version);
    let (storage, writer) =
        LocalStorage::by_hand(engine.clone(), StoreId::new(STORE), regions, LocalLimits::default());
    (World::over(version, RawLimits::default(), engine, storage), writer)
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn cas(expected: Option<&'static str>, to: &'static str) -> CompareAndSwap {
    CompareAndSwap {
        key: "k".into(),
        expected: expected.map(Bytes::from),
        swap: Swap::Put { value: to.into(), ttl_seconds: 0 },
    }
}

fn put(value: &'static str) -> Vec<Put> {
    vec![Put { key: "k".into(), value: value.into(), ttl_seconds: 0 }]
}

#[test]
fn of_two_swaps_with_one_expectation_one_fails_and_sees_the_other() {
    let (world, mut writer) = world_by_hand();
    let context = world.context(2);
    let mut one = pin!(world.raw.compare_and_swap(&context, "", cas(None, "one"), world.permit()));
    let mut two = pin!(world.raw.compare_and_swap(&context, "", cas(None, "two"), world.permit()));
    assert!(poll(one.as_mut()).is_none(), "its write waits for the disk");
    assert!(poll(two.as_mut()).is_none(), "it waits for the latch");
    assert!(writer.try_round().expect("written"));
    assert!(poll(one.as_mut()).expect("answered").expect("no error").succeeded);
    let two = poll(two.as_mut()).expect("the latch is free").expect("no error");
    assert_eq!(two, Swapped { succeeded: false, previous: Some("one".into()) });
}

#[test]
fn a_client_that_hangs_up_does_not_let_the_next_swap_read_past_its_write() {
    let (world, mut writer) = world_by_hand();
    let context = world.context(2);
    {
        let mut gone =
            pin!(world.raw.compare_and_swap(&context, "", cas(None, "gone"), world.permit()));
        assert!(poll(gone.as_mut()).is_none(), "its write waits for the disk");
    }
    let mut next =
        pin!(world.raw.compare_and_swap(&context, "", cas(None, "next"), world.permit()));
    assert!(poll(next.as_mut()).is_none(), "the write that nobody waits for keeps its latch");
    assert!(writer.try_round().expect("written"));
    let next = poll(next.as_mut()).expect("the latch is free").expect("no error");
    assert_eq!(next, Swapped { succeeded: false, previous: Some("gone".into()) });
}

#[test]
fn a_for_cas_write_waits_for_a_swap_and_a_plain_one_does_not() {
    let (world, mut writer) = world_by_hand();
    let context = world.context(2);
    let mut swap =
        pin!(world.raw.compare_and_swap(&context, "", cas(None, "swap"), world.permit()));
    assert!(poll(swap.as_mut()).is_none());
    let permit = world.permit();
    let mut for_cas = pin!(world.raw.put(&context, "", put("for_cas"), Ordering::ForCas, permit));
    let permit = world.permit();
    let mut plain = pin!(world.raw.put(&context, "", put("plain"), Ordering::Plain, permit));
    assert!(poll(for_cas.as_mut()).is_none() && poll(plain.as_mut()).is_none());
    assert!(writer.try_round().expect("written"));
    assert_eq!(world.storage.counts().commands, 2, "the swap and the plain one");
    assert!(poll(swap.as_mut()).expect("answered").expect("no error").succeeded);
    poll(plain.as_mut()).expect("answered").expect("no error");
    assert!(poll(for_cas.as_mut()).is_none(), "it has only now the latch");
    assert!(writer.try_round().expect("written"));
    poll(for_cas.as_mut()).expect("answered").expect("no error");
    assert_eq!(
        block_on(world.raw.get(&context, "", b"k")).expect("read").as_deref(),
        Some(&b"for_cas"[..])
    );
}

#[test]
fn a_swap_that_fails_or_removes_what_is_not_there_gives_everything_back() {
    let (world, mut writer) = world_by_hand();
    let context = world.context(2);
    let failed = world.raw.compare_and_swap(&context, "", cas(Some("x"), "y"), world.permit());
    let failed = poll(pin!(failed)).expect("it writes nothing").expect("no error");
    assert_eq!(failed, Swapped { succeeded: false, previous: None });
    assert_eq!(world.raw.latches.key_count(), 0);
    assert!(!writer.try_round().expect("the engine works"));
}

#[test]
fn many_clients_that_write_at_once_share_one_sync() {
    const CLIENTS: usize = 100;
    let (world, mut writer) = world_by_hand();
    let context = world.context(1);
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let key = format!("a{number}").into();
            let puts = vec![Put { key, value: "v".into(), ttl_seconds: 0 }];
            let permit = world.permit();
            Box::pin(world.raw.put(&context, "", puts, Ordering::Plain, permit))
        })
        .collect();
    assert!(clients.iter_mut().all(|client| poll(client.as_mut()).is_none()));
    assert!(writer.try_round().expect("written"));
    for client in &mut clients {
        poll(client.as_mut()).expect("answered").expect("no error");
    }
    let counts = world.storage.counts();
    assert_eq!((counts.commands, counts.engine_writes), (CLIENTS as u64, 1));
}

#[test]
fn swaps_of_many_threads_count_without_a_gap() {
    const THREADS: usize = 4;
    const SWAPS: usize = 100;
    let world = World::new(ApiVersion::V2, RawLimits::default());
    let context = world.context_for("k");
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut done = 0;
                let mut believed: Option<Bytes> = None;
                while done < SWAPS {
                    let text = believed.as_deref().map_or("0".into(), String::from_utf8_lossy);
                    let next = text.parse::<usize>().expect("a number") + 1;
                    let request = CompareAndSwap {
                        key: world.key("k"),
                        expected: believed,
                        swap: Swap::Put { value: next.to_string().into(), ttl_seconds: 0 },
                    };
                    let swap = world.raw.compare_and_swap(&context, "", request, world.permit());
                    let swapped = block_on(swap).expect("no error");
                    done += usize::from(swapped.succeeded);
                    believed = if swapped.succeeded {
                        Some(next.to_string().into())
                    } else {
                        swapped.previous
                    };
                }
            });
        }
    });
    let value = block_on(world.raw.get(&context, "", &world.key("k"))).expect("read");
    assert_eq!(value, Some((THREADS * SWAPS).to_string().into()));
}
