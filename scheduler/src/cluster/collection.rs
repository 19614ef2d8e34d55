//! Garbage collection as the cluster decides it: raising the marks, barriers before them, rounds of the stores
//! ([`crate::gc`]).

use std::time::Duration;

use bytes::Bytes;
use skerry_proto::types::{StoreId, Ts};

use super::{Cluster, Decision, invalid};
use crate::Result;
use crate::gc::marks::DRIVER;
use crate::gc::round::{Finished, Standing};
use crate::gc::{Barrier, BarrierName, Collection, Habit, Marks, Order, Phase, Report};
use crate::moment::Moment;
use crate::persist::Change;

/// So far ahead of the clock a safe point may be asked for: timestamps may be ahead of it, after a restart or where it
/// was set back a little.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// A mark before and after it was raised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// Before.
    pub old: u64,
    /// Now.
    pub new: u64,
    /// The barrier that keeps it from going further, with where it stands.
    pub blocker: Option<(BarrierName, u64)>,
}

/// Who holds the lowest barrier, for the older calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lowest {
    /// The service.
    pub name: String,
    /// For how many seconds more.
    pub ttl_seconds: i64,
    /// Where it stands.
    pub ts: u64,
}

/// All that people want to know of it.
#[derive(Clone, Debug)]
pub struct Look {
    /// The marks with their barriers.
    pub marks: Marks,
    /// Where the round is.
    pub phase: Phase,
    /// Up to where it goes.
    pub target: u64,
    /// For how long it has been going on.
    pub age: Duration,
    /// The last one that ended in this life of the scheduler.
    pub last: Option<Finished>,
    /// What stores have said last.
    pub stores: Vec<(StoreId, Standing)>,
    /// The first key that may have locks in the way, while they are being resolved.
    pub unresolved: Option<Bytes>,
    /// What holds it back, in a sentence.
    pub obstacle: Option<String>,
    /// When it collects by itself.
    pub habit: Habit,
}

impl Cluster {
    /// The marks and the barriers before them.
    pub fn marks(&self) -> Result<&Marks> {
        self.settings()?;
        Ok(&self.collection.marks)
    }

    /// Versions below it may be gone.
    pub fn safe_point(&self) -> Result<u64> {
        Ok(self.marks()?.gc())
    }

    /// Raises both marks to `wanted`, or as far as barriers let them, unless the gc safe point is higher already;
    /// answers what that is then. This is the older call, which cannot say what stands in the way.
    pub fn raise_safe_point(&self, wanted: u64, now: Moment) -> Result<Decision<u64>> {
        let known = self.safe_point()?;
        if wanted > known {
            self.check_has_come(wanted, now)?;
        }
        let lowest = self.marks()?.lowest(now.wall_ms).map_or(u64::MAX, |(_, barrier)| barrier.ts);
        let answer = known.max(wanted.min(lowest));
        let changes = if answer == known { vec![] } else { vec![Change::SafePoint(answer)] };
        Ok(Decision { answer, changes })
    }

    /// Raises the txn safe point as far as barriers let it. Clients know this refusal, and those below, by PD's name
    /// for it somewhere in the text.
    pub fn advance_txn_safe_point(&self, target: u64, now: Moment) -> Result<Decision<Advance>> {
        let marks = self.marks()?;
        let old = marks.txn();
        if target < old {
            return Err(invalid(format!(
                "ErrDecreasingTxnSafePoint: txn safe point {target} is below the present one, {old}"
            )));
        }
        self.check_has_come(target, now)?;
        let (new, blocker) = marks.reach(target, now.wall_ms);
        let blocker = blocker.map(|name| {
            let stands_at = marks.barrier(name, now.wall_ms).map_or(0, |barrier| barrier.ts);
            (name.clone(), stands_at)
        });
        let changes = if new == old { vec![] } else { vec![Change::TxnSafePoint(new)] };
        Ok(Decision { answer: Advance { old, new, blocker }, changes })
    }

    /// Raises the gc safe point, at most to the txn safe point.
    pub fn advance_gc_safe_point(&self, target: u64) -> Result<Decision<Advance>> {
        let marks = self.marks()?;
        let (old, txn) = (marks.gc(), marks.txn());
        if target < old || target > txn {
            let kind = if target < old {
                "ErrDecreasingGCSafePoint"
            } else {
                "ErrGCSafePointExceedsTxnSafePoint"
            };
            let text = format!(
                "{kind}: gc safe point {target} is not from the present one, {old}, to the txn safe point, {txn}"
            );
            return Err(invalid(text));
        }
        let changes = if target == old { vec![] } else { vec![Change::SafePoint(target)] };
        Ok(Decision { answer: Advance { old, new: target, blocker: None }, changes })
    }

    /// Puts up a barrier for so many seconds, or moves it. What it needs must still be there.
    pub fn set_barrier(
        &self,
        name: BarrierName,
        ts: u64,
        ttl_seconds: i64,
        now: Moment,
    ) -> Result<Decision<Barrier>> {
        let txn = self.marks()?.txn();
        if name.name.is_empty() || name.name == DRIVER {
            return Err(invalid(format!("a barrier cannot be called {:?}", name.name)));
        }
        if ts < txn || ttl_seconds <= 0 {
            let text = format!(
                "{}barrier {:?} at {ts} for {ttl_seconds} s: the txn safe point is {txn} already, and the time must \
                 not be 0",
                if ts < txn { "ErrGCBarrierTSBehindTxnSafePoint: " } else { "" },
                name.name
            );
            return Err(invalid(text));
        }
        let barrier = Barrier::standing(ts, ttl_seconds, now.wall_ms);
        Ok(Decision { answer: barrier, changes: vec![Change::Barrier(name, barrier)] })
    }

    /// Takes a barrier away; answers it if it stood.
    pub fn delete_barrier(
        &self,
        name: BarrierName,
        now: Moment,
    ) -> Result<Decision<Option<Barrier>>> {
        let answer = self.marks()?.barrier(&name, now.wall_ms);
        let changes = answer.map(|_| Change::BarrierGone(name)).into_iter().collect();
        Ok(Decision { answer, changes })
    }

    /// The older call for all of the above: a service that needs everything from `ts` on for so many seconds, or no
    /// longer; or whoever drives collection, which wants to go up to `ts`. Answers the lowest of all. A service that
    /// asks for what may be gone gets nothing but that answer, and sees that it lies above.
    pub fn update_service_safe_point(
        &self,
        name: &str,
        ttl_seconds: i64,
        ts: u64,
        now: Moment,
    ) -> Result<Decision<Lowest>> {
        let mut marks = self.marks()?.clone();
        let mut changes = Vec::new();
        if name == DRIVER {
            if ttl_seconds != i64::MAX {
                return Err(invalid(format!(
                    "{DRIVER} has no time limit: its TTL is {}",
                    i64::MAX
                )));
            }
            self.check_has_come(ts, now)?;
            let (reached, _) = marks.reach(ts, now.wall_ms);
            changes.extend((reached > marks.txn()).then_some(Change::TxnSafePoint(reached)));
            marks.install_txn(reached);
        } else if ttl_seconds <= 0 {
            let name = BarrierName::of(name);
            marks.remove_barrier(&name);
            changes.push(Change::BarrierGone(name));
        } else if ts >= marks.txn() {
            let Decision { answer, changes: put_up } =
                self.set_barrier(BarrierName::of(name), ts, ttl_seconds, now)?;
            marks.install_barrier(BarrierName::of(name), answer);
            changes = put_up;
        }
        let driver = Lowest { name: DRIVER.to_string(), ttl_seconds: i64::MAX, ts: marks.txn() };
        let answer = match marks.lowest(now.wall_ms) {
            Some((name, barrier)) if barrier.ts <= driver.ts => Lowest {
                name: name.name.clone(),
                ttl_seconds: barrier.seconds_left(now.wall_ms),
                ts: barrier.ts,
            },
            _ => driver,
        };
        Ok(Decision { answer, changes })
    }

    /// Refuses a safe point from the future. Marks never fall: all transactions would be too old until it has come.
    /// Timestamps may be ahead of the clock, and are where it was set back, but not of their limit.
    fn check_has_come(&self, target: u64, now: Moment) -> Result<()> {
        let clock_ms = now.wall_ms.saturating_add(milliseconds(AHEAD_MAX));
        if Ts::from(target).physical_ms() <= clock_ms.max(self.timestamps_ms) {
            return Ok(());
        }
        Err(invalid(format!(
            "safe point {target} has not come yet: it is a timestamp, milliseconds since 1970 times {}, and now is {}",
            Ts::LOGICAL_COUNT,
            now.wall_ms
        )))
    }

    /// Lets the next round begin at once.
    pub fn want_collection(&mut self) -> Result<()> {
        self.settings()?;
        self.collection.round.is_wanted = true;
        Ok(())
    }

    /// Whether it is time to raise the txn safe point, by what is known of the time. A timestamp must be drawn for it.
    pub fn collection_is_due(&self, now: Moment) -> bool {
        let Collection { marks, round } = &self.collection;
        let Habit { life_time, interval } = self.habit;
        if !self.is_bootstrapped() || !round.may_begin() {
            return false;
        }
        let reach_ms = self.latest_ms(now).saturating_sub(milliseconds(life_time));
        let is_late = match marks.txn() {
            0 => now.since(self.began) >= interval,
            txn => reach_ms >= Ts::from(txn).physical_ms().saturating_add(milliseconds(interval)),
        };
        round.is_wanted || (is_late && !life_time.is_zero())
    }

    /// Goes on with what is under way: raises the txn safe point when it is time, begins a round when it was raised,
    /// by whomever, and counts who has heard.
    ///
    /// `drawn` is a timestamp that was drawn since [`Cluster::collection_is_due`] has said so. The clock would not do:
    /// it may be set back, and then nothing is ever due; or be ahead for a moment, and then the safe point would be
    /// above every timestamp that is drawn after that, for good.
    pub fn collection_tick(&mut self, drawn: Option<Ts>, now: Moment) -> Result<Decision<()>> {
        if !self.is_bootstrapped() {
            return Ok(Decision { answer: (), changes: vec![] });
        }
        let members: Vec<StoreId> =
            self.stores.iter().filter(|it| !it.is_tombstone()).map(|it| it.id()).collect();
        let life_time = self.habit.life_time;
        let wanted = drawn.filter(|_| self.collection_is_due(now)).map(|drawn| {
            let reach_ms = drawn.physical_ms().saturating_sub(milliseconds(life_time));
            Ts::compose(reach_ms, 0).get()
        });
        let Collection { marks, round } = &mut self.collection;
        let mut changes: Vec<Change> =
            marks.fallen(now.wall_ms).cloned().map(Change::BarrierGone).collect();
        if let Some(wanted) = wanted {
            round.is_wanted = false;
            let (reached, _) = marks.reach(wanted, now.wall_ms);
            changes.extend((reached > marks.txn()).then_some(Change::TxnSafePoint(reached)));
        }
        let lowest = marks.lowest(now.wall_ms).map_or(u64::MAX, |(_, barrier)| barrier.ts);
        round.begin(marks.txn().min(lowest), now);
        round.tick(&members, now);
        Ok(Decision { answer: (), changes })
    }

    /// How late it can be, in milliseconds since 1970: by the clock, or by timestamps where that was set back.
    fn latest_ms(&self, now: Moment) -> u64 {
        now.wall_ms.max(self.timestamps_ms)
    }

    /// A store says what it has done, and is told what to do. The order is made when the changes are installed:
    /// [`Cluster::collection_order`].
    pub fn collection_report(
        &mut self,
        store: StoreId,
        report: Report,
        now: Moment,
    ) -> Result<Decision<()>> {
        self.settings()?;
        self.stores.speaking(store)?;
        let Collection { marks, round } = &mut self.collection;
        let resolved = round.report(store, report, now);
        let news = resolved.filter(|resolved| *resolved > marks.gc());
        Ok(Decision { answer: (), changes: news.map(Change::SafePoint).into_iter().collect() })
    }

    /// What a store is to do now.
    pub fn collection_order(&self) -> Result<Order> {
        let marks = self.marks()?;
        Ok(self.collection.round.order(marks.txn(), marks.gc()))
    }

    /// What people want to know.
    pub fn collection_look(&self, now: Moment) -> Result<Look> {
        self.settings()?;
        let Collection { marks, round } = &self.collection;
        let is_resolving = round.phase() == Phase::Resolve;
        Ok(Look {
            marks: marks.clone(),
            phase: round.phase(),
            target: round.target(),
            age: now.since(round.began()),
            last: round.last(),
            stores: round.stores().map(|(id, standing)| (id, standing.clone())).collect(),
            unresolved: if is_resolving { round.first_missing() } else { None },
            obstacle: self.obstacle(now),
            habit: self.habit,
        })
    }

    /// The first thing that stands in the way.
    fn obstacle(&self, now: Moment) -> Option<String> {
        let Collection { marks, round } = &self.collection;
        let said = round.stores().find(|(_, standing)| !standing.report.obstacle.is_empty());
        if let Some((id, standing)) = said {
            return Some(format!("store {}: {}", id.get(), standing.report.obstacle));
        }
        if round.phase() == Phase::Announce {
            let has_heard = |id: StoreId| {
                round.stores().any(|(known, it)| known == id && it.report.kept >= round.target())
            };
            let silent = self.stores.iter().find(|it| !it.is_tombstone() && !has_heard(it.id()));
            return silent.map(|it| {
                let id = it.id().get();
                format!("store {id} has not said yet that it keeps the safe point")
            });
        }
        let reach_ms = self.latest_ms(now).saturating_sub(milliseconds(self.habit.life_time));
        let (_, blocker) = marks.reach(Ts::compose(reach_ms, 0).get(), now.wall_ms);
        blocker.map(|name| format!("barrier {:?} needs what is older", name.name))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
