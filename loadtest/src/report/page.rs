//! A run as one HTML page. Invariant: the page is whole in itself and shows no text that it did not escape.

use super::plot;
use super::summary::{Answered, Summary};
use super::table::report;

/// Codes of answers that are no refusals.
const SUCCESSES: [&str; 3] = ["granted", "replayed", "ok"];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}\
pre{background:#f6f6f6;padding:1em;overflow-x:auto;font-size:13px}h2{margin-top:2em}svg{max-width:100%;height:auto}";

/// The page.
pub fn page(summary: &Summary) -> String {
    let refused: Vec<Answered> = summary
        .answers
        .iter()
        .copied()
        .filter(|answered| !SUCCESSES.contains(&answered.code))
        .collect();
    let mut plots = vec![
        ("Throughput over time", plot::throughput(summary)),
        ("Latency over time", plot::latency(summary)),
        ("Distribution of latency", plot::distribution(summary)),
    ];
    if !refused.is_empty() {
        plots.push(("Refusals by code", plot::refusals(&refused)));
    }
    let plots = plots
        .into_iter()
        .map(|(title, svg)| format!("<h2>{title}</h2>\n{svg}\n"));
    let plots = plots.collect::<Vec<_>>().concat();
    let title = escaped(&format!("{} {}", summary.run, summary.at));
    let findings = summary.audit.first.iter();
    let findings = findings.map(|finding| format!("<li>{}</li>\n", escaped(finding)));
    let mut findings = findings.collect::<Vec<_>>().concat();
    if !findings.is_empty() {
        findings = format!("<h2>Differences</h2>\n<ul>\n{findings}</ul>\n");
    }
    let figures = escaped(&report(summary));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>qiang-load {title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>qiang-load {title}</h1>\n{findings}\
         <pre>{figures}</pre>\n{plots}</body></html>\n"
    )
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        assert_eq!(
            escaped("<a href=\"x\">&"),
            "&lt;a href=&quot;x&quot;&gt;&amp;"
        );
    }
}
