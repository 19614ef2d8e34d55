//! The process that `tests/embedded.rs` kills: it opens a database through the library and writes numbered pairs, each
//! said on stdout when it is acknowledged.
//!
//! `embedded_writer DIRECTORY FIRST` writes, for every number from FIRST on, one raw pair, and in one transaction
//! a pair in each of two regions.

use std::io::Write as _;

use skerry_kv::embedded::{Db, Error};

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, first] = &arguments[..] else {
        panic!("usage: embedded_writer DIRECTORY FIRST")
    };
    let first: u64 = first.parse().expect("a number");
    let db = Db::open(directory)?;
    for number in first.. {
        db.put(format!("raw/{number}"), number.to_string())?;
        db.transaction(|txn| {
            txn.put(format!("low/{number}"), number.to_string())?;
            // The second region begins behind eight bytes of 0xFF.
            txn.put([&[0xFF; 9][..], number.to_string().as_bytes()].concat(), number.to_string())
        })?;
        println!("{number}");
        std::io::stdout().flush().expect("the test listens until it kills");
    }
    Ok(())
}
