//! The binary `skerry`: every command of it is in [`skerry_kv::cli`].

use std::process::ExitCode;

/// A write allocates a few dozen small things, on one thread, and frees most of them on another: the allocator of
/// the system takes a fifth of its processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    skerry_kv::cli::main()
}
