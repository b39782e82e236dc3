//! An endpoint that speaks HTTP over pipes and says, or does, what a test tells it to.

use std::future::ready;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connect, Connected, Connection};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::sync::watch;

/// What the endpoint does with a request.
pub(crate) enum Reply {
    /// Says this and takes the next request.
    Http(Vec<u8>),
    /// Says this and then nothing more, the connection open.
    Hang(Vec<u8>),
    /// Says this and closes the connection.
    Close(Vec<u8>),
    /// Says the first part, and then the second over and over.
    Endless(Vec<u8>, Vec<u8>),
    /// Waits first.
    After(Duration, Box<Reply>),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Seen {
    /// What the user's message says.
    pub(crate) fn user(&self) -> &str {
        user(&self.body)
    }
}

/// What to do with a request, by its number (from 0) and its body.
type Script = dyn Fn(usize, &Value) -> Reply + Send + Sync;

/// See [`Reply`]. Clones are one endpoint.
#[derive(Clone)]
pub(crate) struct Endpoint {
    script: Arc<Script>,
    state: Arc<Mutex<State>>,
    in_flight: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    most_in_flight: usize,
    refuses: bool,
}

impl Endpoint {
    /// See [`Script`].
    pub(crate) fn new(script: impl Fn(usize, &Value) -> Reply + Send + Sync + 'static) -> Self {
        Self {
            script: Arc::new(script),
            state: Arc::default(),
            in_flight: watch::Sender::default(),
        }
    }

    /// An endpoint to which nobody can connect.
    pub(crate) fn out_of_reach() -> Self {
        let endpoint = Self::new(|_, _| unreachable!("nobody connects"));
        endpoint.state.lock().unwrap().refuses = true;
        endpoint
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    pub(crate) fn requests(&self) -> usize {
        self.state.lock().unwrap().seen.len()
    }

    /// Waits until so many requests were not answered and have their connection. In virtual time: gives up once nothing moves.
    pub(crate) async fn until_in_flight(&self, requests: usize) {
        let mut in_flight = self.in_flight.subscribe();
        let reached = in_flight.wait_for(|&now| now == requests);
        let reached = tokio::time::timeout(Duration::from_secs(3600), reached).await;
        assert!(reached.is_ok(), "it never was {requests}");
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.state.lock().unwrap().most_in_flight
    }

    pub(crate) fn connector(&self) -> impl Connect + Clone + Send + Sync + 'static {
        let endpoint = self.clone();
        tower::service_fn(move |_: Uri| ready(endpoint.accept()))
    }

    fn accept(&self) -> io::Result<TokioIo<Pipe>> {
        if self.state.lock().unwrap().refuses {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (here, there) = duplex(64 * 1024);
        tokio::spawn(self.clone().serve(there));
        Ok(TokioIo::new(Pipe(here)))
    }

    /// Serves a connection on any transport.
    pub(crate) async fn serve(self, mut connection: impl AsyncRead + AsyncWrite + Unpin) {
        while let Some(seen) = read_request(&mut connection).await {
            let body = seen.body.clone();
            let number = self.arrived(seen);
            let reply = (self.script)(number, &body);
            // Nothing is sent while a request is in flight: what is read is the end.
            let mut byte = [0];
            let (mut from, mut to) = tokio::io::split(&mut connection);
            let goes_on = tokio::select! {
                goes_on = act(reply, &mut to) => goes_on,
                _ = from.read(&mut byte) => false,
            };
            self.in_flight.send_modify(|requests| *requests -= 1);
            if !goes_on {
                return;
            }
        }
    }

    fn arrived(&self, seen: Seen) -> usize {
        let mut state = self.state.lock().unwrap();
        state.seen.push(seen);
        self.in_flight.send_modify(|requests| *requests += 1);
        state.most_in_flight = state.most_in_flight.max(*self.in_flight.borrow());
        state.seen.len() - 1
    }
}

async fn act(reply: Reply, to: &mut (impl AsyncWrite + Unpin)) -> bool {
    match reply {
        Reply::Http(bytes) => to.write_all(&bytes).await.is_ok(),
        Reply::Hang(bytes) => {
            let _ = to.write_all(&bytes).await;
            std::future::pending().await
        }
        Reply::Close(bytes) => {
            let _ = to.write_all(&bytes).await;
            false
        }
        Reply::Endless(first, then) => {
            let mut goes_on = to.write_all(&first).await.is_ok();
            while goes_on {
                goes_on = to.write_all(&then).await.is_ok();
            }
            false
        }
        Reply::After(time, reply) => {
            tokio::time::sleep(time).await;
            Box::pin(act(*reply, to)).await
        }
    }
}

async fn read_request(connection: &mut (impl AsyncRead + Unpin)) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    connection.read_exact(&mut body).await.ok()?;
    Some(Seen {
        head,
        body: serde_json::from_slice(&body).unwrap(),
    })
}

/// A response with this body.
pub(crate) fn http(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} Some Reason\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub(crate) const JSON: &str = "content-type: application/json\r\n";

pub(crate) fn json_body(status: u16, body: &Value) -> Reply {
    Reply::Http(http(status, JSON, body.to_string().as_bytes()))
}

/// A chat completion that says this and took 100 and 10 tokens.
pub(crate) fn says(text: &str) -> Reply {
    json_body(
        200,
        &json!({
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }),
    )
}

/// A chat completion whose first token could have been these.
pub(crate) fn says_with(alternatives: &[(&str, f64)]) -> Reply {
    let alternatives = alternatives
        .iter()
        .map(|(token, probability)| json!({"token": token, "logprob": probability.ln()}));
    let alternatives: Vec<Value> = alternatives.collect();
    json_body(
        200,
        &json!({
            "choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"token": "x", "logprob": -1, "top_logprobs": alternatives}]}}],
            "usage": {"prompt_tokens": 50, "completion_tokens": 1},
        }),
    )
}

pub(crate) fn user(body: &Value) -> &str {
    body["messages"][1]["content"].as_str().unwrap()
}

/// The number that follows the word `worth` in a text.
pub(crate) fn worth(text: &str) -> i64 {
    let number = text.split("worth ").nth(1).unwrap();
    number
        .split(|character: char| !character.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// A model that ranks by worth, as it was asked to.
pub(crate) fn ranks(body: &Value) -> Reply {
    let lines = user(body).lines().filter(|line| line.starts_with('['));
    let mut passages: Vec<(i64, usize)> = lines
        .enumerate()
        .map(|(place, line)| (-worth(line), place + 1))
        .collect();
    passages.sort_unstable();
    let ids: Vec<String> = passages.iter().map(|(_, id)| format!("[{id}]")).collect();
    says(&ids.join(" > "))
}

/// The client's end of a pipe.
struct Pipe(DuplexStream);

impl Connection for Pipe {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
