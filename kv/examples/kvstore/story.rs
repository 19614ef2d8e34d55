//! The story that [`main`](super::main) tells, and checks at each step.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;

use super::{MEMBERS, Member, Network, Result, lock};

/// How often a condition is looked at, and how many times before the story fails.
const PAUSE: Duration = Duration::from_millis(20);
const LOOKS: u32 = 3_000;

struct Story {
    directory: PathBuf,
    network: Arc<Network>,
    members: BTreeMap<u64, Member>,
    /// What must be in every map.
    expected: BTreeMap<String, String>,
}

impl Story {
    fn home(&self, id: u64) -> PathBuf {
        self.directory.join(format!("member-{id}"))
    }

    fn start(&mut self, id: u64) {
        let member = Member::start(id, &self.home(id), &self.network);
        self.members.insert(id, member);
    }

    fn kill(&mut self, id: u64) {
        lock(&self.network.inboxes).remove(&id);
        self.members.remove(&id).expect("it runs").kill();
    }

    /// Looks again and again until it is so. A member that reports an error ends the story.
    fn wait_until(&self, what: &str, holds: impl Fn(&Member) -> bool) {
        for member in self.members.values() {
            let mut looks = 0;
            while !holds(member) {
                looks += 1;
                assert!(looks < LOOKS, "member {}: not true in time: {what}", member.id);
                let error = member.errors.recv_timeout(PAUSE);
                assert!(matches!(error, Err(RecvTimeoutError::Timeout)), "{error:?}");
            }
        }
    }

    /// Waits until all that run follow one that runs.
    fn wait_for_leader(&self) -> u64 {
        let leader_of = |member: &Member| member.status.leader.load(Ordering::Relaxed);
        let is_alive = |member: &Member| self.members.contains_key(&leader_of(member));
        self.wait_until("it follows a living leader", is_alive);
        let leader = leader_of(self.members.values().next().expect("some run"));
        println!("member {leader} leads");
        leader
    }

    /// Puts through each member in turn. A put that is unknown is said again: twice is the same as once.
    fn put(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers.clone() {
            let (key, value) = (format!("key-{number:03}"), format!("value-{number}"));
            let turn = usize::try_from(number).expect("a small number") % self.members.len();
            let member = self.members.values().nth(turn).expect("so many run");
            let is_done = (0..60).any(|_| member.store.put(&key, &value).is_ok());
            assert!(is_done, "{key} could not be put through member {}", member.id);
            assert_eq!(member.store.get(&key).as_ref(), Some(&value));
            self.expected.insert(key, value);
        }
        println!("put keys {numbers:?} through members {:?}", self.members.keys());
    }

    /// Every running member has all that was ever put, and nothing else.
    fn check_maps(&self) {
        self.wait_until("its map is complete", |member| {
            lock(&member.store.shared).map == self.expected
        });
        println!("{} keys on members {:?}", self.expected.len(), self.members.keys());
    }
}

/// Elect, put, kill the leader, put, bring it back by a snapshot, stop all, start all, refuse a damaged file.
pub(super) fn tell() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut story = Story {
        directory: directory.path().to_path_buf(),
        network: Arc::default(),
        members: BTreeMap::new(),
        expected: BTreeMap::new(),
    };
    MEMBERS.into_iter().for_each(|id| story.start(id));
    let leader = story.wait_for_leader();
    story.put(0..10);
    story.check_maps();
    story.kill(leader);
    println!("member {leader} is killed");
    let heir = story.wait_for_leader();
    assert_ne!(heir, leader);
    story.put(10..70);
    // By now what the dead member lacks is in nobody's log any more.
    story.start(leader);
    story.check_maps();
    let received = story.members[&leader].status.snapshots_received.load(Ordering::Relaxed);
    assert!(received > 0, "it could only catch up by a snapshot");
    println!("member {leader} is back and has caught up by a snapshot");
    MEMBERS.into_iter().for_each(|id| story.kill(id));
    println!("all members are stopped");
    MEMBERS.into_iter().for_each(|id| story.start(id));
    story.wait_for_leader();
    story.check_maps();
    println!("all members are started again, and nothing is lost");
    story.kill(1);
    fs::write(story.home(1).join("log"), "this was never a log")?;
    story.start(1);
    let error = story.members[&1].errors.recv_timeout(PAUSE * LOOKS)?;
    assert!(error.to_string().contains("damaged"), "{error}");
    println!("member 1 refuses a damaged log and says so on its error channel");
    MEMBERS.into_iter().for_each(|id| story.kill(id));
    println!("kvstore: every step was checked");
    Ok(())
}
