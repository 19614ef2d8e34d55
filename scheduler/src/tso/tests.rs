//! Golden scripts of `src/scripts/tso`, and the promise under random clocks, restarts and lost writes.

use std::error::Error;

use goldenscript::Context;
use proptest::prelude::*;
use skerry_raftstore::time::ManualClock;

use super::*;

const WINDOW_MS: u64 = 3_000;

/// What a script can do. Times are milliseconds.
#[derive(goldenscript::Command)]
enum Command {
    /// Asks for timestamps as a client does; with the tag `wait` saves the limit if it has to.
    Take { count: u32 },
    /// What the keeper does on its tick.
    Keep,
    /// Time passes.
    Advance { milliseconds: u64 },
    /// Somebody sets the calendar.
    Set { wall_ms: u64 },
    /// The process dies and comes back with the saved limit.
    Restart,
}

struct Runner {
    clock: ManualClock,
    saved_ms: u64,
    oracle: Oracle,
}

impl Runner {
    /// A first start at one second past 1970, so that numbers stay short.
    fn new() -> Runner {
        let clock = ManualClock::at(1_000);
        let oracle = Oracle::restore(0, WINDOW_MS, Moment::now(&clock));
        Runner { clock, saved_ms: 0, oracle }
    }

    fn now(&self) -> Moment {
        Moment::now(&self.clock)
    }

    /// Saves the limit if one is wanted.
    fn keep(&mut self) -> Option<u64> {
        let limit_ms = self.oracle.wanted_limit(self.now())?;
        self.saved_ms = limit_ms;
        self.oracle.saved(limit_ms);
        Some(limit_ms)
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, Box<dyn Error>> {
        match command {
            Command::Take { count } => {
                let mut output = String::new();
                loop {
                    match self.oracle.allocate(*count, self.now()) {
                        Allocation::Granted(ts) => return Ok(format!("{output}{ts}\n")),
                        Allocation::NeedsWindow if context.tags.contains("wait") => {
                            let limit_ms = self.keep().expect("somebody waits for it");
                            output = format!("limit {limit_ms}\n");
                        }
                        Allocation::NeedsWindow => return Ok("needs a window\n".to_string()),
                        Allocation::NeedsTime => return Ok("needs time\n".to_string()),
                    }
                }
            }
            Command::Keep => match self.keep() {
                Some(limit_ms) => return Ok(format!("limit {limit_ms}\n")),
                None => return Ok("nothing to do\n".to_string()),
            },
            Command::Advance { milliseconds } => self.clock.advance_ms(*milliseconds),
            Command::Set { wall_ms } => self.clock.set_wall_ms(*wall_ms),
            Command::Restart => {
                self.oracle = Oracle::restore(self.saved_ms, WINDOW_MS, self.now());
            }
        }
        Ok(String::new())
    }
}

#[test]
fn scripts() {
    let mut scripts: Vec<_> = std::fs::read_dir("src/scripts/tso")
        .expect("the folder is part of the crate")
        .map(|entry| entry.expect("readable").path())
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 4, "some scripts are gone: {scripts:?}");
    for script in scripts {
        println!("{}", script.display());
        goldenscript::run(&mut Runner::new(), &script).expect("the script is as recorded");
    }
}

/// One thing that happens to an oracle.
#[derive(Clone, Debug)]
enum Happening {
    Take(u32),
    Keep,
    /// A limit reaches the disk, but the process dies before it hears of it.
    DieWhileSaving,
    Restart,
    Advance(u64),
    Forward(u64),
    Back(u64),
}

fn happenings() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (1..=LOGICAL_MAX).prop_map(Happening::Take),
        6 => (1..100u32).prop_map(Happening::Take),
        4 => Just(Happening::Keep),
        1 => Just(Happening::DieWhileSaving),
        1 => Just(Happening::Restart),
        4 => (0..2_000u64).prop_map(Happening::Advance),
        1 => (0..100_000u64).prop_map(Happening::Forward),
        1 => (0..100_000u64).prop_map(Happening::Back),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens: timestamps ascend strictly, each stays below what was on disk when it was handed
    /// out, and the lead over the wall clock is no larger than a window and what was forced upon us.
    #[test]
    fn timestamps_only_ascend(happenings in prop::collection::vec(happenings(), 1..300)) {
        let mut runner = Runner { clock: ManualClock::at(1_000_000), ..Runner::new() };
        let mut newest = Ts::ZERO;
        // The lead that restarts and steps back may have caused by now.
        let mut forced_ms = 0;
        for happening in happenings {
            match happening {
                Happening::Take(count) => {
                    if let Allocation::Granted(ts) = runner.oracle.allocate(count, runner.now()) {
                        // The smallest of the run is above all before it, in the same millisecond.
                        let smallest = ts.logical() + 1 - u64::from(count);
                        prop_assert!(smallest >= 1);
                        prop_assert!(Ts::compose(ts.physical_ms(), smallest) > newest);
                        prop_assert!(ts.physical_ms() < runner.saved_ms);
                        let lead_ms = ts.physical_ms().saturating_sub(runner.now().wall_ms);
                        prop_assert!(lead_ms <= WINDOW_MS + forced_ms, "{} > {}", lead_ms, forced_ms);
                        newest = ts;
                    }
                }
                Happening::Keep => {
                    runner.keep();
                }
                Happening::DieWhileSaving => {
                    if let Some(limit_ms) = runner.oracle.wanted_limit(runner.now()) {
                        runner.saved_ms = limit_ms;
                    }
                    runner.oracle = Oracle::restore(runner.saved_ms, WINDOW_MS, runner.now());
                    forced_ms += WINDOW_MS;
                }
                Happening::Restart => {
                    runner.oracle = Oracle::restore(runner.saved_ms, WINDOW_MS, runner.now());
                    forced_ms += WINDOW_MS;
                }
                Happening::Advance(milliseconds) => runner.clock.advance_ms(milliseconds),
                Happening::Forward(milliseconds) => {
                    runner.clock.set_wall_ms(runner.now().wall_ms + milliseconds);
                }
                Happening::Back(milliseconds) => {
                    runner.clock.set_wall_ms(runner.now().wall_ms.saturating_sub(milliseconds));
                    // Time that passed unseen before the step may count, up to a window.
                    forced_ms += milliseconds + WINDOW_MS;
                }
            }
        }
    }

    /// Whoever keeps asking is served in the end, however far the clock was set back.
    #[test]
    fn nobody_waits_for_ever(back_ms in 0..10_000_000u64, count in 1..=LOGICAL_MAX) {
        let mut runner = Runner { clock: ManualClock::at(20_000_000), ..Runner::new() };
        runner.keep();
        let first = runner.oracle.allocate(LOGICAL_MAX, runner.now());
        let Allocation::Granted(first) = first else { panic!("the window is open: {first:?}") };
        runner.clock.set_wall_ms(20_000_000 - back_ms);
        let mut served = None;
        for _ in 0..4 {
            match runner.oracle.allocate(count, runner.now()) {
                Allocation::Granted(ts) => { served = Some(ts); break }
                Allocation::NeedsWindow => { runner.keep(); }
                Allocation::NeedsTime => runner.clock.advance_ms(1),
            }
        }
        prop_assert!(served.is_some_and(|ts| ts > first));
    }
}
