//! Runs a demo: looks at the cluster ten times a second, shows it, and waits for what an act is about.
//!
//! 1. [`Director::begin`] starts the cluster and opens the screen.
//! 2. An act is a sentence and a condition: [`Director::until`] shows the cluster until the condition holds in a
//!    picture. One that does not come to hold in good time fails the demo, with what was seen last.
//! 3. Whoever watches may leave at any moment ([`Stop::Left`]); dropping the director ends the cluster and gives the
//!    terminal back.

use std::time::Duration;

use serde_json::{Map, Value, json};
use skerry_raftstore::time::{Clock, SystemClock};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::super::http::Http;
use super::super::{StopSignals, say};
use super::crowd::{Check, Count, Crowd, Habit};
use super::frame::{self, Scene};
use super::picture::Picture;
use super::screen::Screen;
use super::stage::Stage;
use crate::error::{Error, Result};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// What an act may take: many times what it takes anywhere.
const PATIENCE: Duration = Duration::from_secs(120);
/// Nothing is under way for so long, and then it counts as quiet: longer than balancers take to think of something.
const QUIET: Duration = Duration::from_millis(1_500);

/// Why a demo does not go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// Whoever watches has seen enough.
    Left,
    /// It cannot.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

/// See the module.
pub(super) struct Director {
    // Dropped in this order: the clients, then the terminal, then the cluster.
    crowd: Option<Crowd>,
    screen: Screen,
    stage: Stage,
    http: Http,
    signals: Signals,
    scene: Scene,
    began: Duration,
    /// The clients' last word, when they have stopped.
    last_count: Option<Count>,
    /// What is to be told at the end.
    facts: Map<String, Value>,
}

struct Signals {
    stop: StopSignals,
    /// The terminal is gone.
    hangup: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            () = self.stop.next() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

impl Director {
    /// Starts so many stores.
    pub(super) fn begin(
        title: &str,
        seed: u64,
        stores: u16,
        config: &str,
        screen: Screen,
    ) -> Result<Director> {
        let hangup = signal(SignalKind::hangup())
            .map_err(|error| Error::Startup(format!("signals cannot be caught: {error}")))?;
        let signals = Signals { stop: StopSignals::catch()?, hangup };
        let stage = Stage::start(stores, config)?;
        let http = Http::new(vec![stage.scheduler().to_string()]);
        Ok(Director {
            crowd: None,
            screen,
            http,
            signals,
            stage,
            scene: Scene { title: title.to_string(), seed, ..Scene::default() },
            began: SystemClock.monotonic(),
            last_count: None,
            facts: Map::new(),
        })
    }

    /// The cluster's processes.
    pub(super) fn stage(&mut self) -> &mut Stage {
        &mut self.stage
    }

    /// The cluster as it was seen last.
    pub(super) fn picture(&self) -> &Picture {
        &self.scene.picture
    }

    /// Where chance begins.
    pub(super) fn seed(&self) -> u64 {
        self.scene.seed
    }

    /// What the clients have seen so far.
    pub(super) fn count(&self) -> Count {
        self.scene.count.clone().or_else(|| self.last_count.clone()).unwrap_or_default()
    }

    /// Since the demo began.
    fn passed(&self) -> Duration {
        SystemClock.monotonic() - self.began
    }

    /// Notes something for the summary.
    pub(super) fn note(&mut self, name: &str, fact: impl Into<Value>) {
        self.facts.insert(name.to_string(), fact.into());
    }

    /// What is being shown from here on.
    pub(super) fn act(&mut self, sentence: impl Into<String>) {
        self.scene.act = sentence.into();
    }

    /// Shows the cluster until `holds`; answers how long that took.
    pub(super) async fn until(
        &mut self,
        mut holds: impl FnMut(&Picture, &Count) -> bool,
    ) -> std::result::Result<Duration, Stop> {
        let began = self.passed();
        loop {
            let seen = self.look().await?;
            let took = self.passed() - began;
            let count = self.scene.count.clone().unwrap_or_default();
            if seen && holds(&self.scene.picture, &count) {
                return Ok(took);
            }
            if took > PATIENCE {
                let (act, seen) = (&self.scene.act, frame::line(&self.scene));
                let reason = format!("in vain for {PATIENCE:?}: {act}; seen last: {seen}");
                return Err(Stop::Failed(Error::Startup(reason)));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = self.signals.next() => return Err(Stop::Left),
            }
        }
    }

    /// Shows it for a while.
    pub(super) async fn pass(&mut self, time: Duration) -> std::result::Result<(), Stop> {
        let end = SystemClock.monotonic() + time;
        self.until(|_, _| SystemClock.monotonic() >= end).await.map(drop)
    }

    /// Shows the cluster until `holds` and the scheduler has had nothing to do for a while; answers how long it took
    /// until then, without the while.
    pub(super) async fn until_quiet(
        &mut self,
        mut holds: impl FnMut(&Picture) -> bool,
    ) -> std::result::Result<Duration, Stop> {
        let mut quiet_since = None;
        let took = self
            .until(|picture, _| {
                let now = SystemClock.monotonic();
                if !picture.operators.is_empty() || !holds(picture) {
                    quiet_since = None;
                    return false;
                }
                now - *quiet_since.get_or_insert(now) >= QUIET
            })
            .await?;
        Ok(took.saturating_sub(QUIET))
    }

    /// One look. False while the scheduler has no cluster to tell of.
    async fn look(&mut self) -> std::result::Result<bool, Stop> {
        if self.screen.wants_out()? {
            return Err(Stop::Left);
        }
        self.stage.check()?;
        let seen = tokio::select! {
            seen = Picture::look(&self.http) => seen,
            () = self.signals.next() => return Err(Stop::Left),
        };
        // Until the first store has come there is no cluster, before that no scheduler.
        let is_seen = seen.is_ok();
        self.scene.picture = seen.unwrap_or_else(|_| std::mem::take(&mut self.scene.picture));
        self.scene.passed = SystemClock.monotonic() - self.began;
        self.scene.count = match &mut self.crowd {
            Some(crowd) => Some(crowd.count()),
            None => self.last_count.clone(),
        };
        self.screen.show(&self.scene)?;
        Ok(is_seen)
    }

    /// Changes something through the scheduler, as anybody could.
    pub(super) async fn ask(
        &mut self,
        path: &str,
        body: &Value,
    ) -> std::result::Result<Value, Stop> {
        tokio::select! {
            answer = self.http.post(path, body) => Ok(answer?),
            () = self.signals.next() => Err(Stop::Left),
        }
    }

    /// Lets clients begin.
    pub(super) async fn admit(&mut self, habit: Habit) -> Result<()> {
        let scheduler = self.stage.scheduler().to_string();
        self.crowd = Some(Crowd::start(&scheduler, habit, self.scene.seed).await?);
        Ok(())
    }

    /// From now on the longest wait is measured anew.
    pub(super) fn mark(&self) {
        self.crowd.iter().for_each(Crowd::mark);
    }

    /// Lets the clients end, reads back what was acknowledged to them, and notes what they saw.
    pub(super) async fn dismiss(&mut self) -> std::result::Result<Check, Stop> {
        self.look().await?;
        let Some(mut crowd) = self.crowd.take() else { return Ok(Check::default()) };
        let reading = async {
            crowd.stop().await;
            (crowd.count(), crowd.check().await)
        };
        let (count, check) = tokio::select! {
            read = reading => read,
            () = self.signals.next() => return Err(Stop::Left),
        };
        let check = check?;
        self.note("writes_acknowledged", count.acknowledged);
        self.note("writes_given_up", count.failed);
        self.note("keys_read_back", check.keys);
        self.note("lost", check.lost);
        self.last_count = Some(Count { check: Some(check), ..count });
        Ok(check)
    }

    /// Says what all was about, unless a terminal shows something else; answers whether it could.
    pub(super) fn tell(&self, words: &str) -> bool {
        let is_free = matches!(self.screen, Screen::Lines(_));
        if is_free {
            say(words);
        }
        is_free
    }

    /// Stays until somebody wants out.
    pub(super) async fn hold(&mut self) -> Stop {
        loop {
            if let Err(stop) = self.pass(PATIENCE / 2).await {
                return stop;
            }
        }
    }

    /// What was shown, for programs: what was noted, and the last picture.
    pub(super) fn json(&self) -> Value {
        json!({
            "demo": self.scene.title,
            "seed": self.scene.seed,
            "seconds": self.scene.passed.as_secs_f64(),
            "scheduler": self.stage.scheduler(),
            "facts": self.facts,
            "picture": self.scene.picture.json(),
        })
    }
}
