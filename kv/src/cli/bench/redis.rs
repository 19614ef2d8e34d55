//! A client of Redis, as much of it as a measurement asks for: SET and GET, one request at a time on a connection of
//! each client's own, as `redis-benchmark` does it.
//!
//! The protocol is a few lines of text, so it is written here: a library would bring more than a dozen crates into the
//! product's binary for two commands.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::error::{Error, Result};

/// See the module.
pub(super) struct Redis {
    address: String,
    /// One a client; none until it is wanted, or after it has failed.
    connections: Vec<Mutex<Option<BufReader<TcpStream>>>>,
    patience: Duration,
}

/// What a server answers.
#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    Value(Option<Bytes>),
}

impl Redis {
    pub(super) fn connect(address: &str, clients: usize, patience: Duration) -> Redis {
        let connections = (0..clients).map(|_| Mutex::new(None)).collect();
        Redis { address: address.to_string(), connections, patience }
    }

    pub(super) async fn put(&self, client: usize, key: &[u8], value: &[u8]) -> Result<()> {
        self.ask(client, &[b"SET", key, value]).await.map(drop)
    }

    pub(super) async fn get(&self, client: usize, key: &[u8]) -> Result<Option<Bytes>> {
        match self.ask(client, &[b"GET", key]).await? {
            Answer::Value(value) => Ok(value),
            Answer::Done => Err(Error::Startup("redis answers a GET without a value".to_string())),
        }
    }

    /// Writes many pairs with one command.
    pub(super) async fn load(&self, client: usize, pairs: &[(Vec<u8>, Bytes)]) -> Result<()> {
        let pairs = pairs.iter().flat_map(|(key, value)| [&key[..], &value[..]]);
        let words: Vec<&[u8]> = std::iter::once(&b"MSET"[..]).chain(pairs).collect();
        self.ask(client, &words).await.map(drop)
    }

    async fn ask(&self, client: usize, words: &[&[u8]]) -> Result<Answer> {
        let failed = |error: std::io::Error| {
            Error::Startup(format!("redis at {} does not answer: {error}", self.address))
        };
        let mut held = self.connections[client % self.connections.len()].lock().await;
        // Taken out: a connection on which something failed is not used again.
        let exchange = async {
            let mut connection = match held.take() {
                Some(connection) => connection,
                None => {
                    let stream = TcpStream::connect(&self.address).await?;
                    stream.set_nodelay(true)?;
                    BufReader::new(stream)
                }
            };
            connection.write_all(&command(words)).await?;
            let answer = answer(&mut connection).await?;
            std::io::Result::Ok((connection, answer))
        };
        let late = |_| failed(std::io::ErrorKind::TimedOut.into());
        let exchange = tokio::time::timeout(self.patience, exchange).await.map_err(late)?;
        let (connection, answer) = exchange.map_err(failed)?;
        *held = Some(connection);
        answer.map_err(Error::Startup)
    }
}

/// A command as it is sent: how many words, then each with its length.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        text.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        text.extend_from_slice(word);
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// Reads one answer; a refusal is an error of its own, after which the connection is good still.
async fn answer<R: tokio::io::AsyncBufRead + Unpin>(
    connection: &mut R,
) -> std::io::Result<std::result::Result<Answer, String>> {
    let wrong = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut line = String::new();
    if connection.read_line(&mut line).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).ok_or_else(wrong)?;
    match kind {
        "+" | ":" => Ok(Ok(Answer::Done)),
        "-" => Ok(Err(format!("redis refuses: {rest}"))),
        "$" if rest == "-1" => Ok(Ok(Answer::Value(None))),
        "$" => {
            let length: usize = rest.parse().map_err(|_| wrong())?;
            let mut value = vec![0; length + 2];
            connection.read_exact(&mut value).await?;
            value.truncate(length);
            Ok(Ok(Answer::Value(Some(value.into()))))
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_the_length_of_each_word() {
        assert_eq!(command(&[b"GET", b"a\r\nb"]), b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n");
    }

    #[tokio::test]
    async fn answers_of_every_kind_are_understood() {
        let mut text = &b"+OK\r\n$3\r\na\r\n\r\n$-1\r\n-ERR no\r\n?\r\n"[..];
        let value = Answer::Value(Some(Bytes::from_static(b"a\r\n")));
        assert_eq!(answer(&mut text).await.expect("done"), Ok(Answer::Done));
        assert_eq!(answer(&mut text).await.expect("a value"), Ok(value));
        assert_eq!(answer(&mut text).await.expect("none"), Ok(Answer::Value(None)));
        let refused = answer(&mut text).await.expect("a refusal");
        assert_eq!(refused, Err("redis refuses: ERR no".to_string()));
        assert!(answer(&mut text).await.is_err(), "there is no such answer");
        assert!(answer(&mut text).await.is_err(), "the connection is closed");
    }
}
