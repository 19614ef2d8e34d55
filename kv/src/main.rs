//! The binary `skerry`: every command of it is in [`skerry_kv::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    skerry_kv::cli::main()
}
