//! Which route a path names, which methods it has, and who answers.
//!
//! Invariant: an unknown path is 404 and a known one with another method is 405 with `Allow`, whatever else is wrong
//! with the request.

use hyper::Method;

use super::Http;
use super::cluster::{self, ClusterRoute};
use super::problem::Problem;
use super::response::Outcome;
use super::{config, flows, grabs, health, orders, promotions};

/// A route, with the part of the path that names something still as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Grabs,
    GrabsBatch,
    Order(&'a str),
    OrderConfirm(&'a str),
    OrderCancel(&'a str),
    Promotions,
    Promotion(&'a str),
    PromotionStop(&'a str),
    PromotionResume(&'a str),
    Flows,
    Config,
    ConfigHistory,
    ConfigRollback,
    Cluster(ClusterRoute<'a>),
    Livez,
    Readyz,
    Metrics,
    Unknown,
}

impl<'a> Route<'a> {
    /// The route of a path.
    pub(super) fn of(path: &'a str) -> Self {
        match path {
            "/v1/grabs" => Route::Grabs,
            "/v1/grabs/batch" => Route::GrabsBatch,
            "/v1/promotions" => Route::Promotions,
            "/v1/flows" => Route::Flows,
            "/v1/config" => Route::Config,
            "/v1/config/history" => Route::ConfigHistory,
            "/v1/config/rollback" => Route::ConfigRollback,
            "/v1/cluster" => Route::Cluster(ClusterRoute::Whole),
            "/livez" => Route::Livez,
            "/readyz" => Route::Readyz,
            "/metrics" => Route::Metrics,
            _ => {
                let below = path.strip_prefix("/v1/cluster");
                let cluster = below.and_then(ClusterRoute::of).map(Route::Cluster);
                let found = cluster.or_else(|| Self::of_named(path));
                found.unwrap_or(Route::Unknown)
            }
        }
    }

    /// The routes that name an order or a promotion.
    fn of_named(path: &'a str) -> Option<Self> {
        let (family, rest) = path.strip_prefix("/v1/")?.split_once('/')?;
        let (id, action) = match rest.split_once('/') {
            Some((id, action)) => (id, Some(action)),
            None => (rest, None),
        };
        if id.is_empty() {
            return None;
        }
        match (family, action) {
            ("orders", None) => Some(Route::Order(id)),
            ("orders", Some("confirm")) => Some(Route::OrderConfirm(id)),
            ("orders", Some("cancel")) => Some(Route::OrderCancel(id)),
            ("promotions", None) => Some(Route::Promotion(id)),
            ("promotions", Some("stop")) => Some(Route::PromotionStop(id)),
            ("promotions", Some("resume")) => Some(Route::PromotionResume(id)),
            _ => None,
        }
    }

    /// The route's name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Route::Grabs => "grabs",
            Route::GrabsBatch => "grabs_batch",
            Route::Order(_) => "order",
            Route::OrderConfirm(_) => "order_confirm",
            Route::OrderCancel(_) => "order_cancel",
            Route::Promotions => "promotions",
            Route::Promotion(_) => "promotion",
            Route::PromotionStop(_) => "promotion_stop",
            Route::PromotionResume(_) => "promotion_resume",
            Route::Flows => "flows",
            Route::Config => "config",
            Route::ConfigHistory => "config_history",
            Route::ConfigRollback => "config_rollback",
            Route::Cluster(cluster) => cluster.name(),
            Route::Livez => "livez",
            Route::Readyz => "readyz",
            Route::Metrics => "metrics",
            Route::Unknown => "unknown",
        }
    }

    /// The route's methods, as `Allow` tells them. `HEAD` goes with every `GET`.
    pub(super) fn allow(self) -> &'static str {
        match self {
            Route::Grabs
            | Route::GrabsBatch
            | Route::OrderConfirm(_)
            | Route::OrderCancel(_)
            | Route::PromotionStop(_)
            | Route::PromotionResume(_)
            | Route::ConfigRollback => "POST",
            Route::Promotions => "GET, HEAD, POST",
            Route::Promotion(_) => "GET, HEAD, PATCH, DELETE",
            Route::Config => "GET, HEAD, PUT",
            Route::Cluster(cluster) => cluster.allow(),
            Route::Order(_)
            | Route::Flows
            | Route::ConfigHistory
            | Route::Livez
            | Route::Readyz
            | Route::Metrics
            | Route::Unknown => "GET, HEAD",
        }
    }

    /// Whether the route has this method.
    pub(super) fn allows(self, method: &Method) -> bool {
        let (allowed, method) = (self.allow(), method.as_str());
        // Most often it is the only one.
        allowed == method || allowed.split(", ").any(|allowed| allowed == method)
    }
}

/// A request that has been read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) body: &'a [u8],
}

/// Answers a request.
pub(super) async fn answer(http: &Http, route: Route<'_>, asked: Asked<'_>) -> Outcome {
    check_method(route, asked.method, asked.path)?;
    let Asked {
        method,
        query,
        body,
        ..
    } = asked;
    match route {
        Route::Grabs => grabs::grab(http, query, body).await,
        Route::GrabsBatch => grabs::grab_batch(http, query, body).await,
        Route::Order(id) => orders::get(http, id, query).await,
        Route::OrderConfirm(id) => orders::confirm(http, id, query, body).await,
        Route::OrderCancel(id) => orders::cancel(http, id, query, body).await,
        Route::Promotions if method == Method::POST => promotions::create(http, query, body).await,
        Route::Promotions => promotions::list(http, query).await,
        Route::Promotion(id) if method == Method::PATCH => {
            promotions::change(http, id, query, body).await
        }
        Route::Promotion(id) if method == Method::DELETE => {
            promotions::delete(http, id, query).await
        }
        Route::Promotion(id) => promotions::get(http, id, query).await,
        Route::PromotionStop(id) => promotions::stop(http, id, true, query, body).await,
        Route::PromotionResume(id) => promotions::stop(http, id, false, query, body).await,
        Route::Flows => flows::read(http, query).await,
        Route::Config if method == Method::PUT => config::put(http, query, body).await,
        Route::Config => config::get(http, query),
        Route::ConfigHistory => config::history(http, query),
        Route::ConfigRollback => config::rollback(http, query, body).await,
        Route::Cluster(route) => cluster::answer(http, route, asked).await,
        Route::Livez => Ok(health::livez()),
        Route::Readyz => health::readyz(http),
        Route::Metrics => Ok(health::metrics(http)),
        Route::Unknown => Err(Problem::no_route(asked.path)),
    }
}

fn check_method(route: Route<'_>, method: &Method, path: &str) -> Result<(), Problem> {
    // The import of promotions comes with its own release; until then it is no promotion either.
    let import = route == Route::Promotion("import") && method == Method::POST;
    if route == Route::Unknown || import {
        return Err(Problem::no_route(path));
    }
    if route.allows(method) {
        return Ok(());
    }
    Err(Problem::method_not_allowed(route.allow()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_routes() {
        let cases = [
            ("/v1/grabs", Route::Grabs),
            ("/v1/grabs/batch", Route::GrabsBatch),
            ("/v1/orders/o-1", Route::Order("o-1")),
            ("/v1/orders/a%20b", Route::Order("a%20b")),
            ("/v1/orders/o-1/confirm", Route::OrderConfirm("o-1")),
            ("/v1/orders/o-1/cancel", Route::OrderCancel("o-1")),
            ("/v1/promotions", Route::Promotions),
            ("/v1/promotions/A", Route::Promotion("A")),
            ("/v1/promotions/A/stop", Route::PromotionStop("A")),
            ("/v1/promotions/A/resume", Route::PromotionResume("A")),
            ("/v1/config/rollback", Route::ConfigRollback),
            ("/v1/cluster", Route::Cluster(ClusterRoute::Whole)),
            (
                "/v1/cluster/nodes/5",
                Route::Cluster(ClusterRoute::Node("5")),
            ),
            ("/readyz", Route::Readyz),
        ];
        for (path, route) in cases {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }

    #[test]
    fn other_paths_name_none() {
        for path in [
            "",
            "/",
            "/v1",
            "/v1/",
            "/v1/grab",
            "/v2/grabs",
            "/v1/grabs/",
            "/v1//grabs",
            "/v1/orders",
            "/v1/orders/",
            "/V1/grabs",
            "/v1/orders/o-1/pay",
            "/v1/orders/o-1/",
            "/v1/orders//confirm",
            "/v1/promotions/A/start",
            "/v1/promotions/A/stop/",
            "/v1/grabs/batch/1",
            "/../livez",
            "/livez/",
            "/v1/cluster/",
            "/v1/cluster/node",
            "/v1/clusters",
            "/v1/events",
            "/openapi.json",
        ] {
            assert_eq!(Route::of(path), Route::Unknown, "{path}");
        }
    }

    #[test]
    fn methods_are_told_apart_from_routes() {
        let checked = |method: Method, path: &str| {
            check_method(Route::of(path), &method, path)
                .map_err(|problem| (problem.status(), problem.code()))
        };
        assert_eq!(checked(Method::GET, "/nowhere"), Err((404, "not_found")));
        assert_eq!(
            checked(Method::POST, "/v1/promotions/import"),
            Err((404, "not_found"))
        );
        assert_eq!(checked(Method::GET, "/v1/promotions/import"), Ok(()));
        assert_eq!(
            checked(Method::DELETE, "/v1/grabs"),
            Err((405, "method_not_allowed"))
        );
        assert_eq!(
            checked(Method::OPTIONS, "/livez"),
            Err((405, "method_not_allowed"))
        );
        for (method, path) in [
            (Method::POST, "/v1/grabs"),
            (Method::HEAD, "/livez"),
            (Method::PUT, "/v1/config"),
            (Method::PATCH, "/v1/promotions/A"),
            (Method::DELETE, "/v1/promotions/A"),
        ] {
            assert_eq!(checked(method, path), Ok(()), "{path}");
        }
    }
}
