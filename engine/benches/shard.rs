//! What one shard does on one core: `cargo bench -p engine`. An argument runs the rows whose
//! name contains it.
//!
//! Every row is run five times on a state built anew outside the clock, after one round to warm up;
//! the table shows the slowest, the median and the fastest. Order ids have 16 bytes, pins 10, every
//! pin has one order and every ip eight, unless the row says otherwise.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command as Process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use qiang_engine::actor::{Actor, Effect};
use qiang_engine::batch::{Batch, Part, Tag};
use qiang_engine::command::Grab;
use qiang_engine::order::Item;
use qiang_engine::promotion::{Channel, Limits, Terms};
use qiang_engine::seen::Seen;
use qiang_engine::shard::{Decision, Due, Moment, PREFETCH_MAX};
use qiang_engine::{Command, OrderId, Pin, Place, PromotionId, Record, Replica, Shard, UnixMs};

/// The allocator of the released binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Orders present before the clock runs.
const ORDERS: usize = 1_000_000;

/// Operations of one round, where the row does not take all orders.
const ROUND: usize = 500_000;

const ROUNDS: usize = 5;

/// Records of one batch, as a busy actor makes them.
const BATCH: usize = 1_000;

const NOW: UnixMs = UnixMs(1_750_000_000_000);

/// Tells a child process to report its memory instead.
const MEMORY: &str = "QIANG_BENCH_MEMORY";

fn main() {
    if let Ok(orders_per_ip) = std::env::var(MEMORY) {
        report_memory(orders_per_ip.parse().expect("a number"));
        return;
    }
    let wanted = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let row = |name: &str, target: &str, round: &dyn Fn() -> (usize, Duration)| {
        if wanted
            .as_ref()
            .is_none_or(|wanted| name.contains(wanted.as_str()))
        {
            measure(name, target, round);
        }
    };
    println!(
        "{:<44} {:>9} {:>9} {:>9}  {:>8}  target",
        "million a second", "slowest", "median", "fastest", "ns each"
    );
    let full = Full::new();
    row("fresh grabs, 1,000,000 orders present", "4", &|| {
        full.fresh_grabs()
    });
    row("fresh grabs, from empty to 1,000,000", "", &|| {
        full.grabs_from_empty()
    });
    row("  yardstick: two bare maps, growing", "", &|| bare_maps(0));
    row("  yardstick: two bare maps, presized", "", &|| {
        bare_maps(ORDERS)
    });
    row("sold-out refusals, no limits", "20", &|| {
        full.sold_out("gone")
    });
    row("sold-out refusals, limits per pin and ip", "", &|| {
        full.sold_out("gone-limited")
    });
    row("retries replayed, in random order", "", &|| full.replayed());
    row("pin-limit refusals", "", &|| full.pin_limit());
    row("apply alone", "", &|| full.apply_alone());
    row("revert", "", &|| full.revert());
    row("encode, batches of 1,000", "", &|| full.encode());
    row("decode and fold, batches of 1,000", "2", &|| full.fold());
    row("confirm, in random order", "", &|| full.confirm());
    row("expiry of 1,000,000 orders due at once", "", &|| {
        full.expire()
    });
    row("an actor, 1,000 promotions on 16 shards", "", &actor_turns);
    drop(full);
    println!(
        "\n{:<44} {:>9}  target",
        "bytes a held order, resident", "bytes"
    );
    for (name, orders_per_ip, huge_pages) in [
        ("eight orders an ip", "8", "0"),
        ("every order its own ip", "1", "0"),
        ("eight orders an ip, in huge pages", "8", "1"),
        ("every order its own ip, in huge pages", "1", "1"),
    ] {
        println!("{name:<44} {:>9}  120", memory(orders_per_ip, huge_pages));
    }
}

fn measure(name: &str, target: &str, round: &dyn Fn() -> (usize, Duration)) {
    round();
    let mut rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (operations, took) = round();
            operations as f64 / took.as_secs_f64() / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let median = rates[ROUNDS / 2];
    let ns = 1e3 / median;
    println!(
        "{name:<44} {:>9.2} {median:>9.2} {:>9.2}  {ns:>8.1}  {target}",
        rates[0],
        rates[ROUNDS - 1]
    );
}

/// How long `work` keeps this thread's core busy. Where Linux does not tell, how long it takes.
#[expect(clippy::disallowed_methods, reason = "a bench is about time")]
fn clock(work: impl FnOnce()) -> Duration {
    let (begun, busy) = (Instant::now(), busy());
    work();
    match (busy, self::busy()) {
        (Some(before), Some(after)) => after.saturating_sub(before),
        _ => begun.elapsed(),
    }
}

/// Time that this thread has spent on a core: other programs on a busy machine do not count.
fn busy() -> Option<Duration> {
    let status = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let ns = status.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(ns))
}

/// A shard with [`ORDERS`] held orders of one promotion, and another promotion that is sold out.
struct Full {
    shard: Shard,
    grabs: Vec<Command>,
    /// Encoded batches that lead to `shard`.
    batches: Vec<Vec<u8>>,
}

fn promotion_id(name: &str) -> PromotionId {
    PromotionId::new(name).expect("an id")
}

fn grab(number: usize, promotion: &PromotionId, orders_per_ip: usize) -> Grab {
    let ip = u32::try_from(number / orders_per_ip).expect("few ips");
    Grab {
        order_id: OrderId::new(&format!("o{number:015}")).expect("an id"),
        pin: Pin::new(&format!("p{number:09}")).expect("an id"),
        ip: IpAddr::V4(Ipv4Addr::from_bits(ip)),
        channel: Channel::App,
        items: [Item {
            promotion_id: promotion.clone(),
            quantity: 1,
        }]
        .into_iter()
        .collect(),
    }
}

fn grabs(from: usize, count: usize, promotion: &PromotionId) -> Vec<Command> {
    (from..from + count)
        .map(|number| Command::Grab(grab(number, promotion, 8)))
        .collect()
}

/// Places in `0..ORDERS` in an order that no cache foresees: steps by a number prime to it.
fn scattered() -> impl Iterator<Item = usize> {
    (0..ROUND).map(|number| number * 611_953 % ORDERS)
}

fn create(name: &str, quantity: u64, limits: Limits) -> Command {
    let terms = Terms {
        limits,
        ..Terms::default()
    };
    Command::CreatePromotion {
        promotion_id: promotion_id(name),
        quantity,
        terms: Box::new(terms),
    }
}

/// Limits that every grab is checked against and that only a second one of a pin exceeds.
fn limits() -> Limits {
    Limits {
        per_order: Some(2),
        per_pin: Some(1),
        per_ip: Some(100),
    }
}

/// Decides a command as the actor does, without applying it.
fn decide(shard: &mut Shard, command: &Command, moment: &Moment) -> Result<Decision, ()> {
    let decision = shard.decide(command, moment);
    if let Command::Grab(grab) = command {
        shard.count_attempts(grab, &decision, moment);
    }
    decision.map_err(|_| ())
}

/// Decides and applies a command that is accepted.
fn accept(shard: &mut Shard, command: &Command, moment: &Moment) -> Record {
    match decide(shard, command, moment) {
        Ok(Decision::Record(record)) => {
            shard.apply(&record).expect("it was decided here");
            record
        }
        other => panic!("not accepted: {other:?}"),
    }
}

/// What the owner of sixteen shards does for batches of 1,000 grabs, each of another promotion: looks ahead, decides, encodes, and
/// answers once the batch is committed.
fn actor_turns() -> (usize, Duration) {
    const SHARDS: u8 = 16;
    const PROMOTIONS: usize = 1_000;
    const APPLIED: u64 = 1;
    let place = |number: usize| Place((number % usize::from(SHARDS)) as u8);
    let name = |number: usize| format!("P-{:05}", number % PROMOTIONS);
    let seen = (0..SHARDS).map(|_| Arc::new(Seen::new(1)));
    let replica = Replica::new(SHARDS.into(), 1);
    let mut actor: Actor<()> = Actor::new(replica, 0, seen.collect());
    actor
        .handle_blank(APPLIED, Some(1))
        .expect("nothing is pending");
    let sales = (0..PROMOTIONS).map(|number| {
        let sale = create(&name(number), 1 << 30, limits());
        (place(number), sale)
    });
    run_turn(&mut actor, APPLIED + 1, &sales.collect::<Vec<_>>());
    let mut took = Duration::ZERO;
    for turn in 0..ROUND / BATCH {
        let numbers = turn * BATCH..(turn + 1) * BATCH;
        let grabs = numbers.map(|number| {
            let grab = grab(number, &promotion_id(&name(number)), 8);
            (place(number % PROMOTIONS), Command::Grab(grab))
        });
        let mut grabs: Vec<(Place, Command)> = grabs.collect();
        // As a batch comes to them.
        grabs.sort_by_key(|(place, _)| *place);
        let index = APPLIED + 2 + turn as u64;
        took += clock(|| run_turn(&mut actor, index, &grabs));
    }
    (ROUND, took)
}

/// One turn, which accepts everything, and its commit at this index.
fn run_turn(actor: &mut Actor<()>, index: u64, commands: &[(Place, Command)]) {
    actor.begin_turn(Moment::at(NOW));
    for together in commands.chunks(PREFETCH_MAX) {
        actor.prefetch(together.iter().map(|(place, command)| (*place, command)));
        for (place, command) in together {
            let handled = actor.handle_command(*place, command, ());
            handled.expect("the state is sound");
        }
    }
    actor.end_turn(true);
    let mut effects = Vec::new();
    actor.take_effects(&mut effects);
    let proposed = effects.drain(..).find_map(|effect| match effect {
        Effect::Propose { bytes, .. } => Some(bytes),
        _ => None,
    });
    let bytes = proposed.expect("something was accepted");
    let committed = actor.handle_batch(index, &bytes);
    committed.expect("it is its own");
    actor.take_effects(&mut effects);
    let is_accepted = |effect: &&Effect<()>| matches!(effect, Effect::Reply { result: Ok(_), .. });
    let accepted = effects.iter().filter(is_accepted).count();
    assert_eq!(accepted, commands.len(), "all are accepted");
}

impl Full {
    fn new() -> Self {
        let moment = Moment::at(NOW);
        let mut shard = Shard::new(1);
        let sales = [
            create("A", 1 << 30, limits()),
            create("gone", 0, Limits::default()),
            create("gone-limited", 0, limits()),
        ];
        let grabs = grabs(0, ORDERS, &promotion_id("A"));
        let mut records: Vec<Record> = Vec::new();
        records.extend(
            sales
                .iter()
                .map(|command| accept(&mut shard, command, &moment)),
        );
        records.extend(
            grabs
                .iter()
                .map(|command| accept(&mut shard, command, &moment)),
        );
        let mut tail = Tag::default();
        let batches = records.chunks(BATCH).map(|records| {
            let me = Tag {
                stint: 1,
                seq: tail.seq + 1,
            };
            let batch = Batch {
                me,
                prev: std::mem::replace(&mut tail, me),
                parts: vec![Part {
                    place: Place(0),
                    records: records.to_vec(),
                }],
            };
            batch.encode()
        });
        Full {
            batches: batches.collect(),
            shard,
            grabs,
        }
    }

    /// Decides and applies these commands on `shard`, the records in batches as an actor keeps them.
    fn clock_accepted(shard: &mut Shard, commands: &[Command]) -> (usize, Duration) {
        let moment = Moment::at(NOW);
        let mut records = Vec::with_capacity(BATCH);
        let took = clock(|| {
            for commands in commands.chunks(BATCH) {
                records.extend(
                    commands
                        .iter()
                        .map(|command| accept(shard, command, &moment)),
                );
                black_box(&records);
                records.clear();
            }
        });
        (commands.len(), took)
    }

    fn fresh_grabs(&self) -> (usize, Duration) {
        Self::clock_accepted(
            &mut self.shard.clone(),
            &grabs(ORDERS, ROUND, &promotion_id("A")),
        )
    }

    /// The full shard after another round of grabs, and their records.
    fn fuller(&self) -> (Shard, Vec<Record>) {
        let (mut shard, moment) = (self.shard.clone(), Moment::at(NOW));
        let commands = grabs(ORDERS, ROUND, &promotion_id("A"));
        let records = commands
            .iter()
            .map(|command| accept(&mut shard, command, &moment));
        let records = records.collect();
        (shard, records)
    }

    fn grabs_from_empty(&self) -> (usize, Duration) {
        let mut shard = Shard::new(1);
        accept(
            &mut shard,
            &create("A", 1 << 30, limits()),
            &Moment::at(NOW),
        );
        Self::clock_accepted(&mut shard, &self.grabs)
    }

    fn refused(&self, commands: &[Command]) -> (usize, Duration) {
        let (mut shard, moment) = (self.shard.clone(), Moment::at(NOW));
        let took = clock(|| {
            for command in commands {
                assert!(black_box(decide(&mut shard, command, &moment)).is_err());
            }
        });
        (commands.len(), took)
    }

    fn sold_out(&self, name: &str) -> (usize, Duration) {
        self.refused(&grabs(ORDERS, ROUND, &promotion_id(name)))
    }

    /// New orders of pins that have one already.
    fn pin_limit(&self) -> (usize, Duration) {
        let commands: Vec<Command> = scattered()
            .map(|number| {
                let mut grab = grab(number, &promotion_id("A"), 8);
                grab.order_id = OrderId::new(&format!("n{number:015}")).expect("an id");
                Command::Grab(grab)
            })
            .collect();
        self.refused(&commands)
    }

    fn replayed(&self) -> (usize, Duration) {
        let (mut shard, moment) = (self.shard.clone(), Moment::at(NOW));
        let commands: Vec<&Command> = scattered().map(|number| &self.grabs[number]).collect();
        let took = clock(|| {
            for command in &commands {
                let answer = black_box(decide(&mut shard, command, &moment));
                assert!(matches!(answer, Ok(Decision::Answer(_))));
            }
        });
        (ROUND, took)
    }

    fn apply_alone(&self) -> (usize, Duration) {
        let (_, records) = self.fuller();
        let mut shard = self.shard.clone();
        let took = clock(|| {
            for record in &records {
                shard.apply(record).expect("it was applied before");
            }
        });
        (ROUND, took)
    }

    fn revert(&self) -> (usize, Duration) {
        let (mut shard, records) = self.fuller();
        let took = clock(|| {
            for record in records.iter().rev() {
                shard.revert(record).expect("it was applied");
            }
        });
        assert_eq!(shard.digest(), self.shard.digest());
        (ROUND, took)
    }

    fn encode(&self) -> (usize, Duration) {
        let batches: Vec<Batch> = self
            .batches
            .iter()
            .map(|bytes| Batch::decode(bytes).expect("a batch"))
            .collect();
        let took = clock(|| {
            for batch in &batches {
                black_box(batch.encode());
            }
        });
        (ORDERS, took)
    }

    fn fold(&self) -> (usize, Duration) {
        let mut replica = Replica::new(1, 1);
        let took = clock(|| {
            for (index, bytes) in (1..).zip(&self.batches) {
                let batch = Batch::decode(bytes).expect("a batch");
                replica.fold(index, &batch).expect("it was applied before");
            }
        });
        assert_eq!(replica.shards[0].digest(), self.shard.digest());
        (ORDERS, took)
    }

    fn confirm(&self) -> (usize, Duration) {
        let command = |number: usize| match &self.grabs[number] {
            Command::Grab(grab) => Command::Confirm {
                order_id: grab.order_id.clone(),
            },
            other => panic!("not a grab: {other:?}"),
        };
        let commands: Vec<Command> = scattered().map(command).collect();
        Self::clock_accepted(&mut self.shard.clone(), &commands)
    }

    fn expire(&self) -> (usize, Duration) {
        let mut shard = self.shard.clone();
        let later = NOW.plus_ms(30 * 60_000);
        let mut expired = 0;
        let took = clock(|| {
            while let Some((_, due)) = shard.next_due(later) {
                let Due::Record(record) = due else {
                    panic!("no order has a cart");
                };
                shard.apply(&record).expect("it was decided here");
                expired += 1;
            }
        });
        assert_eq!(expired, ORDERS);
        (ORDERS, took)
    }
}

/// The least that could do the job: a map of orders, and a map of how much every pin has.
#[expect(
    clippy::disallowed_types,
    reason = "the yardstick is the map that everyone has, with the hash that the engine uses"
)]
fn bare_maps(capacity: usize) -> (usize, Duration) {
    use std::collections::HashMap;
    let open = promotion_id("A");
    let keys: Vec<(OrderId, Pin)> = (0..ORDERS)
        .map(|number| grab(number, &open, 8))
        .map(|grab| (grab.order_id, grab.pin))
        .collect();
    let hasher = FixedState::with_seed(1);
    let mut orders = HashMap::with_capacity_and_hasher(capacity, hasher.clone());
    let mut pins = HashMap::with_capacity_and_hasher(capacity, hasher);
    let took = clock(|| {
        for (order_id, pin) in &keys {
            if !orders.contains_key(order_id) {
                *pins.entry(pin.clone()).or_insert(0u32) += 1;
                orders.insert(order_id.clone(), (1u32, NOW.0));
            }
        }
    });
    assert_eq!((orders.len(), pins.len()), (ORDERS, ORDERS));
    (ORDERS, took)
}

/// Resident bytes of an order, measured in a process that does nothing else. Where the system backs
/// memory with huge pages, as the allocator asks it to, whole megabytes are resident that nobody uses.
fn memory(orders_per_ip: &str, huge_pages: &str) -> String {
    let measured = std::env::current_exe().and_then(|program| {
        let mut process = Process::new(program);
        process
            .env(MEMORY, orders_per_ip)
            .env("MIMALLOC_ALLOW_THP", huge_pages);
        process.output()
    });
    match measured {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(output) => format!("failed: {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => format!("failed: {error}"),
    }
}

fn report_memory(orders_per_ip: usize) {
    let (mut shard, moment) = (Shard::new(1), Moment::at(NOW));
    let open = promotion_id("A");
    accept(&mut shard, &create("A", 1 << 30, limits()), &moment);
    let Some(before) = resident_bytes() else {
        println!("unknown");
        return;
    };
    for number in 0..ORDERS {
        accept(
            &mut shard,
            &Command::Grab(grab(number, &open, orders_per_ip)),
            &moment,
        );
    }
    let after = resident_bytes().expect("it was known before");
    assert_eq!(shard.order_count(), ORDERS);
    println!("{:.1}", after.saturating_sub(before) as f64 / ORDERS as f64);
}

/// Bytes of this process in memory; known on Linux.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}
