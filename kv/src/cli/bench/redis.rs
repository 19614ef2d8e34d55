//! Clients of Redis, through the `redis` crate: one request at a time on a connection of each client's own, as
//! `redis-benchmark` does it.
//!
//! A connection is made when it is first wanted, and made anew after anything has failed on it but a refusal.

use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo,
    RedisError,
};
use tokio::sync::Mutex;

use crate::error::{Error, Result};

/// See the module.
pub(super) struct Redis {
    server: Client,
    address: String,
    /// One a client.
    connections: Vec<Mutex<Option<MultiplexedConnection>>>,
    patience: Duration,
}

impl Redis {
    pub(super) fn connect(address: &str, clients: usize, patience: Duration) -> Result<Redis> {
        let wrong = |error| Error::Startup(format!("{address} is no address: {error}"));
        let place = format!("redis://{address}").into_connection_info().map_err(wrong)?;
        // A request leaves at once, as on all other connections here, and nothing else is said.
        let place = place.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let place =
            place.set_redis_settings(RedisConnectionInfo::default().set_skip_set_lib_name());
        let server = Client::open(place).map_err(wrong)?;
        let connections = (0..clients).map(|_| Mutex::new(None)).collect();
        Ok(Redis { server, address: address.to_string(), connections, patience })
    }

    pub(super) async fn put(&self, client: usize, key: &[u8], value: &[u8]) -> Result<()> {
        self.ask(client, &Cmd::set(key, value)).await
    }

    pub(super) async fn get(&self, client: usize, key: &[u8]) -> Result<Option<Bytes>> {
        self.ask(client, &Cmd::get(key)).await
    }

    /// Writes many pairs with one command.
    pub(super) async fn put_many(&self, client: usize, pairs: &[(Vec<u8>, Bytes)]) -> Result<()> {
        let pairs: Vec<(&[u8], &[u8])> =
            pairs.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        self.ask(client, &Cmd::mset(&pairs)).await
    }

    /// Reads many keys with one command. Answers how many are there.
    pub(super) async fn get_many(&self, client: usize, keys: &[Vec<u8>]) -> Result<usize> {
        let values: Vec<Option<Bytes>> = self.ask(client, &Cmd::mget(keys)).await?;
        Ok(values.iter().flatten().count())
    }

    async fn ask<A: FromRedisValue>(&self, client: usize, command: &Cmd) -> Result<A> {
        let lost = |reason: String| {
            Error::Startup(format!("redis at {} does not answer: {reason}", self.address))
        };
        let mut held = self.connections[client % self.connections.len()].lock().await;
        // Taken out: a connection that is given up in the middle is not used again.
        let exchange = async {
            let mut connection = match held.take() {
                Some(connection) => connection,
                None => self.open().await?,
            };
            let answer = command.query_async(&mut connection).await;
            Ok::<_, RedisError>((connection, answer))
        };
        let exchange = tokio::time::timeout(self.patience, exchange).await;
        let exchange = exchange.map_err(|_| lost("no answer in time".to_string()))?;
        let (connection, answer) = exchange.map_err(|error| lost(error.to_string()))?;
        match answer {
            Ok(answer) => {
                *held = Some(connection);
                Ok(answer)
            }
            // It has a code if the server has given it.
            Err(error) if error.code().is_some() => {
                *held = Some(connection);
                Err(Error::Startup(format!("redis refuses: {error}")))
            }
            Err(error) => Err(lost(error.to_string())),
        }
    }

    async fn open(&self) -> std::result::Result<MultiplexedConnection, RedisError> {
        // How long anything may take is the caller's.
        let settings = AsyncConnectionConfig::new().set_connection_timeout(None);
        let settings = settings.set_response_timeout(None);
        self.server.get_multiplexed_async_connection_with_config(&settings).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    /// A client of a server that takes what it is told and says these things, one for each request, on one connection
    /// after the other. The last of them stays open.
    async fn client_of(connections: Vec<Vec<&'static [u8]>>) -> Redis {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        tokio::spawn(async move {
            let last = connections.len() - 1;
            for (number, answers) in connections.into_iter().enumerate() {
                let (mut connection, _) = listener.accept().await.expect("a client comes");
                for answer in answers {
                    let mut heard = [0; 4_096];
                    let _request = connection.read(&mut heard).await.expect("it speaks");
                    connection.write_all(answer).await.expect("it listens");
                }
                if number == last {
                    std::future::pending::<()>().await;
                }
            }
        });
        Redis::connect(&address, 1, PATIENCE).expect("an address")
    }

    fn told<T: std::fmt::Debug>(done: Result<T>) -> String {
        done.expect_err("it fails").to_string()
    }

    #[tokio::test]
    async fn one_key_and_many_are_read_and_written() {
        let found = &b"*3\r\n$1\r\na\r\n$-1\r\n$0\r\n\r\n"[..];
        let client = client_of(vec![vec![b"+OK\r\n", b"$-1\r\n", b"+OK\r\n", found]]).await;
        client.put(0, b"k", b"v").await.expect("written");
        assert_eq!(client.get(0, b"k").await.expect("read"), None);
        let pair = |key: &[u8]| (key.to_vec(), Bytes::from_static(b"v"));
        client.put_many(0, &[pair(b"a"), pair(b"b")]).await.expect("written");
        let keys = [b"a".to_vec(), b"b".to_vec(), b"c".to_vec()];
        assert_eq!(client.get_many(0, &keys).await.expect("read"), 2);
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_leaves_the_connection_as_it_was() {
        let client = client_of(vec![vec![b"-OOM no memory\r\n", b"+OK\r\n"]]).await;
        let refused = told(client.put(0, b"k", b"v").await);
        assert!(refused.contains("redis refuses: ") && refused.contains("no memory"), "{refused}");
        client.put(0, b"k", b"v").await.expect("on the same connection");
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_told_and_made_anew() {
        let client = client_of(vec![vec![], vec![b"+OK\r\n"]]).await;
        let lost = told(client.put(0, b"k", b"v").await);
        assert!(lost.contains("does not answer"), "{lost}");
        client.put(0, b"k", b"v").await.expect("on the next connection");
    }

    #[tokio::test]
    async fn a_server_that_is_silent_or_absent_is_named() {
        let client = client_of(vec![vec![b""]]).await;
        let silent = told(client.put(0, b"k", b"v").await);
        let address = &client.address;
        assert!(silent.contains(address) && silent.contains("no answer in time"), "{silent}");
        let nobody = Redis::connect("127.0.0.1:1", 1, PATIENCE).expect("an address");
        let nobody = told(nobody.get(0, b"k").await);
        assert!(nobody.contains("redis at 127.0.0.1:1 does not answer"), "{nobody}");
        let wrong = Redis::connect("no place at all", 1, PATIENCE);
        let wrong = wrong.err().expect("it is refused").to_string();
        assert!(wrong.contains("no place at all is no address"), "{wrong}");
    }
}
