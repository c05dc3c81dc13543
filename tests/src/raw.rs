//! Bytes on a TCP connection, for what no HTTP client would send.
//!
//! Invariant: every read has a deadline, so that a server that never answers fails the test instead of hanging it.

use crate::Answer;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// A connection to be misused.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// How a read ended.
#[derive(Debug)]
pub enum RawAnswer {
    /// A whole HTTP answer.
    Answer(Answer),
    /// The server closed the connection without one; what came before is given.
    Closed(String),
    /// Nothing more came in time; what came before is given.
    Silent(String),
}

impl RawAnswer {
    /// The answer; a panic where the server closed or was silent.
    #[track_caller]
    pub fn answer(self) -> Answer {
        match self {
            Self::Answer(answer) => answer,
            other => panic!("no HTTP answer: {other:?}"),
        }
    }
}

impl Raw {
    /// Connects to `host:port`.
    #[track_caller]
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address)
            .unwrap_or_else(|error| panic!("connecting to {address}: {error}"));
        stream.set_nodelay(true).expect("a TCP option");
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Sends bytes. A connection that the server has closed meanwhile is no failure of the test: its answer may be waiting.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let written = self.stream.write_all(bytes.as_ref());
        if let Err(error) = written {
            let closed = matches!(
                error.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            );
            assert!(closed, "sending: {error}");
        }
        self
    }

    /// Sends a request head and body, with the length given.
    pub fn request(&mut self, method: &str, path: &str, body: impl AsRef<[u8]>) -> &mut Self {
        let body = body.as_ref();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.send(head).send(body)
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub fn finish_sending(&mut self) -> &mut Self {
        self.stream
            .shutdown(Shutdown::Write)
            .expect("an open connection can be half-closed");
        self
    }

    /// Reads until one answer is whole, the server closes, or `within` has passed.
    pub fn read(&mut self, within: Duration) -> RawAnswer {
        let deadline = Instant::now() + within;
        loop {
            if let Some(answer) = self.take_answer() {
                return RawAnswer::Answer(answer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return RawAnswer::Silent(self.seen());
            }
            self.stream
                .set_read_timeout(Some(left))
                .expect("a positive timeout");
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return RawAnswer::Closed(self.seen()),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return RawAnswer::Closed(self.seen()),
            }
        }
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// Takes the first answer out of the buffer once its head and, by its content-length, its body are there.
    fn take_answer(&mut self) -> Option<Answer> {
        let end = self
            .buffer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers
            .iter()
            .find(|(name, _)| name == "content-length")
            .map_or(0, |(_, value)| value.parse::<usize>().unwrap_or(0));
        let body = self.buffer.get(end + 4..end + 4 + length)?;
        let text = String::from_utf8_lossy(body).into_owned();
        self.buffer.drain(..end + 4 + length);
        Some(Answer {
            status,
            headers,
            text,
            asked: "a raw request".to_owned(),
        })
    }
}
