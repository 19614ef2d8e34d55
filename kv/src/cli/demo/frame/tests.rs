//! Frames as recorded pictures: a script builds a scene and draws it in a terminal of some size.

use std::error::Error;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::crowd::Check;
use super::super::picture::{Balancer, Replica};
use super::*;

#[derive(goldenscript::Command)]
enum Command {
    /// Begins anew.
    Scene {
        title: String,
        seconds: u64,
        act: String,
    },
    Store {
        id: u64,
        state: String,
    },
    /// A region with replicas on these stores: `1L` leads, `2F` is fed, `3X` is lost.
    Region {
        id: u64,
        #[arg(many)]
        stores: Vec<String>,
    },
    /// So many regions with replicas on three of so many stores, in turn.
    Regions {
        count: u64,
        stores: u64,
    },
    /// An operator that runs, or has ended.
    Operator {
        region: u64,
        name: String,
        why: String,
        done: usize,
        #[arg(key)]
        ending: Option<String>,
        #[arg(many)]
        steps: Vec<String>,
    },
    Balancer {
        name: String,
        summary: String,
        #[arg(key)]
        obstacle: Option<String>,
    },
    /// What clients saw, with these rates.
    Clients {
        acknowledged: u64,
        longest: u64,
        #[arg(many)]
        rates: Vec<u64>,
    },
    /// What was found when all was read back.
    Read {
        keys: usize,
        lost: usize,
    },
    /// Draws.
    Draw {
        width: u16,
        height: u16,
    },
    /// Says it in a line.
    Line,
}

#[derive(Default)]
struct Stand {
    scene: Scene,
}

impl Stand {
    fn region(&mut self, id: u64, stores: &[String]) {
        let mut leader = None;
        let replica = |text: &String| {
            let (store, kind) = match text.split_at(text.len() - 1) {
                (store, "L") => (store, Kind::Leader),
                (store, "F") => (store, Kind::Fed),
                (store, "X") => (store, Kind::Lost),
                _ => (&text[..], Kind::Follower),
            };
            let store = store.parse().expect("the id of a store");
            leader = leader.or((kind == Kind::Leader).then_some(store));
            Replica { store, kind }
        };
        let replicas = stores.iter().map(replica).collect();
        self.scene.picture.regions.push(Region { id, leader, replicas, ..Region::default() });
    }

    fn draw(&self, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("in memory");
        terminal.draw(|frame| draw(frame, &self.scene)).expect("in memory");
        let buffer = terminal.backend().buffer();
        let row = |y| {
            let cells = (0..width).map(|x| buffer[(x, y)].symbol());
            cells.collect::<String>().trim_end().to_string() + "\n"
        };
        (0..height).map(row).collect()
    }
}

impl goldenscript::Runner for Stand {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let picture = &mut self.scene.picture;
        match command {
            Command::Scene { title, seconds, act } => {
                let passed = Duration::from_secs(*seconds);
                let (title, act) = (title.clone(), act.clone());
                self.scene = Scene { title, act, passed, seed: 7, ..Scene::default() };
            }
            Command::Store { id, state } => {
                let (id, state) = (*id, state.clone());
                picture.stores.push(Store { id, state, ..Store::default() });
            }
            Command::Region { id, stores } => self.region(*id, stores),
            Command::Regions { count, stores } => {
                for id in 0..*count {
                    let store = |place: u64| 1 + (id + place) % stores;
                    let held =
                        [format!("{}L", store(0)), store(1).to_string(), store(2).to_string()];
                    self.region(id, &held);
                }
            }
            Command::Operator { region, name, why, done, ending, steps } => {
                let ending = ending.clone();
                let list =
                    if ending.is_some() { &mut picture.ended } else { &mut picture.operators };
                let (name, why, steps) = (name.clone(), why.clone(), steps.clone());
                list.push(Operator { region: *region, name, why, steps, done: *done, ending });
            }
            Command::Balancer { name, summary, obstacle } => {
                let (name, summary, obstacle) = (name.clone(), summary.clone(), obstacle.clone());
                picture.balancers.push(Balancer { name, summary, obstacle });
            }
            Command::Clients { acknowledged, longest, rates } => {
                let longest = Duration::from_millis(*longest);
                let (acknowledged, rates) = (*acknowledged, rates.clone());
                self.scene.count = Some(Count { acknowledged, longest, rates, ..Count::default() });
            }
            Command::Read { keys, lost } => {
                let count = self.scene.count.as_mut().ok_or("there are no clients")?;
                count.check = Some(Check { keys: *keys, lost: *lost });
            }
            Command::Draw { width, height } => return Ok(self.draw(*width, *height)),
            Command::Line => return Ok(line(&self.scene) + "\n"),
        }
        Ok(String::new())
    }
}

#[test]
fn scripts() -> std::io::Result<()> {
    for script in ["balance", "failover", "split", "sizes"] {
        goldenscript::run(&mut Stand::default(), format!("src/cli/demo/scripts/{script}"))?;
    }
    Ok(())
}
