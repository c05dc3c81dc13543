//! The cluster-wide configuration: one replicated document, in force on every node within a second.
//!
//! Invariant: a document that is in force has passed [`ClusterConfig::validate`]; unknown members are errors, and a
//! member left out has its default.

use qiang_engine::limits::WINDOW_MS_MAX;
use qiang_engine::promotion::Rate;
use serde::{Deserialize, Deserializer, Serialize};

/// Shortest retention, one minute in milliseconds: shorter would forget orders while their grabs are still retried.
pub const RETENTION_MS_MIN: u64 = 60_000;

/// Longest retention, ten years of 365 days in milliseconds.
pub const RETENTION_MS_MAX: u64 = 10 * 365 * DAY_MS;

/// Most grabs in flight that can be configured; each holds a few kilobytes.
pub const GRAB_CONCURRENCY_MAX: u32 = 1_000_000;

/// Most attempts in a window: what every JSON reader holds exactly, 2⁵³ − 1.
pub const ATTEMPTS_MAX: u64 = (1 << 53) - 1;

const DAY_MS: u64 = 24 * 3_600_000;

/// What an operator sets for the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// Grabs that one node lets in at a time; further ones are refused with `overloaded`.
    pub grab_concurrency: u32,
    /// Attempts window of promotions that have none of their own; absent: attempts are counted, not limited.
    #[serde(deserialize_with = "strict_rate")]
    pub rate: Option<Rate>,
    /// Whether `grab_concurrency` and every attempts window are lowered to `degraded_percent`.
    pub degraded: bool,
    /// What they are lowered to while degraded, in percent, 1 to 100.
    pub degraded_percent: u32,
    /// How long a closed order is remembered after its promotion has ended, in milliseconds.
    pub order_retention_ms: u64,
    /// How long flows are kept, in milliseconds.
    pub flow_retention_ms: u64,
}

/// Why a document cannot be put in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct Invalid {
    /// The member that is wrong, by its path.
    pub field: &'static str,
    /// What is wrong with it.
    pub detail: String,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            grab_concurrency: 20_000,
            rate: None,
            degraded: false,
            degraded_percent: 50,
            order_retention_ms: 30 * DAY_MS,
            flow_retention_ms: 90 * DAY_MS,
        }
    }
}

impl ClusterConfig {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first member that is out of its bounds.
    pub fn validate(&self) -> Result<(), Invalid> {
        let within = |field, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let detail = format!("is {value}: it must be {least} to {most}");
            Err(Invalid { field, detail })
        };
        let retention = RETENTION_MS_MIN..=RETENTION_MS_MAX;
        let most = u64::from(GRAB_CONCURRENCY_MAX);
        within("grab_concurrency", self.grab_concurrency.into(), 1, most)?;
        within("degraded_percent", self.degraded_percent.into(), 1, 100)?;
        if let Some(rate) = self.rate {
            within("rate.window_ms", rate.window_ms, 1, WINDOW_MS_MAX)?;
            within("rate.attempts", rate.attempts, 0, ATTEMPTS_MAX)?;
        }
        let (least, most) = (*retention.start(), *retention.end());
        within("order_retention_ms", self.order_retention_ms, least, most)?;
        within("flow_retention_ms", self.flow_retention_ms, least, most)
    }

    /// Grabs that one node lets in at a time, lowered while degraded, at least 1.
    pub fn grab_concurrency_in_force(&self) -> u64 {
        self.lowered(self.grab_concurrency.into()).max(1)
    }

    /// The attempts window of a promotion whose own is `own`, lowered while degraded; `None` if it has no limit.
    pub fn rate_in_force(&self, own: Option<Rate>) -> Option<Rate> {
        let rate = own.or(self.rate)?;
        let attempts = self.lowered(rate.attempts);
        Some(Rate { attempts, ..rate })
    }

    fn lowered(&self, value: u64) -> u64 {
        if !self.degraded {
            return value;
        }
        let percent = u128::from(value) * u128::from(self.degraded_percent.min(100)) / 100;
        u64::try_from(percent).expect("a part of a 64-bit number")
    }
}

/// The engine's `Rate` is a stored format and takes unknown members; a document may not.
fn strict_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Rate>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        window_ms: u64,
        attempts: u64,
    }
    let rate = Option::<Strict>::deserialize(deserializer)?;
    Ok(rate.map(|rate| Rate {
        window_ms: rate.window_ms,
        attempts: rate.attempts,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_document_is_valid_and_empty_means_default() {
        assert_eq!(ClusterConfig::default().validate(), Ok(()));
        let empty: ClusterConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, ClusterConfig::default());
    }

    #[test]
    fn a_document_is_read_back_as_it_was_written() {
        let rate = Rate {
            window_ms: 1000,
            attempts: 5,
        };
        let document = ClusterConfig {
            rate: Some(rate),
            degraded: true,
            ..ClusterConfig::default()
        };
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(
            serde_json::from_str::<ClusterConfig>(&text).unwrap(),
            document
        );
    }

    #[test]
    fn unknown_members_are_errors_inside_the_rate_too() {
        for wrong in [
            r#"{"colour":1}"#,
            r#"{"rate":{"window_ms":1,"attempts":1,"colour":1}}"#,
            r#"{"rate":{"window_ms":1}}"#,
            r#"{"grab_concurrency":-1}"#,
            r#"{"degraded":"yes"}"#,
        ] {
            assert!(
                serde_json::from_str::<ClusterConfig>(wrong).is_err(),
                "{wrong} was taken"
            );
        }
    }

    #[test]
    fn the_member_out_of_bounds_is_named() {
        let good = ClusterConfig::default();
        let rate = |window_ms, attempts| {
            Some(Rate {
                window_ms,
                attempts,
            })
        };
        let cases = [
            (
                ClusterConfig {
                    grab_concurrency: 0,
                    ..good
                },
                "grab_concurrency",
            ),
            (
                ClusterConfig {
                    degraded_percent: 0,
                    ..good
                },
                "degraded_percent",
            ),
            (
                ClusterConfig {
                    degraded_percent: 101,
                    ..good
                },
                "degraded_percent",
            ),
            (
                ClusterConfig {
                    rate: rate(0, 1),
                    ..good
                },
                "rate.window_ms",
            ),
            (
                ClusterConfig {
                    rate: rate(WINDOW_MS_MAX + 1, 1),
                    ..good
                },
                "rate.window_ms",
            ),
            (
                ClusterConfig {
                    rate: rate(1, u64::MAX),
                    ..good
                },
                "rate.attempts",
            ),
            (
                ClusterConfig {
                    order_retention_ms: 59_999,
                    ..good
                },
                "order_retention_ms",
            ),
            (
                ClusterConfig {
                    flow_retention_ms: u64::MAX,
                    ..good
                },
                "flow_retention_ms",
            ),
        ];
        for (document, field) in cases {
            assert_eq!(document.validate().unwrap_err().field, field);
        }
    }

    #[test]
    fn degraded_lowers_both_bounds() {
        let rate = Rate {
            window_ms: 1000,
            attempts: 5,
        };
        let mut config = ClusterConfig {
            grab_concurrency: 3,
            rate: Some(rate),
            ..ClusterConfig::default()
        };
        assert_eq!(
            (
                config.grab_concurrency_in_force(),
                config.rate_in_force(None)
            ),
            (3, Some(rate))
        );
        config.degraded = true;
        assert_eq!(config.grab_concurrency_in_force(), 1);
        assert_eq!(config.rate_in_force(None).unwrap().attempts, 2);
        let own = Rate {
            window_ms: 7,
            attempts: u64::MAX,
        };
        assert_eq!(
            config.rate_in_force(Some(own)).unwrap().attempts,
            u64::MAX / 2
        );
        config.grab_concurrency = 1;
        assert_eq!(config.grab_concurrency_in_force(), 1);
    }
}
