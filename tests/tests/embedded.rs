//! The library as a process lives with it: killed while it writes, and with several servers in it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use skerry_kv::embedded::{Db, Error, Settings};
use skerry_tests::process::{Ground, free_ports};
use tikv_client::{RawClient, TransactionClient};

/// Lives of the writer.
const LIVES: u64 = 6;

/// Lets a writer write until it has acknowledged some more numbers, kills it, and answers the first number that it has
/// not acknowledged.
fn write_until_killed(directory: &Path, first: u64, more: u64) -> u64 {
    let mut writer = Command::new(env!("CARGO_BIN_EXE_embedded_writer"))
        .arg(directory)
        .arg(first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the writer can be executed");
    let mut said = BufReader::new(writer.stdout.take().expect("it was piped"));
    let mut next = first;
    let mut line = String::new();
    while next < first + more {
        line.clear();
        let length = said.read_line(&mut line).expect("the writer speaks");
        assert!(length > 0, "the writer has ended by itself after {next}");
        next = 1 + line.trim().parse::<u64>().expect("it says numbers");
    }
    writer.kill().expect("it runs");
    writer.wait().expect("it was started here");
    // What it had said before it died.
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("the pipe ends with it");
    let whole = rest.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| 1 + line.trim().parse::<u64>().expect("a number")).next_back().unwrap_or(next)
}

fn high(number: u64) -> Vec<u8> {
    [&[0xFF; 9][..], number.to_string().as_bytes()].concat()
}

#[test]
fn a_process_that_is_killed_while_it_writes_loses_nothing_acknowledged() {
    let ground = Ground::new();
    let directory = ground.path("db");
    let mut next = 0;
    for life in 0..LIVES {
        next = write_until_killed(&directory, next, 20 + 31 * life);
        let db = Db::open(&directory).expect("a killed database opens");
        let mut txn = db.begin();
        for number in 0..next {
            let value = Some(number.to_string().into_bytes());
            assert_eq!(db.get(format!("raw/{number}")), Ok(value.clone()), "raw pair {number}");
            assert_eq!(txn.get(format!("low/{number}")), Ok(value.clone()), "pair {number}");
            assert_eq!(txn.get(high(number)), Ok(value), "pair {number} of the second region");
        }
        // The one that was under way is there as a whole or not at all.
        let (low, high) = (txn.get(format!("low/{next}")), txn.get(high(next)));
        assert_eq!(low, high, "half of transaction {next} is there");
        println!("life {life}: {next} numbers are there");
        drop(txn);
        db.close().expect("it closes");
    }
}

/// A configuration file for so many servers, and the port of their scheduler.
fn config(ground: &Ground, servers: u16) -> (std::path::PathBuf, u16) {
    let port = free_ports(2 * servers + 1);
    let data = ground.path("data");
    let text = format!(
        "mode: config\nserversNum: {servers}\naddress: 127.0.0.1\nport: {port}\npersistPath: {}\ndebug: false\n",
        data.display()
    );
    (ground.file("config.yaml", &text), port + servers)
}

fn name(number: u32) -> String {
    format!("key {number:03}")
}

#[test]
fn three_servers_in_a_process_replicate_and_keep_everything() {
    let ground = Ground::new();
    let (file, scheduler) = config(&ground, 3);
    let db = Db::from_config(&file).expect("three servers start");
    for number in 0..100 {
        db.put(name(number), "raw").expect("a put");
    }
    assert_eq!(db.update("nothing", "never"), Ok(false));
    assert_eq!(db.remove(name(99)), Ok(true));
    assert_eq!(db.scan("", "", 1_000).expect("a scan").len(), 99);
    db.transaction(|txn| txn.put_many((0..50).map(|number| (name(number), "txn"))))
        .expect("a transaction");
    assert_eq!(db.begin().scan("", "", 1_000).expect("a scan").len(), 50);

    // Nobody else gets the ports, and clients of the wire see what the library has written.
    let second = Db::from_config(&file).map(|_| ()).expect_err("the ports are taken");
    assert!(matches!(&second, Error::Open(text) if text.contains("address in use")), "{second:?}");
    read_as_a_client(scheduler);
    db.close().expect("they stop");

    let db = Db::from_config(&file).expect("they start again");
    assert_eq!(db.scan("", "", 1_000).expect("a scan").len(), 99);
    let mut txn = db.begin();
    assert_eq!(txn.get(name(7)), Ok(Some(b"txn".to_vec())));
    assert_eq!(txn.get("from outside"), Ok(Some(b"hello".to_vec())));
    drop(txn);
    drop(db);

    let of_one = Settings::at(ground.path("data"));
    let refused = Db::with(&of_one).map(|_| ()).expect_err("three servers wrote it");
    assert!(refused.to_string().contains("more than 1 servers"), "{refused}");
}

/// What the crate `tikv-client` sees through the ports of the servers, and a transaction of it.
fn read_as_a_client(scheduler: u16) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let address = || vec![format!("127.0.0.1:{scheduler}")];
        let raw = RawClient::new(address()).await.expect("the scheduler is there");
        let found = raw.get(name(3)).await.expect("a get");
        assert_eq!(found.as_deref(), Some(&b"raw"[..]));
        let client = TransactionClient::new(address()).await.expect("the scheduler is there");
        let mut txn = client.begin_optimistic().await.expect("a transaction");
        let found = txn.get(name(3)).await.expect("a get");
        assert_eq!(found.as_deref(), Some(&b"txn"[..]));
        txn.put("from outside".to_string(), "hello").await.expect("a put");
        txn.commit().await.expect("nobody is in its way");
    });
}

/// The form on disk is one: what was written through the library can be served, and the other way round.
#[test]
fn a_standalone_playground_serves_what_the_library_has_written() {
    let ground = Ground::new();
    let db = Db::open(ground.path("data")).expect("it opens");
    db.put("k", "from the library").expect("a put");
    db.close().expect("it closes");
    let process = ground.playground().start();
    let scheduler = process.addresses().scheduler;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let client = RawClient::new(vec![scheduler.to_string()]).await.expect("it is there");
        let found = client.get("k".to_string()).await.expect("a get");
        assert_eq!(found.as_deref(), Some(&b"from the library"[..]));
        client.put("k".to_string(), "from a client").await.expect("a put");
    });
    let busy = Db::open(ground.path("data")).map(|_| ()).expect_err("a playground has it open");
    assert!(busy.to_string().contains("open already"), "{busy}");
    process.stop().assert_clean();
    let db = Db::open(ground.path("data")).expect("it opens");
    assert_eq!(db.get("k"), Ok(Some(b"from a client".to_vec())));
    assert!(fs::read_dir(ground.path("data")).expect("it is there").count() >= 2);
}
