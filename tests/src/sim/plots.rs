//! Faults that need accomplices: they aim at a leader and at those who keep it in office. Faults that fall
//! anywhere would meet in these ways once in some hundred seeds.
//!
//! * *Doze*: both followers pause, and wake with the leader's last words still unread. If they counted the time of
//!   the pause behind these words, they would elect another while it holds a lease.
//! * *Rival*: one follower does not hear the leader; when it is impatient, the other one restarts and hears the leader
//!   no more. If who has just started voted, it would break the silence that it had promised.
//! * *Deaf leader*: it is heard and hears nobody, so what it proposes may happen after it has given up. If it then
//!   said that it will not, clients would do it twice.
//! * *Echo*: what followers answer takes seconds, and soon nothing else passes between them and the leader. If old
//!   answers confirmed new reads, it would go on to serve while another leads.
//! * *Newcomer*: a region is cut while its snapshot is on the way to a new replica. The part that was cut off
//!   may be there first, and its range must be its own.
//! * *Schism*: one voter is about to be swapped for another, and the leader and the new one are not heard by the
//!   rest. If the change was made in one step, there would be two majorities that do not meet.
//!
//! What it does not do: it knows no bug and checks nothing; the invariants do.

use skerry_proto::eraftpb::ConfChangeType;
use skerry_proto::raft_cmdpb::admin_request::Command;

use super::faults::Fault;
use super::queue::Event;
use super::scheduler::Step;
use super::trace::{MILLISECOND, Moment, SECOND};
use super::world::World;

/// Of a hundred swaps of voters, those that a schism comes over.
const SCHISMS: u64 = 20;

/// Of a hundred new replicas, those whose region is cut soon.
const NEWCOMERS: u64 = 15;

/// How long before a rival is raised clients begin to read only: it must not miss anything, or nobody would vote
/// for it.
const QUIET_BEFORE: Moment = 300 * MILLISECOND;

/// A leader and its two followers, by the numbers of their stores.
struct Troika {
    leader: usize,
    followers: [usize; 2],
}

/// A link on which everything is held back for a while.
pub(super) struct Held {
    from: usize,
    to: usize,
    until: Moment,
}

impl World {
    /// Some leader of three voters, all of which are awake; one that holds a lease, if there is any.
    fn some_troika(&mut self) -> Option<Troika> {
        let mut troikas = Vec::new();
        for leader in 0..self.nodes.len() {
            let shows = self.nodes[leader].shows_at(self.now);
            for status in self.invariants.shown(leader).filter(|status| status.is_leader) {
                let has_lease = status.lease.is_some_and(|until| until > shows);
                let peers = &status.region.peers;
                let others = peers.iter().filter(|peer| peer.id != status.peer.id);
                let followers: Vec<usize> = others
                    .filter(|peer| !peer.is_learner())
                    .filter_map(|peer| self.node_of(peer.store_id))
                    .collect();
                if let [one, other] = followers[..]
                    && [leader, one, other].iter().all(|node| self.nodes[*node].is_awake(self.now))
                {
                    troikas.push((has_lease, leader, [one, other]));
                }
            }
        }
        if troikas.iter().any(|(has_lease, ..)| *has_lease) {
            troikas.retain(|(has_lease, ..)| *has_lease);
        }
        let (_, leader, mut followers) = self.chance.pick(&troikas)?;
        self.chance.shuffle(&mut followers);
        Some(Troika { leader, followers })
    }

    /// Both followers of a leader pause.
    pub(super) fn doze(&mut self, end: Moment) -> bool {
        let Some(Troika { followers, .. }) = self.some_troika() else { return false };
        for node in followers {
            self.nodes[node].paused_until = end;
        }
        true
    }

    /// Soon a follower and its leader do not hear each other, until `end`; then the other follower betrays the leader.
    /// Clients read all the while, which keeps the leader's lease alive, and what the follower says to the other
    /// arrives just after that.
    pub(super) fn raise_rival(&mut self, end: Moment) -> bool {
        let Some(Troika { leader, followers: [rival, voter] }) = self.some_troika() else {
            return false;
        };
        self.quiet_until = end + SECOND;
        for (speaker, listener) in [(leader, rival), (rival, leader)] {
            let silence = Event::Silence { speakers: vec![speaker], listeners: vec![listener] };
            self.queue.plan(self.now + QUIET_BEFORE, silence);
        }
        let back = end + self.chance.between(MILLISECOND, 100 * MILLISECOND);
        self.held = Some(Held { from: rival, to: voter, until: back + MILLISECOND });
        self.queue.plan(end, Event::Betray { leader, voter, back });
        true
    }

    /// How much later than by its link a message arrives.
    pub(super) fn held_back(&self, from: usize, to: usize) -> Moment {
        let held = self.held.as_ref().filter(|held| (held.from, held.to) == (from, to));
        held.map_or(0, |held| held.until.saturating_sub(self.now))
    }

    /// A leader does not hear its followers until `end`.
    pub(super) fn deafen(&mut self, end: Moment) -> bool {
        let Some(Troika { leader, followers }) = self.some_troika() else { return false };
        self.silence(&followers, &[leader]);
        self.queue.plan(end, Event::Reunite);
        true
    }

    /// A leader hears for long what its followers have said in the last second before it was cut off from them.
    pub(super) fn echo(&mut self, end: Moment) -> bool {
        let Some(Troika { leader, followers }) = self.some_troika() else { return false };
        for follower in followers {
            self.network.lag(follower, leader);
        }
        let cut = self.now + SECOND;
        let (leader, followers) = (vec![leader], followers.to_vec());
        let silence = Event::Silence { speakers: leader.clone(), listeners: followers.clone() };
        self.queue.plan(cut, silence);
        self.queue.plan(cut, Event::Silence { speakers: followers, listeners: leader });
        self.queue.plan(end, Event::Reunite);
        self.queue.plan(end, Event::Over(Fault::Spoil));
        true
    }

    /// The leader is cut off, and a voter that knew of it restarts.
    pub(super) fn betray(&mut self, leader: usize, voter: usize, back: Moment) {
        if !self.is_dangerous || !self.nodes[voter].is_awake(self.now) {
            return self.network.heal();
        }
        let everybody: Vec<usize> = (0..self.nodes.len()).collect();
        self.silence(&[leader], &everybody);
        self.silence(&everybody, &[leader]);
        self.nodes[voter].kill();
        self.invariants.stopped(voter);
        self.queue.plan(back, Event::Start { node: voter });
        self.reunite_later();
    }

    /// The leader of a region is about to swap a voter for another.
    pub(super) fn plot_against_swap(&mut self, leader: usize, step: &Step) {
        let Command::ChangePeerV2(request) = &step.command else { return };
        let new = request.changes.iter().find(|change| {
            change.change_type() == ConfChangeType::AddNode && request.changes.len() > 1
        });
        let new = new.and_then(|change| self.node_of(change.peer.unwrap_or_default().store_id));
        let Some(new) = new.filter(|_| self.is_dangerous && self.chance.percent(SCHISMS)) else {
            return;
        };
        let speakers = vec![leader, new];
        let listeners = (0..self.nodes.len()).filter(|node| !speakers.contains(node)).collect();
        // The others have the change by then, as a rule, and do not know yet that it is decided.
        let begins = self.now + self.chance.between(MILLISECOND, 5 * MILLISECOND);
        self.queue.plan(begins, Event::Silence { speakers, listeners });
        self.trace.count("fault: schism");
        self.reunite_later();
    }

    /// A region is about to get a new replica.
    pub(super) fn plot_against_newcomer(&mut self, step: &Step) {
        let Command::ChangePeerV2(request) = &step.command else { return };
        let is_new = request.changes.iter().any(|change| {
            let store = change.peer.unwrap_or_default().store();
            change.change_type() == ConfChangeType::AddLearnerNode
                && step.region.peer_on_store(store).is_none()
        });
        if is_new && self.is_dangerous && self.chance.percent(NEWCOMERS) {
            let cut = self.now + self.chance.between(5 * MILLISECOND, 200 * MILLISECOND);
            self.queue.plan(cut, Event::Cut { region: step.region.id });
        }
    }

    /// A region is cut, if somebody leads it.
    pub(super) fn cut_region(&mut self, region: u64) {
        let found = (0..self.nodes.len()).find_map(|node| {
            let mut shown = self.invariants.shown(node);
            let leader = shown.find(|status| status.region.id == region && status.is_leader)?;
            Some((leader.region.clone(), leader.peer))
        });
        let Some((region, leader)) = found else { return };
        if let Some(step) = self.scheduler.cut_now(&region, leader) {
            self.trace.count("newcomer's region cut");
            self.plan_step(step);
        }
    }

    /// None of the listeners hears any of the speakers.
    pub(super) fn silence(&mut self, speakers: &[usize], listeners: &[usize]) {
        if !self.is_dangerous {
            return;
        }
        self.trace.tell(self.now, "!", || format!("{listeners:?} do not hear {speakers:?}"));
        for from in speakers {
            for to in listeners {
                self.network.close(*from, *to);
            }
        }
    }

    fn reunite_later(&mut self) {
        let end = self.now + self.chance.between(3 * SECOND / 2, 3 * SECOND);
        self.queue.plan(end, Event::Reunite);
    }
}
