//! What a demo prints for people: where things are, and what to try, as it works when typed.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use super::home::Home;
use super::process::{Place, Process};

/// The shell that the demo was started from.
pub(super) struct Shell {
    /// How this program is called there.
    program: String,
    /// The node that commands there ask without being told.
    asked: String,
}

impl Shell {
    pub(super) fn here() -> Self {
        Shell {
            program: program(),
            asked: std::env::var("QIANG_SERVER").unwrap_or_else(|_| "127.0.0.1:7400".to_owned()),
        }
    }

    /// The flag that makes a command ask the node at `server`.
    fn at(&self, server: &Place) -> String {
        let server = server.http.to_string();
        if server == self.asked {
            String::new()
        } else {
            format!(" --server {server}")
        }
    }

    fn grab(&self, server: &Place, order: &str, pin: &str, items: &str) -> String {
        let (program, at) = (&self.program, self.at(server));
        format!("{program} grab{at} --order {order} --pin {pin} --ip 203.0.113.9 {items}")
    }

    /// The command that starts a node again.
    fn restart(&self, node: &Place) -> String {
        let arguments: Vec<String> = node.arguments().iter().map(|word| quoted(word)).collect();
        format!("{} {}", self.program, arguments.join(" "))
    }
}

/// What is printed when everything is ready.
pub(super) fn whole(nodes: &[Process], home: &Home, shell: &Shell) -> String {
    let mut lines = Vec::new();
    for node in nodes {
        let place = &node.place;
        lines.push(format!(
            "node {}   http://{}   pid {}   dc {}   log {}",
            place.id,
            place.http,
            node.pid(),
            place.dc,
            place.log.display()
        ));
    }
    lines.push(if home.is_temporary() {
        format!(
            "data in {}, removed at the end (--data-dir keeps it)",
            home.path().display()
        )
    } else {
        format!("data in {}", home.path().display())
    });
    let places: Vec<(&Place, u32)> = nodes.iter().map(|node| (&node.place, node.pid())).collect();
    for (title, commands) in to_try(&places, shell) {
        lines.push(String::new());
        lines.push(format!("{title}:"));
        lines.extend(commands.into_iter().map(|command| format!("  {command}")));
    }
    lines.push(String::new());
    lines.push("Ctrl-C stops the demo.".to_owned());
    lines.join("\n")
}

/// What is said when a node ends while others go on.
pub(super) fn of_a_death(node: &Process, status: ExitStatus, shell: &Shell) -> String {
    format!(
        "node {} (pid {}) ended ({status}); the others go on. To start it again, in another terminal:\n  {}",
        node.place.id,
        node.pid(),
        shell.restart(&node.place)
    )
}

/// Titles with the commands below them.
fn to_try(nodes: &[(&Place, u32)], shell: &Shell) -> Vec<(&'static str, Vec<String>)> {
    let mut shown = vec![("Try in another terminal", first_steps(nodes[0].0, shell))];
    if nodes.len() >= 3 {
        shown.push((
            "Kill node 1, ask another, and start it again",
            failover(nodes, shell),
        ));
    }
    let (lost, left): (Vec<_>, Vec<_>) = nodes.iter().partition(|(place, _)| place.dc == "a");
    if lost.len() > 1 && left.len() > 1 {
        shown.push((
            "Lose data centre a for good, and go on in b",
            recovery(&lost, left[0].0, shell),
        ));
    }
    shown
}

fn first_steps(first: &Place, shell: &Shell) -> Vec<String> {
    let (program, at, server) = (&shell.program, shell.at(first), first.http);
    let body = r#"{"order_id":"o-4","pin":"dave","ip":"203.0.113.10","channel":"web","items":[{"promotion_id":"by-ip-and-pin","quantity":1}]}"#;
    vec![
        format!("{program} promo list{at}"),
        shell.grab(first, "o-1", "alice", "open:1"),
        shell.grab(first, "o-2", "bob", "by-pin:2"),
        shell.grab(first, "o-3", "carol", "phone:1 case:2"),
        format!("{program} order get o-3{at}"),
        format!("{program} order confirm o-3{at}"),
        format!("{program} flows tail{at} --promotion phone"),
        format!(
            "curl -sS -X POST http://{server}/v1/grabs -H 'content-type: application/json' -d '{body}'"
        ),
        format!("curl -sS http://{server}/v1/promotions/open"),
        format!("{program} raft status{at}"),
    ]
}

fn failover(nodes: &[(&Place, u32)], shell: &Shell) -> Vec<String> {
    let ((first, pid), (other, _)) = (nodes[0], nodes[1]);
    vec![
        format!("kill -9 {pid}"),
        shell.grab(other, "o-5", "erin", "open:1"),
        format!("{} raft status{}", shell.program, shell.at(other)),
        shell.restart(first),
    ]
}

fn recovery(lost: &[&(&Place, u32)], survivor: &Place, shell: &Shell) -> Vec<String> {
    let pids: Vec<String> = lost.iter().map(|(_, pid)| pid.to_string()).collect();
    let (program, at) = (&shell.program, shell.at(survivor));
    vec![
        format!("kill -9 {}", pids.join(" ")),
        format!("{program} raft status{at}"),
        format!("{program} raft recover --dc {}{at}", survivor.dc),
        shell.grab(survivor, "o-6", "frank", "open:1"),
    ]
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._:-+=@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// How this program is called from here: by its name if the shell finds it so, otherwise by its path.
fn program() -> String {
    let Ok(own) = std::env::current_exe() else {
        return "qiang".to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join("qiang"))
        .find(|file| file.is_file());
    let same = |file: &Path| std::fs::canonicalize(file).ok() == std::fs::canonicalize(&own).ok();
    if found.is_some_and(|file| same(&file)) {
        return "qiang".to_owned();
    }
    let here = std::env::current_dir().ok();
    let relative: Option<PathBuf> =
        here.and_then(|here| own.strip_prefix(here).ok().map(Path::to_owned));
    match relative {
        Some(relative) => quoted(&format!("./{}", relative.display())),
        None => quoted(&own.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn places(nodes: u16, base_port: u16) -> Vec<Place> {
        let home = Home::open(None, nodes).expect("a temporary directory");
        (1..=nodes)
            .map(|number| Place {
                data_dir: Path::new("/data of mine").join(format!("node-{number}")),
                ..Place::of(number, nodes, base_port, &home)
            })
            .collect()
    }

    fn shell(program: &str) -> Shell {
        Shell {
            program: program.to_owned(),
            asked: "127.0.0.1:7400".to_owned(),
        }
    }

    fn told(nodes: u16, base_port: u16, program: &str) -> Vec<(&'static str, Vec<String>)> {
        let places = places(nodes, base_port);
        let places: Vec<(&Place, u32)> = places.iter().zip(101..).collect();
        to_try(&places, &shell(program))
    }

    #[test]
    fn what_is_printed_names_the_node_unless_it_is_asked_anyway() {
        let grab = "--order o-1 --pin alice --ip 203.0.113.9 open:1";
        let first = &told(1, 7400, "qiang")[0].1;
        assert!(first.contains(&format!("qiang grab {grab}")), "{first:?}");
        let first = &told(1, 8400, "./qiang")[0].1;
        let named = format!("./qiang grab --server 127.0.0.1:8400 {grab}");
        assert!(first.contains(&named), "{first:?}");
    }

    #[test]
    fn a_failover_and_the_loss_of_a_data_centre_can_be_typed_as_printed() {
        let shown = told(4, 7400, "qiang");
        let [_, (_, failover), (_, recovery)] = &shown[..] else {
            panic!("three parts: {shown:?}");
        };
        assert_eq!(failover[0], "kill -9 101");
        assert!(
            failover[1].contains("--server 127.0.0.1:7401"),
            "{failover:?}"
        );
        assert_eq!(
            failover[3],
            "qiang serve --node-id 1 --dc a --data-dir '/data of mine/node-1' --listen 127.0.0.1:7400 \
             --peer-listen 127.0.0.1:7500"
        );
        assert_eq!(recovery[0], "kill -9 101 102");
        assert_eq!(
            recovery[2],
            "qiang raft recover --dc b --server 127.0.0.1:7402"
        );
    }

    #[test]
    fn a_demo_of_one_node_has_no_failover_to_try() {
        assert_eq!(told(1, 7400, "qiang").len(), 1);
        assert_eq!(told(3, 7400, "qiang").len(), 2);
    }

    #[test]
    fn the_first_half_of_the_nodes_stands_in_a_and_the_rest_in_b() {
        let dcs = |nodes| -> String { places(nodes, 7400).iter().map(|place| place.dc).collect() };
        assert_eq!(
            [1, 2, 3, 4, 5].map(dcs),
            ["a", "ab", "aab", "aabb", "aaabb"]
        );
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_split_or_expand_them() {
        assert_eq!(quoted("/a/b-1.log"), "/a/b-1.log");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $x"), r"'it'\''s $x'");
        assert_eq!(quoted(""), "''");
    }
}
