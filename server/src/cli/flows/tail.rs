//! `qiang flows tail`: flows as they were committed, and as they come.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use qiang_engine::routing::shard_of;
use serde_json::Value;

use super::super::Failure;
use super::super::client::Client;
use super::super::output::Output;
use super::reader::{Page, Reader};
use super::{TailArgs, line, shards};

/// How long a node may hold back a page for flows to come. Longer saves requests; the node answers at once when there
/// is something.
const FOLLOW_WAIT: Duration = Duration::from_secs(10);

/// Pause before asking again a node that did not answer a follower.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Prints the flows asked for.
pub(crate) async fn run(args: &TailArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let shard = args
        .promotion
        .as_ref()
        .map(|promotion| shard_of(promotion).0)
        .or(args.shard);
    if args.after.is_some() && shard.is_none() {
        return Err(Failure::Usage(
            "--after needs --shard or --promotion: a cursor belongs to its shard".to_owned(),
        ));
    }
    let reader = |shard| {
        let promotion = args.promotion.as_ref().map(ToString::to_string);
        Reader::new(client, shard, args.after)
            .filtered(promotion, args.order.as_ref().map(ToString::to_string))
    };
    let mut readers: Vec<Reader> = shards(shard).map(reader).collect();
    let mut printer = Printer {
        left: args.limit.unwrap_or(u64::MAX),
        out,
    };
    printer.head()?;
    for reader in &mut readers {
        loop {
            let page = reader.next(Duration::ZERO).await?;
            if page.is_empty() || printer.print(&page, reader.shard())? {
                break;
            }
        }
    }
    if args.follow {
        follow(readers, &mut printer).await
    } else {
        Ok(())
    }
}

/// Waits on all shards at once. A node that goes away is asked again: the readers keep their cursors.
async fn follow(readers: Vec<Reader>, printer: &mut Printer<'_>) -> Result<(), Failure> {
    let mut waiting: FuturesUnordered<_> = readers.into_iter().map(next).collect();
    let mut told = false;
    while printer.left > 0 {
        let Some((reader, page)) = waiting.next().await else {
            break;
        };
        match page {
            Ok(page) => {
                told = false;
                printer.print(&page, reader.shard())?;
            }
            Err(failure @ (Failure::Connect(_) | Failure::Server(_))) => {
                if !told {
                    eprintln!("{failure}; asking again until it answers");
                }
                told = true;
                tokio::time::sleep(RETRY_AFTER).await;
            }
            Err(failure) => return Err(failure),
        }
        waiting.push(next(reader));
    }
    Ok(())
}

async fn next(mut reader: Reader) -> (Reader, Result<Page, Failure>) {
    let page = reader.next(FOLLOW_WAIT).await;
    (reader, page)
}

struct Printer<'a> {
    left: u64,
    out: &'a mut Output,
}

impl Printer<'_> {
    fn head(&mut self) -> Result<(), Failure> {
        if self.out.is_json() {
            Ok(())
        } else {
            self.out.text(&line::head())
        }
    }

    /// Prints a page as far as the limit allows, and says whether that was the end.
    fn print(&mut self, page: &Page, shard: u16) -> Result<bool, Failure> {
        for text in page.lines() {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            if self.out.is_json() {
                self.out.json_line(text)?;
                continue;
            }
            let flow: Value = serde_json::from_str(text).map_err(|error| {
                Failure::Server(format!("a flow of shard {shard} is not JSON: {error}"))
            })?;
            self.out.text(&line::line(&flow, shard))?;
        }
        Ok(self.left == 0)
    }
}
