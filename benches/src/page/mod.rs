//! The tables and pictures of `docs/benchmarks.md`, made of the newest results and of nothing else.
//!
//! The page is written by hand but for sections between two marks, `<!-- made: NAME -->` and `<!-- end -->`. [`write`]
//! makes those anew, and the pictures beside the results; a test wants that this changes nothing.

use std::path::Path;

use self::pictures::Picture;
use crate::compare::results::{Measurement, Results, Sample, Spread};
use crate::compare::{Result, newest};

mod goals;
mod pictures;

/// The page, from the root of the repository.
pub const PAGE: &str = "docs/benchmarks.md";
/// Where results and pictures lie.
const RESULTS: &str = "docs/results";

/// What stands where nothing was measured yet.
const NOTHING: &str = "No run is recorded yet: `make bench-compare` makes one.\n";

/// Everything that is made: paths from the root, and what they hold.
pub fn made(root: &Path) -> Result<Vec<(String, String)>> {
    let page = std::fs::read_to_string(root.join(PAGE));
    let page = page.map_err(|error| format!("{PAGE}: {error}"))?;
    let results = newest(&root.join(RESULTS))?;
    let pictures = results.as_ref().map(pictures::all).transpose()?.unwrap_or_default();
    let sections = sections(results.as_ref(), &pictures);
    let mut files = vec![(PAGE.to_string(), filled(&page, &sections)?)];
    for picture in pictures {
        files.push((format!("{RESULTS}/{}.svg", picture.name), picture.svg));
    }
    Ok(files)
}

/// Writes it.
pub fn write(root: &Path) -> Result<()> {
    for (path, text) in made(root)? {
        std::fs::write(root.join(&path), text).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

/// What a terminal is told of a run.
pub fn told(results: &Results) -> String {
    let goals = [goals::table(results), goals::misses(results)];
    [run(results), goals.join("\n"), figures(results), events(results)].join("\n")
}

type Sections = Vec<(&'static str, String)>;

fn sections(results: Option<&Results>, pictures: &[Picture]) -> Sections {
    let made = |make: fn(&Results) -> String| results.map_or_else(|| NOTHING.to_string(), make);
    let shown = pictures.iter().map(|it| format!("![{}](results/{}.svg)\n", it.title, it.name));
    let shown = shown.collect::<Vec<_>>().join("\n");
    vec![
        ("run", made(run)),
        ("goals", made(goals::table)),
        ("misses", made(goals::misses)),
        ("figures", made(figures)),
        ("events", made(events)),
        ("references", made(references)),
        ("pictures", if shown.is_empty() { NOTHING.to_string() } else { shown }),
    ]
}

/// The page with its sections made anew.
fn filled(page: &str, sections: &Sections) -> Result<String> {
    let (mut text, mut rest, mut used) = (String::new(), page, 0);
    while let Some((before, behind)) = rest.split_once("<!-- made: ") {
        let (name, behind) = behind.split_once(" -->\n").ok_or("a mark is not closed")?;
        let (_, behind) = behind.split_once("<!-- end -->").ok_or("a section does not end")?;
        let section = sections.iter().find(|(known, _)| *known == name);
        let (_, section) = section.ok_or_else(|| format!("nobody makes a section {name}"))?;
        text += &format!("{before}<!-- made: {name} -->\n{section}<!-- end -->");
        (rest, used) = (behind, used + 1);
    }
    match used == sections.len() {
        true => Ok(text + rest),
        false => Err(format!("the page has {used} of {} sections", sections.len())),
    }
}

/// One line of a table.
fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn table(heading: &[&str], rows: Vec<Vec<String>>) -> String {
    let heading: Vec<String> = heading.iter().map(ToString::to_string).collect();
    let dashes = vec!["---".to_string(); heading.len()];
    [heading, dashes].iter().chain(&rows).map(|cells| line(cells)).collect()
}

/// A figure with three digits, or whole if it is large.
fn rounded(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_string(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn spread(found: Option<Spread>) -> String {
    match found {
        None => "-".to_string(),
        Some(Spread { median, least, most }) if least == most => rounded(median),
        Some(Spread { median, least, most }) => {
            format!("{} ({} to {})", rounded(median), rounded(least), rounded(most))
        }
    }
}

/// What was measured, when, on what; and what is wrong with it.
fn run(results: &Results) -> String {
    let machine = &results.machine;
    let steady = results.rounds.iter().filter(|round| round.is_steady()).count();
    let programs = machine.programs.iter().map(|(name, version)| format!("{name}: {version}"));
    let mut text = format!(
        "{}, commit {}, {} cores ({}), {} MiB of memory, Linux {}; {}. {} of {} rounds count. It took {} \
         minutes.\n",
        machine.day,
        machine.commit,
        machine.cores,
        machine.processor,
        machine.memory,
        machine.kernel,
        programs.collect::<Vec<_>>().join("; "),
        steady,
        results.rounds.len(),
        results.minutes,
    );
    if !results.is_complete {
        text += "\n**It was interrupted: this is what there was by then.**\n";
    }
    for doubt in &results.doubts {
        text += &format!("\n**Taken on a busy machine, and not to be believed: {doubt}.**\n");
    }
    for failure in &results.failures {
        text += &format!("\nNot measured: {failure}.\n");
    }
    text
}

/// Every measurement.
fn figures(results: &Results) -> String {
    let heading = [
        "job",
        "system",
        "workload",
        "a second",
        "p50 ms",
        "p99 ms",
        "failed",
        "servers us",
        "client us",
        "disk B/B",
        "memory MiB",
    ];
    let row = |found: &Measurement| {
        let of = |of: fn(&Sample) -> Option<f64>| spread(found.spread(of));
        let median = |of: fn(&Sample) -> Option<f64>| {
            found.spread(of).map_or("-".to_string(), |found| rounded(found.median))
        };
        let failed: u64 = found.samples.iter().map(|it| it.sample.failed).sum();
        vec![
            found.job.clone(),
            found.system.clone(),
            found.workload.clone(),
            of(|sample| Some(sample.per_second)),
            of(|sample| Some(sample.p50_ms)),
            of(|sample| Some(sample.p99_ms)),
            failed.to_string(),
            median(|sample| Some(sample.servers_cpu_us_per_operation)),
            median(|sample| Some(sample.client_cpu_us_per_operation)),
            median(|sample| sample.disk_bytes_per_user_byte),
            median(|sample| Some((sample.servers.resident_bytes >> 20) as f64)),
        ]
    };
    table(&heading, results.measurements.iter().map(row).collect())
}

fn events(results: &Results) -> String {
    let rows = results.scenarios.iter().flat_map(|scenario| {
        scenario.figures.iter().map(|figure| {
            vec![
                scenario.goals.clone(),
                scenario.scenario.clone(),
                scenario.target.clone(),
                scenario.stores.to_string(),
                scenario.regions.to_string(),
                figure.what.clone(),
                format!("{} {}", rounded(figure.value), figure.unit).trim_end().to_string(),
            ]
        })
    });
    let heading = ["goal", "scenario", "system", "stores", "regions", "what", "figure"];
    table(&heading, rows.collect())
}

fn references(results: &Results) -> String {
    let rows = results.rounds.iter().zip(1..).flat_map(|(round, number)| {
        [("before", round.before), ("after", round.after)].map(|(when, found)| {
            vec![
                number.to_string(),
                when.to_string(),
                rounded(found.fdatasync_us),
                rounded(found.rocks_puts),
                rounded(found.rocks_gets),
                rounded(found.rocks_scanned),
                if round.is_steady() { "yes" } else { "no" }.to_string(),
            ]
        })
    });
    let heading = [
        "round",
        "",
        "fdatasync us",
        "RocksDB, 64 threads, synced puts/s",
        "one thread, gets/s",
        "one thread, scanned pairs/s",
        "counts",
    ];
    table(&heading, rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::machine::Machine;
    use crate::compare::plan;
    use crate::compare::references::References;
    use crate::compare::results::{Round, Scenario, Sweep};

    /// Results of a run that never was: ours is four times as fast as etcd.
    fn invented() -> Results {
        let mut results =
            Results::begin(Machine { day: "2000-01-01".into(), ..Machine::default() });
        for (system, rate) in [("skerry", 4_000.0), ("etcd", 1_000.0)] {
            let sample = Sample { workload: "put".into(), per_second: rate, ..Sample::default() };
            results.add(plan::LARGE, system, sample, true);
        }
        results
    }

    #[test]
    fn the_page_is_what_is_made_of_the_results() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it lies in the root");
        for (path, text) in made(root).expect("it can be made") {
            let there = std::fs::read_to_string(root.join(&path)).unwrap_or_default();
            assert!(there == text, "{path} is not what `make bench-page` makes");
        }
    }

    #[test]
    fn sections_are_replaced_and_all_else_is_kept() {
        let sections = vec![("one", "new\n".to_string())];
        let page = "before\n<!-- made: one -->\nold\n<!-- end -->\nbehind\n";
        let expected = "before\n<!-- made: one -->\nnew\n<!-- end -->\nbehind\n";
        assert_eq!(filled(page, &sections), Ok(expected.to_string()));
        assert_eq!(filled(expected, &sections), Ok(expected.to_string()), "twice is once");
        assert!(filled("no marks", &sections).is_err());
        assert!(filled("<!-- made: two -->\n<!-- end -->", &sections).is_err());
    }

    #[test]
    fn a_busy_machine_is_named_on_the_page() {
        let mut results = invented();
        results.doubts.push("others use 50%".to_string());
        let text = run(&results);
        assert!(text.contains("not to be believed: others use 50%"), "{text}");
        assert!(text.contains("interrupted"), "{text}");
    }

    #[test]
    fn figures_stand_in_a_table() {
        let text = figures(&invented());
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("| etcd | put | 1000 |"), "{text}");
    }

    #[test]
    fn a_goal_is_a_ratio_of_one_run() {
        let text = goals::table(&invented());
        let line = text.lines().find(|line| line.starts_with("| P1 |")).expect("it is there");
        assert!(line.contains("| 4.00 |"), "{line}");
        assert!(line.ends_with("| floor |"), "{line}");
        let line = text.lines().find(|line| line.starts_with("| P6 |")).expect("it is there");
        assert!(line.contains("not measured"), "{line}");
    }

    #[test]
    fn a_figure_under_its_floor_is_told_again_with_what_limits_it() {
        let reached = goals::misses(&invented());
        assert!(
            reached.starts_with("Every figure that was measured reaches its floor"),
            "{reached}"
        );
        let mut results = invented();
        let ours = &mut results.measurements[0].samples[0].sample;
        (ours.per_second, ours.servers_cpu_us_per_operation) = (2_000.0, 60.0);
        ours.client_cpu_us_per_operation = 40.0;
        results.machine.cores = 2;
        let missed = goals::misses(&results);
        assert_eq!(missed.lines().count(), 1, "{missed}");
        assert!(missed.starts_with("* **P1, puts, 256 B keys"), "{missed}");
        assert!(missed.contains("2.00 x etcd, floor 4.00."), "{missed}");
        assert!(missed.contains("servers 60.0 us"), "{missed}");
        assert!(missed.contains("0.200 of 2 cores"), "{missed}");
        assert!(missed.contains("Next: "), "{missed}");
    }

    #[test]
    fn a_goal_without_a_floor_is_missed_and_told_again_and_nothing_is_below() {
        let mut results = invented();
        let looks = References {
            fdatasync_us: 100.0,
            rocks_puts: 1_000.0,
            rocks_gets: 1_000.0,
            rocks_scanned: 1_000_000.0,
        };
        let sample = Sample { workload: "scan".into(), per_second: 2_000.0, ..Sample::default() };
        results.add(plan::READS, "skerry", sample, true);
        results.rounds.push(Round { before: looks, after: looks });
        let table = goals::table(&results);
        let line = table.lines().find(|line| line.contains("pairs of these scans"));
        let line = line.expect("it is there");
        assert!(line.contains("| - | at least 0.400 x RocksDB's iterator |"), "{line}");
        assert!(line.ends_with("| 0.200 | goal missed |"), "{line}");
        let missed = goals::misses(&results);
        let told = "* **P9, pairs of these scans**: 0.200 x RocksDB's iterator, goal 0.400.";
        assert!(missed.starts_with(told) && missed.contains("Next: "), "{missed}");
    }

    #[test]
    fn puts_through_streams_stand_beside_those_by_calls_and_the_same_peer() {
        let mut results = invented();
        let sample = Sample { workload: "put".into(), per_second: 9_000.0, ..Sample::default() };
        results.add(plan::LARGE_STREAMS, "skerry", sample, true);
        let table = goals::table(&results);
        let both: Vec<&str> = table.lines().filter(|line| line.starts_with("| P1 |")).collect();
        assert_eq!(both.len(), 2, "{table}");
        assert!(both[0].ends_with("| 4.00 | floor |"), "by calls: {both:?}");
        assert!(both[1].ends_with("| 9.00 | goal |"), "through streams: {both:?}");
    }

    #[test]
    fn half_of_the_peak_is_a_rate_at_which_both_were_measured() {
        let mut results = Results::default();
        let sample = |per_second, p99_ms| Sample { per_second, p99_ms, ..Sample::default() };
        let mut sweep = |name: &str, system: &str, points: &[(f64, f64, f64)]| {
            let points = points.iter().map(|(x, rate, p99)| (*x, sample(*rate, *p99))).collect();
            results.sweeps.push(Sweep { name: name.into(), system: system.into(), points });
        };
        sweep(
            "clients",
            "skerry",
            &[(1.0, 900.0, 1.0), (64.0, 9_000.0, 5.0), (256.0, 8_000.0, 9.0)],
        );
        for (system, times) in [("skerry", [1.0, 2.0, 9.0]), ("etcd", [2.0, 8.0, 50.0])] {
            let rates = [2_000.0, 4_000.0, 8_000.0];
            let points: Vec<_> = rates.into_iter().zip(times).map(|(x, it)| (x, x, it)).collect();
            sweep("rate", system, &points);
        }
        // The peak is 9,000; at 4,000 a second ours takes a quarter of the time.
        let text = goals::table(&results);
        let line = text.lines().find(|line| line.starts_with("| P5 |")).expect("it is there");
        assert!(line.ends_with("| 0.250 | goal |"), "{line}");
    }

    #[test]
    fn all_three_pictures_are_drawn_and_stand_on_the_page() {
        let mut results = invented();
        let points = vec![(1.0, Sample::default()), (2.0, Sample::default())];
        for name in ["clients", "rate"] {
            let (name, system) = (name.to_string(), "skerry".to_string());
            results.sweeps.push(Sweep { name, system, points: points.clone() });
        }
        results.scenarios.push(Scenario {
            scenario: "failover".into(),
            goals: "P16".into(),
            target: "skerry".into(),
            regions: 1,
            stores: 3,
            figures: Vec::new(),
            rates: vec![(-1.0, 100.0), (0.0, 0.0), (1.0, 100.0)],
        });
        let pictures = pictures::all(&results).expect("they can be drawn");
        let names: Vec<&str> = pictures.iter().map(|picture| picture.name).collect();
        assert_eq!(names, ["throughput", "latency", "failover"]);
        let sections = sections(Some(&results), &pictures);
        let page: String = sections.iter().map(|(name, _)| mark(name)).collect();
        let page = filled(&page, &sections).expect("it has all sections");
        for name in names {
            assert!(page.contains(&format!("](results/{name}.svg)")), "{page}");
        }
    }

    fn mark(name: &str) -> String {
        format!("<!-- made: {name} -->\n<!-- end -->\n")
    }
}
