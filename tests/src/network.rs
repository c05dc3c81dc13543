//! A network of hosts for nodes, on which packets can be lost between any two, each way by itself.
//!
//! A host is a network namespace of Linux with one interface. All are plugged into one bridge, which stands in a
//! namespace too: the machine's own network is not touched. Packets to a host are lost when the sender has a wrong hardware
//! address for it: nobody is told, connections stay open, as with a cable that is cut.
//!
//! Invariant: what was laid is gone when the network is dropped. It takes root and the program `ip`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip` keeps the namespaces that it has named.
const NAMESPACES: &str = "/run/netns";

/// A hardware address that no host has.
const NOBODY: &str = "02:00:00:00:00:01";

const LOCK: &str = "no holder of this lock panics";

/// Hosts that can talk with each other, until told otherwise.
#[derive(Debug)]
pub struct Network {
    /// The namespace of the bridge; the hosts' begin with it.
    name: String,
    hosts: BTreeMap<u64, Host>,
    /// From whom to whom packets are lost.
    lost: Mutex<Vec<(u64, u64)>>,
}

/// One host.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    address: Ipv4Addr,
}

impl Network {
    /// A network without hosts; `Err` says why there is none.
    pub fn lay() -> Result<Self, String> {
        static LAID: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::getuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let number = LAID.fetch_add(1, Ordering::Relaxed);
        let name = format!("qiang-{}-{number}", std::process::id());
        ip(&["netns", "add", &name])?;
        let network = Self {
            name,
            hosts: BTreeMap::new(),
            lost: Mutex::default(),
        };
        let name = &network.name;
        ip(&["-n", name, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", name, "link", "set", "bridge", "up"])?;
        Ok(network)
    }

    /// A new host, of a number from 1 to 250.
    pub fn host(&mut self, number: u64) -> Result<Host, String> {
        let last = u8::try_from(number).expect("few hosts");
        let host = Host {
            namespace: format!("{}-{number}", self.name),
            address: Ipv4Addr::new(10, 0, 0, last),
        };
        let (hub, own) = (self.name.as_str(), host.namespace.as_str());
        let (plug, address) = (format!("plug{number}"), format!("{}/24", host.address));
        ip(&["netns", "add", own])?;
        self.hosts.insert(number, host.clone());
        let cable = ["type", "veth", "peer", "name", "cable", "netns", own];
        ip(&[&["-n", hub, "link", "add", &plug], &cable[..]].concat())?;
        ip(&["-n", hub, "link", "set", &plug, "master", "bridge", "up"])?;
        ip(&["-n", own, "addr", "add", &address, "dev", "cable"])?;
        ip(&["-n", own, "link", "set", "cable", "up"])?;
        ip(&["-n", own, "link", "set", "lo", "up"])?;
        Ok(host)
    }

    /// From now on nothing passes between this host and any other.
    #[track_caller]
    pub fn isolate(&self, number: u64) {
        self.mute(number);
        self.deafen(number);
    }

    /// From now on nobody hears this host, which hears all.
    #[track_caller]
    pub fn mute(&self, number: u64) {
        for other in self.hosts.keys().filter(|other| **other != number) {
            self.lose(number, *other);
        }
    }

    /// From now on this host hears nobody, and all hear it.
    #[track_caller]
    pub fn deafen(&self, number: u64) {
        for other in self.hosts.keys().filter(|other| **other != number) {
            self.lose(*other, number);
        }
    }

    /// From now on nothing passes between these two.
    #[track_caller]
    pub fn part(&self, one: u64, other: u64) {
        self.lose(one, other);
        self.lose(other, one);
    }

    #[track_caller]
    fn lose(&self, from: u64, to: u64) {
        let (namespace, address) = self.way(from, to);
        let wrong = ["lladdr", NOBODY, "dev", "cable", "nud", "permanent"];
        ip(&[&["-n", namespace, "neigh", "replace", &address], &wrong[..]].concat())
            .expect("a known host can be lost");
        self.lost.lock().expect(LOCK).push((from, to));
    }

    /// Everything passes again.
    #[track_caller]
    pub fn heal(&self) {
        for (from, to) in self.lost.lock().expect(LOCK).drain(..) {
            let (namespace, address) = self.way(from, to);
            ip(&["-n", namespace, "neigh", "del", &address, "dev", "cable"])
                .expect("a wrong hardware address can be forgotten");
        }
    }

    #[track_caller]
    fn way(&self, from: u64, to: u64) -> (&str, String) {
        let address = self.hosts[&to].address.to_string();
        (&self.hosts[&from].namespace, address)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let hosts = self.hosts.values().map(|host| &host.namespace);
        for namespace in hosts.chain([&self.name]) {
            if let Err(why) = ip(&["netns", "del", namespace]) {
                eprintln!("network namespace {namespace} is left over: {why}");
            }
        }
    }
}

impl Host {
    /// Its address for the other hosts.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that runs `program` there, as the process that is started itself.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(program);
        command
    }

    /// Connects to `target` as it is seen from there.
    pub fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        let namespace = File::open(Path::new(NAMESPACES).join(&self.namespace))?;
        // A thread stays in the namespace that it enters: this one ends with the connection made.
        let there = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpStream::connect(target)
        });
        there.join().expect("connecting does not panic")
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| format!("ip cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", arguments.join(" "), why.trim()))
}
