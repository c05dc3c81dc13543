//! A server that lies: a proxy before a real node that changes what the node tells. Invariant: every lie ends in exit code 6 and
//! is named.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::node::{Node, load_at};

/// Changes the body of an answer to a request for `path`.
type Lie = Arc<dyn Fn(&str, String) -> String + Send + Sync>;

/// Passes requests on to `node` and lies about the answers; its address.
fn liar(node: &Node, lie: impl Fn(&str, String) -> String + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound address").to_string();
    let (node, lie): (_, Lie) = (node.address.clone(), Arc::new(lie));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, node, lie) = (
                stream.expect("a connection"),
                node.clone(),
                Arc::clone(&lie),
            );
            // It ends when either side does.
            std::thread::spawn(move || drop(pass_on(stream, &node, &lie)));
        }
    });
    address
}

fn pass_on(buyer: TcpStream, node: &str, lie: &Lie) -> std::io::Result<()> {
    let node = TcpStream::connect(node)?;
    let (mut to_node, mut to_buyer) = (node.try_clone()?, buyer.try_clone()?);
    let (mut from_node, mut from_buyer) = (BufReader::new(node), BufReader::new(buyer));
    loop {
        let (head, body) = message(&mut from_buyer)?;
        let path = head[0].split(' ').nth(1).unwrap_or_default().to_owned();
        send(&mut to_node, &head, &body)?;
        let (head, body) = message(&mut from_node)?;
        send(&mut to_buyer, &head, &lie(&path, body))?;
    }
}

fn message(from: &mut impl BufRead) -> std::io::Result<(Vec<String>, String)> {
    let mut head = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        match line.to_ascii_lowercase().strip_prefix("content-length:") {
            Some(digits) => length = digits.trim().parse().expect("a length is digits"),
            None => head.push(line),
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok((head, String::from_utf8(body).expect("bodies are text")))
}

fn send(to: &mut TcpStream, head: &[String], body: &str) -> std::io::Result<()> {
    let (head, length) = (head.join("\r\n"), body.len());
    let text = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
    to.write_all(text.as_bytes())
}

/// Changes the first granted flow that passes, and no other: also when the audit reads it again.
fn on_first_grant(
    change: impl Fn(&str) -> String + Send + Sync,
) -> impl Fn(&str, String) -> String {
    let done = AtomicBool::new(false);
    move |path, body| {
        if !path.starts_with("/v1/flows") {
            return body;
        }
        let lines = body.lines().map(|line| {
            let granted = line.contains("\"type\":\"granted\"");
            if granted && !done.swap(true, Ordering::Relaxed) {
                change(line)
            } else {
                format!("{line}\n")
            }
        });
        lines.collect()
    }
}

#[track_caller]
fn assert_caught(address: &str, workload: &str, named: &str) {
    let run = load_at(address, workload, &["--count", "300", "--connections", "4"]);
    assert_eq!(run.code, Some(6), "{}", run.errors);
    assert!(run.errors.contains(named), "{}", run.errors);
    let found = run.summary["audit"]["differences"].as_u64();
    assert!(found > Some(0), "{}", run.summary);
}

#[test]
fn what_passes_unchanged_is_clean() {
    let node = Node::start();
    let address = liar(&node, |_, body| body);
    load_at(
        &address,
        "stampede",
        &["--count", "300", "--connections", "4"],
    )
    .clean();
}

#[test]
fn a_grant_that_is_not_among_the_flows_is_caught_as_a_loss() {
    let node = Node::start();
    let address = liar(&node, on_first_grant(|_| String::new()));
    assert_caught(&address, "spread", "no flow says so: a loss");
}

#[test]
fn a_grant_that_is_there_twice_is_caught() {
    let node = Node::start();
    let address = liar(&node, on_first_grant(|line| format!("{line}\n{line}\n")));
    assert_caught(&address, "stampede", "a double grant");
}

#[test]
fn one_granted_too_many_is_caught_as_an_oversell() {
    let node = Node::start();
    // The promotion had one unit less than the server gave.
    let address = liar(&node, |path, body| {
        if path.starts_with("/v1/flows") {
            let fewer = "\"quantity\":99,\"kind\"";
            body.replace("\"quantity\":100,\"kind\"", fewer)
        } else {
            body
        }
    });
    assert_caught(&address, "stampede", "an oversell");
}

#[test]
fn a_counter_that_is_off_by_one_is_caught() {
    let node = Node::start();
    let address = liar(&node, |path, body| {
        if path.starts_with("/v1/promotions/") {
            body.replace("\"granted\":100", "\"granted\":101")
        } else {
            body
        }
    });
    assert_caught(
        &address,
        "stampede",
        "granted is 101, and its flows say 100",
    );
}

#[test]
fn an_answer_about_another_order_is_caught() {
    let node = Node::start();
    let done = AtomicBool::new(false);
    let address = liar(&node, move |path, body| {
        let granted = path == "/v1/grabs" && body.contains("\"outcome\":\"granted\"");
        if granted && !done.swap(true, Ordering::Relaxed) {
            // The status line stays: only the order's name is another's.
            body.replacen('-', "-9", 1)
        } else {
            body
        }
    });
    let run = load_at(
        &address,
        "spread",
        &["--count", "300", "--connections", "4"],
    );
    assert_eq!(run.code, Some(5), "{}", run.errors);
    let broken = run.summary["broken"].as_str().unwrap_or_default();
    assert!(
        broken.contains("was asked for, and this came"),
        "{}",
        run.summary
    );
}
