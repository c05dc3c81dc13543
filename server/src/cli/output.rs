//! Data on stdout: the server's JSON as it came, or tables without borders.
//!
//! Invariant: nothing a stranger chose reaches a terminal as a control character, and a reader that leaves ends the
//! command without an error.

use std::io::{self, IsTerminal, StdoutLock, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use super::Failure;

/// How data is printed: columns for people, or the server's JSON, indented on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // Plain comments: clap would spread documentation over every command's help.
    Table,
    Json,
}

/// Spaces between columns.
const GAP: u16 = 3;

/// What stands for an absent value.
const NONE: &str = "-";

/// Where a command's data goes.
pub(crate) struct Output {
    format: Format,
    indent: bool,
    out: StdoutLock<'static>,
}

impl Output {
    /// Data for stdout.
    pub(crate) fn stdout(format: Format) -> Self {
        let stdout = io::stdout();
        Self {
            format,
            indent: stdout.is_terminal(),
            out: stdout.lock(),
        }
    }

    /// Whether JSON was asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints JSON as it came; indented where a person reads it.
    pub(crate) fn json(&mut self, text: &str) -> Result<(), Failure> {
        let text = text.trim_end();
        if self.indent {
            self.text(&indented(text))
        } else {
            self.text(text)
        }
    }

    /// Prints one line of JSON on a line, also on a terminal: a stream stays a stream.
    pub(crate) fn json_line(&mut self, text: &str) -> Result<(), Failure> {
        self.text(text)
    }

    /// Prints a text and ends the line.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "{text}")?;
        Ok(self.out.flush()?)
    }

    /// Prints bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes)?;
        Ok(self.out.flush()?)
    }

    /// Prints a table; `columns` with a `>` in front are aligned to the right.
    pub(crate) fn table(&mut self, columns: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        self.text(&table(columns, rows))
    }

    /// Prints an object, one member a line: those named `first` in that order, then the rest.
    pub(crate) fn members(&mut self, object: &Value, first: &[&str]) -> Result<(), Failure> {
        let mut rows = Vec::new();
        for name in first {
            if let Some(value) = object.get(name) {
                flatten(name, value, &mut rows);
            }
        }
        for (name, value) in object.as_object().into_iter().flatten() {
            if !first.contains(&name.as_str()) {
                flatten(name, value, &mut rows);
            }
        }
        self.text(&grid(None, &[false, false], &rows))
    }
}

/// One row for every member that is not itself an object; those of inner objects are named `outer.inner`.
fn flatten(name: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (inner, value) in members {
                flatten(&format!("{name}.{inner}"), value, rows);
            }
        }
        value => rows.push(vec![printable(name), cell(value)]),
    }
}

/// A table as text; `columns` with a `>` in front are aligned to the right.
pub(crate) fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let right: Vec<bool> = columns
        .iter()
        .map(|column| column.starts_with('>'))
        .collect();
    let names = columns
        .iter()
        .map(|column| column.trim_start_matches('>').to_owned())
        .collect();
    grid(Some(names), &right, rows)
}

fn grid(header: Option<Vec<String>>, right: &[bool], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    if let Some(header) = header {
        table.set_header(header);
    }
    table.add_rows(rows.iter().cloned());
    for (column, right) in table.column_iter_mut().zip(right) {
        column.set_padding((0, GAP));
        if *right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// A value in a table: texts without quotes, nothing as a dash, lists with commas.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => NONE.to_owned(),
        Value::String(text) if text.is_empty() => NONE.to_owned(),
        Value::String(text) => printable(text),
        Value::Array(items) if items.is_empty() => NONE.to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(_) => format!("{{{}}}", pairs(value)),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// The members of an object on one line: `name=value`, with spaces between.
pub(crate) fn pairs(object: &Value) -> String {
    let members = object.as_object().into_iter().flatten();
    let members = members.map(|(name, value)| format!("{}={}", printable(name), cell(value)));
    members.collect::<Vec<_>>().join(" ")
}

/// A text with every control character replaced: titles and ids come from others, and a terminal obeys such characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Valid JSON with line breaks and two spaces a level, its members in the order they came.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut chars = json.chars().peekable();
    let new_line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(c) = chars.next() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|next| next.is_whitespace()).is_some() {}
                if let Some(close) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_no_borders_and_no_spaces_at_line_ends() {
        let rows = [
            vec!["A".to_owned(), "99".to_owned()],
            vec!["long-id".to_owned(), "1".to_owned()],
        ];
        assert_eq!(
            table(&["PROMOTION", ">LEFT"], &rows),
            "PROMOTION   LEFT\nA             99\nlong-id        1"
        );
        assert_eq!(table(&["PROMOTION", ">LEFT"], &[]), "PROMOTION   LEFT");
    }

    #[test]
    fn json_is_indented_without_changing_its_order_or_texts() {
        let text = r#"{"b":1,"a":[1,{"x":"a\"{,:\\"}],"e":{},"f":[ ]}"#;
        let expected = "{\n  \"b\": 1,\n  \"a\": [\n    1,\n    {\n      \"x\": \"a\\\"{,:\\\\\"\n    }\n  ],\n  \"e\": {},\n  \"f\": []\n}";
        assert_eq!(indented(text), expected);
        let same = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(same(&indented(text)), same(text));
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_printed() {
        assert_eq!(cell(&json!("a\u{1b}[2Jb\nc")), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(cell(&json!("剩余数 ok")), "剩余数 ok");
    }

    #[test]
    fn cells_tell_absent_values_and_lists() {
        assert_eq!(cell(&json!(null)), "-");
        assert_eq!(cell(&json!([])), "-");
        assert_eq!(cell(&json!(["app", "web"])), "app,web");
        assert_eq!(cell(&json!({"a": 5, "b": "c"})), "{a=5 b=c}");
        assert_eq!(cell(&json!(false)), "false");
    }
}
