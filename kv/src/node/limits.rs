//! What the operating system allows this process to open: raised as far as it lets us, and the engine
//! kept below it, because an engine that runs out of files in the middle of a merge stops all writes.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files for everything but the data engine: connections, logs, the manifest, the other engine.
const RESERVED_FILES: u64 = 512;
/// What the engine gets even where hardly anything is allowed.
const ENGINE_FILES_MIN: u64 = 64;

/// Raises the soft limit to the hard one; answers what is allowed now. A system that refuses keeps its
/// limit, and the engine is capped by it.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Setting it cannot make anything worse: on failure the old limit stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many files the engine may keep open when `allowed` are in all and `wanted` are configured.
pub fn engine_files(allowed: u64, wanted: u32) -> u32 {
    let room = allowed.saturating_sub(RESERVED_FILES).max(ENGINE_FILES_MIN);
    wanted.min(u32::try_from(room).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_stays_below_what_is_allowed() {
        assert_eq!(engine_files(1_024, 10_000), 512);
        assert_eq!(engine_files(1_000_000, 10_000), 10_000);
        assert_eq!(engine_files(100, 10_000), 64);
        assert_eq!(engine_files(u64::MAX, u32::MAX), u32::MAX);
    }

    #[test]
    fn raising_the_limit_never_lowers_it() {
        let before = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(raise_open_files() >= before);
    }
}
