//! Lines between processes that a test can cut: partitions without root and without a second machine.
//!
//! Every store advertises the address of a proxy of its own, and others, clients too, reach it only through that.
//! For each connection the proxy finds out which store is at the other end: the system tells which process has the
//! socket. So a test can cut single directions between single stores.
//!
//! A cut holds back what is on its way, as a broken cable does with TCP above it: nothing is told to either side, and
//! what was sent meanwhile arrives when the cut is mended, late and in order, unless one side has given up.
//!
//! What it does not do: it cuts no connections to the scheduler, and loses or reorders nothing by itself.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// Bytes that are carried at once.
const PIECE: usize = 64 << 10;

/// Who is at an end of a line: a store by its place in the cluster, or anybody else.
pub type End = Option<usize>;

/// The lines of a cluster. Dropping it ends them all.
pub struct Lines {
    /// A thread of its own: a test blocks its threads while processes start.
    runtime: Option<Runtime>,
    /// Directions in which nothing gets through.
    cuts: watch::Sender<BTreeSet<(End, End)>>,
    /// The data directories of the stores, by which their processes are known.
    directories: watch::Sender<Vec<PathBuf>>,
}

impl Lines {
    /// No lines yet.
    #[allow(clippy::new_without_default)] // It starts a thread: nothing like a default.
    pub fn new() -> Lines {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Lines {
            runtime: Some(runtime.expect("a thread can be started")),
            cuts: watch::Sender::default(),
            directories: watch::Sender::default(),
        }
    }

    /// Opens a proxy for the next store, which keeps its data in `directory` and will listen at `store`. Answers
    /// where the proxy listens.
    pub fn open(&self, directory: PathBuf, store: SocketAddr) -> SocketAddr {
        let mut number = 0;
        self.directories.send_modify(|directories| {
            number = directories.len();
            directories.push(directory);
        });
        let runtime = self.runtime.as_ref().expect("it is there until the end");
        let address = SocketAddr::from(([127, 0, 0, 1], crate::process::free_port()));
        // Bound before anybody hears of it, and on the thread that will accept.
        let listener = std::net::TcpListener::bind(address).expect("a free port");
        listener.set_nonblocking(true).expect("a socket can be switched");
        let (cuts, directories) = (self.cuts.subscribe(), self.directories.subscribe());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listening socket");
            while let Ok((incoming, from)) = listener.accept().await {
                let (cuts, directories) = (cuts.clone(), directories.clone());
                tokio::spawn(async move {
                    let known = directories.borrow().clone();
                    let found = tokio::task::spawn_blocking(move || owner(from, address, &known));
                    let end = found.await.unwrap_or(None);
                    // Both sides see its failure as a closed connection.
                    let _ = carry(incoming, store, (end, Some(number)), &cuts).await;
                });
            }
        });
        address
    }

    /// Lets nothing through in this direction.
    pub fn cut(&self, from: End, to: End) {
        self.cuts.send_modify(|cuts| cuts.extend([(from, to)]));
    }

    /// Mends everything.
    pub fn mend(&self) {
        self.cuts.send_modify(BTreeSet::clear);
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // Without waiting: this may be called from inside another runtime.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

type Cuts = watch::Receiver<BTreeSet<(End, End)>>;

/// Carries bytes both ways until one side closes.
async fn carry(
    incoming: TcpStream,
    store: SocketAddr,
    (from, to): (End, End),
    cuts: &Cuts,
) -> io::Result<()> {
    let mut watched = cuts.clone();
    // A cable that is cut lets no connection be made either.
    until_mended(&mut watched, (from, to)).await;
    let outgoing = TcpStream::connect(store).await?;
    incoming.set_nodelay(true)?;
    outgoing.set_nodelay(true)?;
    let (from_incoming, to_incoming) = incoming.into_split();
    let (from_store, to_store) = outgoing.into_split();
    tokio::select! {
        ended = one_way(from_incoming, to_store, (from, to), cuts.clone()) => ended,
        ended = one_way(from_store, to_incoming, (to, from), cuts.clone()) => ended,
    }
}

async fn one_way(
    mut source: impl AsyncRead + Unpin,
    mut target: impl AsyncWrite + Unpin,
    direction: (End, End),
    mut cuts: Cuts,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = source.read(&mut piece).await?;
        if count == 0 {
            return Ok(());
        }
        until_mended(&mut cuts, direction).await;
        target.write_all(&piece[..count]).await?;
    }
}

async fn until_mended(cuts: &mut Cuts, direction: (End, End)) {
    // An error means that all lines end.
    let _ = cuts.wait_for(|cuts| !cuts.contains(&direction)).await;
}

/// Which store has the socket at `from` that is connected to `to`.
fn owner(from: SocketAddr, to: SocketAddr, directories: &[PathBuf]) -> End {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = inode_of(&table, from, to)?;
    let link = PathBuf::from(format!("socket:[{inode}]"));
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(arguments) = fs::read(process.path().join("cmdline")) else { continue };
        let mut words = arguments.split(|byte| *byte == 0);
        let place = |word: &[u8]| directories.iter().position(|known| is_path(known, word));
        let Some(number) = words.find_map(place) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        if files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|it| it == link)) {
            return Some(number);
        }
    }
    None
}

fn is_path(path: &Path, word: &[u8]) -> bool {
    path.as_os_str().as_encoded_bytes() == word
}

/// The number of the socket in the system's table of connections.
fn inode_of(table: &str, from: SocketAddr, to: SocketAddr) -> Option<&str> {
    // Addresses are in hexadecimal; all are on this machine, so ports say enough.
    let ends_with = |field: &str, port: u16| field.ends_with(&format!(":{port:04X}"));
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = ends_with(fields.get(1)?, from.port()) && ends_with(fields.get(2)?, to.port());
        is_it.then_some(*fields.get(9)?)
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_socket_is_found_by_its_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = listener.local_addr().expect("an address");
        let stream = TcpStream::connect(to).expect("a connection");
        let from = stream.local_addr().expect("an address");
        let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
        let inode = inode_of(&table, from, to).expect("the connection is listed");
        let mine = fs::read_dir("/proc/self/fd").expect("open files").flatten();
        let links: Vec<PathBuf> = mine.filter_map(|it| fs::read_link(it.path()).ok()).collect();
        assert!(links.contains(&PathBuf::from(format!("socket:[{inode}]"))));
        // Nobody was started with such a directory.
        assert_eq!(owner(from, to, &[PathBuf::from("/no/such/directory")]), None);
    }
}
