//! Reading a document's console blocks and comparing what it prints with what really comes.
//!
//! The convention is told at the top of `tests/readme.rs`. Invariant: text of the document is either compared or
//! matched by one of the two placeholders; nothing is skipped silently.

/// The placeholder: inside a line any text, alone on a line any lines.
const ANYTHING: &str = "…";

/// A fenced block of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The line of its opening fence, counted from one.
    pub line: usize,
    /// Whether the fence says `console serving`: its command goes on running until the walk ends.
    pub serving: bool,
    /// Its commands.
    pub steps: Vec<Step>,
}

/// One command and what the document says that it prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line of the command, counted from one.
    pub line: usize,
    /// The command as printed, continuation lines joined.
    pub command: String,
    /// The lines after it.
    pub printed: Vec<String>,
}

/// All console blocks of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// In the order of the document.
    pub blocks: Vec<Block>,
}

impl Walk {
    /// Extracts the blocks; a panic names the line of what the convention does not allow.
    #[track_caller]
    pub fn parse(document: &str) -> Self {
        let mut blocks = Vec::new();
        let mut lines = (1..).zip(document.lines());
        while let Some((line, text)) = lines.next() {
            let Some(info) = text.strip_prefix("```") else {
                continue;
            };
            let inside: Vec<(usize, &str)> = lines
                .by_ref()
                .take_while(|(_, text)| *text != "```")
                .collect();
            let serving = match info.trim() {
                "console" => false,
                "console serving" => true,
                _ => continue,
            };
            blocks.push(Block {
                line,
                serving,
                steps: parse_steps(&inside),
            });
        }
        Self { blocks }
    }
}

#[track_caller]
fn parse_steps(lines: &[(usize, &str)]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for (line, text) in lines {
        if goes_on {
            let step = steps.last_mut().expect("a command is being continued");
            let more = text.strip_prefix("> ").unwrap_or(text).trim_start();
            goes_on = more.ends_with('\\');
            step.command.push_str(more.trim_end_matches('\\'));
        } else if let Some(command) = text.strip_prefix("$ ") {
            goes_on = command.ends_with('\\');
            steps.push(Step {
                line: *line,
                command: command.trim_end_matches('\\').to_owned(),
                printed: Vec::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            step.printed.push((*text).to_owned());
        } else {
            panic!("line {line}: a console block starts with a command (`$ …`), not with {text:?}");
        }
    }
    steps
}

/// Whether `actual` is what the document's lines say, with its placeholders and with any time for a time.
pub fn matches_printed(printed: &[String], actual: &str) -> bool {
    let actual: Vec<&str> = actual.lines().map(str::trim_end).collect();
    let printed: Vec<&str> = printed.iter().map(|line| line.trim_end()).collect();
    lines_match(&printed, &actual)
}

fn lines_match(printed: &[&str], actual: &[&str]) -> bool {
    match printed.split_first() {
        None => actual.is_empty(),
        Some((line, rest)) if line.trim() == ANYTHING => {
            (0..=actual.len()).any(|skip| lines_match(rest, &actual[skip..]))
        }
        Some((line, rest)) => actual.split_first().is_some_and(|(first, others)| {
            line_matches(&same_times(line), &same_times(first)) && lines_match(rest, others)
        }),
    }
}

fn line_matches(printed: &str, actual: &str) -> bool {
    let parts: Vec<&str> = printed.split(ANYTHING).collect();
    let [first, between @ .., last] = parts.as_slice() else {
        return printed == actual;
    };
    let Some(mut left) = actual.strip_prefix(first) else {
        return false;
    };
    for part in between {
        let Some(found) = left.find(part) else {
            return false;
        };
        left = &left[found + part.len()..];
    }
    left.len() >= last.len() && left.ends_with(last)
}

/// The line with every RFC 3339 time in UTC replaced, and runs of spaces as one: a column may be as wide as it likes.
fn same_times(line: &str) -> String {
    let words: Vec<String> = line.split_whitespace().map(same_time).collect();
    words.join(" ")
}

fn same_time(word: &str) -> String {
    // 2026-06-18T00:20:00Z with or without a fraction, anywhere in the word: JSON puts quotes and commas around it.
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let bytes = word.as_bytes();
    let fits = |at: usize| {
        bytes[at..at + SHAPE.len()]
            .iter()
            .zip(SHAPE)
            .all(|(byte, shape)| {
                if *shape == b'0' {
                    byte.is_ascii_digit()
                } else {
                    byte == shape
                }
            })
    };
    let last = bytes.len().saturating_sub(SHAPE.len());
    let Some(start) = (0..=last).find(|at| at + SHAPE.len() <= bytes.len() && fits(*at)) else {
        return word.to_owned();
    };
    let after = &word[start + SHAPE.len()..];
    let rest = after.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let Some(rest) = rest.strip_prefix('Z') else {
        return word.to_owned();
    };
    format!("{}TIME{}", &word[..start], same_time(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_block_gives_its_commands_with_their_output() {
        let walk = Walk::parse(
            "# Title\n```sh\n$ not walked\n```\n```console\n$ one \\\n>   two\nprinted\n\n$ three\n```\n\
             ```console serving\n$ serve\nready\n```\n",
        );
        assert_eq!(walk.blocks.len(), 2);
        let steps = &walk.blocks[0].steps;
        assert_eq!(steps[0].command, "one two");
        assert_eq!(steps[0].printed, ["printed", ""]);
        assert_eq!((steps[1].command.as_str(), steps[1].line), ("three", 10));
        assert!(walk.blocks[1].serving && walk.blocks[1].steps[0].printed == ["ready"]);
    }

    #[test]
    fn only_placeholders_and_times_may_differ() {
        let says = |printed: &str, actual: &str| {
            let printed: Vec<String> = printed.lines().map(str::to_owned).collect();
            matches_printed(&printed, actual)
        };
        assert!(says("a b", "a   b\n"));
        assert!(!says("a b", "a b\nc\n"));
        assert!(!says("a", "b\n"));
        assert!(says("pid …, ready", "pid 4711, ready\n"));
        assert!(!says("pid …, ready", "pid 4711, not"));
        assert!(says("first\n…\nlast", "first\nx\ny\nlast\n"));
        assert!(says("first\n…", "first\n"));
        let line = r#"{"pay_by":"2026-06-18T00:20:00.000Z","to":"2026-06-18T00:20:00Z"}"#;
        assert!(says(
            line,
            r#"{"pay_by":"2030-01-01T01:02:03.4Z","to":"2031-01-01T00:00:00Z"}"#
        ));
        assert!(!says(
            line,
            r#"{"pay_by":"soon","to":"2031-01-01T00:00:00Z"}"#
        ));
    }
}
