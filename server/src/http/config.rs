//! `/v1/config`: the cluster's configuration, its history, and the way back.
//!
//! Invariant: a document is put in force whole and checked, or not at all; whoever has read an older version changes
//! nothing.

use std::fmt;

use serde::Serialize;
use serde::de::value::StrDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, Visitor,
};

use super::Http;
use super::json::{Object, Whole, parse};
use super::problem::Problem;
use super::query::Query;
use super::response::{Outcome, Reply};
use super::time::Time;
use crate::cluster_config::ClusterConfig;
use crate::service::{ConfigRefusal, ConfigVersion};

/// The name of the member that is not of the document itself.
const VERSION: &str = "version";

/// A document with its version, as it is shown and as it is put.
#[derive(Debug, Serialize)]
struct VersionShape<'a> {
    version: u64,
    #[serde(flatten)]
    document: &'a ClusterConfig,
}

#[derive(Debug, Serialize)]
struct HistoryShape<'a> {
    versions: Vec<PastShape<'a>>,
}

#[derive(Debug, Serialize)]
struct PastShape<'a> {
    version: u64,
    at: Option<Time>,
    #[serde(flatten)]
    document: &'a ClusterConfig,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackBody {
    version: Whole<0, { u64::MAX }>,
    expected_version: Option<Whole<0, { u64::MAX }>>,
}

/// Shows the document in force.
pub(super) fn get(http: &Http, query: Option<&str>) -> Outcome {
    Query::parse(query)?.finish()?;
    Ok(show(&http.service.config()))
}

/// Puts a document in the place of the version that it names.
pub(super) async fn put(http: &Http, query: Option<&str>, body: &[u8]) -> Outcome {
    Query::parse(query)?.finish()?;
    let (expected, document) = parse_put(body)?;
    replace(http, expected, document).await
}

/// Lists the versions that are kept, newest first.
pub(super) fn history(http: &Http, query: Option<&str>) -> Outcome {
    Query::parse(query)?.finish()?;
    let versions = http.service.config_history();
    let versions = versions.iter().map(|past| PastShape {
        version: past.version,
        // The default document was put by nobody.
        at: (past.version > 0).then_some(Time(past.at)),
        document: &past.document,
    });
    let shape = HistoryShape {
        versions: versions.collect(),
    };
    Ok(Reply::json(200, &shape))
}

/// Puts the document of an earlier version in force again, as a new version.
pub(super) async fn rollback(http: &Http, query: Option<&str>, body: &[u8]) -> Outcome {
    Query::parse(query)?.finish()?;
    let Object(body) = parse::<Object<RollbackBody>>(body)?;
    let wanted = body.version.0;
    let history = http.service.config_history();
    let Some(past) = history.iter().find(|past| past.version == wanted) else {
        return Err(Problem::version_not_found(wanted));
    };
    let expected = body
        .expected_version
        .map_or_else(|| http.service.config().version, |expected| expected.0);
    replace(http, expected, past.document).await
}

async fn replace(http: &Http, expected: u64, document: ClusterConfig) -> Outcome {
    let put = http.service.put_config(expected, document).await;
    put.map(|version| show(&version))
        .map_err(|refusal| match refusal {
            ConfigRefusal::Conflict { current } => Problem::version_conflict(expected, current),
            ConfigRefusal::Unavailable => Problem::unavailable(),
            ConfigRefusal::OutcomeUnknown => Problem::outcome_unknown(),
        })
}

fn show(version: &ConfigVersion) -> Reply {
    let shape = VersionShape {
        version: version.version,
        document: &version.document,
    };
    Reply::json(200, &shape)
}

fn parse_put(body: &[u8]) -> Result<(u64, ClusterConfig), Problem> {
    let Versioned { version, document } = parse(body)?;
    let wrong =
        |invalid: crate::cluster_config::Invalid| Problem::invalid(invalid.field, &invalid.detail);
    document.validate().map_err(wrong)?;
    Ok((version, document))
}

/// A document whose object has one member more: its version. (A derived `flatten` would let unknown members through.)
#[derive(Debug)]
struct Versioned {
    version: u64,
    document: ClusterConfig,
}

impl<'de> Deserialize<'de> for Versioned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Versioned;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Versioned, A::Error> {
                let mut version = None;
                let rest = WithoutVersion {
                    map,
                    version: &mut version,
                };
                let document =
                    ClusterConfig::deserialize(serde::de::value::MapAccessDeserializer::new(rest))?;
                let version = version.ok_or_else(|| A::Error::missing_field(VERSION))?;
                Ok(Versioned { version, document })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The members of an object but its version, which is set aside.
struct WithoutVersion<'a, A> {
    map: A,
    version: &'a mut Option<u64>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithoutVersion<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            if key != VERSION {
                let key: StrDeserializer<'_, A::Error> = key.as_str().into_deserializer();
                return seed.deserialize(key).map(Some);
            }
            let version = self.map.next_value::<Whole<0, { u64::MAX }>>()?;
            if self.version.replace(version.0).is_some() {
                return Err(A::Error::duplicate_field(VERSION));
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn put(body: &Value) -> Result<(u64, ClusterConfig), Problem> {
        parse_put(body.to_string().as_bytes())
    }

    #[test]
    fn what_is_shown_can_be_put() {
        let document = ClusterConfig {
            grab_concurrency: 123,
            degraded: true,
            ..ClusterConfig::default()
        };
        let shown = serde_json::to_value(VersionShape {
            version: 7,
            document: &document,
        })
        .unwrap();
        assert_eq!(
            (&shown["version"], &shown["grab_concurrency"]),
            (&json!(7), &json!(123))
        );
        assert_eq!(put(&shown).unwrap(), (7, document));
        assert_eq!(
            put(&json!({"version": 0})).unwrap(),
            (0, ClusterConfig::default())
        );
    }

    #[test]
    fn each_wrong_member_is_named() {
        for (field, body) in [
            ("version", json!({})),
            ("version", json!({"version": "1"})),
            ("version", json!({"version": -1})),
            (
                "grab_concurrency",
                json!({"version": 1, "grab_concurrency": 0}),
            ),
            (
                "grab_concurrency",
                json!({"version": 1, "grab_concurrency": "many"}),
            ),
            ("degraded", json!({"version": 1, "degraded": "yes"})),
            (
                "rate.window_ms",
                json!({"version": 1, "rate": {"window_ms": 0, "attempts": 1}}),
            ),
            (
                "rate.attempts",
                json!({"version": 1, "rate": {"window_ms": 1}}),
            ),
            (
                "rate.odd",
                json!({"version": 1, "rate": {"window_ms": 1, "attempts": 1, "odd": 1}}),
            ),
            ("colour", json!({"version": 1, "colour": "red"})),
            ("config", json!({"version": 1, "config": {}})),
            ("", json!([1])),
        ] {
            let problem = put(&body).unwrap_err();
            assert_eq!(problem.field(), field, "{body}: {}", problem.detail());
        }
        for (field, body) in [
            ("version", r#"{"version":1,"version":2}"#),
            (
                "degraded",
                r#"{"version":1,"degraded":true,"degraded":true}"#,
            ),
        ] {
            assert_eq!(
                parse_put(body.as_bytes()).unwrap_err().field(),
                field,
                "{body}"
            );
        }
    }
}
