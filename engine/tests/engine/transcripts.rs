//! Golden transcripts: scripts under `tests/golden/transcripts`, each line after `> ` a command, the
//! lines behind it what came of it. A transcript is played anew and must come out the same to the byte.
//!
//! A test never changes a transcript. `QIANG_GOLDEN=write` does, for one that is new or whose behaviour
//! was changed on purpose; read the difference before it is committed.

use std::path::{Path, PathBuf};

use crate::actor_script::ActorScript;
use crate::shard_script::ShardScript;

/// Plays one line and says what came of it, a line each.
pub trait Script {
    fn play(&mut self, line: &str) -> Vec<String>;
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transcripts")
}

/// Plays all transcripts of one kind.
fn play_all<S: Script>(kind: &str, new: fn() -> S) {
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder().join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no transcripts of {kind}");
    for name in names {
        let golden = std::fs::read_to_string(&name).unwrap();
        let played = play(&golden, &mut new());
        if std::env::var("QIANG_GOLDEN").is_ok_and(|value| value == "write") {
            std::fs::write(&name, &played).unwrap();
            continue;
        }
        let differ = golden.lines().zip(played.lines()).position(|(a, b)| a != b);
        let line = differ.unwrap_or_else(|| golden.lines().count().min(played.lines().count()));
        assert!(
            golden == played,
            "{} differs from line {} on:\n--- golden\n{}\n--- played\n{}",
            name.display(),
            line + 1,
            excerpt(&golden, line),
            excerpt(&played, line),
        );
    }
}

fn excerpt(text: &str, line: usize) -> String {
    let lines = text.lines().skip(line.saturating_sub(2)).take(6);
    lines.collect::<Vec<_>>().join("\n")
}

/// The transcript that the commands of `golden` lead to; comments and blank lines stay.
fn play(golden: &str, script: &mut impl Script) -> String {
    let mut played = String::new();
    for line in golden.lines() {
        if line.is_empty() || line.starts_with('#') {
            played.extend([line, "\n"]);
        } else if let Some(command) = line.strip_prefix("> ") {
            played.extend([line, "\n"]);
            for said in script.play(command) {
                played.extend([said.as_str(), "\n"]);
            }
        }
    }
    played
}

#[test]
fn shards_do_what_their_transcripts_say() {
    play_all("shard", ShardScript::new);
}

#[test]
fn actors_do_what_their_transcripts_say() {
    play_all("actor", ActorScript::new);
}
