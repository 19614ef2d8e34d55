//! The binary as its user meets it: what it prints, what it refuses and in which words, how it stops.
//!
//! Every refusal is one line that begins with `skerry: ` and names what to change, with exit code 1; scripts
//! depend on both. Nothing that is refused has touched a data directory.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use skerry_proto::kvrpcpb::{Context, GetRequest};
use skerry_tests::client::{self, ApiVersion, RawClient};
use skerry_tests::process::{Addresses, Ended, Ground, Launch, free_port};
use skerry_tests::{not_tested, wait};

/// `skerry ctl` against the scheduler at `address`, with these words.
fn ctl(address: SocketAddr, words: &[&str]) -> Ended {
    let launch = Launch::of("ctl").with("--scheduler-addr", address.to_string());
    words.iter().fold(launch, |launch, &word| launch.argument(word)).run_to_end()
}

async fn connect(scheduler: SocketAddr) -> RawClient {
    RawClient::connect(scheduler, ApiVersion::V1).await.expect("a ready store is found")
}

#[test]
fn the_ready_line_is_followed_by_three_commands_that_work_when_pasted() {
    let ground = Ground::new();
    let mut process = ground.playground().start();
    let addresses = process.addresses();
    for address in [addresses.scheduler, addresses.store, addresses.status] {
        let line = process.ready_line();
        assert!(line.contains(&address.to_string()), "no {address} in {line:?}");
    }
    let commands: Vec<String> = (0..3).map(|_| process.next_line()).collect();
    for command in &commands {
        assert!(command.starts_with("  "), "a command to paste is indented: {command:?}");
    }
    let has_curl = Command::new("curl").arg("--version").output().is_ok();
    let mut printed = Vec::new();
    for command in &commands {
        if command.contains("curl ") && !has_curl {
            not_tested(command, "curl is not installed");
            continue;
        }
        // From an empty directory: a pasted command may not depend on where it is pasted.
        let ran = Command::new("sh").args(["-c", command]).current_dir(ground.path("")).output();
        let ran = ran.expect("every system has sh");
        assert!(ran.status.success(), "{command}: {ran:?}");
        printed.push(String::from_utf8_lossy(&ran.stdout).into_owned());
    }
    assert!(printed[1].contains("world"), "put and get are a pair: {printed:?}");
    process.stop().assert_clean();
}

#[test]
fn one_switch_moves_all_ports_together() {
    let _ground = Ground::new();
    // Three neighbours with a stranger on each of the ports that the flags name.
    let base = Addresses::free();
    let offset = 7;
    let moved = |address: SocketAddr| SocketAddr::new(address.ip(), address.port() + offset);
    let addresses = Addresses {
        scheduler: moved(base.scheduler),
        store: moved(base.store),
        status: moved(base.status),
    };
    let strangers = [base.scheduler, base.store, base.status].map(TcpListener::bind);
    assert!(strangers.iter().all(Result::is_ok), "free ports can be taken");
    let process = Launch::of("playground")
        .argument("--standalone")
        .with("--scheduler-addr", base.scheduler.to_string())
        .with("--store-addr", base.store.to_string())
        .with("--status-addr", base.status.to_string())
        .with("--port-offset", offset.to_string())
        .argument("--ephemeral")
        .at(addresses)
        .start();
    let put = ctl(addresses.scheduler, &["raw", "put", "moved", "together"]);
    put.assert_clean();
    assert_eq!(client::http(addresses.status, "GET", "/status").0, 200);
    process.stop().assert_clean();
}

#[test]
fn an_ephemeral_playground_leaves_nothing_behind() {
    let ground = Ground::new();
    let ports = Addresses::free();
    let process = Launch::of("playground")
        .argument("--standalone")
        .with("--scheduler-addr", ports.scheduler.to_string())
        .with("--store-addr", ports.store.to_string())
        .with("--status-addr", ports.status.to_string())
        .argument("--ephemeral")
        .environment([("TMPDIR", ground.path(""))])
        .at(ports)
        .start();
    ctl(ports.scheduler, &["raw", "put", "here", "today"]).assert_clean();
    process.stop().assert_clean();
    let left = std::fs::read_dir(ground.path("")).expect("the ground is a directory").count();
    assert_eq!(left, 0, "files were left in the temporary directory");
}

#[test]
fn a_second_process_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let ground = Ground::new();
    let process = ground.playground().start();
    ctl(process.addresses().scheduler, &["raw", "put", "mine", "first"]).assert_clean();

    let second = ground.playground().run_to_end();
    second.assert_refused(&["in use by another process", "--data-dir"]);

    let got = ctl(process.addresses().scheduler, &["raw", "get", "mine"]);
    assert_eq!(got.stdout, "first");
    process.stop().assert_clean();
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let ground = Ground::new();
    for flag in ["--scheduler-addr", "--store-addr", "--status-addr"] {
        let taken =
            TcpListener::bind(("127.0.0.1", free_port())).expect("a free port can be taken");
        let address = taken.local_addr().expect("a bound socket has an address").to_string();
        let launch = ground.playground().with(flag, &address);
        launch.run_to_end().assert_refused(&[flag, &address]);
        drop(taken);
        // What was refused for its port can be started on the next try, on the same directory.
        launch.start().stop().assert_clean();
    }
}

#[test]
fn an_unknown_setting_is_refused_by_its_name_before_anything_is_made() {
    let ground = Ground::new();
    let file = ground.file("wrong.toml", "[raft-store]\nelection-tickz = 10\n");
    let ended = ground.playground().with("--config", &file).run_to_end();
    ended.assert_refused(&["wrong.toml"]);
    let line = ended.complaints().join("");
    assert!(line.contains("raft-store") || line.contains("election-tickz"), "{line}");
    assert!(!ground.path("data").exists(), "a refused start made a directory");

    let checked = Launch::of("config").argument("check").argument(&file).run_to_end();
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
}

#[test]
fn the_default_configuration_passes_its_own_check() {
    let ground = Ground::new();
    let default = Launch::of("config").argument("default").run_to_end();
    default.assert_clean();
    let file = ground.file("default.toml", &default.stdout);
    let checked = Launch::of("config").argument("check").argument(&file).run_to_end();
    checked.assert_clean();
    assert_eq!(checked.stdout, format!("{}: ok", file.display()));
    let process = ground.playground().with("--config", &file).start();
    process.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_another_cluster_is_refused_and_keeps_its_data() {
    let ground = Ground::new();
    let own = ground.scheduler().start();
    let launch = ground.server(own.addresses().scheduler);
    let store = launch.start();
    connect(own.addresses().scheduler).await.put("home", "sweet").await.expect("a put");
    store.stop().assert_clean();

    let foreign = ground.scheduler().with("--data-dir", ground.path("foreign")).start();
    let lost = launch.clone().with("--scheduler-addr", foreign.addresses().scheduler.to_string());
    lost.run_to_end().assert_refused(&["cluster"]);

    let store = launch.start();
    let value = connect(own.addresses().scheduler).await.get("home").await.expect("a get");
    assert_eq!(value.as_deref(), Some(&b"sweet"[..]));
    store.stop().assert_clean();
}

#[test]
fn a_second_standalone_store_is_refused_and_the_first_goes_on() {
    let ground = Ground::new();
    let scheduler = ground.scheduler().start();
    let first = ground.server(scheduler.addresses().scheduler).start();
    let second = ground.server(scheduler.addresses().scheduler);
    second.with("--data-dir", ground.path("second")).run_to_end().assert_refused(&["standalone"]);

    ctl(scheduler.addresses().scheduler, &["raw", "put", "mine", "first"]).assert_clean();
    first.stop().assert_clean();
}

#[test]
fn the_api_version_is_fixed_when_the_cluster_is_bootstrapped() {
    let ground = Ground::new();
    ground.playground().with("--api-version", "2").start().stop().assert_clean();
    let other = ground.playground().with("--api-version", "1").run_to_end();
    other.assert_refused(&["api", "version"]);
    // Whoever does not ask for a version gets the one that is there.
    ground.playground().start().stop().assert_clean();
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let ground = Ground::new();
    let file = ground.file("not-a-directory", "in the way");
    let ended = ground.playground().with("--data-dir", &file).run_to_end();
    ended.assert_refused(&["not-a-directory"]);
    assert_eq!(std::fs::read(&file).expect("the file is still there"), b"in the way");

    // Nobody makes directories here, whoever they are.
    let ended = ground.playground().with("--data-dir", "/proc/skerry").run_to_end();
    ended.assert_refused(&["/proc/skerry"]);
}

#[test]
fn a_directory_of_something_else_is_refused_and_left_alone() {
    let ground = Ground::new();
    let launch = ground.playground();
    launch.start().stop().assert_clean();
    // A store's directory is no scheduler's.
    let store = ground.path("data").join("store-1");
    ground.scheduler().with("--data-dir", &store).run_to_end().assert_refused(&["scheduler"]);

    // A format from the future.
    let manifest = store.join("skerry-manifest.toml");
    let text = std::fs::read_to_string(&manifest).expect("a store has a manifest");
    let version = text.lines().find(|line| line.contains("version") && line.ends_with("= 1"));
    let version = version.expect("the manifest has a format version of 1");
    let newer = text.replace(version, &version.replace("= 1", "= 99"));
    std::fs::write(&manifest, newer).expect("a manifest can be replaced");
    launch.run_to_end().assert_refused(&["99"]);

    std::fs::write(&manifest, text).expect("a manifest can be replaced");
    launch.start().stop().assert_clean();
}

#[test]
fn wrong_usage_is_told_with_exit_code_2() {
    let _ground = Ground::new();
    for launch in [Launch::of("playgruond"), Launch::of("server").argument("--port")] {
        let ended = launch.run_to_end();
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(ended.stderr.contains("Usage"), "{ended:?}");
    }
}

#[test]
fn ctl_reads_and_writes_what_a_user_types() {
    let ground = Ground::new();
    for version in ["1", "2"] {
        let data = ground.path(version);
        let launch = ground.playground().with("--api-version", version).with("--data-dir", data);
        let process = launch.start();
        let scheduler = process.addresses().scheduler;
        for (key, value) in [("apple", "red"), ("banana", "yellow"), ("cherry", "dark")] {
            ctl(scheduler, &["raw", "put", key, value]).assert_clean();
        }
        assert_eq!(ctl(scheduler, &["raw", "get", "banana"]).stdout, "yellow");
        ctl(scheduler, &["raw", "get", "durian"]).assert_failed(&["not found"]);

        let scan = ctl(scheduler, &["raw", "scan", "--limit", "2"]).stdout;
        assert!(scan.contains("apple") && scan.contains("banana"), "{scan}");
        assert!(!scan.contains("cherry"), "{scan}");
        let scan = ctl(scheduler, &["raw", "scan", "--reverse", "--limit", "1"]).stdout;
        assert!(scan.contains("cherry") && !scan.contains("apple"), "{scan}");
        let scan = ctl(scheduler, &["raw", "scan", "apple", "--end", "cherry"]).stdout;
        assert!(scan.contains("banana") && !scan.contains("cherry"), "{scan}");

        ctl(scheduler, &["raw", "delete", "banana"]).assert_clean();
        ctl(scheduler, &["raw", "get", "banana"]).assert_failed(&["not found"]);
        process.stop().assert_clean();
    }
}

#[test]
fn ctl_shows_the_cluster_to_people_and_to_scripts() {
    let ground = Ground::new();
    let process = ground.playground().start();
    let addresses = process.addresses();
    let stores = ctl(addresses.scheduler, &["store", "list"]);
    stores.assert_clean();
    assert!(stores.stdout.contains(&addresses.store.to_string()), "{stores:?}");

    for words in [["store", "list"], ["region", "list"]] {
        let shown = ctl(addresses.scheduler, &["--json", words[0], words[1]]);
        shown.assert_clean();
        let value: serde_json::Value = serde_json::from_str(&shown.stdout).expect("it is JSON");
        assert!(!value.is_null(), "{shown:?}");
    }
    let earlier = ctl(addresses.scheduler, &["tso"]);
    earlier.assert_clean();
    assert_ne!(earlier.stdout, ctl(addresses.scheduler, &["tso"]).stdout, "no two are the same");
    process.stop().assert_clean();
}

#[test]
fn ctl_without_a_cluster_says_whom_it_asked() {
    let _ground = Ground::new();
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    ctl(nobody, &["store", "list"]).assert_failed(&[&nobody.to_string()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timestamps_never_go_back_over_kills_of_the_scheduler() {
    let ground = Ground::new();
    let launch = ground.scheduler();
    let mut newest = 0;
    for _ in 0..5 {
        let process = launch.start();
        let timestamps = timestamps(process.addresses().scheduler, 64).await;
        for timestamp in timestamps {
            assert!(timestamp > newest, "{timestamp} after {newest}");
            newest = timestamp;
        }
        process.kill();
    }
}

/// A store has looked at the scheduler's time by itself: nobody had asked it for anything before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_knows_the_time_when_its_scheduler_is_gone() {
    let ground = Ground::new();
    let scheduler = ground.scheduler().start();
    let address = scheduler.addresses().scheduler;
    let store = ground.server(address).start();
    let client = connect(address).await;
    // What the store asks by itself: for the time, and for what is collected, without which it serves no transaction.
    wait::until("the store has asked", || {
        let (_, metrics) = client::http(store.addresses().status, "GET", "/metrics");
        let has_asked = |kind: &str| {
            let count = format!("skerry_scheduler_requests_total{{kind=\"{kind}\",result=\"ok\"}}");
            metrics.lines().any(|line| line.starts_with(&count))
        };
        (has_asked("tso") && has_asked("report_collection")).then_some(())
    });
    let given = timestamps(address, 1).await[0].unsigned_abs();
    scheduler.kill();
    let context =
        client.context().map(|context| Context { max_execution_duration_ms: 5_000, ..context });
    let get = GetRequest { context, key: "k".into(), version: given, ..GetRequest::default() };
    let got = client.store().kv_get(get).await.expect("an answer").into_inner();
    assert!(got.not_found && got.region_error.is_none() && got.error.is_none(), "{got:?}");
    store.stop().assert_clean();
}

/// Asks for `count` batches of seven timestamps and answers the largest of each.
async fn timestamps(address: SocketAddr, count: u32) -> Vec<i64> {
    use skerry_proto::pdpb::{RequestHeader, TsoRequest};
    let mut scheduler = client::scheduler(address);
    let cluster_id = client::cluster_id(&mut scheduler).await.expect("the scheduler has an id");
    let header = RequestHeader { cluster_id, ..RequestHeader::default() };
    let request = TsoRequest { header: Some(header), count: 7 };
    let requests = tokio_stream::iter(vec![request; count as usize]);
    let mut answers = scheduler.tso(requests).await.expect("a stream").into_inner();
    let mut timestamps = Vec::new();
    while let Some(answer) = answers.message().await.expect("an answer") {
        let timestamp = answer.timestamp.expect("an answer carries a timestamp");
        assert_eq!(answer.count, 7);
        timestamps.push((timestamp.physical << 18) + timestamp.logical);
    }
    assert_eq!(timestamps.len(), count as usize, "one answer for each request");
    timestamps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_goes_on_while_its_scheduler_restarts() {
    let ground = Ground::new();
    let scheduler_launch = ground.scheduler();
    let scheduler = scheduler_launch.start();
    let address = scheduler.addresses().scheduler;
    let store = ground.server(address).start();
    let client = connect(address).await;
    client.put("before", "1").await.expect("a put");
    scheduler.kill();
    client.put("without", "2").await.expect("a store needs no scheduler to write");
    let scheduler = scheduler_launch.start();
    // The store's heartbeat finds the new process by itself: then its region has a leader again.
    let client = wait::until_async("the scheduler knows the region again", async || {
        RawClient::connect(address, ApiVersion::V1).await.ok()
    })
    .await;
    let found = client.batch_get(["before", "without"]).await.expect("a get");
    assert_eq!(found.len(), 2);
    store.stop().assert_clean();
    scheduler.stop().assert_clean();
}

#[test]
fn the_status_port_tells_the_state_and_every_setting() {
    let ground = Ground::new();
    let process = ground.playground().start();
    let status = process.addresses().status;
    for path in ["/status", "/config"] {
        let (code, body) = client::http(status, "GET", path);
        assert_eq!(code, 200, "{path}: {body}");
    }
    let (code, metrics) = client::http(status, "GET", "/metrics");
    assert_eq!(code, 200);
    assert!(metrics.lines().any(|line| line.starts_with("# TYPE ")), "{metrics}");
    assert_eq!(client::http(status, "GET", "/no/such/page").0, 404);
    process.stop().assert_clean();
}

#[test]
fn the_scheduler_answers_http_on_the_port_that_speaks_grpc() {
    let ground = Ground::new();
    let process = ground.playground().start();
    let scheduler = process.addresses().scheduler;
    for page in ["regions", "stores", "members", "health", "version", "cluster"] {
        let (code, body) = client::http(scheduler, "GET", &format!("/pd/api/v1/{page}"));
        assert_eq!(code, 200, "{page}: {body}");
        serde_json::from_str::<serde_json::Value>(&body).expect("every page is JSON");
    }
    let (_, regions) = client::http(scheduler, "GET", "/pd/api/v1/regions");
    let regions: serde_json::Value = serde_json::from_str(&regions).expect("a page is JSON");
    assert_eq!(regions["count"], 2, "{regions}");
    // Programs wait for this code before they use the scheduler.
    assert_eq!(client::http(scheduler, "HEAD", "/pd/api/v1/regions").0, 405);
    assert_eq!(client::http(scheduler, "GET", "/pd/api/v1/nothing").0, 404);
    process.stop().assert_clean();
}

#[test]
fn data_stays_where_it_was_put() {
    let ground = Ground::new();
    let launch = ground.playground();
    let process = launch.start();
    ctl(process.addresses().scheduler, &["raw", "put", "stay", "here"]).assert_clean();
    assert!(process.ready_line().contains(&*ground.path("data").to_string_lossy()));
    process.stop().assert_clean();
    for part in ["scheduler", "store-1"] {
        let manifest = Path::new("data").join(part).join("skerry-manifest.toml");
        let manifest = ground.path(&manifest.to_string_lossy());
        assert!(manifest.exists(), "{} is missing", manifest.display());
    }
    let process = launch.start();
    let got = ctl(process.addresses().scheduler, &["raw", "get", "stay"]);
    assert_eq!(got.stdout, "here");
    process.stop().assert_clean();
}

/// Before, stores that ran already were dropped as by a crash.
#[test]
fn a_signal_while_a_playground_starts_stops_what_runs_already() {
    let ground = Ground::new();
    let launch = ground.replicated_playground().with("--log-level", "info");
    let process = launch.start_until("store serves");
    let ended = process.stop();
    ended.assert_clean();
    let count = |words: &str| ended.stderr.matches(words).count();
    let (served, stopped) = (count("store serves"), count("store has stopped"));
    assert!(served >= 1 && stopped >= served, "{served} served, {stopped} stopped: {ended:#?}");

    let process = launch.start();
    let scheduler = process.addresses().scheduler;
    ctl(scheduler, &["raw", "put", "after", "all"]).assert_clean();
    process.stop().assert_clean();
}

#[test]
fn a_signal_while_a_store_waits_for_its_scheduler_stops_it_cleanly() {
    let ground = Ground::new();
    let scheduler = ground.scheduler();
    let store = ground.member(scheduler.addresses().scheduler, "store-1");
    let process = store.clone().with("--log-level", "info").start_until("open files");
    let ended = process.stop();
    ended.assert_clean();
    assert!(ended.stderr.contains("store has stopped before it was started"), "{ended:#?}");

    let scheduler = scheduler.start();
    store.start().stop().assert_clean();
    scheduler.stop().assert_clean();
}
