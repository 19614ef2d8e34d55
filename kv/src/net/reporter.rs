//! What raftstore tells the scheduler, and what the scheduler wants of regions.
//!
//! 1. *Reports* of leaders go, as heartbeats, to the task that owns the stream ([`super::heartbeats`]). One that
//!    finds no room is dropped: the leader reports again.
//! 2. *Splits*: a leader that wants to cut its region needs ids for the parts. They are asked for, and the cut
//!    comes back as a command. One question a region at a time; without an answer the leader asks again.
//!    A client may want its own cuts, and is answered when they are made.
//! 3. *Fixed cuts*: some boundaries must exist in every cluster (those around the data of an API version). A
//!    leader whose region still spans one is asked to cut there, whenever it reports; so they come to be
//!    after the first start, whatever crashes.
//! 4. *Instructions* in the answers to heartbeats become commands for the leader's replica, with the epoch that
//!    the scheduler saw: whatever is outdated is refused there. What finds it busy is tried again for a second.
//!
//! **Invariant.** Nothing here waits for the scheduler but tasks of its own: a scheduler that is away keeps no
//! region from serving.
//!
//! What it does not do: it decides nothing about placement, and it keeps no list of what is under way: the
//! scheduler sees from heartbeats what came of its instructions.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::pdpb::{CheckPolicy, RegionHeartbeatRequest, RegionHeartbeatResponse};
use skerry_proto::raft_cmdpb::admin_request::Command as AdminCommand;
use skerry_proto::raft_cmdpb::{
    BatchSplitRequest, ChangePeerRequest, ChangePeerV2Request, SplitRequest, TransferLeaderRequest,
};
use skerry_proto::types::{PeerId, RegionId};
use skerry_proto::{metapb, pdpb};
use skerry_raftstore::effects::{RegionReport, SplitAsk};
use skerry_raftstore::extent::{Extent, FlowTally};
use skerry_raftstore::message::{AdminDone, Command, CommandContext, CommandKind};
use skerry_raftstore::outside;
use skerry_raftstore::reply::{Outcome, Refusal, Replies};
use skerry_raftstore::store::threads::{StoreHandle, WeakStoreHandle};
use skerry_raftstore::time::{Clock, SystemClock};
use slog::{Logger, debug, info};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::scheduler_client::SchedulerClient;
use crate::storage::replicated::result_of;

/// How often a command that finds the leader busy is given again, and after what pause: longer than an election
/// takes to be followed by its first entry, shorter than anybody waits.
const ORDER_TRIES: u32 = 10;
const ORDER_PAUSE: Duration = Duration::from_millis(100);
/// Reports that may wait for the stream.
const REPORTS_WAITING_MAX: usize = 16_384;

/// See the module. Shared by the store, which reports, and the stream, which brings instructions.
pub struct Reporter {
    scheduler: Arc<SchedulerClient>,
    /// Set when the store runs. Weak, because the store holds its reporter.
    store: OnceLock<WeakStoreHandle>,
    settings: ReporterSettings,
    reports: mpsc::Sender<RegionHeartbeatRequest>,
    /// Regions for which ids are being asked for.
    asking: Mutex<BTreeSet<RegionId>>,
    /// What was written to the regions led from here, and read of them, since the store last reported.
    written: FlowTally,
    read: FlowTally,
    counted: Since,
    replies: Arc<Replies>,
    runtime: Handle,
    logger: Logger,
}

/// What a reporter must know of the configuration.
#[derive(Clone, Debug)]
pub struct ReporterSettings {
    /// Where every cluster of this API version is cut, in ascending order.
    pub fixed_cuts: Vec<Bytes>,
    /// Whether the right part of a cut region keeps its id.
    pub right_derive: bool,
    /// Length of a tick of raftstore.
    pub tick: Duration,
}

/// What a store has taken in and given out in an interval.
#[derive(Clone, Debug)]
pub struct StoreFlow {
    /// Written to the regions that it leads.
    pub written: Extent,
    /// Read of them, and of those that it follows.
    pub read: Extent,
    /// Without it the scheduler could make no rate of these.
    pub interval: pdpb::TimeInterval,
}

impl StoreFlow {
    /// What a heartbeat of the store tells, with this in it.
    pub fn told_in(self, stats: pdpb::StoreStats) -> pdpb::StoreStats {
        pdpb::StoreStats {
            interval: Some(self.interval),
            bytes_written: self.written.bytes,
            keys_written: self.written.keys,
            bytes_read: self.read.bytes,
            keys_read: self.read.keys,
            ..stats
        }
    }
}

/// When something was counted last.
#[derive(Debug)]
struct Since(Mutex<Duration>);

impl Since {
    fn now(clock: &dyn Clock) -> Since {
        Since(Mutex::new(clock.monotonic()))
    }

    /// The time that has passed, which is counted from its end on.
    fn take(&self, clock: &dyn Clock) -> Range<Duration> {
        let now = clock.monotonic();
        let mut since = self.0.lock().expect("nothing panics while it holds this lock");
        std::mem::replace(&mut *since, now)..now
    }
}

impl Reporter {
    /// A reporter, and the end at which its heartbeats come out.
    pub fn new(
        scheduler: Arc<SchedulerClient>,
        settings: ReporterSettings,
        logger: Logger,
    ) -> (Arc<Reporter>, mpsc::Receiver<RegionHeartbeatRequest>) {
        let (reports, heartbeats) = mpsc::channel(REPORTS_WAITING_MAX);
        let reporter = Reporter {
            scheduler,
            store: OnceLock::new(),
            settings,
            reports,
            asking: Mutex::default(),
            written: FlowTally::default(),
            read: FlowTally::default(),
            counted: Since::now(&SystemClock),
            replies: Replies::new(),
            runtime: Handle::current(),
            logger,
        };
        (Arc::new(reporter), heartbeats)
    }

    /// From now on commands go to this store.
    pub fn serve(&self, store: &StoreHandle) {
        assert!(self.store.set(store.downgrade()).is_ok(), "a reporter serves one store");
    }

    /// What was written and what was read here since the last time: as leaders have reported it, and of reads those
    /// that followers have served.
    pub fn take_flow(&self) -> StoreFlow {
        let of_followers = self.store().map(|store| store.take_follower_reads());
        StoreFlow {
            written: self.written.take(),
            read: self.read.take() + of_followers.unwrap_or_default(),
            interval: by_the_calendar(&self.counted.take(&SystemClock), &SystemClock),
        }
    }

    /// The store, while it runs.
    pub fn store(&self) -> Option<StoreHandle> {
        self.store.get()?.upgrade()
    }

    /// The fixed cuts inside a region.
    fn cuts_missing(&self, region: &metapb::Region) -> Vec<Bytes> {
        let inside = |cut: &&Bytes| **cut > region.start_key && region.contains_key(cut);
        self.settings.fixed_cuts.iter().filter(inside).cloned().collect()
    }

    /// Asks for ids in a task of its own, unless that is being done for the region.
    fn ask(self: &Arc<Self>, ask: SplitAsk) {
        let region_id = ask.region.region_id();
        if !self.asking.lock().expect("nothing panics while it holds this lock").insert(region_id) {
            return;
        }
        let reporter = self.clone();
        self.runtime.spawn(async move {
            reporter.split(ask).await;
            reporter.asking.lock().expect("as above").remove(&region_id);
        });
    }

    async fn split(self: &Arc<Self>, ask: SplitAsk) {
        let SplitAsk { region, peer, keys } = ask;
        // Without ids the region asks again; that the scheduler is away is told by the heartbeats.
        if let Some(command) = self.split_command(&region, keys).await {
            self.order(Order::new(&region, peer, command));
        }
    }

    /// The command that cuts a region, with ids of the scheduler, if it gives some.
    async fn split_command(
        &self,
        region: &metapb::Region,
        keys: Vec<Bytes>,
    ) -> Option<AdminCommand> {
        let count = u32::try_from(keys.len()).expect("a region is cut in few places");
        let ids = match self.scheduler.ask_split(region.clone(), count).await {
            Ok(ids) if ids.len() == keys.len() => ids,
            Ok(_) => {
                debug!(self.logger, "the scheduler gave the wrong number of ids");
                return None;
            }
            Err(failure) => {
                debug!(self.logger, "no ids for a split"; "reason" => %failure);
                return None;
            }
        };
        let part = |(split_key, ids): (Bytes, pdpb::SplitId)| SplitRequest {
            split_key,
            new_region_id: ids.new_region_id,
            new_peer_ids: ids.new_peer_ids,
        };
        let requests = keys.into_iter().zip(ids).map(part).collect();
        let right_derive = self.settings.right_derive;
        Some(AdminCommand::Splits(BatchSplitRequest { requests, right_derive }))
    }

    /// Cuts a region for a client, which waits for it. Answers the parts, in order.
    pub async fn cut(
        self: &Arc<Self>,
        region: &metapb::Region,
        keys: Vec<Bytes>,
    ) -> crate::Result<Vec<Arc<metapb::Region>>> {
        let Some(store) = self.store() else { return Err(crate::Error::Stopping) };
        let no_ids = crate::Error::NotNow("the scheduler gives no ids for the new regions");
        let command = self.split_command(region, keys).await.ok_or(no_ids)?;
        let context = CommandContext {
            region_id: region.region_id(),
            epoch: region.epoch(),
            ..CommandContext::default()
        };
        for _ in 0..ORDER_TRIES {
            let (sender, outcome) = oneshot::channel();
            let reply = self.replies.reply(move |outcome| drop(sender.send(outcome)));
            let kind = CommandKind::Admin { request: command.clone(), reply };
            store.command(Command { context, kind });
            match outcome.await.expect("every command is answered") {
                Outcome::Refused(Refusal::Busy(_)) => tokio::time::sleep(ORDER_PAUSE).await,
                outcome => {
                    let done: AdminDone = result_of(outcome)?;
                    let parts = done.regions.clone();
                    self.report_split(done);
                    return Ok(parts);
                }
            }
        }
        Err(crate::Error::NotNow("the region is at another change"))
    }

    /// Hands a command to the replica that leads the region.
    fn order(self: &Arc<Self>, order: Order) {
        // A store that has stopped is told nothing: nobody waits for it.
        let Some(store) = self.store() else { return };
        let (context, request) = (order.context, order.command.clone());
        let reporter = self.clone();
        let reply = self.replies.reply(move |outcome| reporter.ended(order, outcome));
        store.command(Command { context, kind: CommandKind::Admin { request, reply } });
    }

    /// A leader that has just been elected, or that is at another change, will do it in a moment.
    fn order_again(self: &Arc<Self>, order: Order) {
        let reporter = self.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(ORDER_PAUSE).await;
            reporter.order(Order { tries_left: order.tries_left - 1, ..order });
        });
    }

    fn ended(self: &Arc<Self>, order: Order, outcome: Outcome<AdminDone>) {
        let kind = name_of(&order.command);
        match outcome {
            Outcome::Done(done) => {
                info!(self.logger, "done for the scheduler"; "what" => kind,
                    "regions" => done.regions.len());
                if done.regions.len() > 1 {
                    self.report_split(done);
                }
            }
            Outcome::Refused(Refusal::Busy(_)) if order.tries_left > 0 => self.order_again(order),
            // Common: what the scheduler saw has changed meanwhile. It sees that, too.
            Outcome::Refused(refusal) => {
                debug!(self.logger, "not done for the scheduler"; "what" => kind, "reason" => %refusal);
            }
            Outcome::Unknown(reason) => {
                debug!(self.logger, "perhaps done for the scheduler"; "what" => kind,
                    "reason" => reason);
            }
        }
    }

    /// Clients find the parts as soon as the scheduler knows them, before their leaders report.
    fn report_split(self: &Arc<Self>, done: AdminDone) {
        let regions = done.regions.iter().map(|region| metapb::Region::clone(region)).collect();
        let scheduler = self.scheduler.clone();
        self.runtime.spawn(async move {
            // Heartbeats say the same a little later.
            let _ = scheduler.report_split(regions).await;
        });
    }

    /// The scheduler has answered a heartbeat.
    pub fn instructed(self: &Arc<Self>, answer: RegionHeartbeatResponse) {
        let Some(leader) = answer.target_peer else { return };
        if answer.header.as_ref().is_some_and(|header| header.error.is_some()) {
            return;
        }
        let region = metapb::Region {
            id: answer.region_id,
            region_epoch: answer.region_epoch,
            ..metapb::Region::default()
        };
        if let Some(split) = answer.split_region {
            return self.split_as_told(&region, leader, split);
        }
        let several = |changes: Vec<pdpb::ChangePeer>| {
            let changes = changes.into_iter().map(|change| ChangePeerRequest {
                change_type: change.change_type,
                peer: change.peer,
            });
            AdminCommand::ChangePeerV2(ChangePeerV2Request { changes: changes.collect() })
        };
        let command = match (answer.change_peer, answer.change_peer_v2, answer.transfer_leader) {
            (Some(change), None, None) => several(vec![change]),
            (None, Some(change), None) => several(change.changes),
            (None, None, Some(heir)) => AdminCommand::TransferLeader(TransferLeaderRequest {
                peer: heir.peer,
                peers: heir.peers,
            }),
            _ => return,
        };
        self.order(Order::new(&region, leader, command));
    }

    /// The scheduler wants a cut. It knows the region by its id; its range is looked up here.
    fn split_as_told(
        self: &Arc<Self>,
        told: &metapb::Region,
        leader: metapb::Peer,
        split: pdpb::SplitRegion,
    ) {
        let Some(store) = self.store() else { return };
        let known = store.regions().into_iter().find(|region| region.id == told.id);
        let Some(region) = known.filter(|region| region.epoch() == told.epoch()) else { return };
        match split.policy() {
            CheckPolicy::Usekey => self.ask(SplitAsk { region, peer: leader, keys: split.keys }),
            CheckPolicy::Scan | CheckPolicy::Approximate => store.halve(region),
        }
    }
}

/// A command of the scheduler on its way to a region.
struct Order {
    context: CommandContext,
    command: AdminCommand,
    /// How often it may be given again.
    tries_left: u32,
}

impl Order {
    fn new(region: &metapb::Region, peer: metapb::Peer, command: AdminCommand) -> Order {
        let context = CommandContext {
            region_id: region.region_id(),
            peer_id: PeerId::new(peer.id),
            epoch: region.epoch(),
            term: None,
        };
        Order { context, command, tries_left: ORDER_TRIES }
    }
}

/// What raftstore reports through: a reporter that is shared.
pub struct ReportTo(pub Arc<Reporter>);

impl outside::SchedulerClient for ReportTo {
    fn report(&self, reports: Vec<RegionReport>) {
        for report in reports {
            let keys = self.0.cuts_missing(&report.region);
            if !keys.is_empty() {
                let (region, peer) = (Arc::new(report.region.clone()), report.leader);
                self.0.ask(SplitAsk { region, peer, keys });
            }
            self.0.written.count(report.written.keys, report.written.bytes);
            self.0.read.count(report.read.keys, report.read.bytes);
            // No room: the leader will report again.
            let _ =
                self.0.reports.try_send(heartbeat_of(report, self.0.settings.tick, &SystemClock));
        }
    }

    fn ask_splits(&self, asks: Vec<SplitAsk>) {
        asks.into_iter().for_each(|ask| self.0.ask(ask));
    }
}

fn name_of(command: &AdminCommand) -> &'static str {
    match command {
        AdminCommand::Splits(_) => "split",
        AdminCommand::ChangePeerV2(_) => "change of peers",
        AdminCommand::TransferLeader(_) => "transfer of leadership",
        AdminCommand::CompactLog(_) => "log compaction",
    }
}

/// A report as the wire has it; the header is added when it is sent.
fn heartbeat_of(report: RegionReport, tick: Duration, clock: &dyn Clock) -> RegionHeartbeatRequest {
    let RegionReport { region, leader, term, pending, down, size, written, read, interval } =
        report;
    let peer = |id: PeerId| region.peer_by_id(id).copied();
    let pending_peers = pending.iter().filter_map(|id| peer(*id)).collect();
    let down = down.iter().filter_map(|(id, ticks)| {
        let down_seconds = (tick * u32::try_from(*ticks).unwrap_or(u32::MAX)).as_secs();
        peer(*id).map(|peer| pdpb::PeerStats { peer: Some(peer), down_seconds })
    });
    RegionHeartbeatRequest {
        leader: Some(leader),
        term,
        down_peers: down.collect(),
        pending_peers,
        // 0 would mean that the size is not known yet.
        approximate_size: size.bytes.max(1),
        approximate_keys: size.keys,
        bytes_written: written.bytes,
        keys_written: written.keys,
        bytes_read: read.bytes,
        keys_read: read.keys,
        interval: Some(by_the_calendar(&interval, clock)),
        region: Some(region),
        ..RegionHeartbeatRequest::default()
    }
}

/// In seconds since 1970, by what the calendar shows now: however it was set meanwhile, the length is right, and the
/// end of one interval is the beginning of the next.
fn by_the_calendar(interval: &Range<Duration>, clock: &dyn Clock) -> pdpb::TimeInterval {
    let (monotonic, wall) = (clock.monotonic(), Duration::from_millis(clock.wall_ms()));
    let seconds = |at: Duration| wall.saturating_sub(monotonic.saturating_sub(at)).as_secs();
    pdpb::TimeInterval {
        start_timestamp: seconds(interval.start),
        end_timestamp: seconds(interval.end),
    }
}

#[cfg(test)]
mod tests {
    use skerry_raftstore::time::ManualClock;

    use super::*;

    #[test]
    fn what_a_store_has_taken_in_and_given_out_is_told_with_its_interval() {
        let interval = pdpb::TimeInterval { start_timestamp: 10, end_timestamp: 20 };
        let extent = |bytes, keys| Extent { bytes, keys, records: 0 };
        let (written, read) = (extent(1, 2), extent(3, 4));
        let others = pdpb::StoreStats { capacity: 5, ..Default::default() };
        let told = StoreFlow { written, read, interval }.told_in(others);
        assert_eq!((told.bytes_written, told.keys_written), (1, 2));
        assert_eq!((told.bytes_read, told.keys_read), (3, 4));
        assert_eq!((told.interval, told.capacity), (Some(interval), 5));
    }

    #[test]
    fn what_a_store_counts_lies_in_one_interval_and_no_moment_in_two() {
        let clock = ManualClock::at(1_700_000_000_000);
        let counted = Since::now(&clock);
        let mut ends = Vec::new();
        for passed_ms in [10_000, 0, 12_500] {
            clock.advance_ms(passed_ms);
            let interval = by_the_calendar(&counted.take(&clock), &clock);
            ends.push((
                interval.start_timestamp - 1_700_000_000,
                interval.end_timestamp - 1_700_000_000,
            ));
        }
        assert_eq!(ends, [(0, 10), (10, 10), (10, 22)]);
    }

    #[test]
    fn intervals_are_told_in_seconds_that_add_up_whatever_is_done_to_the_calendar() {
        let clock = ManualClock::at(1_700_000_000_400);
        let (mut from, mut told) = (clock.monotonic(), Vec::new());
        for passed_ms in [700, 700, 60_000, 10, 5_000] {
            clock.advance_ms(passed_ms);
            let until = clock.monotonic();
            told.push(by_the_calendar(&(from..until), &clock));
            from = until;
        }
        let seconds = |told: &pdpb::TimeInterval| told.end_timestamp - told.start_timestamp;
        assert!(told.windows(2).all(|pair| pair[0].end_timestamp == pair[1].start_timestamp));
        assert_eq!(told.iter().map(seconds).collect::<Vec<_>>(), [1, 0, 60, 0, 5]);
        assert_eq!(told[0].start_timestamp, 1_700_000_000);

        clock.advance_ms(30_000);
        clock.set_wall_ms(1_000_000_000_000);
        let told = by_the_calendar(&(from..clock.monotonic()), &clock);
        assert_eq!((seconds(&told), told.end_timestamp), (30, 1_000_000_000));
    }
}
