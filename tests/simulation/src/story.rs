//! One run: a cluster forms, faults come and go while buyers buy, then all is healed and judged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use qiang_engine::limits::TENTATIVE_MS_MAX;
use qiang_engine::promotion::Terms;
use qiang_engine::routing::{SHARDS, Sharing, shard_of};
use qiang_engine::{Command, PromotionId};
use qiang_raft::Cluster;
use qiang_raft::cluster::Member;
use qiang_raft::placement::{Duty, WITNESS_DC};
use qiang_raft::world::{Clock, Random};
use rand::RngExt;
use tokio::time::{Instant, sleep};

use crate::Shape;
use crate::backup;
use crate::buyers::{self, Book, Told};
use crate::clocks::Clocks;
use crate::doors::{self, KEEPERS};
use crate::faults::{Faults, is_spread, remove};
use crate::hours::{self, STEWARDS};
use crate::judge::{Judge, judge_all};
use crate::machine::{Machine, Process, any_speed, right_clock};
use crate::net::Net;
use crate::partners::{self, FIRMS, Histories};
use crate::patrons::{self, PATRONS};
use crate::readers::{self, Read};
use crate::restored::{self, Kept};
use crate::retention::Retention;
use crate::shop::{self, Ledger, SHOPS};
use crate::stock::Stock;
use crate::trace::Trace;

/// Machines that are there from the beginning.
const MACHINES: [(u64, &str); 4] = [(1, "a"), (2, "a"), (3, "b"), (4, "b")];

/// A machine in a third place, and one run in so many that has it.
const WITNESS: (u64, &str) = (5, WITNESS_DC);
const HAS_WITNESS_ONE_IN: u32 = 4;

/// How long a cluster may take to form, and to be itself again when all is healed.
const SETTLE_WITHIN: Duration = Duration::from_mins(1);

/// How long carts may take to be decided everywhere once all is healed: until units that were set aside last are asked
/// about, and one more question should the first be lost.
pub const CARTS_WITHIN: Duration = Duration::from_millis(TENTATIVE_MS_MAX + 3_000);

/// One run in so many has four machines more join, one after another, so that groups move.
const GROWS_ONE_IN: u32 = 5;

/// One run in so many loses a data centre for good.
const LOSES_CENTRE_ONE_IN: u32 = 3;

/// One of so many of these loses another one, once new machines have taken the place of those that are gone.
const LOSES_ANOTHER_ONE_IN: u32 = 3;

/// So many orders in doubt are repeated at once in the end.
const RESOLVED_AT_ONCE: usize = 32;

/// The longest pause before a machine joins that grows a cluster, in milliseconds.
const JOINS_EVERY_MS: u64 = 1_500;

/// So many orders, those of which buyers were told last, are looked at.
const LATEST_MAX: usize = 16;

/// How long an order that expires is held.
const EXPIRES_MS: u64 = 3_000;

/// How long the others are held: longer than any run.
const HELD_MS: u64 = 3_600_000;

/// A promotion.
pub struct Offer {
    pub id: PromotionId,
    pub quantity: u64,
    /// Its orders are returned soon unless they are paid.
    pub expires: bool,
    /// No cart has it.
    pub alone: bool,
}

/// What everybody in a run shares.
pub struct Stage {
    pub net: Net,
    pub trace: Trace,
    pub offers: Vec<Offer>,
    pub retention: Retention,
    /// Where the machines have their files.
    home: PathBuf,
    began: Instant,
    /// How the shards share logs.
    pub sharing: Sharing,
    machines: Mutex<BTreeMap<u64, Machine>>,
    clocks: Mutex<Clocks>,
    book: Mutex<Book>,
    stock: Mutex<Stock>,
    ledger: Mutex<Ledger>,
    histories: Mutex<Histories>,
    read: Mutex<Read>,
    /// A data centre was lost, and with it all flows that were nowhere else.
    lost_centre: AtomicBool,
    /// What an operator took last.
    last_backup: Mutex<Option<Kept>>,
    /// Promotions that are over some day, or that somebody asked to be deleted.
    doomed: Mutex<BTreeSet<PromotionId>>,
    /// Promotions that are over some day, of which people may take something besides, and whether their orders expire soon.
    displayed: Mutex<Vec<(PromotionId, bool)>>,
    /// The orders of which buyers were told last.
    latest: Mutex<VecDeque<String>>,
    quiet: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    /// Machines of these speeds that do not run yet, with files below `home`.
    pub fn new(
        trace: Trace,
        home: &Path,
        retention: Retention,
        speed: impl Fn(u64) -> u64,
    ) -> Arc<Self> {
        let (sharing, began) = (sharing(), Instant::now());
        let machine = |(id, dc): (u64, &'static str)| {
            let machine = Machine::new(id, dc, sharing, retention, speed(id), home, began);
            (id, machine)
        };
        Arc::new(Stage {
            net: Net::new(),
            trace,
            offers: offers(),
            retention,
            home: home.to_owned(),
            began,
            sharing,
            machines: Mutex::new(MACHINES.into_iter().map(machine).collect()),
            clocks: Mutex::new(Clocks::new(right_clock(began), MACHINES.map(|(id, _)| id))),
            book: Mutex::default(),
            stock: Mutex::default(),
            ledger: Mutex::default(),
            histories: Mutex::default(),
            read: Mutex::default(),
            lost_centre: AtomicBool::new(false),
            last_backup: Mutex::default(),
            doomed: Mutex::default(),
            displayed: Mutex::default(),
            latest: Mutex::default(),
            quiet: AtomicBool::new(false),
        })
    }

    /// Ends all processes.
    pub fn strike(&self) {
        for (_, machine) in lock(&self.machines).iter_mut() {
            machine.crash(&self.net);
        }
    }

    /// Whether buyers should end.
    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// From now on buyers should end, or may go on.
    pub fn set_quiet(&self, is_quiet: bool) {
        self.quiet.store(is_quiet, Ordering::Relaxed);
    }

    /// The processes that run, by machine.
    pub fn processes(&self) -> Vec<(u64, Process)> {
        let machines = lock(&self.machines);
        let running = machines
            .iter()
            .filter_map(|(id, machine)| Some((*id, machine.process()?.clone())));
        running.collect()
    }

    /// The numbers of all machines but those that start just now.
    pub fn machines(&self) -> Vec<u64> {
        lock(&self.machines).keys().copied().collect()
    }

    /// From now on each sync takes so much longer on a machine, until it was switched off.
    pub fn stall_disk(&self, id: u64, by: Duration) {
        if let Some(machine) = lock(&self.machines).get(&id) {
            machine.stall_disk(by);
        }
    }

    /// From now on nothing can be written on a machine, until it was switched off.
    pub fn fill_disk(&self, id: u64) {
        if let Some(machine) = lock(&self.machines).get_mut(&id) {
            machine.fill_disk();
        }
    }

    /// Sets the clock of a machine to be so far ahead of the true time.
    pub fn set_clock(&self, id: u64, ahead_ms: i64) {
        if let Some(machine) = lock(&self.machines).get(&id) {
            self.clocks().set(id, ahead_ms);
            machine.clock.set_ahead_ms(ahead_ms);
        }
    }

    /// What the clocks of all machines say.
    pub fn clocks(&self) -> MutexGuard<'_, Clocks> {
        lock(&self.clocks)
    }

    /// Whether the disk of a machine is full.
    pub fn is_full(&self, id: u64) -> bool {
        lock(&self.machines).get(&id).is_some_and(Machine::is_full)
    }

    /// The cluster's document, as whoever knows most of it has it.
    pub fn newest_cluster(&self) -> Option<Cluster> {
        let processes = self.processes().into_iter();
        let known = processes.map(|(_, process)| {
            let lives_in = process.node.report().incarnation;
            (lives_in, process.node.cluster())
        });
        let newest = known.max_by_key(|(lives_in, cluster)| (*lives_in, cluster.revision));
        newest.map(|(_, cluster)| cluster)
    }

    /// The cluster's latest life, of those that somebody lives in.
    pub fn incarnation(&self) -> u64 {
        let processes = self.processes().into_iter();
        let lives = processes.map(|(_, process)| process.node.report().incarnation);
        lives.max().unwrap_or(1)
    }

    /// Whether every node of the cluster runs, and is in this life of it.
    pub fn are_all_of(&self, incarnation: u64) -> bool {
        let members = self.members();
        let is_of_it =
            |(_, process): &(u64, Process)| process.node.report().incarnation == incarnation;
        let known = self.newest_cluster().map(|cluster| cluster.nodes.len());
        known == Some(members.len()) && members.iter().all(is_of_it)
    }

    /// The processes of nodes that belong to the cluster, as whoever knows most of it says.
    pub fn members(&self) -> Vec<(u64, Process)> {
        let mut members = self.processes();
        let nodes = self.newest_cluster().map(|cluster| cluster.nodes);
        let nodes = nodes.unwrap_or_default();
        members.retain(|(id, _)| nodes.contains_key(id));
        members
    }

    /// The processes of nodes of a data centre that belong to the cluster.
    pub fn processes_in(&self, dc: &str) -> Vec<(u64, Process)> {
        let is_there = |id: &u64| {
            lock(&self.machines)
                .get(id)
                .is_some_and(|machine| machine.dc == dc)
        };
        let mut members = self.members();
        members.retain(|(id, _)| is_there(id));
        members
    }

    /// Some process, as a load balancer that knows nothing would choose.
    pub fn any_process(&self) -> Option<Process> {
        let ids = self.machines();
        if ids.is_empty() {
            return None;
        }
        let id = ids[Random.random_range(0..ids.len())];
        lock(&self.machines).get(&id)?.process().cloned()
    }

    /// What a buyer was told of an order.
    pub fn told(&self, order: &str) -> Told {
        lock(&self.book).get(order).cloned().unwrap_or_default()
    }

    /// Notes what a buyer was told.
    pub fn write(&self, order: &str, note: impl FnOnce(&mut Told)) {
        note(lock(&self.book).entry(order.to_owned()).or_default());
        let mut latest = lock(&self.latest);
        latest.push_back(order.to_owned());
        if latest.len() > LATEST_MAX {
            latest.pop_front();
        }
    }

    /// What may be held of the promotions that no cart has.
    pub fn stock(&self) -> MutexGuard<'_, Stock> {
        lock(&self.stock)
    }

    /// What shops were told.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// What was asked and told of what partners keep.
    pub fn histories(&self) -> MutexGuard<'_, Histories> {
        lock(&self.histories)
    }

    /// What was read of each shard's flows.
    pub fn read(&self) -> MutexGuard<'_, Read> {
        lock(&self.read)
    }

    /// Notes that a data centre is lost.
    pub fn lose_centre(&self) {
        self.lost_centre.store(true, Ordering::Relaxed);
    }

    /// Whether flows may be gone: deleted, or lost where nodes that are left were brought up by snapshots instead.
    pub fn may_lack_flows(&self) -> bool {
        self.retention.is_short() || self.lost_centre.load(Ordering::Relaxed)
    }

    /// Puts a backup in the place of the one that was taken before.
    pub fn keep_backup(&self, backup: Kept) {
        *lock(&self.last_backup) = Some(backup);
    }

    /// The backup that was taken last.
    pub fn take_last_backup(&self) -> Option<Kept> {
        lock(&self.last_backup).take()
    }

    /// Notes that a promotion will be over, or is about to be deleted.
    pub fn doom(&self, promotion: &PromotionId) {
        lock(&self.doomed).insert(promotion.clone());
    }

    /// Whether the shard of this promotion may have forgotten an order: it may be over, and so may all promotions it has there, or, where it
    /// is decided, all it has anywhere.
    pub fn may_be_forgotten_at(&self, promotion: &PromotionId, told: &Told) -> bool {
        let doomed = lock(&self.doomed);
        let is_home = |(first, _): &(PromotionId, u32)| shard_of(first) == shard_of(promotion);
        let everywhere = told.items.first().is_some_and(is_home);
        let is_there = |id| everywhere || shard_of(id) == shard_of(promotion);
        let mut there = told.items.iter().filter(|(id, _)| is_there(id));
        let are_doomed = there.all(|(id, _)| doomed.contains(id));
        let may_be_over = told.confirm.may_be_done() || told.may_be_returned();
        self.retention.is_short() && may_be_over && are_doomed
    }

    /// Notes a promotion that is over some day, of which people may take something besides, and whether its orders expire soon.
    pub fn display(&self, promotion: &PromotionId, expires: bool) {
        lock(&self.displayed).push((promotion.clone(), expires));
    }

    /// What somebody takes besides: of what is on sale all the time, or of what is over some day; and whether its orders expire soon.
    pub fn something_besides(&self, promotion: &PromotionId) -> Option<(PromotionId, bool)> {
        let others: Vec<(PromotionId, bool)> = if Random.random_range(0..2) == 0 {
            let mut displayed = lock(&self.displayed).clone();
            displayed.retain(|(id, _)| id != promotion);
            displayed
        } else {
            let offers = self.offers.iter().filter(|offer| !offer.alone);
            offers
                .map(|offer| (offer.id.clone(), offer.expires))
                .collect()
        };
        (!others.is_empty()).then(|| others[Random.random_range(0..others.len())].clone())
    }

    /// The orders of which buyers were told last.
    pub fn latest(&self) -> Vec<String> {
        lock(&self.latest).iter().cloned().collect()
    }

    /// All orders.
    pub fn book(&self) -> Book {
        lock(&self.book).clone()
    }

    /// Starts a process on a machine where none runs.
    pub async fn start(&self, id: u64, bootstrap: bool) {
        // Taken off the stage meanwhile: to others it is a machine without a process.
        let Some(mut machine) = lock(&self.machines).remove(&id) else {
            return;
        };
        if machine.process().is_some() {
            lock(&self.machines).insert(id, machine);
            return;
        }
        if let Err(why) = machine.start(&self.net, bootstrap).await {
            self.trace.violate(why);
        }
        lock(&self.machines).insert(id, machine);
    }

    /// Where a file of this name is.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// A machine that was never here before.
    fn new_machine(&self, id: u64, dc: &'static str) -> Machine {
        let (sharing, retention) = (self.sharing, self.retention);
        let speed = any_speed();
        Machine::new(id, dc, sharing, retention, speed, &self.home, self.began)
    }

    /// Starts a machine that has this backup on its disk, in the place of all that were there.
    pub async fn restore(
        &self,
        (id, dc): (u64, &'static str),
        backup: &Path,
    ) -> Result<(), String> {
        self.strike();
        let mut machine = self.new_machine(id, dc);
        let before = std::mem::take(&mut *lock(&self.machines));
        // Theirs agree, and what is in the backup has its times from them.
        if let Some(other) = before.values().next() {
            machine.clock = other.clock.clone();
        }
        machine.restore(backup)?;
        lock(&self.machines).insert(id, machine);
        self.start(id, false).await;
        Ok(())
    }

    /// Ends what runs on a machine, as a power failure would.
    pub fn crash(&self, id: u64) {
        if let Some(machine) = lock(&self.machines).get_mut(&id) {
            machine.crash(&self.net);
        }
    }

    /// A machine comes that was never here before; nothing runs on it yet.
    pub fn machine_comes(&self, id: u64, dc: &'static str) {
        let mut machine = self.new_machine(id, dc);
        machine.incarnation = self.incarnation();
        lock(&self.machines).insert(id, machine);
        self.set_clock(id, 0);
    }

    /// A machine is switched off and taken away.
    pub fn machine_goes(&self, id: u64) {
        self.crash(id);
        lock(&self.machines).remove(&id);
        self.clocks().forget(id);
    }

    /// Whether the clocks of all machines say the same.
    pub fn clocks_agree(&self) -> bool {
        let machines = lock(&self.machines);
        let mut times = machines.values().map(|machine| machine.clock.now());
        let first = times.next();
        times.all(|time| Some(time) == first)
    }

    /// What runs on a machine.
    pub fn process(&self, id: u64) -> Option<Process> {
        lock(&self.machines).get(&id)?.process().cloned()
    }
}

/// Plays one seed to its end.
pub async fn play(seed: u64, shape: Shape) -> Trace {
    let home = home();
    let stage = Stage::new(Trace::new(seed), home.path(), Retention::any(), |_| {
        any_speed()
    });
    let kept = stage.retention;
    stage.trace.note(format_args!("{kept:?}"));
    if let Err(why) = play_on(&stage, shape).await {
        stage.trace.violate(why);
    }
    stage.strike();
    stage.trace.clone()
}

/// A directory for the files of a run, in memory where the system has such a place.
pub fn home() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("qiang-simulation-")
        .tempdir_in(memory())
        .expect("a directory")
}

fn memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        shared.to_owned()
    } else {
        std::env::temp_dir()
    }
}

async fn play_on(stage: &Arc<Stage>, shape: Shape) -> Result<(), String> {
    form(stage).await?;
    let mut machines = MACHINES.to_vec();
    if Random.random_range(0..HAS_WITNESS_ONE_IN) == 0 {
        let (id, dc) = WITNESS;
        stage.machine_comes(id, dc);
        join(stage, 1, WITNESS).await?;
        machines.push(WITNESS);
    }
    create_offers(stage).await?;
    let mut users: Vec<_> = (0..shape.buyers)
        .map(|number| tokio::spawn(buyers::run(stage.clone(), number)))
        .collect();
    users.push(tokio::spawn(buyers::watch(stage.clone())));
    users.push(tokio::spawn(backup::run(stage.clone())));
    users.extend((0..SHOPS).map(|shop| tokio::spawn(shop::run(stage.clone(), shop))));
    users.extend((0..PATRONS).map(|patron| tokio::spawn(patrons::run(stage.clone(), patron))));
    users.extend((0..KEEPERS).map(|keeper| tokio::spawn(doors::run(stage.clone(), keeper))));
    users.extend((0..STEWARDS).map(|steward| tokio::spawn(hours::run(stage.clone(), steward))));
    users.extend((0..FIRMS).map(|firm| tokio::spawn(partners::run(stage.clone(), firm))));
    users.extend((0..SHARDS).map(|shard| tokio::spawn(readers::follow(stage.clone(), shard))));
    let mut faults = Faults::new(machines);
    let mut judge = Judge::default();
    if Random.random_range(0..GROWS_ONE_IN) == 0 {
        faults
            .grow(stage, &mut judge, vec!["a", "b", "a", "b"])
            .await?;
    }
    if Random.random_range(0..LOSES_CENTRE_ONE_IN) == 0 {
        faults.rage(stage, &mut judge, shape.faults_last / 2).await;
        faults.lose_data_centre(stage, &mut judge).await?;
        faults.rage(stage, &mut judge, shape.faults_last / 2).await;
        if Random.random_range(0..LOSES_ANOTHER_ONE_IN) == 0 && is_spread(stage) {
            faults.lose_data_centre(stage, &mut judge).await?;
        }
    } else {
        faults.rage(stage, &mut judge, shape.faults_last).await;
    }
    stage.set_quiet(true);
    faults.heal(stage).await;
    for user in users {
        user.await
            .map_err(|error| format!("a user panicked: {error}"))?;
    }
    faults.all_end().await?;
    shrink(stage).await?;
    settle(stage, &mut judge).await?;
    resolve(stage).await?;
    sleep(CARTS_WITHIN).await;
    settle(stage, &mut judge).await?;
    judge_all(stage).await;
    if stage.trace.violation().is_none() {
        restored::judge(stage).await?;
    }
    stage.trace.note("the end");
    Ok(())
}

/// How the shards of a run share logs: in any way that there is.
fn sharing() -> Sharing {
    Sharing::over(1 << Random.random_range(0..=4)).expect("a power of two up to sixteen")
}

/// Promotions on several shards; every second sells out, those that no cart has soonest.
fn offers() -> Vec<Offer> {
    let offer = |number: u64| Offer {
        id: PromotionId::new(&format!("P{number}")).expect("an id"),
        quantity: match number {
            7.. => 12,
            _ if number.is_multiple_of(2) => 40,
            _ => 100_000,
        },
        expires: number == 3 || number == 4,
        alone: number >= 7,
    };
    (0..9).map(offer).collect()
}

/// Starts the machines as one cluster.
pub async fn form(stage: &Arc<Stage>) -> Result<(), String> {
    stage.start(1, true).await;
    for machine in MACHINES.into_iter().skip(1) {
        join(stage, 1, machine).await?;
    }
    settle(stage, &mut Judge::default()).await
}

/// New machines join the cluster that node `first` is, one after another.
pub async fn grow(
    stage: &Arc<Stage>,
    first: u64,
    machines: impl IntoIterator<Item = (u64, &'static str)>,
) -> Result<(), String> {
    for (id, dc) in machines {
        sleep(Duration::from_millis(
            Random.random_range(1..JOINS_EVERY_MS),
        ))
        .await;
        let mut machine = stage.new_machine(id, dc);
        machine.clock = clock_of(stage, first).await;
        lock(&stage.machines).insert(id, machine);
        join(stage, first, (id, dc)).await?;
    }
    Ok(())
}

/// Machines leave a data centre, if there are many in both, until two are left there: each of these holds all groups then, as who is to
/// take a backup must.
async fn shrink(stage: &Arc<Stage>) -> Result<(), String> {
    let until = Instant::now() + SETTLE_WITHIN;
    let from = ["a", "b"][Random.random_range(0..2)];
    loop {
        let cluster = stage.newest_cluster().ok_or("nobody runs")?;
        let there = |dc: &str| {
            let nodes = cluster.nodes.iter();
            let stays = |member: &Member| member.info.dc == dc && member.duty != Duty::Leaving;
            let there = nodes.filter(|(_, member)| stays(member));
            there.map(|(id, _)| *id).collect::<Vec<u64>>()
        };
        let is_small = |dc: &&str| there(dc).len() <= 2;
        if ["a", "b"].iter().any(is_small) {
            return Ok(());
        }
        let leaving = there(from);
        let leaving = leaving[Random.random_range(0..leaving.len())];
        remove(stage, &[leaving]).await?;
        let is_gone = |stage: &Stage| {
            let known = stage.newest_cluster();
            known.is_some_and(|known| known.removed.contains(&leaving))
        };
        while !is_gone(stage) {
            if Instant::now() >= until {
                return Err(format!("node {leaving} does not leave though all is well"));
            }
            sleep(Duration::from_millis(100)).await;
        }
        stage.machine_goes(leaving);
    }
}

/// The clock of a machine, which may just be started.
async fn clock_of(stage: &Stage, id: u64) -> Clock {
    loop {
        let clock = lock(&stage.machines)
            .get(&id)
            .map(|machine| machine.clock.clone());
        match clock {
            Some(clock) => return clock,
            None => sleep(Duration::from_millis(1)).await,
        }
    }
}

/// Starts a machine and has node `first` add it.
pub async fn join(
    stage: &Arc<Stage>,
    first: u64,
    (id, dc): (u64, &'static str),
) -> Result<(), String> {
    stage.start(id, false).await;
    let until = Instant::now() + SETTLE_WITHIN;
    while let Err(why) = add(stage, first, id, dc).await {
        // It may have been added without an answer.
        if stage.members().iter().any(|(member, _)| *member == id) {
            break;
        }
        if Instant::now() >= until {
            return Err(format!("node {id} was not added: {why}"));
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn add(stage: &Arc<Stage>, first: u64, id: u64, dc: &'static str) -> Result<(), String> {
    let process = stage.process(first);
    let process = process.ok_or_else(|| format!("node {first} does not run"))?;
    let node = process.node.clone();
    let adding = process
        .life
        .spawn(async move { node.add_node(id, &Net::address(id), dc, false).await });
    let added = adding.await.map_err(|error| error.to_string())?;
    added.map(drop).map_err(|answer| format!("{answer:?}"))
}

/// Puts the promotions on sale.
pub async fn create_offers(stage: &Arc<Stage>) -> Result<(), String> {
    let process = stage.process(1).ok_or("node 1 does not run")?;
    for offer in &stage.offers {
        let terms = Terms {
            payment_timeout_ms: if offer.expires { EXPIRES_MS } else { HELD_MS },
            ..Terms::default()
        };
        let create = Command::CreatePromotion {
            promotion_id: offer.id.clone(),
            quantity: offer.quantity,
            terms: Box::new(terms),
        };
        let (service, id) = (process.service.clone(), offer.id.clone());
        let creating = process
            .life
            .spawn(async move { service.promotion(&id, create).await });
        let created = creating.await.map_err(|error| error.to_string())?;
        created.map_err(|refusal| format!("{} was not created: {refusal:?}", offer.id))?;
    }
    Ok(())
}

/// Waits until every group has the voters it should have, one leader, and all replicas are equally far.
pub async fn settle(stage: &Arc<Stage>, judge: &mut Judge) -> Result<(), String> {
    let until = Instant::now() + SETTLE_WITHIN;
    loop {
        judge.look(stage);
        if stage.trace.violation().is_some() {
            return Ok(());
        }
        let state = unsettled(stage);
        let Some(why) = state else { return Ok(()) };
        if Instant::now() >= until {
            return Err(format!("not settled after {SETTLE_WITHIN:?}: {why}"));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn unsettled(stage: &Stage) -> Option<String> {
    let mut seen: BTreeMap<String, (u64, u64, Option<u64>)> = BTreeMap::new();
    for (id, process) in stage.members() {
        let cluster = process.node.cluster();
        for (number, group) in process.node.group_statuses().into_iter().enumerate() {
            let wanted = cluster.voters(u16::try_from(number).ok()?);
            if !wanted.contains(&id) {
                if group.hosted && group.group != "meta" {
                    return Some(format!("node {id} still holds group {}", group.group));
                }
                continue;
            }
            if !group.hosted
                || group.voters != wanted
                || !group.has_quorum
                || group.pending_entries > 0
            {
                return Some(format!(
                    "node {id} group {}: {group:?}, wanted {wanted:?}",
                    group.group
                ));
            }
            let state = (group.applied_index, group.term, group.leader);
            let other = *seen.entry(group.group.clone()).or_insert(state);
            if other != state {
                return Some(format!(
                    "group {}: node {id} is at {state:?}, another at {other:?}",
                    group.group
                ));
            }
        }
    }
    None
}

/// Repeats every order in doubt until its outcome is known, as its buyer would.
async fn resolve(stage: &Arc<Stage>) -> Result<(), String> {
    let mut orders: Vec<(String, Told)> = stage.book().into_iter().collect();
    orders.retain(|(_, told)| told.in_doubt && told.granted.is_none());
    // Who asks a machine that belongs to no cluster waits long.
    for some in orders.chunks(RESOLVED_AT_ONCE) {
        try_join_all(some.iter().map(|(order, _)| resolve_one(stage, order))).await?;
    }
    Ok(())
}

async fn resolve_one(stage: &Arc<Stage>, order: &str) -> Result<(), String> {
    let until = Instant::now() + SETTLE_WITHIN;
    while !buyers::grab(stage, order).await {
        if Instant::now() >= until {
            return Err(format!("order {order} gets no answer though all is well"));
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
