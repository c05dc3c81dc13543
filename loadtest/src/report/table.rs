//! A run as tables for people. Invariant: as those of `qiang`, without borders and without spaces at line ends.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::summary::{Latency, Summary};

/// Spaces between columns.
const GAP: u16 = 3;

/// A table; `columns` with a `>` in front are aligned to the right.
pub fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|name| name.trim_start_matches('>')));
    table.add_rows(rows.iter().cloned());
    for (column, name) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, GAP));
        if name.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// Milliseconds with two digits behind the point.
pub fn ms(us: u64) -> String {
    format!("{:.2}", us as f64 / 1000.0)
}

/// A number with commas between thousands.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The whole report.
pub fn report(summary: &Summary) -> String {
    let mut parts = vec![overview(summary), kinds(summary), codes(summary)];
    if let Some(broken) = &summary.broken {
        parts.push(format!("an answer could not be understood: {broken}"));
    }
    let audit = &summary.audit;
    parts.push(if audit.differences == 0 {
        format!(
            "audit: clean. {} orders against {} flows and {} promotions, {} ms",
            summary.orders.begun, audit.flows, summary.promotions, audit.took_ms
        )
    } else {
        format!("audit: {} differences", audit.differences)
    });
    parts.join("\n\n")
}

fn overview(summary: &Summary) -> String {
    let loop_ = match summary.rate {
        None => "closed loop".to_owned(),
        Some(rate) => format!("open loop, {} requests/s due", thousands(rate)),
    };
    let orders = &summary.orders;
    let rows = [
        ("run", summary.run.clone()),
        (
            "workload",
            format!(
                "{:?}, seed {}, {} promotions of {}",
                summary.workload,
                summary.seed,
                summary.promotions,
                thousands(f64::from(summary.quantity))
            )
            .to_lowercase(),
        ),
        (
            "connections",
            format!(
                "{} × {} to {}, {loop_}",
                summary.connections,
                summary.pipeline,
                summary.targets.join(" ")
            ),
        ),
        (
            "measured",
            format!("{:.1} s", summary.measured_ms as f64 / 1000.0),
        ),
        ("requests/s", thousands(summary.requests_per_second)),
        ("answers/s", thousands(summary.answers_per_second)),
        ("granted/s", thousands(summary.granted_per_second)),
        (
            "orders",
            format!(
                "{} begun, {} granted, {} refused, {} unknown, {} cancelled, {} confirmed",
                orders.begun,
                orders.granted,
                orders.refused,
                orders.unknown,
                orders.cancelled,
                orders.confirmed
            ),
        ),
        ("connections lost", summary.connections_lost.to_string()),
        (
            "own cost",
            format!(
                "{:.1} µs of CPU a request",
                summary.client_cpu_us_per_request
            ),
        ),
    ];
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = rows
        .iter()
        .map(|(name, value)| format!("{name:width$}   {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn kinds(summary: &Summary) -> String {
    let row = |name: &str, requests: u64, latency: &Latency| {
        vec![
            name.to_owned(),
            requests.to_string(),
            format!("{:.2}", latency.mean_us / 1000.0),
            ms(latency.p50_us),
            ms(latency.p90_us),
            ms(latency.p99_us),
            ms(latency.p999_us),
            ms(latency.max_us),
        ]
    };
    let mut rows: Vec<_> = summary
        .kinds
        .iter()
        .map(|kind| row(kind.kind.as_str(), kind.requests, &kind.latency))
        .collect();
    if rows.len() > 1 {
        let requests = summary.kinds.iter().map(|kind| kind.requests).sum();
        rows.push(row("all", requests, &summary.latency));
    }
    let columns = [
        "REQUEST", ">COUNT", ">MEAN MS", ">P50", ">P90", ">P99", ">P99.9", ">MAX",
    ];
    table(&columns, &rows)
}

fn codes(summary: &Summary) -> String {
    let mut rows = Vec::new();
    for kind in &summary.kinds {
        for answered in &kind.answers {
            rows.push(vec![
                kind.kind.as_str().to_owned(),
                answered.code.to_owned(),
                answered.count.to_string(),
            ]);
        }
    }
    table(&["REQUEST", "ANSWER", ">COUNT"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0.0, "0"), (999.6, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn tables_have_no_spaces_at_line_ends() {
        let rows = [vec!["a".to_owned(), "1".to_owned()]];
        assert_eq!(
            table(&["NAME", ">COUNT"], &rows),
            "NAME   COUNT\na          1"
        );
    }
}
