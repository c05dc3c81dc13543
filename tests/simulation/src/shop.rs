//! Shops: each adds units to a promotion of its own and changes the configuration, through any node. An addition must take effect
//! once if it was acknowledged, at most once if its outcome is not known, and never if it was refused; of those who change the same
//! version of the configuration one succeeds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use qiang_engine::command::PromotionChange;
use qiang_engine::promotion::{PromotionView, Terms};
use qiang_engine::{Command, PromotionId, Refusal};
use qiang_raft::world::Random;
use qiang_server::cluster_config::ClusterConfig;
use qiang_server::service::{ConfigRefusal, ConfigVersion, Service};
use rand::RngExt;
use tokio::time::sleep;

use crate::buyers::{ask, ask_of_promotion};
use crate::story::Stage;

/// Shops at a time.
pub const SHOPS: u32 = 2;

/// Additions of one shop: each adds a power of two of its own, so that the sum tells which took effect, and all together are fewer
/// units than a promotion may have.
const ADDITIONS: u32 = 28;

/// The longest pause between two changes, in milliseconds.
const CHANGES_EVERY_MS: u64 = 1_200;

/// What shops were told.
#[derive(Debug, Default)]
pub struct Ledger {
    additions: BTreeMap<u32, Additions>,
    /// By version, what was put: the number in its document.
    versions: BTreeMap<u64, u32>,
}

/// Additions of one shop, a bit for each.
#[derive(Debug, Default, Clone, Copy)]
struct Additions {
    done: u64,
    in_doubt: u64,
}

impl Additions {
    /// Whether so many units may have been added in all.
    fn explain(self, added: i64) -> bool {
        u64::try_from(added).is_ok_and(|added| {
            added & self.done == self.done && added & !(self.done | self.in_doubt) == 0
        })
    }
}

/// The promotion of a shop.
fn promotion(shop: u32) -> PromotionId {
    PromotionId::new(&format!("S{shop}")).expect("an id")
}

/// One shop, until the stage is quiet.
pub async fn run(stage: Arc<Stage>, shop: u32) {
    while !stage.is_quiet() && !create(&stage, shop).await {}
    for addition in 0..ADDITIONS {
        if stage.is_quiet() {
            return;
        }
        sleep(Duration::from_millis(
            Random.random_range(1..CHANGES_EVERY_MS),
        ))
        .await;
        add(&stage, shop, 1 << addition).await;
        configure(&stage, shop * ADDITIONS + addition + 1).await;
        look(&stage, shop).await;
    }
}

/// Puts the promotion on sale; whether it is.
async fn create(stage: &Arc<Stage>, shop: u32) -> bool {
    let create = Command::CreatePromotion {
        promotion_id: promotion(shop),
        quantity: 0,
        terms: Box::new(Terms::default()),
    };
    matches!(
        ask_of_promotion(stage, &promotion(shop), create).await,
        Some(Ok(_))
    )
}

async fn add(stage: &Arc<Stage>, shop: u32, units: u64) {
    let known = |note: fn(&mut Additions, u64)| {
        note(stage.ledger().additions.entry(shop).or_default(), units);
    };
    known(|additions, units| additions.in_doubt |= units);
    let change = PromotionChange {
        add_quantity: Some(i64::try_from(units).expect("less than a promotion may have")),
        ..PromotionChange::default()
    };
    let change = Command::ChangePromotion {
        promotion_id: promotion(shop),
        change: Box::new(change),
    };
    let answer = ask_of_promotion(stage, &promotion(shop), change).await;
    let told = match &answer {
        Some(Ok(_)) => {
            known(|additions, units| additions.done |= units);
            "ok"
        }
        Some(Err(Refusal::Rejected(_) | Refusal::Unavailable | Refusal::Overloaded)) => {
            known(|additions, units| additions.in_doubt &= !units);
            "refused"
        }
        Some(Err(Refusal::OutcomeUnknown)) | None => "unknown",
    };
    let trace = &stage.trace;
    trace.note(format_args!("shop {shop} adds {units} -> {told}"));
    judge_view(stage, shop, answer);
}

/// Reads the promotion: what was done before somebody looked is seen.
async fn look(stage: &Arc<Stage>, shop: u32) {
    let read = Command::GetPromotion {
        promotion_id: promotion(shop),
    };
    let answer = ask_of_promotion(stage, &promotion(shop), read).await;
    judge_view(stage, shop, answer);
}

fn judge_view(stage: &Stage, shop: u32, answer: Option<Result<PromotionView, Refusal>>) {
    if let Some(Ok(view)) = answer
        && let Err(why) = judge_added(stage, shop, view.promotion.counters.added)
    {
        stage.trace.violate(why);
    }
}

fn judge_added(stage: &Stage, shop: u32, added: i64) -> Result<(), String> {
    let additions = stage.ledger().additions.get(&shop).copied();
    let additions = additions.unwrap_or_default();
    if additions.explain(added) {
        Ok(())
    } else {
        Err(format!("shop {shop}: {added} were added; {additions:?}"))
    }
}

/// Puts a configuration, told from all others by this number, in the place of the one that some node knows.
async fn configure(stage: &Arc<Stage>, number: u32) {
    let document = ClusterConfig {
        grab_concurrency: number,
        ..stage.retention.config()
    };
    let put = move |service: Service| async move {
        let known = service.config().version;
        service.put_config(known, document).await
    };
    let answer = ask(stage, put).await;
    let told = match &answer {
        Some(Ok(put)) => format!("ok {}", put.version),
        Some(Err(ConfigRefusal::Conflict { .. })) => "conflict".to_owned(),
        Some(Err(ConfigRefusal::Unavailable)) => "refused".to_owned(),
        Some(Err(ConfigRefusal::OutcomeUnknown)) | None => "unknown".to_owned(),
    };
    let trace = &stage.trace;
    trace.note(format_args!("config {number} -> {told}"));
    if let Some(Ok(ConfigVersion { version, .. })) = answer
        && let Some(other) = stage.ledger().versions.insert(version, number)
    {
        trace.violate(format_args!(
            "configurations {other} and {number} were both told to be version {version}"
        ));
    }
}

/// Holds what shops were told against what there is in the end: the units added to a promotion, and the configurations that each
/// member keeps.
pub fn judge(stage: &Stage, added: impl Fn(&PromotionId) -> Option<i64>) -> Result<(), String> {
    for shop in 0..SHOPS {
        let added = added(&promotion(shop));
        judge_added(stage, shop, added.unwrap_or_default())?;
    }
    let versions = stage.ledger().versions.clone();
    for (id, process) in stage.members() {
        let history = process.service.config_history();
        for (version, number) in &versions {
            let kept = history.iter().find(|kept| kept.version == *version);
            let kept = kept.map(|kept| kept.document.grab_concurrency);
            if kept != Some(*number) {
                return Err(format!(
                    "node {id}: version {version} of the configuration is {kept:?}, and was told to be {number}"
                ));
            }
        }
    }
    Ok(())
}
