//! `skerry bench` as its user meets it: figures that add up, clear words when it cannot work, nothing left behind.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use skerry_tests::process::{Ended, Ground, Launch, Process};
use skerry_tests::wait;

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
    let workloads =
        ["put", "get", "scan", "mixed", "ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-e", "ycsb-f"];
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

#[test]
fn a_stall_is_felt_by_all_operations_that_were_due_meanwhile() {
    let ground = Ground::new();
    let cluster = ground.replicated_playground().start();
    let process = bench(&["put"])
        .with("--scheduler-addr", cluster.addresses().scheduler.to_string())
        .with("--clients", "4")
        .with("--rate", "200")
        .with("--seconds", "4")
        .start_until("ops/s");
    cluster.signal(Signal::STOP);
    wait::let_pass(Duration::from_millis(1_500));
    cluster.signal(Signal::CONT);
    let ended = process.end();
    ended.assert_clean();
    let results = results(&ended);
    // Three hundred of eight hundred came too late. Counted from when its client got round to it, four would have.
    assert!(number(&results, "operations") > 600.0, "{results}");
    assert!(number(&results, "p99_ms") > 700.0, "{results}");
    cluster.stop().assert_clean();
}

#[test]
fn without_json_a_table_is_told_and_a_line_every_second_before() {
    let launch = Launch::of("bench").argument("put").argument("get").with("--keys", "500");
    let ended = launch.with("--seconds", "2").run_to_end();
    ended.assert_clean();
    for workload in ["put", "get"] {
        let is_line = |line: &&str| line.contains(workload) && line.contains("ops/s");
        let lines: Vec<&str> = ended.stderr.lines().filter(is_line).collect();
        assert!(!lines.is_empty(), "{ended:#?}");
        for word in ["p50", "p99", "failed"] {
            assert!(lines[0].contains(word), "{lines:?}");
        }
        let row = ended.stdout.lines().find(|line| line.starts_with(workload));
        assert!(row.is_some_and(|row| row.split_whitespace().count() == 16), "{ended:#?}");
    }
    for heading in ["ops/s", "keys/s", "p50 ms", "p99 ms", "p99.9 ms", "failed"] {
        assert!(ended.stdout.contains(heading), "{ended:#?}");
    }
}

#[test]
fn money_moves_between_accounts_of_several_regions_and_none_is_lost() {
    let ended = bench(&["bank"])
        .with("--regions", "3")
        .with("--accounts", "12")
        .with("--operations", "600")
        .run_to_end();
    ended.assert_clean();
    let results = results(&ended);
    assert_eq!((number(&results, "operations"), number(&results, "failed")), (600.0, 0.0));
    let bank = &results["results"][0]["bank"];
    assert_eq!((&bank["total"], &bank["broken"]), (&12_000.into(), &Value::Null), "{results}");
    assert!(bank["sums"].as_u64() > Some(1), "summed while money moved, and at the end: {results}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bank_from_which_somebody_steals_is_found_out() {
    let ground = Ground::new();
    let cluster = ground.replicated_playground().start();
    let scheduler = cluster.addresses().scheduler.to_string();
    let process = bench(&["bank"])
        .with("--scheduler-addr", scheduler.clone())
        .with("--accounts", "12")
        .with("--seconds", "600")
        .start_until("ops/s");
    let client = tikv_client::TransactionClient::new(vec![scheduler]).await.expect("a client");
    // The first account, with far more than all of them had. The clients may be in the way.
    let account = format!("bench{:016x}", (0.5 / 12.0 * u64::MAX as f64) as u64);
    wait::until_async("the account is robbed", async || {
        let mut txn = client.begin_pessimistic().await.expect("a transaction");
        let locked = txn.get_for_update(account.clone()).await;
        if locked.is_err() || txn.put(account.clone(), "50000").await.is_err() {
            txn.rollback().await.expect("it is given up");
            return None;
        }
        txn.commit().await.ok()
    })
    .await;
    let ended = tokio::task::spawn_blocking(move || process.end()).await.expect("it ends");
    ended.assert_failed(&["bank: the 12 accounts hold", "and not 12000"]);
    assert!(results(&ended)["results"][0]["bank"]["broken"].is_string(), "{ended:#?}");
    cluster.stop().assert_clean();
}

#[test]
fn what_is_no_bank_is_refused() {
    for few in ["0", "1"] {
        let ended = bench(&["bank"]).with("--accounts", few).run_to_end();
        ended.assert_refused(&["between two accounts", &format!("--accounts {few} are too few")]);
    }
    let ended = bench(&["bank", "--no-load"]).run_to_end();
    ended.assert_refused(&["there is no account", "--no-load"]);
    let ended = bench(&["bank"]).with("--target", "etcd").run_to_end();
    ended.assert_refused(&["bank is not measured on etcd"]);
}

#[test]
fn gets_find_the_same_at_any_replica() {
    let ended = bench(&["get", "--replica-read"])
        .with("--regions", "3")
        .with("--operations", "300")
        .run_to_end();
    ended.assert_clean();
    let results = results(&ended);
    assert_eq!((number(&results, "operations"), number(&results, "failed")), (300.0, 0.0));
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
    for wrong in ["127.0.0.1:1", "nowhere at all"] {
        let ended = bench(&["put"]).with("--scheduler-addr", wrong).run_to_end();
        ended.assert_refused(&[wrong]);
    }
}

/// The first result, as a number.
fn number(results: &Value, name: &str) -> f64 {
    let found = &results["results"][0][name];
    found.as_f64().unwrap_or_else(|| panic!("{name} is no number: {results}"))
}

#[test]
fn servers_of_its_own_are_measured_too() {
    let ended = bench(&["put", "--separate"])
        .with("--operations", "300")
        .with("--value-size", "1000")
        .run_to_end();
    ended.assert_clean();
    let results = results(&ended);
    assert_eq!(results["results"][0]["failed"], 0, "{results}");
    assert!(number(&results, "servers_cpu_us_per_operation") > 0.0, "{results}");
    // Three replicas each log what they store; the last of it may be on its way still.
    assert!(number(&results, "raft_log_bytes_per_user_byte") > 2.5, "{results}");
    assert!(
        results["results"][0]["servers"]["resident_bytes"].as_u64() > Some(1 << 20),
        "{results}"
    );
}

#[test]
fn transactions_of_one_region_and_of_two_commit() {
    let ended = bench(&["txn-one-region", "txn-two-regions"])
        .with("--regions", "3")
        .with("--operations", "100")
        .run_to_end();
    ended.assert_clean();
    for result in results(&ended)["results"].as_array().expect("a list") {
        let counts = (&result["operations"], &result["failed"]);
        assert_eq!(counts, (&100.into(), &0.into()), "{result}");
    }
}

#[test]
fn two_regions_are_wanted_where_there_is_one() {
    bench(&["txn-two-regions"])
        .run_to_end()
        .assert_refused(&["all keys lie in one region", "--regions 2"]);
}

#[test]
fn commands_travel_in_batches_if_that_is_asked_for() {
    let ended = bench(&["put"]).with("--api", "batch").with("--operations", "200").run_to_end();
    ended.assert_clean();
    assert_eq!(number(&results(&ended), "operations"), 200.0);
    assert_eq!(number(&results(&ended), "failed"), 0.0);
}

#[test]
fn a_request_may_have_many_keys_and_both_are_counted() {
    let ground = Ground::new();
    let cluster = ground.replicated_playground().start();
    let scheduler = cluster.addresses().scheduler.to_string();
    let workloads = ["put", "get", "mixed", "ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-f"];
    for api in ["unary", "batch"] {
        let ended = bench(&workloads)
            .with("--scheduler-addr", scheduler.clone())
            .with("--regions", "4")
            .with("--api", api)
            .with("--batch-size", "40")
            .with("--operations", "50")
            .run_to_end();
        ended.assert_clean();
        let results = results(&ended);
        for result in results["results"].as_array().expect("a list") {
            let counts = (&result["operations"], &result["failed"], &result["batch_size"]);
            assert_eq!(counts, (&50.into(), &0.into(), &40.into()), "requests: {result}");
            let number = |name: &str| result[name].as_f64().expect("a number");
            let keys = number("keys_per_second") / number("per_second");
            assert!((keys - 40.0).abs() < 0.001, "{result}");
        }
    }
    cluster.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_one_request_differ_and_reach_every_region() {
    let ground = Ground::new();
    let cluster = ground.replicated_playground().start();
    let scheduler = cluster.addresses().scheduler.to_string();
    let client = tikv_client::RawClient::new(vec![scheduler.clone()]).await.expect("a client");
    for regions in ["1", "8"] {
        let none = "bench".to_string().."bend".to_string();
        client.delete_range(none.clone()).await.expect("they are deleted");
        let launch = bench(&["put"])
            .with("--scheduler-addr", scheduler.clone())
            .with("--regions", regions)
            .with("--batch-size", "500")
            .with("--clients", "1")
            .with("--operations", "1");
        let ended = tokio::task::spawn_blocking(move || launch.run_to_end()).await;
        ended.expect("it ends").assert_clean();
        let pairs = client.scan_keys(none, 1_000).await.expect("they are read");
        assert_eq!(pairs.len(), 500, "one request has written all keys of {regions} regions");
    }
    cluster.stop().assert_clean();
}

#[test]
fn requests_of_many_keys_follow_regions_that_are_cut_meanwhile() {
    let ground = Ground::new();
    let cluster = ground.replicated_playground().start();
    let scheduler = cluster.addresses().scheduler.to_string();
    let many = |operations: &str| {
        bench(&["put", "get"])
            .with("--scheduler-addr", scheduler.clone())
            .with("--batch-size", "50")
            .with("--operations", operations)
            .with("--seconds", "30")
    };
    let process = many("6000").start_until("ops/s");
    many("1").with("--regions", "20").run_to_end().assert_clean();
    let ended = process.end();
    ended.assert_clean();
    let results = results(&ended);
    assert_eq!(number(&results, "failed"), 0.0, "{results}");
    assert!(number(&results, "repeated") > 0.0, "its regions were cut under it: {results}");
    assert!(number(&results, "regions") > 1.0, "it has found new ones: {results}");
    cluster.stop().assert_clean();
}

#[test]
fn what_is_written_is_told_by_the_byte_for_many_keys_too() {
    let ended = bench(&["put", "--separate"])
        .with("--batch-size", "16")
        .with("--value-size", "1000")
        .with("--seconds", "2")
        .run_to_end();
    ended.assert_clean();
    let results = results(&ended);
    // Three replicas each log what they store, and little beside it.
    let logged = number(&results, "raft_log_bytes_per_user_byte");
    assert!((2.5..3.5).contains(&logged), "{results}");
    let lines = ended.stderr.lines().filter(|line| line.contains("ops/s"));
    assert!(lines.into_iter().any(|line| line.contains("keys/s")), "{ended:#?}");
}

#[test]
fn requests_that_cannot_be_made_are_refused() {
    for wrong in ["0", "1025", "many"] {
        let ended = bench(&["put"]).with("--batch-size", wrong).run_to_end();
        assert!(!ended.status.success(), "{ended:#?}");
        assert!(ended.stderr.contains(&format!("invalid value '{wrong}' for '--batch-size")));
    }
    let ended = bench(&["put"]).with("--batch-size", "501").run_to_end();
    ended.assert_refused(&["--batch-size 501", "different keys", "--keys are only 500"]);
    let large = bench(&["put"]).with("--batch-size", "100").with("--value-size", "100000");
    large.run_to_end().assert_refused(&["--batch-size 100", "9767 KiB", "may have 1024"]);
    for workload in ["scan", "ycsb-e", "txn-one-region", "txn-two-regions", "bank"] {
        let ended = bench(&["put", workload]).with("--batch-size", "2").run_to_end();
        ended.assert_refused(&[&format!("{workload} has no batches"), "put, get, mixed, ycsb-a"]);
    }
}

/// Whether a program of a peer can be run here. If not, this is said: no figure of ours depends on it.
fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("\nnot tested here: {program} is not installed");
    }
    found
}

#[test]
fn peers_do_the_same_work() {
    for (peer, program, workloads) in [
        ("etcd", "etcd", &["put", "get", "scan", "ycsb-a"][..]),
        ("redis", "redis-server", &["put", "get", "ycsb-a"]),
    ] {
        if !is_there(program) {
            continue;
        }
        let ended =
            bench(workloads).with("--target", peer).with("--operations", "100").run_to_end();
        ended.assert_clean();
        let results = results(&ended);
        assert_eq!(results["target"], peer);
        let done = results["results"].as_array().expect("a list");
        assert_eq!(done.len(), workloads.len(), "{results}");
        for result in done {
            let counts = (&result["operations"], &result["failed"]);
            assert_eq!(counts, (&100.into(), &0.into()), "{result}");
        }
    }
}

#[test]
fn peers_take_requests_of_many_keys() {
    for (peer, program) in [("etcd", "etcd"), ("redis", "redis-server")] {
        if !is_there(program) {
            continue;
        }
        // More puts than a transaction of etcd has unless it is told so.
        let ended = bench(&["put", "get", "ycsb-f"])
            .with("--target", peer)
            .with("--batch-size", "200")
            .with("--operations", "20")
            .run_to_end();
        ended.assert_clean();
        for result in results(&ended)["results"].as_array().expect("a list") {
            let counts = (&result["operations"], &result["failed"], &result["batch_size"]);
            assert_eq!(counts, (&20.into(), &0.into(), &200.into()), "{result}");
        }
    }
}

#[test]
fn a_server_that_dies_in_the_middle_ends_the_run_and_what_was_measured_is_kept() {
    if !is_there("redis-server") {
        return;
    }
    let process = bench(&["put", "get", "--no-load"])
        .with("--target", "redis")
        .with("--seconds", "600")
        .start_until("ops/s");
    let heard = process.stderr();
    let behind = heard.split("starting redis, ").nth(1).expect("it has said where");
    let address = behind.lines().next().expect("a line");
    let mut operator = TcpStream::connect(address).expect("redis listens");
    operator.write_all(b"SHUTDOWN NOSAVE\r\n").expect("redis hears");
    let ended = process.end();
    ended.assert_failed(&["redis ended with", "the results are partial"]);
    assert!(ended.stderr.contains(&format!("redis at {address} does not answer")), "{ended:#?}");
    let results = results(&ended);
    assert_eq!((&results["complete"], number(&results, "operations") > 0.0), (&false.into(), true));
    assert_eq!(results["results"].as_array().map(Vec::len), Some(1), "the next did not begin");
}

#[test]
fn a_peer_that_is_not_installed_is_named_with_its_package() {
    for (peer, package) in [("etcd", "etcd-server"), ("redis", "redis-server")] {
        let launch = bench(&["put"]).with("--target", peer).environment([("PATH", "/nowhere")]);
        launch
            .run_to_end()
            .assert_refused(&["cannot be run", &format!("apt-get install {package}")]);
    }
}

#[test]
fn what_a_peer_cannot_do_is_refused_before_anything_is_started() {
    let redis = bench(&["scan"]).with("--target", "redis").run_to_end();
    redis.assert_refused(&["nothing to scan"]);
    let etcd = bench(&["txn-one-region"]).with("--target", "etcd").run_to_end();
    etcd.assert_refused(&["txn-one-region is not measured on etcd"]);
}

#[test]
fn keys_that_do_not_fit_on_the_disk_are_refused() {
    let ended = bench(&["get"]).with("--keys", "1000000000").with("--value-size", "4000000");
    ended.run_to_end().assert_refused(&["1000000000 keys", "MiB free"]);
}

#[test]
fn a_cluster_without_a_leader_is_told_as_such_and_not_as_a_rate() {
    let ground = Ground::new();
    let scheduler = ground.scheduler().start();
    let address = scheduler.addresses().scheduler;
    let mut stores: Vec<Process> =
        ["one", "two", "three"].map(|name| ground.member(address, name).start()).into();
    let first = bench(&["put"]).with("--scheduler-addr", address.to_string());
    let first = first.with("--operations", "10");
    // Three replicas are made before two of them are lost.
    wait::until("the region has three replicas", || {
        let (_, body) = skerry_tests::client::http(address, "GET", "/pd/api/v1/regions");
        let regions: Value = serde_json::from_str(&body).expect("JSON");
        let regions = regions["regions"].as_array().expect("a list").clone();
        let is_whole = |region: &Value| region["peers"].as_array().map(Vec::len) == Some(3);
        (!regions.is_empty() && regions.iter().all(is_whole)).then_some(())
    });
    first.run_to_end().assert_clean();
    for store in stores.drain(1..) {
        store.kill();
    }
    for keys in ["1", "4"] {
        let hasty = first.clone().with("--batch-size", keys).with("--patience", "1");
        let ended = hasty.with("--seconds", "1").run_to_end();
        ended.assert_failed(&["no put was done"]);
        assert_eq!(number(&results(&ended), "operations"), 0.0);
    }
    // Who has seen enough does not wait until clients have lost their patience.
    let patient = first.with("--patience", "600").with("--seconds", "600");
    let patient = patient.with("--operations", "1000000").start_until("0 ops/s");
    patient.stop().assert_failed(&["interrupted", "partial"]);
}

#[test]
fn servers_end_even_if_it_is_killed() {
    let process = bench(&["put", "--separate"]).with("--seconds", "600").start_until("ops/s");
    let heard = process.stderr();
    let behind = heard.split("scheduler ").nth(1).expect("it has said where");
    let scheduler = behind.lines().next().expect("a line").to_string();
    assert!(TcpStream::connect(&scheduler).is_ok(), "the scheduler listens");
    process.kill();
    wait::until("the scheduler has ended", || {
        TcpStream::connect(&scheduler).is_err().then_some(())
    });
}

/// A scenario, small.
fn scenario(words: &[&str]) -> Launch {
    let launch = Launch::of("bench").argument("scenario");
    let launch = words.iter().fold(launch, |launch, &word| launch.argument(word));
    launch.with("--trials", "1").with("--seconds", "1").argument("--json")
}

#[test]
fn a_killed_store_is_found_to_be_replaced_in_every_region() {
    let ended = scenario(&["failover", "--regions", "4"]).run_to_end();
    ended.assert_clean();
    let found: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((&found["complete"], &found["regions"]), (&true.into(), &4.into()), "{found}");
    let seconds = found["figures"][0]["value"].as_f64().expect("a number");
    // Nobody is elected before an election timeout, unless the store led nothing.
    assert!(seconds > 0.5 && seconds < 60.0, "{found}");
    let rates = found["rates"].as_array().expect("a list");
    assert!(rates.len() > 10, "the second before it and what came after: {found}");
}

#[test]
fn a_region_that_is_cut_tells_the_longest_operation_and_that_of_nearly_all_keys() {
    let ended = scenario(&["split"]).run_to_end();
    ended.assert_clean();
    let found: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let figure = |what: &str| {
        let figures = found["figures"].as_array().expect("a list");
        let is_it = |it: &&Value| it["what"].as_str().is_some_and(|it| it.starts_with(what));
        let figure = figures.iter().find(is_it).unwrap_or_else(|| panic!("no {what}: {found}"));
        figure["value"].as_f64().expect("a number")
    };
    let (of_keys, most) = (
        figure("longest operation of a key around a cut, p99"),
        figure("longest operation around a cut, most"),
    );
    assert!(of_keys > 0.0 && of_keys <= most, "{found}");
    assert_eq!(figure("failed operations"), 0.0, "{found}");
}

#[test]
fn one_region_becomes_many() {
    let ended = scenario(&["cut", "--regions", "8"]).run_to_end();
    ended.assert_clean();
    let found: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((&found["goals"], &found["regions"]), (&"P20".into(), &8.into()), "{found}");
    assert!(found["figures"][0]["value"].as_f64() > Some(0.0), "{found}");
    scenario(&["cut"]).run_to_end().assert_refused(&["--regions says into how many"]);
}

#[test]
fn two_empty_stores_are_filled() {
    let ended = scenario(&["fill", "--data", "4"]).run_to_end();
    ended.assert_clean();
    let found: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert!(found["figures"][0]["value"].as_f64() > Some(0.0), "{found}");
}

#[test]
fn an_interrupt_ends_a_scenario_and_its_servers() {
    let process = scenario(&["idle"]).with("--seconds", "600").start_until("starting 3 stores");
    let heard = process.stderr();
    let behind = heard.split("scheduler ").nth(1).expect("it has said where");
    let scheduler = behind.lines().next().expect("a line").to_string();
    let ended = process.stop();
    ended.assert_failed(&["interrupted"]);
    assert!(TcpStream::connect(&scheduler).is_err(), "the scheduler listens still");
}

#[test]
fn a_scenario_that_a_peer_has_no_part_in_is_refused() {
    let ended = scenario(&["split"]).with("--target", "etcd").run_to_end();
    ended.assert_refused(&["split is not measured on etcd"]);
}
