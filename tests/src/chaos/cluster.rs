//! A scheduler and stores, each a process.

use std::net::SocketAddr;

use rustix::process::Signal;
use skerry_proto::metapb::PeerRole;
use skerry_proto::pdpb::{GetStoreRequest, Region, RequestHeader, ScanRegionsRequest};

use crate::client::{Answer, cluster_id, scheduler};
use crate::process::{Ground, Launch, Process};
use crate::wait;

/// One process of a cluster, running or not.
struct Member {
    launch: Launch,
    process: Option<Process>,
}

/// See the module above. Dropping it kills everything.
pub struct Cluster {
    scheduler: Member,
    stores: Vec<Member>,
    /// Of every store.
    flags: Vec<(String, String)>,
    /// Last, because the processes write into it.
    ground: Ground,
}

impl Cluster {
    /// Starts a scheduler and `count` stores, and waits until every region has a replica on three of them.
    /// `flags` are for the stores.
    pub async fn start(count: usize, flags: &[(&str, &str)]) -> Cluster {
        let ground = Ground::new();
        let launch = ground.scheduler();
        let scheduler = Member { process: Some(launch.start()), launch };
        let flags = flags.iter().map(|(flag, value)| (flag.to_string(), value.to_string()));
        let flags = flags.collect();
        let mut cluster = Cluster { scheduler, stores: Vec::new(), flags, ground };
        (0..count).for_each(|_| cluster.add_store());
        cluster.until_whole(count.min(3)).await;
        cluster
    }

    /// One more store joins.
    pub fn add_store(&mut self) {
        let name = format!("store-{}", self.stores.len() + 1);
        let launch = self
            .flags
            .iter()
            .fold(self.ground.member(self.scheduler(), &name), |launch, (flag, value)| {
                launch.with(flag, value)
            });
        self.stores.push(Member { process: Some(launch.start()), launch });
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
        let is_there =
            |member: &Member| member.launch.addresses().store.to_string() == store.address;
        self.stores.iter().position(is_there)
    }

    /// Kills a store, if it runs.
    pub fn kill(&mut self, number: usize) {
        if let Some(process) = self.stores[number].process.take() {
            process.kill();
        }
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
