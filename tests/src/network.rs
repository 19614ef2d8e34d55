//! Stores as if on machines of their own: each in a network namespace, all at one bridge.
//!
//! 1. [`Network::new`] makes the bridge, if the machine allows it; the test itself and the scheduler speak from there.
//! 2. [`Network::join`] makes a namespace with an address. Whoever is started in it has no other network.
//! 3. [`Network::cut`] takes the route from one member to another: packets in this direction are lost, in whatever
//!    connection they belong to, and nobody is told. Clients and the scheduler still reach everybody.
//! 4. [`Network::mend`] gives all routes back. What was lost is sent again when TCP sees fit.
//!
//! That is what the proxies of `proxy.rs` cannot do: lose acknowledgements, and leave connections half open.
//!
//! **Invariant.** Dropping it leaves nothing behind; what a test that was killed has left goes with the next network.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Names of bridges and namespaces begin so, and go on with the process whose they are.
const BRIDGE: &str = "skb";
const NAMESPACE: &str = "skn";
/// The end of a cable that is in the namespace.
const INSIDE: &str = "eth0";
/// The last number of the bridge's address; members count from one.
const BRIDGE_HOST: u8 = 254;

/// See the module.
pub struct Network {
    /// The process whose it is, and its number there.
    tag: String,
    /// The first three numbers of all addresses.
    prefix: [u8; 3],
    members: Mutex<u8>,
    /// Directions that are cut.
    cuts: Mutex<Vec<(usize, usize)>>,
}

impl Network {
    /// A network without members, or why there can be none.
    pub fn new() -> Result<Network, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        remove_remains();
        let (owner, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let network = Network {
            tag: format!("{owner}-{number}"),
            prefix: [10, 213, ((owner + number) % 251) as u8],
            members: Mutex::default(),
            cuts: Mutex::default(),
        };
        let (bridge, address) = (network.bridge(), network.host());
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {address}/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        Ok(network)
    }

    /// Where the test and the scheduler are.
    pub fn host(&self) -> IpAddr {
        self.address(BRIDGE_HOST)
    }

    /// The next member: its namespace and its address.
    pub fn join(&self) -> Result<(String, IpAddr), String> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        *members += 1;
        let (namespace, address) = (self.namespace(*members), self.address(*members));
        let (bridge, outside) = (self.bridge(), format!("skv{}-{members}", self.tag));
        ip(&format!("netns add {namespace}"))?;
        ip(&format!("link add {outside} type veth peer name {INSIDE} netns {namespace}"))?;
        ip(&format!("link set {outside} master {bridge} up"))?;
        ip(&format!("-n {namespace} addr add {address}/24 dev {INSIDE}"))?;
        ip(&format!("-n {namespace} link set {INSIDE} up"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        Ok((namespace, address))
    }

    /// Loses everything that one member sends to another. They count from zero here, as stores of a cluster do.
    pub fn cut(&self, from: usize, to: usize) {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        if !cuts.contains(&(from, to)) {
            self.route("add", from, to);
            cuts.push((from, to));
        }
    }

    /// Mends everything.
    pub fn mend(&self) {
        let cuts = std::mem::take(&mut *self.cuts.lock().unwrap_or_else(PoisonError::into_inner));
        cuts.into_iter().for_each(|(from, to)| self.route("del", from, to));
    }

    fn route(&self, verb: &str, from: usize, to: usize) {
        let member = |number: usize| u8::try_from(number + 1).expect("few members");
        let (namespace, address) = (self.namespace(member(from)), self.address(member(to)));
        ip(&format!("-n {namespace} route {verb} blackhole {address}/32"))
            .unwrap_or_else(|reason| panic!("a route cannot be changed: {reason}"));
    }

    fn address(&self, member: u8) -> IpAddr {
        let [one, two, three] = self.prefix;
        IpAddr::V4(Ipv4Addr::new(one, two, three, member))
    }

    fn bridge(&self) -> String {
        format!("{BRIDGE}{}", self.tag)
    }

    fn namespace(&self, member: u8) -> String {
        format!("{NAMESPACE}{}-{member}", self.tag)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let members = format!("{NAMESPACE}{}-", self.tag);
        remove(|name| name.starts_with(&members) || name == self.bridge());
    }
}

/// Removes what belongs to processes that are no more.
fn remove_remains() {
    remove(|name| {
        let tag = name.strip_prefix(NAMESPACE).or_else(|| name.strip_prefix(BRIDGE));
        let owner: Option<u32> = tag.and_then(|tag| tag.split('-').next()?.parse().ok());
        owner.is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists())
    });
}

/// Removes the namespaces and bridges with these names. Cables go with the namespaces.
fn remove(is_meant: impl Fn(&str) -> bool) {
    for (directory, kind) in [("/var/run/netns", "netns"), ("/sys/class/net", "link")] {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            if is_meant(&name) {
                // Somebody else may have been quicker.
                let _ = ip(&format!("{kind} del {name}"));
            }
        }
    }
}

/// Runs `ip` with these words.
fn ip(words: &str) -> Result<(), String> {
    let ran = Command::new("ip").args(words.split(' ')).output();
    let ran = ran.map_err(|error| format!("the program ip cannot be run: {error}"))?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(format!("ip {words}: {}", String::from_utf8_lossy(&ran.stderr).trim())),
    }
}
