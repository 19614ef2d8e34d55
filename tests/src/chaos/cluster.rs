//! A scheduler and stores, each a process.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::Signal;
use skerry_proto::metapb::PeerRole;
use skerry_proto::pdpb::{
    GetAllStoresRequest, GetStoreRequest, Region, RequestHeader, ScanRegionsRequest,
};

use crate::client::{Answer, cluster_id, scheduler};
use crate::director::Director;
use crate::network::Network;
use crate::process::{Addresses, Ended, Ground, Launch, Process};
use crate::proxy::Lines;
use crate::wait;

/// One process of a cluster, running or not.
struct Member {
    launch: Launch,
    process: Option<Process>,
    /// Where others are told that it is.
    advertised: SocketAddr,
}

/// What lies between the stores.
enum Between {
    /// Nothing that could be cut.
    Nothing,
    /// A proxy in front of each.
    Proxies(Lines),
    /// A network in which each has a namespace.
    Network(Network),
}

/// The name of a store's directory.
fn name_of(number: usize) -> String {
    format!("store-{}", number + 1)
}

/// A store that is to be started in a namespace of its own, and where it will be.
fn in_network(launch: Launch, network: &Network) -> (Launch, SocketAddr) {
    let (namespace, host) = network.join().expect("the bridge could be made");
    let at = |address: SocketAddr| SocketAddr::new(host, address.port());
    let addresses = launch.addresses();
    let (store, status) = (at(addresses.store), at(addresses.status));
    let launch = launch
        .inside(namespace)
        .with("--addr", store.to_string())
        .with("--status-addr", status.to_string())
        .at(Addresses { store, status, ..addresses });
    (launch, store)
}

/// See the module above. Dropping it kills everything.
pub struct Cluster {
    scheduler: Member,
    stores: Vec<Member>,
    /// Of every store.
    flags: Vec<(String, String)>,
    /// What can be cut between the stores.
    between: Between,
    /// Whom the stores take for the scheduler, if that is not the scheduler.
    director: Option<Director>,
    /// Last, because the processes write into it.
    ground: Ground,
}

impl Cluster {
    /// Starts a scheduler and `count` stores, and waits until every region has a replica on three of them.
    /// `flags` are for the stores.
    pub async fn start(count: usize, flags: &[(&str, &str)]) -> Cluster {
        Cluster::begin(count, flags, Between::Nothing, "", false).await
    }

    /// The same, with this configuration for the scheduler and the stores.
    pub async fn start_configured(count: usize, configuration: &str) -> Cluster {
        Cluster::begin(count, &[], Between::Nothing, configuration, false).await
    }

    /// The same with lines between the stores that can be cut.
    pub async fn start_with_lines(count: usize, flags: &[(&str, &str)]) -> Cluster {
        Cluster::begin(count, flags, Between::Proxies(Lines::new()), "", false).await
    }

    /// The same in a network of namespaces, whose routes can be cut; or why there can be none on this machine.
    pub async fn start_in_network(count: usize, flags: &[(&str, &str)]) -> Result<Cluster, String> {
        let network = Between::Network(Network::new()?);
        Ok(Cluster::begin(count, flags, network, "", false).await)
    }

    /// The same with a director, who may tell the stores what to do.
    pub async fn start_with_director(count: usize, flags: &[(&str, &str)]) -> Cluster {
        Cluster::begin(count, flags, Between::Nothing, "", true).await
    }

    async fn begin(
        count: usize,
        flags: &[(&str, &str)],
        between: Between,
        configuration: &str,
        has_director: bool,
    ) -> Cluster {
        let ground = Ground::new();
        let mut launch = ground.scheduler();
        if let Between::Network(network) = &between {
            let port = launch.addresses().scheduler.port();
            let scheduler = SocketAddr::new(network.host(), port);
            launch = launch.with("--addr", scheduler.to_string());
            launch = launch.at(Addresses { scheduler, ..Addresses::free() });
        }
        let flags = flags.iter().map(|(flag, value)| (flag.to_string(), value.to_string()));
        let mut flags: Vec<(String, String)> = flags.collect();
        if !configuration.is_empty() {
            let file = ground.file("skerry.toml", configuration).display().to_string();
            launch = launch.with("--config", &file);
            flags.push(("--config".to_string(), file));
        }
        let advertised = launch.addresses().scheduler;
        let scheduler = Member { process: Some(launch.start()), launch, advertised };
        let director = has_director.then(|| Director::start(advertised));
        let mut cluster =
            Cluster { scheduler, stores: Vec::new(), flags, between, director, ground };
        (0..count).for_each(|_| cluster.add_store());
        cluster.until_whole(count.min(3)).await;
        cluster
    }

    /// One more store joins.
    pub fn add_store(&mut self) {
        let name = name_of(self.stores.len());
        let asked = self.director.as_ref().map_or(self.scheduler(), Director::address);
        let launch =
            self.flags.iter().fold(self.ground.member(asked, &name), |launch, (flag, value)| {
                launch.with(flag, value)
            });
        let (launch, advertised) = match &self.between {
            Between::Nothing => {
                let listening = launch.addresses().store;
                (launch, listening)
            }
            Between::Proxies(lines) => {
                let listening = launch.addresses().store;
                (launch, lines.open(self.ground.path(&name), listening))
            }
            Between::Network(network) => in_network(launch, network),
        };
        let launch = launch.with("--advertise-addr", advertised.to_string());
        self.stores.push(Member { process: Some(launch.start()), launch, advertised });
    }

    /// Lets nothing through from one store to another.
    pub fn cut(&self, from: usize, to: usize) {
        match &self.between {
            Between::Nothing => panic!("the cluster was started with nothing to cut"),
            Between::Proxies(lines) => lines.cut(Some(from), Some(to)),
            Between::Network(network) => network.cut(from, to),
        }
    }

    /// Mends all that is cut.
    pub fn mend(&self) {
        match &self.between {
            Between::Nothing => {}
            Between::Proxies(lines) => lines.mend(),
            Between::Network(network) => network.mend(),
        }
    }

    /// The director, of a cluster that was started with one.
    pub fn director(&self) -> &Director {
        self.director.as_ref().expect("the cluster was started with a director")
    }

    /// Where the scheduler is.
    pub fn scheduler(&self) -> SocketAddr {
        self.scheduler.launch.addresses().scheduler
    }

    /// How many stores there are.
    pub fn stores(&self) -> usize {
        self.stores.len()
    }

    /// Waits until every region has so many voters, none of them behind, and a leader.
    pub async fn until_whole(&self, replicas: usize) {
        wait::until_async("every region has its replicas", async || {
            let regions = self.regions().await.ok()?;
            let is_whole = |region: &Region| {
                let peers = region.region.iter().flat_map(|region| &region.peers);
                let voters = peers.filter(|peer| peer.role() == PeerRole::Voter).count();
                voters >= replicas
                    && region.pending_peers.is_empty()
                    && region.leader.is_some_and(|leader| leader.id != 0)
            };
            (regions.len() > 1 && regions.iter().all(is_whole)).then_some(())
        })
        .await;
    }

    /// All regions as the scheduler knows them.
    pub async fn regions(&self) -> Answer<Vec<Region>> {
        let mut scheduler = scheduler(self.scheduler());
        let cluster_id = cluster_id(&mut scheduler).await?;
        let header = Some(RequestHeader { cluster_id, ..RequestHeader::default() });
        let request = ScanRegionsRequest { header, limit: 1 << 20, ..Default::default() };
        Ok(scheduler.scan_regions(request).await?.into_inner().regions)
    }

    /// The place in this cluster of the store that leads the first region.
    pub async fn leader(&self) -> Option<usize> {
        let regions = self.regions().await.ok()?;
        let leader = regions.first()?.leader?;
        let mut scheduler = scheduler(self.scheduler());
        let cluster_id = cluster_id(&mut scheduler).await.ok()?;
        let header = Some(RequestHeader { cluster_id, ..RequestHeader::default() });
        let request = GetStoreRequest { header, store_id: leader.store_id };
        let store = scheduler.get_store(request).await.ok()?.into_inner().store?;
        let is_there = |member: &Member| member.advertised.to_string() == store.address;
        self.stores.iter().position(is_there)
    }

    /// The id of a store, if the scheduler knows it and has not buried it.
    pub async fn store_id(&self, number: usize) -> Option<u64> {
        let mut scheduler = scheduler(self.scheduler());
        let cluster_id = cluster_id(&mut scheduler).await.ok()?;
        let header = Some(RequestHeader { cluster_id, ..RequestHeader::default() });
        let request = GetAllStoresRequest { header, exclude_tombstone_stores: true };
        let stores = scheduler.get_all_stores(request).await.ok()?.into_inner().stores;
        let address = self.stores[number].advertised.to_string();
        stores.into_iter().find(|store| store.address == address).map(|store| store.id)
    }

    /// Kills a store, if it runs.
    pub fn kill(&mut self, number: usize) {
        if let Some(process) = self.stores[number].process.take() {
            process.kill();
        }
    }

    /// Stops a store as an operator would, if it runs.
    pub fn stop_store(&mut self, number: usize) {
        if let Some(process) = self.stores[number].process.take() {
            process.stop().assert_clean();
        }
    }

    /// Starts a store that may refuse to: answers how it ended, if it did.
    pub fn try_revive(&mut self, number: usize) -> Option<Ended> {
        let member = &mut self.stores[number];
        match member.launch.try_start() {
            Ok(process) => member.process = Some(process),
            Err(ended) => return Some(ended),
        }
        None
    }

    /// How a store ended, if it did so by itself since it was started.
    pub fn ended(&mut self, number: usize) -> Option<Ended> {
        let process = &mut self.stores[number].process;
        match process.as_mut().is_some_and(|process| !process.is_running()) {
            true => process.take().map(Process::end),
            false => None,
        }
    }

    /// What a running store has said on stderr.
    pub fn said(&self, number: usize) -> String {
        self.stores[number].process.as_ref().map(Process::stderr).unwrap_or_default()
    }

    /// How a store is started.
    pub fn launch(&self, number: usize) -> &Launch {
        &self.stores[number].launch
    }

    /// The data directory of a store.
    pub fn directory(&self, number: usize) -> PathBuf {
        self.ground.path(&name_of(number))
    }

    /// Where the cluster lives.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// Starts a store that was killed, if it does not run.
    pub fn revive(&mut self, number: usize) {
        let member = &mut self.stores[number];
        if member.process.is_none() {
            member.process = Some(member.launch.start());
        }
    }

    /// Stops a store in the middle of whatever it does, as a machine that swaps; it does not know.
    pub fn freeze(&self, number: usize) {
        self.signal(number, Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self, number: usize) {
        self.signal(number, Signal::CONT);
    }

    fn signal(&self, number: usize, signal: Signal) {
        self.stores[number].process.iter().for_each(|process| process.signal(signal));
    }

    /// Kills the scheduler.
    pub fn kill_scheduler(&mut self) {
        if let Some(process) = self.scheduler.process.take() {
            process.kill();
        }
    }

    /// Starts it again.
    pub fn revive_scheduler(&mut self) {
        if self.scheduler.process.is_none() {
            self.scheduler.process = Some(self.scheduler.launch.start());
        }
    }

    /// Fails if a process has ended by itself, with what it said.
    pub fn assert_alive(&mut self) {
        for (number, member) in self.stores.iter_mut().enumerate() {
            if let Some(process) = &mut member.process {
                assert!(
                    process.is_running(),
                    "store {} has died: {}",
                    number + 1,
                    process.stderr()
                );
            }
        }
    }

    /// Stops everything as an operator would; each must end well.
    pub fn stop(mut self) {
        for member in self.stores.iter_mut().chain([&mut self.scheduler]) {
            if let Some(process) = member.process.take() {
                process.stop().assert_clean();
            }
        }
    }
}
