//! Grabs as calls of a script in Redis, for `compare`.
//!
//! Invariant: the opponent is asked for the same order, pin, ip and promotion as qiang would be, and a grab that was to be
//! replicated counts as granted only when as many replicas have it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Answer, Broken, Code, Protocol};
use crate::identity::{RunId, push_number, push_pin};
use crate::workload::{Step, Workload};

/// Attempts in a window, units of a pin and of an ip: as large as in qiang's promotions, so that the checks are made and never fail.
const ATTEMPTS: u64 = 1 << 40;
const PIN_LIMIT: u64 = 1_000;
const IP_LIMIT: u64 = 1_000_000_000;

/// Milliseconds a grab may wait for its replicas.
const WAIT_MS: u64 = 5_000;

/// Which script decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// `q.lua`: four hashes.
    Whole,
    /// `q_min.lua`: one hash, the fewest calls.
    Fewest,
}

/// Redis of one connection.
#[derive(Debug)]
pub struct Resp {
    run: RunId,
    workload: Arc<Workload>,
    script: Script,
    sha: String,
    /// Replicas that must have a grab before it counts.
    replicas: Option<u64>,
    /// The part of the next command that is being written.
    part: Vec<u8>,
    /// The callers' unix time: `q_min.lua` is told it.
    seconds: u64,
    /// Commands until the clock is read again.
    clock_in: u32,
}

impl Resp {
    /// Grabs by the loaded script `sha`.
    pub fn new(
        run: RunId,
        workload: Arc<Workload>,
        script: Script,
        sha: &str,
        replicas: Option<u64>,
    ) -> Self {
        Self {
            run,
            workload,
            script,
            sha: sha.to_owned(),
            replicas,
            part: Vec::new(),
            seconds: 0,
            clock_in: 0,
        }
    }

    /// The keys of a promotion, by the scripts' headers.
    pub fn keys(run: &RunId, script: Script, promotion: u32) -> Vec<String> {
        let ends: &[&str] = match script {
            Script::Whole => &["S", "P", "I", "R"],
            Script::Fewest => &["S"],
        };
        let key = |end| format!("C_{{{}}}_{end}", run.promotion(promotion));
        ends.iter().map(key).collect()
    }

    fn push_part(&mut self, out: &mut Vec<u8>) {
        push_bulk(&self.part, out);
        self.part.clear();
    }

    fn push_text(&mut self, prefix: &[u8], write: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
        self.part.extend_from_slice(prefix);
        write(&mut self.part);
        self.push_part(out);
    }

    fn push_keys(&mut self, promotion: u32, out: &mut Vec<u8>) {
        let ends: &[u8] = match self.script {
            Script::Whole => b"SPIR",
            Script::Fewest => b"S",
        };
        let run = self.run;
        for end in ends {
            self.part.extend_from_slice(b"C_{");
            run.push_promotion(promotion, &mut self.part);
            self.part.extend_from_slice(b"}_");
            self.part.push(*end);
            self.push_part(out);
        }
    }

    fn now(&mut self) -> u64 {
        if self.clock_in == 0 {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            self.seconds = since.map_or(0, |since| since.as_secs());
            self.clock_in = 256;
        }
        self.clock_in -= 1;
        self.seconds
    }
}

fn push_bulk(part: &[u8], out: &mut Vec<u8>) {
    out.push(b'$');
    push_number(part.len() as u64, out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(part);
    out.extend_from_slice(b"\r\n");
}

/// A command for Redis, whole.
pub(crate) fn command(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    out.push(b'*');
    push_number(parts.len() as u64, &mut out);
    out.extend_from_slice(b"\r\n");
    for part in parts {
        push_bulk(part, &mut out);
    }
    out
}

impl Protocol for Resp {
    fn encode(&mut self, step: &Step, out: &mut Vec<u8>) {
        let Step::Grab { order } = *step else {
            unreachable!("compare asks Redis for plain grabs only");
        };
        let item = self.workload.items(order)[0];
        let whole = self.script == Script::Whole;
        let (keys, arguments) = if whole { (4, 7) } else { (1, 8) };
        out.push(b'*');
        push_number(3 + keys + arguments, out);
        out.extend_from_slice(b"\r\n");
        push_bulk(b"EVALSHA", out);
        push_bulk(self.sha.as_bytes(), out);
        push_bulk(if whole { b"4" } else { b"1" }, out);
        self.push_keys(item.promotion, out);
        let prefix = |name: &'static [u8]| if whole { &b""[..] } else { name };
        let run = self.run;
        self.push_text(prefix(b"r:"), |part| run.push_order(order, part), out);
        self.push_text(prefix(b"p:"), |part| push_pin(order, part), out);
        let ip = self.workload.ip(order);
        let push_ip = |part: &mut Vec<u8>| {
            part.extend_from_slice(b"10");
            for byte in ip {
                part.push(b'.');
                push_number(u64::from(byte), part);
            }
        };
        self.push_text(prefix(b"i:"), push_ip, out);
        for number in [u64::from(item.quantity), ATTEMPTS, PIN_LIMIT, IP_LIMIT] {
            self.push_text(b"", |part| push_number(number, part), out);
        }
        if !whole {
            let now = self.now();
            self.push_text(b"", |part| push_number(now, part), out);
        }
        if let Some(replicas) = self.replicas {
            out.extend_from_slice(b"*3\r\n$4\r\nWAIT\r\n");
            self.push_text(b"", |part| push_number(replicas, part), out);
            self.push_text(b"", |part| push_number(WAIT_MS, part), out);
        }
    }

    fn decode(
        &mut self,
        _: &Step,
        input: &[u8],
        answers: &mut Vec<Answer>,
    ) -> Result<Option<usize>, Broken> {
        let Some((grabbed, mut end)) = reply(input)? else {
            return Ok(None);
        };
        let mut answer = answer(grabbed);
        if let Some(wanted) = self.replicas {
            let Some((have, length)) = reply(&input[end..])? else {
                return Ok(None);
            };
            end += length;
            if answer.is_success() && have.is_none_or(|have| have < wanted.cast_signed()) {
                answer = Answer {
                    status: 504,
                    code: Code::NOT_REPLICATED,
                };
            }
        }
        answers.push(answer);
        Ok(Some(end))
    }
}

/// An integer, or an error as `None`, at the beginning of `input`, and its length.
fn reply(input: &[u8]) -> Result<Option<(Option<i64>, usize)>, Broken> {
    let Some(end) = memchr::memchr(b'\n', input) else {
        return Ok(None);
    };
    let line = String::from_utf8_lossy(&input[..end]);
    let line = line.trim_end();
    match (line.chars().next(), line.get(1..)) {
        (Some(':'), Some(digits)) => match digits.parse() {
            Ok(number) => Ok(Some((Some(number), end + 1))),
            Err(_) => Err(Broken(format!("a number from Redis: {line}"))),
        },
        (Some('-'), _) => Ok(Some((None, end + 1))),
        _ => Err(Broken(format!("a reply from Redis: {line}"))),
    }
}

fn answer(grabbed: Option<i64>) -> Answer {
    let (status, code) = match grabbed {
        Some(1) => (200, Code::GRANTED),
        Some(-1) => (429, Code::of(b"rate_limited")),
        Some(-2) => (409, Code::of(b"pin_limit")),
        Some(-3) => (409, Code::of(b"ip_limit")),
        Some(-4) => (409, Code::SOLD_OUT),
        Some(-5) => (404, Code::of(b"promotion_not_found")),
        Some(-6) => (422, Code::of(b"order_mismatch")),
        Some(_) => (400, Code::OTHER),
        None => (500, Code::REDIS_ERROR),
    };
    Answer { status, code }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Name;

    fn resp(script: Script, replicas: Option<u64>) -> Resp {
        let workload = Arc::new(Workload::new(Name::Hot, 1));
        Resp::new(RunId::now(), workload, script, "abc", replicas)
    }

    fn parts(bytes: &[u8]) -> Vec<String> {
        let text = std::str::from_utf8(bytes).unwrap();
        let parts = text
            .split("\r\n")
            .filter(|part| !part.is_empty() && !part.starts_with('$') && !part.starts_with('*'));
        parts.map(str::to_owned).collect()
    }

    #[test]
    fn a_call_has_the_keys_and_arguments_of_its_script() {
        let mut out = Vec::new();
        resp(Script::Whole, None).encode(&Step::Grab { order: 9 }, &mut out);
        let whole = parts(&out);
        assert!(out.starts_with(b"*14\r\n"));
        assert_eq!((whole.len(), &whole[2][..], &whole[8][..]), (14, "4", "b9"));
        out.clear();
        resp(Script::Fewest, None).encode(&Step::Grab { order: 9 }, &mut out);
        let fewest = parts(&out);
        assert!(out.starts_with(b"*12\r\n"));
        assert_eq!((fewest.len(), &fewest[5][..]), (12, "p:b9"));
    }

    #[test]
    fn a_replicated_grab_needs_its_replicas() {
        let mut resp = resp(Script::Fewest, Some(2));
        let mut read = |input: &[u8]| {
            let mut answers = Vec::new();
            let end = resp.decode(&Step::Grab { order: 0 }, input, &mut answers);
            (end, answers.first().map(|answer| answer.code.as_str()))
        };
        assert_eq!(read(b":1\r\n:2\r\n"), (Ok(Some(8)), Some("granted")));
        assert_eq!(read(b":1\r\n:1\r\n"), (Ok(Some(8)), Some("not_replicated")));
        assert_eq!(read(b":-4\r\n:0\r\n"), (Ok(Some(9)), Some("sold_out")));
        assert_eq!(read(b":1\r\n"), (Ok(None), None));
        let error = read(b"-NOSCRIPT no\r\n:0\r\n");
        assert_eq!(error, (Ok(Some(18)), Some("redis_error")));
    }
}
