//! What a proxy lets through, against a target that echoes and remembers.

use std::io::{Read, Result, Write};
use std::net::Shutdown;
use std::time::Instant;

use super::*;

/// Far above what bytes need on one machine, so that only a broken proxy reaches it.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);

/// How long silence has to last to be called that. It can only make a broken proxy pass, never a good one fail.
const SILENCE: Duration = Duration::from_millis(150);

/// A target that sends back what it gets, and remembers it.
struct Echo {
    address: SocketAddr,
    got: Arc<Mutex<Vec<u8>>>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let remembered = Arc::clone(&got);
        // Both kinds of threads end with the test's process at the latest.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, got) = (stream.unwrap(), Arc::clone(&remembered));
                std::thread::spawn(move || echo(stream, &got));
            }
        });
        Self { address, got }
    }

    fn got(&self) -> Vec<u8> {
        self.got.lock().unwrap().clone()
    }

    #[track_caller]
    fn gets(&self, wanted: &[u8]) {
        wait_until(ARRIVES_WITHIN, "the target gets the bytes", || {
            let got = self.got();
            (got == wanted)
                .then_some(())
                .ok_or_else(|| String::from_utf8_lossy(&got).into_owned())
        });
    }
}

fn echo(mut stream: TcpStream, got: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        got.lock().unwrap().extend_from_slice(&chunk[..count]);
        if stream.write_all(&chunk[..count]).is_err() {
            return;
        }
    }
}

/// A target's end of a connection, and the end of whoever connected.
fn both_ends() -> (PeerProxy, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = PeerProxy::start(listener.local_addr().unwrap());
    let near = TcpStream::connect(proxy.address()).unwrap();
    let (far, _) = listener.accept().unwrap();
    (proxy, near, far)
}

fn connect_to(proxy: &PeerProxy) -> TcpStream {
    TcpStream::connect(proxy.address()).unwrap()
}

#[track_caller]
fn has_taken(proxy: &PeerProxy, count: usize) {
    wait_until(ARRIVES_WITHIN, "the proxy takes the connections", || {
        let taken = proxy.accepted();
        (taken == count)
            .then_some(())
            .ok_or_else(|| format!("{taken} taken"))
    });
}

#[track_caller]
fn has_lost_bytes(proxy: &PeerProxy) {
    wait_until(ARRIVES_WITHIN, "the proxy loses bytes", || {
        let connections = proxy.shared.connections();
        connections
            .iter()
            .any(|connection| connection.has_lost_bytes())
            .then_some(())
            .ok_or_else(|| format!("{connections:?}"))
    });
}

#[track_caller]
fn says(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
}

#[track_caller]
fn hears(stream: &mut TcpStream, bytes: &[u8]) {
    stream.set_read_timeout(Some(ARRIVES_WITHIN)).unwrap();
    let mut heard = vec![0; bytes.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, bytes);
}

fn next_byte(stream: &mut TcpStream, within: Duration) -> Result<usize> {
    stream.set_read_timeout(Some(within)).unwrap();
    stream.read(&mut [0])
}

#[track_caller]
fn hears_nothing(stream: &mut TcpStream) {
    let error = next_byte(stream, SILENCE).expect_err("neither bytes nor an end");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
}

#[track_caller]
fn is_hung_up_on(stream: &mut TcpStream) {
    match next_byte(stream, ARRIVES_WITHIN) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("still connected: {other:?}"),
    }
}

#[test]
fn bytes_and_ends_pass_in_both_directions() {
    let target = Echo::start();
    let proxy = PeerProxy::start(target.address);
    let mut peer = connect_to(&proxy);
    says(&mut peer, b"hello");
    hears(&mut peer, b"hello");

    says(&mut peer, b" and goodbye");
    peer.shutdown(Shutdown::Write).unwrap();
    hears(&mut peer, b" and goodbye");
    is_hung_up_on(&mut peer);
    target.gets(b"hello and goodbye");
    assert_eq!(proxy.accepted(), 1);
}

#[test]
fn a_cut_swallows_bytes_without_a_word_and_a_healed_connection_has_no_hole() {
    let target = Echo::start();
    let proxy = PeerProxy::start(target.address);
    let mut peer = connect_to(&proxy);
    says(&mut peer, b"before");
    hears(&mut peer, b"before");

    proxy.cut();
    let much = vec![b'x'; 100_000];
    for _ in 0..100 {
        // More than any buffer on the way holds: the bytes really go somewhere.
        says(&mut peer, &much);
    }
    hears_nothing(&mut peer);
    has_lost_bytes(&proxy);

    proxy.heal();
    is_hung_up_on(&mut peer);
    target.gets(b"before");
    let mut again = connect_to(&proxy);
    says(&mut again, b" after");
    hears(&mut again, b" after");
    target.gets(b"before after");
}

#[test]
fn a_connection_that_lost_nothing_lives_on_after_a_cut() {
    let target = Echo::start();
    let proxy = PeerProxy::start(target.address);
    let mut peer = connect_to(&proxy);
    says(&mut peer, b"one");
    hears(&mut peer, b"one");
    proxy.cut();
    proxy.heal();
    says(&mut peer, b"two");
    hears(&mut peer, b"two");
}

#[test]
fn a_connection_made_during_a_cut_is_accepted_and_leads_nowhere() {
    let target = Echo::start();
    let proxy = PeerProxy::start(target.address);
    proxy.cut();
    let mut peer = connect_to(&proxy);
    says(&mut peer, b"anybody there?");
    hears_nothing(&mut peer);
    has_taken(&proxy, 1);
    proxy.heal();
    is_hung_up_on(&mut peer);
    assert_eq!(target.got(), b"");
}

#[test]
fn an_end_that_closes_during_a_cut_is_not_seen_by_the_other() {
    let (proxy, near, mut far) = both_ends();
    proxy.cut();
    drop(near);
    hears_nothing(&mut far);
    proxy.heal();
    is_hung_up_on(&mut far);
}

#[test]
fn refused_connections_meet_a_closed_port_while_established_ones_go_on() {
    let target = Echo::start();
    let proxy = PeerProxy::start(target.address);
    let mut established = connect_to(&proxy);
    says(&mut established, b"here");
    hears(&mut established, b"here");

    proxy.refuse(true);
    let error = TcpStream::connect(proxy.address()).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    says(&mut established, b"still");
    hears(&mut established, b"still");

    proxy.refuse(false);
    let mut newcomer = connect_to(&proxy);
    says(&mut newcomer, b"again");
    hears(&mut newcomer, b"again");
}

#[test]
fn bytes_of_a_stall_arrive_after_it_in_order() {
    let (proxy, mut near, mut far) = both_ends();
    proxy.stall();
    says(&mut near, b"first ");
    says(&mut far, b"answer");
    hears_nothing(&mut near);
    hears_nothing(&mut far);
    says(&mut near, b"second");
    proxy.heal();
    hears(&mut far, b"first second");
    hears(&mut near, b"answer");
}

#[test]
fn one_way_lets_only_that_direction_pass() {
    for (open, passes_to_target) in [(Direction::ToTarget, true), (Direction::FromTarget, false)] {
        let (proxy, mut near, mut far) = both_ends();
        proxy.one_way(open);
        let (speaker, listener) = if passes_to_target {
            (&mut near, &mut far)
        } else {
            (&mut far, &mut near)
        };
        says(speaker, b"question");
        hears(listener, b"question");
        says(listener, b"answer");
        hears_nothing(speaker);
        // The lost answer does not hold up what comes the other way.
        says(speaker, b"again");
        hears(listener, b"again");
        hears_nothing(speaker);
        has_lost_bytes(&proxy);

        let mut newcomer = connect_to(&proxy);
        hears_nothing(&mut newcomer);
        has_taken(&proxy, 2);
        proxy.heal();
        is_hung_up_on(&mut near);
        is_hung_up_on(&mut far);
        is_hung_up_on(&mut newcomer);
    }
}

#[test]
fn a_delay_holds_up_each_byte_as_long_on_old_and_new_connections() {
    const DELAY: Duration = Duration::from_millis(200);
    const PIECES: usize = 40;
    let target = Echo::start();
    let proxy = PeerProxy::start(target.address);
    let mut old = connect_to(&proxy);
    says(&mut old, b"quick");
    hears(&mut old, b"quick");

    proxy.delay(DELAY);
    let mut new = connect_to(&proxy);
    for peer in [&mut old, &mut new] {
        let began = Instant::now();
        says(peer, b"there and back");
        hears(peer, b"there and back");
        assert!(began.elapsed() >= 2 * DELAY, "{:?}", began.elapsed());
    }

    // Pieces overtake neither each other nor the clock: the last comes long before the delays one after the other.
    let began = Instant::now();
    let pieces: Vec<u8> = (0..PIECES)
        .flat_map(|n| format!("{n},").into_bytes())
        .collect();
    for piece in pieces.chunks(3) {
        says(&mut old, piece);
    }
    hears(&mut old, &pieces);
    let took = began.elapsed();
    let one_by_one = DELAY * u32::try_from(PIECES).unwrap();
    assert!(took >= 2 * DELAY && took < one_by_one, "{took:?}");

    proxy.delay(Duration::ZERO);
    says(&mut old, b"quick");
    hears(&mut old, b"quick");
}

#[test]
fn what_a_cut_leaves_of_a_stream_is_its_beginning() {
    let target = Echo::start();
    let proxy = PeerProxy::start(target.address);
    let mut peer = connect_to(&proxy);
    let sent: Vec<u8> = (0..2_000_000_u32)
        .flat_map(|n| n.to_be_bytes()[1..].to_vec())
        .collect();
    std::thread::scope(|scope| {
        let mut answers = peer.try_clone().unwrap();
        // The echoes have to go somewhere, or the stream stops by itself.
        scope.spawn(move || while answers.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {});
        scope.spawn(|| {
            for piece in sent.chunks(10_000) {
                // It is closed when the cut is healed.
                if peer.write_all(piece).is_err() {
                    return;
                }
            }
            drop(peer.shutdown(Shutdown::Write));
        });
        wait_until(ARRIVES_WITHIN, "some of it arrives", || {
            let count = target.got().len();
            (count > 100_000)
                .then_some(())
                .ok_or_else(|| count.to_string())
        });
        proxy.cut();
        proxy.heal();
        proxy.cut();
        proxy.heal();
    });
    drop(proxy);
    let got = target.got();
    assert!(
        got.len() > 100_000 && sent.starts_with(&got),
        "{} bytes",
        got.len()
    );
}

#[test]
fn a_target_that_does_not_listen_hangs_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);
    let proxy = PeerProxy::start(target);
    is_hung_up_on(&mut connect_to(&proxy));
}

#[test]
fn a_dropped_proxy_closes_its_port_and_its_connections() {
    for prepare in [PeerProxy::heal, PeerProxy::cut, PeerProxy::stall] {
        let (proxy, mut near, mut far) = both_ends();
        let address = proxy.address();
        prepare(&proxy);
        says(&mut near, b"unheard or not");
        drop(proxy);
        assert!(TcpStream::connect(address).is_err());
        let mut rest = Vec::new();
        far.set_read_timeout(Some(ARRIVES_WITHIN)).unwrap();
        far.read_to_end(&mut rest).unwrap();
        is_hung_up_on(&mut near);
    }
}
