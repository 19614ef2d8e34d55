//! `skerry bench` as its user meets it: figures that add up, clear words when it cannot work, nothing left behind.

use std::net::TcpStream;

use serde_json::Value;
use skerry_tests::process::{Ended, Ground, Launch, Process};

/// A small measurement of what these words name.
fn bench(words: &[&str]) -> Launch {
    let launch =
        Launch::of("bench").with("--keys", "500").with("--clients", "8").argument("--json");
    words.iter().fold(launch, |launch, &word| launch.argument(word))
}

fn results(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:#?}"))
}

#[test]
fn every_workload_runs_against_a_cluster_and_its_figures_add_up() {
    let ground = Ground::new();
    let cluster = ground.replicated_playground().start();
    let scheduler = cluster.addresses().scheduler.to_string();
    let workloads = ["put", "get", "scan", "mixed", "ycsb-a", "ycsb-d", "ycsb-e", "ycsb-f"];
    let ended = bench(&workloads)
        .with("--scheduler-addr", scheduler)
        .with("--operations", "200")
        .with("--scan-length", "10")
        .run_to_end();
    ended.assert_clean();
    let results = results(&ended);
    assert_eq!(results["complete"], true);
    let results = results["results"].as_array().expect("a list").clone();
    let names: Vec<&str> = results.iter().filter_map(|it| it["workload"].as_str()).collect();
    assert_eq!(names, workloads);
    for result in &results {
        assert_eq!(
            (&result["operations"], &result["failed"]),
            (&200.into(), &0.into()),
            "{result}"
        );
        let number = |name: &str| result[name].as_f64().expect("a number");
        assert!((number("per_second") * number("seconds") - 200.0).abs() < 1.0, "{result}");
        assert!(number("p50_ms") > 0.0 && number("p50_ms") <= number("p99_ms"), "{result}");
        assert!(number("p99_ms") <= number("max_ms"), "{result}");
    }
    cluster.stop().assert_clean();
}

#[test]
fn at_a_rate_it_does_no_more_than_that() {
    let ground = Ground::new();
    let cluster = ground.replicated_playground().start();
    let scheduler = cluster.addresses().scheduler.to_string();
    let ended = bench(&["put"])
        .with("--scheduler-addr", scheduler)
        .with("--rate", "50")
        .with("--seconds", "2")
        .run_to_end();
    let operations = results(&ended)["results"][0]["operations"].as_u64().expect("a number");
    assert!((1..=110).contains(&operations), "{operations} in two seconds at 50 a second");
    cluster.stop().assert_clean();
}

/// Where the cluster that it started for itself listens.
fn own_scheduler(process: &Process) -> String {
    let heard = process.stderr();
    let behind = heard.split("starting a playground, scheduler ").nth(1).expect("it has said so");
    behind.lines().next().expect("a line").to_string()
}

#[test]
fn an_interrupt_keeps_what_was_measured_and_leaves_nothing_running() {
    let process = bench(&["put"]).with("--seconds", "600").start_until("ops/s");
    let scheduler = own_scheduler(&process);
    let ended = process.stop();
    ended.assert_failed(&["interrupted", "partial"]);
    let results = results(&ended);
    assert_eq!(results["complete"], false);
    assert!(results["results"][0]["operations"].as_u64().expect("a number") > 0, "{results}");
    assert!(TcpStream::connect(&scheduler).is_err(), "the playground listens still");
}

#[test]
fn an_interrupt_before_it_measures_stops_the_cluster_that_was_being_started() {
    let process = bench(&["put"]).start_until("starting a playground");
    let scheduler = own_scheduler(&process);
    process.stop().assert_refused(&["interrupted before it began"]);
    assert!(TcpStream::connect(&scheduler).is_err(), "the playground listens still");
}

#[test]
fn a_cluster_that_is_not_there_is_named() {
    let ended = bench(&["put"]).with("--scheduler-addr", "127.0.0.1:1").run_to_end();
    ended.assert_refused(&["127.0.0.1:1"]);
}
