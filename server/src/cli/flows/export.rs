//! `qiang flows export`: all flows as NDJSON, one shard after the other, the same lines from a node and from a data
//! directory.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use qiang_engine::ShardId;
use qiang_raft::Flow;

use super::super::Failure;
use super::super::client::Client;
use super::super::output::Output;
use super::reader::Reader;
use super::{ExportArgs, offline, shards};

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes the flows asked for.
pub(crate) async fn run(
    args: &ExportArgs,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut sink = Sink {
        buffer: Vec::new(),
        to: out,
        file: args.out.as_deref().map(create).transpose()?,
        lines: 0,
    };
    match &args.data_dir {
        Some(dir) => from_directory(args, dir, &mut sink)?,
        None => from_node(args, client, &mut sink).await?,
    }
    let lines = sink.finish()?;
    if let Some(file) = &args.out {
        eprintln!("{lines} flows written to {}", file.display());
    }
    Ok(())
}

async fn from_node(args: &ExportArgs, client: &Client, sink: &mut Sink<'_>) -> Result<(), Failure> {
    for shard in shards(args.shard) {
        let mut reader = Reader::new(client, shard, args.after);
        loop {
            let page = reader.next(Duration::ZERO).await?;
            if page.is_empty() {
                break;
            }
            for line in page.lines() {
                sink.line(line)?;
            }
        }
    }
    Ok(())
}

fn from_directory(args: &ExportArgs, dir: &Path, sink: &mut Sink<'_>) -> Result<(), Failure> {
    let offline = offline::open(dir)?;
    for shard in shards(args.shard) {
        let mut failure = None;
        let read = offline.flows(ShardId(shard), args.after.unwrap_or(0), |flow| {
            sink.flow(&flow).map_err(|why| {
                failure = Some(why);
                std::io::Error::other("the output cannot be written")
            })
        });
        // What stopped the reading is told rather than that it was stopped.
        if let Some(failure) = failure {
            return Err(failure);
        }
        read.map_err(|error| offline::unreadable(dir, &error))?;
    }
    Ok(())
}

/// A new file: an export that exists is never overwritten.
fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    file.map(BufWriter::new)
        .map_err(|error| Failure::Usage(format!("cannot create {}: {error}", path.display())))
}

struct Sink<'a> {
    buffer: Vec<u8>,
    to: &'a mut Output,
    file: Option<BufWriter<File>>,
    lines: u64,
}

impl Sink<'_> {
    fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffer.push(b'\n');
        self.counted()
    }

    fn flow(&mut self, flow: &Flow) -> Result<(), Failure> {
        // The same line, with its end, that a node sends.
        crate::http::write_flow(flow, &mut self.buffer);
        self.counted()
    }

    fn counted(&mut self) -> Result<(), Failure> {
        self.lines += 1;
        if self.buffer.len() >= BUFFER_BYTES {
            self.write()
        } else {
            Ok(())
        }
    }

    fn write(&mut self) -> Result<(), Failure> {
        match &mut self.file {
            Some(file) => file.write_all(&self.buffer)?,
            None => self.to.bytes(&self.buffer)?,
        }
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left, and says how many lines there were. A file is on the disk then.
    fn finish(mut self) -> Result<u64, Failure> {
        self.write()?;
        if let Some(file) = self.file {
            let file = file
                .into_inner()
                .map_err(std::io::IntoInnerError::into_error)?;
            file.sync_all()?;
        }
        Ok(self.lines)
    }
}
