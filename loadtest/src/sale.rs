//! Setting a run up: readiness of every node, and the run's own promotions.
//!
//! Invariant: no order is sent before every promotion of the run is there, newly created.

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use crate::client::{Address, Plain};
use crate::failure::Failure;
use crate::identity::RunId;
use crate::workload::Workload;

/// Promotions created at a time.
const CREATED_AT_ONCE: usize = 32;

/// What a promotion's counters are, in units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counters {
    /// Offered at creation.
    pub original: i64,
    /// Added since.
    pub added: i64,
    /// Still to be grabbed.
    pub remaining: i64,
    /// Granted, neither paid nor given back.
    pub held: i64,
    /// Paid.
    pub confirmed: i64,
    /// Ever granted.
    pub granted: i64,
    /// Ever given back.
    pub returned: i64,
}

impl Counters {
    /// The counters with their names in the contract.
    pub fn named(&self) -> [(&'static str, i64); 7] {
        [
            ("original", self.original),
            ("added", self.added),
            ("remaining", self.remaining),
            ("held", self.held),
            ("confirmed", self.confirmed),
            ("granted", self.granted),
            ("returned", self.returned),
        ]
    }

    fn from_view(view: &Value) -> Option<Self> {
        Some(Self {
            original: view["original"].as_i64()?,
            added: view["added"].as_i64()?,
            remaining: view["remaining"].as_i64()?,
            held: view["held"].as_i64()?,
            confirmed: view["confirmed"].as_i64()?,
            granted: view["granted"].as_i64()?,
            returned: view["returned"].as_i64()?,
        })
    }
}

/// Asks every target whether it is ready.
///
/// # Errors
/// A target cannot be reached, or is not ready; the message says which.
pub async fn check_ready(targets: &[Address]) -> Result<(), Failure> {
    for target in targets {
        Plain::new(target.clone()).get("/readyz").await?;
    }
    Ok(())
}

/// The first target that is ready: a run may have outlived some of them.
///
/// # Errors
/// None is; what the last one said.
pub async fn first_ready(targets: &[Address]) -> Result<Plain, Failure> {
    let mut last = Failure::Usage("there is no target to ask".to_owned());
    for target in targets {
        let node = Plain::new(target.clone());
        match node.get("/readyz").await {
            Ok(_) => return Ok(node),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// Creates the run's promotions.
///
/// # Errors
/// A promotion could not be created.
pub async fn create(node: &Plain, run: &RunId, workload: &Workload) -> Result<(), Failure> {
    let all = stream::iter(0..workload.promotions);
    all.map(|promotion| {
        let terms = workload.terms(run, promotion);
        async move { node.post("/v1/promotions", &terms).await }
    })
    .buffer_unordered(CREATED_AT_ONCE)
    .try_for_each(|_| async { Ok(()) })
    .await
}

/// Reads the counters of the run's promotions, in their order.
///
/// # Errors
/// A promotion could not be read.
pub async fn counters(
    node: &Plain,
    run: &RunId,
    promotions: u32,
) -> Result<Vec<Counters>, Failure> {
    let all = stream::iter(0..promotions);
    all.map(|promotion| async move {
        let path = format!("/v1/promotions/{}", run.promotion(promotion));
        let view = node.get_json(&path).await?;
        Counters::from_view(&view).ok_or_else(|| {
            let address = node.address();
            Failure::Server(format!(
                "{address} told a promotion without its counters: {view}"
            ))
        })
    })
    .buffered(CREATED_AT_ONCE)
    .try_collect()
    .await
}
