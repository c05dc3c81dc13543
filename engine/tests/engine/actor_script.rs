//! Plays transcripts of one actor. The script is the log: it says which of the actor's proposals are
//! committed, refused or of unknown outcome, and which entries of other nodes come between.
//!
//! Beside the actor a follower folds the same log. Whenever nothing is pending the actor's state must be
//! the follower's, to the last order.

use std::collections::BTreeMap;
use std::sync::Arc;

use qiang_engine::actor::{Actor, Effect};
use qiang_engine::batch::{Batch, Part, Tag};
use qiang_engine::replica::Folded;
use qiang_engine::seen::Seen;
use qiang_engine::shard::{Decision, Moment};
use qiang_engine::{Place, Record, Replica};

use crate::script::{self, BEGINNING, Words};
use crate::transcripts::Script;

pub struct ActorScript {
    actor: Actor<String>,
    moment: Moment,
    lease: bool,
    /// What the actor proposed and the script has not yet done anything about.
    proposed: BTreeMap<(u64, u64), Vec<u8>>,
    follower: Replica,
    index: u64,
}

impl ActorScript {
    pub fn new() -> Self {
        ActorScript {
            actor: Actor::new(Replica::new(1, 1), 0, vec![Arc::new(Seen::new(1))]),
            moment: Moment::at(BEGINNING),
            lease: true,
            proposed: BTreeMap::new(),
            follower: Replica::new(1, 2),
            index: 0,
        }
    }

    fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    /// `turn a: grab …; b: order …` is one turn with the commands of callers a and b.
    fn turn(&mut self, commands: &str) {
        self.actor.begin_turn(self.moment);
        for command in commands
            .split(';')
            .filter(|command| !command.trim().is_empty())
        {
            let (caller, command) = command.split_once(':').expect("caller: command");
            let command = Words::of(command.trim()).command();
            self.actor
                .handle_command(Place(0), &command, caller.trim().to_owned())
                .unwrap();
        }
        self.actor.end_turn(self.lease);
    }

    /// An entry of the log reaches the follower and the actor.
    fn append(&mut self, bytes: &[u8]) -> String {
        let index = self.next_index();
        let folded = self
            .follower
            .fold(index, &Batch::decode(bytes).unwrap())
            .unwrap();
        self.actor.handle_batch(index, bytes).unwrap();
        match folded {
            Folded::Effective => format!("entry {index} is effective"),
            Folded::Void => format!("entry {index} is void"),
        }
    }

    /// Another node decides a command on what is committed.
    fn foreign(&self, me: Tag, command: &str) -> Vec<u8> {
        let command = Words::of(command).command();
        let record = match self.follower.shards[0].decide(&command, &self.moment) {
            Ok(Decision::Record(record)) => record,
            other => panic!("the other node accepts only: {other:?}"),
        };
        Batch {
            me,
            prev: self.follower.tail,
            parts: vec![Part {
                place: Place(0),
                records: vec![record],
            }],
        }
        .encode()
    }

    fn take_proposal(&mut self, name: &str) -> Vec<u8> {
        let tag = tag(name);
        self.proposed
            .remove(&(tag.stint, tag.seq))
            .unwrap_or_else(|| panic!("{name} was not proposed"))
    }

    fn effects(&mut self) -> Vec<String> {
        let mut effects = Vec::new();
        self.actor.take_effects(&mut effects);
        effects.into_iter().map(|effect| self.say(effect)).collect()
    }

    fn say(&mut self, effect: Effect<String>) -> String {
        match effect {
            Effect::Reply { to, result } => {
                let said = match result {
                    Ok(answer) => script::answer(&answer, self.moment.now),
                    Err(refusal) => script::refusal(&refusal),
                };
                format!("reply to {to}: {said}")
            }
            Effect::Propose { tag, bytes } => {
                let batch = Batch::decode(&bytes).unwrap();
                self.proposed.insert((tag.stint, tag.seq), bytes);
                let records = batch.parts.iter().flat_map(|part| &part.records);
                let records: Vec<_> = records.map(Record::type_name).collect();
                format!(
                    "propose {} after {}: {}",
                    say_tag(batch.me),
                    say_tag(batch.prev),
                    records.join(", ")
                )
            }
            Effect::Publish(changes) => {
                let changes = changes.iter().map(|change| {
                    let (shown, counters) = change.shown();
                    format!("{} {} remaining", shown.id(), counters.remaining)
                });
                format!("publish {}", changes.collect::<Vec<_>>().join(", "))
            }
            Effect::Ask {
                order_id,
                try_id,
                home,
                ..
            } => {
                format!("ask home of {home} about {order_id} of try {}", try_id.0)
            }
            Effect::Tell { tell, .. } => {
                format!(
                    "tell guests of {}: {}",
                    tell.order_id,
                    script::say_outcome(tell.outcome)
                )
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.actor.applied_index(), self.index);
        if self.actor.pending() == 0 {
            let replica = self.actor.replica();
            assert_eq!(replica.tail, self.follower.tail);
            assert!(
                replica.shards == self.follower.shards,
                "nothing pending, yet the states differ"
            );
        }
    }
}

impl Script for ActorScript {
    fn play(&mut self, line: &str) -> Vec<String> {
        let words = Words::of(line);
        let mut said = Vec::new();
        match words.verb {
            "turn" => self.turn(line["turn".len()..].trim()),
            "wait" => self.moment.now = self.moment.now.plus_ms(words.word(0).parse().unwrap()),
            "deadlines" => {
                self.actor.begin_turn(self.moment);
                self.actor.run_deadlines().unwrap();
                self.actor.end_turn(self.lease);
            }
            "chores" => {
                self.actor.begin_turn(self.moment);
                self.actor.run_chores(10_000, |_| None).unwrap();
                self.actor.end_turn(self.lease);
            }
            "lease" => self.lease = words.word(0) == "held",
            "blank" => {
                let index = self.next_index();
                self.actor
                    .handle_blank(index, words.number("mine"))
                    .unwrap();
            }
            "other" => {
                let index = self.next_index();
                self.actor.handle_other(index);
            }
            "commit" => {
                let bytes = self.take_proposal(words.word(0));
                said.push(self.append(&bytes));
            }
            "refused" => self.actor.handle_refused(tag(words.word(0))).unwrap(),
            "unknown" => self.actor.handle_unknown(tag(words.word(0))),
            "foreign" => {
                let (name, command) = line["foreign".len()..]
                    .split_once(':')
                    .expect("tag: command");
                let bytes = self.foreign(tag(name.trim()), command.trim());
                said.push(self.append(&bytes));
            }
            "snapshot" => {
                // Another node's state after one more entry that this one never saw.
                let command = line["snapshot".len()..].trim();
                let bytes = self.foreign(Tag { stint: 99, seq: 1 }, command);
                let index = self.next_index();
                self.follower
                    .fold(index, &Batch::decode(&bytes).unwrap())
                    .unwrap();
                self.actor
                    .handle_snapshot(index, self.follower.clone())
                    .unwrap();
            }
            "pays" => {
                let pays = self.actor.pays(words.word(0).parse().unwrap());
                said.push(if pays { "yes" } else { "no" }.to_owned());
            }
            "state" => said.push(format!(
                "{}, {}, {} pending, {} entries void",
                if self.actor.deciding() {
                    "deciding"
                } else {
                    "following"
                },
                if self.actor.ready() {
                    "ready"
                } else {
                    "not ready"
                },
                self.actor.pending(),
                self.actor.replica().voids.len(),
            )),
            verb => panic!("no such verb: {verb}"),
        }
        said.extend(self.effects());
        self.check();
        said
    }
}

/// `7.2` is the second batch of stint 7.
fn tag(name: &str) -> Tag {
    let (stint, seq) = name.split_once('.').expect("stint.seq");
    Tag {
        stint: stint.parse().unwrap(),
        seq: seq.parse().unwrap(),
    }
}

fn say_tag(tag: Tag) -> String {
    format!("{}.{}", tag.stint, tag.seq)
}
