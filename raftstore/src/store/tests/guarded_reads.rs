//! Reads of transactions at followers: the leader prepares them, and holds them back while it cannot.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::outside::ReadGuard;

/// Notes what is asked, and says what it was told to say.
#[derive(Default)]
struct Guard {
    asked: Mutex<Vec<u64>>,
    lets_pass: AtomicBool,
}

impl ReadGuard for Guard {
    fn prepare(&self, region: &metapb::Region, timestamp: u64) -> bool {
        assert_eq!(region.id, 1);
        self.asked.lock().expect("no holder panics").push(timestamp);
        self.lets_pass.load(Ordering::SeqCst)
    }
}

impl Guard {
    fn asked(&self) -> Vec<u64> {
        std::mem::take(&mut *self.asked.lock().expect("no holder panics"))
    }
}

/// Three stores with a guard each, and one that follows.
fn guarded() -> (Cluster, BTreeMap<u64, Arc<Guard>>, u64) {
    let mut cluster = Cluster::led(3, 3);
    done(cluster.put(1, "a", "1"));
    let mut guards = BTreeMap::new();
    for store in 1..=3 {
        let guard = Arc::new(Guard::default());
        let set = cluster.machine(store).store.environment.read_guard.set(guard.clone());
        assert!(set.is_ok(), "a store has one guard");
        guards.insert(store, guard);
    }
    let leader = cluster.leader(1).0;
    let follower = (1..=3).find(|store| *store != leader).expect("two follow");
    (cluster, guards, follower)
}

impl Cluster {
    fn ask_at(&mut self, store: u64, timestamp: u64) -> Receiver<Outcome<RegionView>> {
        let context = self.context(1);
        let (reply, answers) = self.reply::<RegionView>();
        let consistency = Consistency::ReplicaAt(timestamp);
        self.send(store, context, CommandKind::Read { consistency, reply });
        answers
    }
}

#[test]
fn a_read_at_a_follower_waits_until_its_leader_is_prepared() {
    let (mut cluster, guards, follower) = guarded();
    let leader = cluster.leader(1).0;
    let answers = cluster.ask_at(follower, 70);
    let lower = cluster.ask_at(follower, 60);
    cluster.settle();
    assert_eq!(guards[&leader].asked(), [70], "the highest of a round");
    assert!(answers.try_recv().is_err() && lower.try_recv().is_err(), "it is held back");
    // What is in the way is applied now; so it is in what the follower shows.
    guards[&leader].lets_pass.store(true, Ordering::SeqCst);
    done(cluster.put(1, "a", "2"));
    for answers in [answers, lower] {
        let view = done(cluster.wait(&answers));
        let value = view.view.get(RAW, &data_key(b"a")).expect("get");
        assert_eq!(value.as_deref(), Some(&b"2"[..]));
    }
    assert!(guards[&follower].asked().is_empty(), "only the leader knows");
}

#[test]
fn a_read_that_was_held_back_by_a_former_leader_is_prepared_by_the_next() {
    let (mut cluster, guards, follower) = guarded();
    let former = cluster.leader(1).0;
    let answers = cluster.ask_at(follower, 70);
    cluster.settle();
    assert_eq!(guards[&former].asked(), [70]);
    for guard in guards.values() {
        guard.lets_pass.store(true, Ordering::SeqCst);
    }
    guards[&former].lets_pass.store(false, Ordering::SeqCst);
    let heir = (1..=3).find(|store| ![former, follower].contains(store)).expect("a third");
    let (_, status) = cluster.leader(1);
    let peer = status.region.peer_on_store(StoreId::new(heir)).copied();
    let request = TransferLeaderRequest { peer, peers: Vec::new() };
    done(cluster.admin(1, admin_request::Command::TransferLeader(request)));
    done(cluster.wait(&answers));
    assert_eq!(cluster.leader(1).0, heir);
    assert_eq!(guards[&heir].asked().last(), Some(&70));
}

/// Raft drops what comes before a leader has committed anything in its term; the next tick would be a second away.
#[test]
fn a_read_that_comes_to_a_new_leader_at_once_is_answered_with_its_first_entry() {
    let mut cluster = Cluster::led(3, 3);
    let old = cluster.leader(1).0;
    let (heir, third) = (old % 3 + 1, (old + 1) % 3 + 1);
    let request = TransferLeaderRequest { peer: Some(peer(10 + heir, heir)), ..Default::default() };
    let request = admin_request::Command::TransferLeader(request);
    let (context, (reply, _)) = (cluster.context(1), cluster.reply());
    cluster.send(old, context, CommandKind::Admin { request, reply });
    // Until the heir leads, and before anybody hears of it.
    for store in [old, heir, third].into_iter().cycle() {
        let machine = cluster.machine(store);
        turn_all(&mut machine.store).expect("nothing fails");
        if store == heir && machine.store.inspect().iter().any(|status| status.is_leader) {
            break;
        }
        machine.store.take_sent().into_iter().for_each(|message| cluster.deliver(message));
    }
    let (context, (reply, answers)) = (cluster.context(1), cluster.reply::<RegionView>());
    cluster.send(heir, context, CommandKind::Read { consistency: Consistency::Leader, reply });
    turn_all(&mut cluster.machine(heir).store).expect("nothing fails");
    assert!(answers.try_recv().is_err(), "nobody has confirmed that it leads");
    cluster.settle();
    assert!(matches!(answers.try_recv(), Ok(Outcome::Done(_))), "without a tick");
}
