//! What commands for people ask the scheduler over HTTP: one connection a request, the whole answer, JSON.
//!
//! HTTP/1.0, so that an answer ends where the connection does. No client library knows less, and none is needed.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::{Error, Result};

/// The JSON interface of the schedulers at these addresses.
pub(in crate::cli) struct Http {
    addresses: Vec<String>,
}

impl Http {
    /// The first address that answers is used.
    pub(in crate::cli) fn new(addresses: Vec<String>) -> Http {
        Http { addresses }
    }

    /// Looks.
    pub(in crate::cli) async fn get(&self, path: &str) -> Result<Value> {
        self.send("GET", path, None).await
    }

    /// Changes something; answers what the scheduler says about it.
    pub(in crate::cli) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send("POST", path, Some(body)).await
    }

    /// Takes something away.
    pub(in crate::cli) async fn delete(&self, path: &str) -> Result<Value> {
        self.send("DELETE", path, None).await
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut connection = self.connect().await?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let length = body.len();
        let request = format!(
            "{method} /pd/api/v1{path} HTTP/1.0\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        let exchange = async {
            connection.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            connection.read_to_end(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = exchange
            .await
            .map_err(|error| Error::Startup(format!("the scheduler does not answer: {error}")))?;
        parsed(&answer)
    }

    async fn connect(&self) -> Result<TcpStream> {
        let mut failures = Vec::new();
        for address in &self.addresses {
            let host = address.trim_start_matches("http://");
            match TcpStream::connect(host).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
        let reason = format!("no scheduler can be reached: {}", failures.join("; "));
        Err(Error::Startup(reason))
    }
}

/// The JSON of a good answer, or the sentence of a refusal.
fn parsed(answer: &[u8]) -> Result<Value> {
    let text = String::from_utf8_lossy(answer);
    let broken = || Error::Startup(format!("the scheduler answers something else: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status: u16 = head.split(' ').nth(1).and_then(|it| it.parse().ok()).ok_or_else(broken)?;
    let json = serde_json::from_str::<Value>(body);
    if status == 200 {
        return json.map_err(|_| broken());
    }
    let sentence = json.ok().and_then(|json| Some(json["error"].as_str()?.to_string()));
    Err(Error::Startup(
        sentence.unwrap_or_else(|| format!("the scheduler answers {status}: {body}")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_json_or_a_reason() {
        let good = parsed(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n[]").expect("good");
        assert_eq!(good, Value::Array(vec![]));
        let why = |answer: &[u8]| parsed(answer).expect_err("refused").to_string();
        assert_eq!(why(b"HTTP/1.0 400 Bad\r\n\r\n{\"error\": \"not so\"}"), "not so");
        assert!(why(b"HTTP/1.0 502 Bad\r\n\r\nsorry").contains("502"));
        assert!(why(b"what?").contains("something else"));
    }
}
