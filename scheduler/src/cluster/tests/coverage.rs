//! Golden scripts show everything that acts and everything that stands in its way: what is new here and in no script
//! is found.

use crate::balance::Name;
use crate::filter::Reason;
use crate::operator::limits::Way;

/// What checkers call what they want.
const CHECKS: [&str; 10] = [
    "leave-joint",
    "promote-learner",
    "remove-lost-learner",
    "remove-extra-replica",
    "make-up-replica",
    "replace-down-replica",
    "replace-offline-replica",
    "remove-extra-learner",
    "move-to-better-place",
    "split-by-size",
];

/// All scripts of placement in a row.
fn scripts() -> String {
    let files = std::fs::read_dir("src/scripts/placement").expect("the folder is there");
    let text = |file: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(file.expect("an entry").path()).expect("text")
    };
    files.map(text).collect()
}

/// How a reason begins or ends, without what changes. The match makes sure that a new one comes by here.
fn words(reason: &Reason) -> &'static str {
    match reason {
        Reason::Gone => "is not part of the cluster",
        Reason::Offline => "is being emptied",
        Reason::Down => "is down",
        Reason::Disconnected => "is disconnected",
        Reason::Busy => "is busy",
        Reason::Full => "has a disk that is nearly full",
        Reason::HasReplica => "has a replica already",
        Reason::Isolation(_) => "is in zone",
        Reason::Pending(_) => "waits for the data of",
        Reason::Snapshots(_) => "snapshots",
        Reason::Limit(Way::Add, _) => "takes no more than",
        Reason::Limit(Way::Remove, _) => "gives no more than",
        Reason::EvictsLeaders => "shall lead nothing",
        Reason::NoVote => "has a replica without a vote",
        Reason::Unwell => "has a replica that lags or is silent",
    }
}

#[test]
fn every_reason_why_a_store_is_not_chosen_is_in_a_script() {
    let scripts = scripts();
    let all = [
        Reason::Gone,
        Reason::Offline,
        Reason::Down,
        Reason::Disconnected,
        Reason::Busy,
        Reason::Full,
        Reason::HasReplica,
        Reason::Isolation("zone a".to_string()),
        Reason::Pending(3),
        Reason::Snapshots(3),
        Reason::Limit(Way::Add, 3),
        Reason::Limit(Way::Remove, 3),
        Reason::EvictsLeaders,
        Reason::NoVote,
        Reason::Unwell,
    ];
    for reason in all {
        assert!(reason.to_string().contains(words(&reason)), "{reason}");
        assert!(scripts.contains(words(&reason)), "no script shows that a store {reason}");
    }
}

#[test]
fn every_checker_and_every_balancer_is_in_a_script() {
    let scripts = scripts();
    let balancers = Name::ALL.map(Name::text);
    for name in CHECKS.iter().chain(&balancers) {
        let does =
            scripts.contains(&format!("{name} of r")) || scripts.contains(&format!("x {name}: "));
        assert!(does, "no script shows what {name} does");
    }
}
