//! The task of a link: it keeps a connection while there is something to say.
//!
//! Invariant: a connection that fails is tried again only after a pause that doubles; meanwhile every
//! question ends at once with `NotSent`, so nobody spins on a node that is down.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader, ReadHalf, WriteHalf, split};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::frame::{FRAME_BYTES_MAX, read_frame};
use super::link::{Link, SILENCE_MAX};
use super::peers::WeakPeers;
use super::{Lane, Stream};
use crate::world::{others_first, random_below};

/// The pause after a failed connection: the first, and the longest. A node that restarts is found
/// again within the longest.
pub const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Keeps the connection of a link.
pub struct Dialler {
    peers: WeakPeers,
    node: u64,
    lane: Lane,
    link: Arc<Link>,
    pause: Duration,
    /// The last failure that was logged.
    told: Option<String>,
}

/// However its dialler ends, a link ends with it.
impl Drop for Dialler {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl Dialler {
    /// That of the link to `node` on `lane`.
    pub fn new(peers: WeakPeers, node: u64, lane: Lane, link: Arc<Link>) -> Self {
        Dialler {
            peers,
            node,
            lane,
            link,
            pause: PAUSE_MIN,
            told: None,
        }
    }

    /// Dials when there is something to say, until the link is closed.
    pub async fn run(mut self) {
        while self.link.has_questions().await {
            match self.peers.connect(self.node, self.lane).await {
                Ok(stream) => {
                    if self.told.take().is_some() {
                        tracing::info!(node = self.node, lane = ?self.lane, "connected again");
                    }
                    self.pause = PAUSE_MIN;
                    self.converse(stream).await;
                }
                Err(error) => self.rest(&error).await,
            }
        }
    }

    /// After a failed connection: every question ends at once until the pause is over.
    async fn rest(&mut self, error: &io::Error) {
        let why = error.to_string();
        if self.told.as_ref() != Some(&why) {
            tracing::warn!(node = self.node, lane = ?self.lane, why, "a peer cannot be reached");
            self.told = Some(why.clone());
        }
        self.link.go_down(why.into());
        sleep(self.pause + random_below(self.pause)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.link.come_up();
    }

    /// Sends questions and gives out answers until the connection ends.
    async fn converse(&self, stream: Box<dyn Stream>) {
        self.link.begin();
        let (reader, writer) = split(stream);
        tokio::select! {
            biased;
            () = read_answers(reader, &self.link) => {}
            () = self.send_questions(writer) => {}
        }
        self.link.disconnect();
    }

    async fn send_questions(&self, mut writer: WriteHalf<Box<dyn Stream>>) {
        let link = &self.link;
        let mut look = interval(SILENCE_MAX / 4);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                open = link.has_questions() => {
                    // One frame carries the questions of many groups.
                    others_first().await;
                    if !open || send_frames(link, &mut writer).await.is_err() {
                        return;
                    }
                }
                _ = look.tick() => if link.is_given_up() {
                    tracing::debug!(node = self.node, lane = ?self.lane, "closing a silent connection");
                    return;
                },
            }
        }
    }
}

async fn send_frames(link: &Link, writer: &mut WriteHalf<Box<dyn Stream>>) -> io::Result<()> {
    while let Some(frame) = link.take_frame() {
        writer.write_all(&frame).await?;
    }
    writer.flush().await
}

/// Gives out answers until the connection ends.
async fn read_answers(reader: ReadHalf<Box<dyn Stream>>, link: &Link) {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let mut answers = Vec::new();
    loop {
        let read = read_frame(&mut reader, FRAME_BYTES_MAX, |message| {
            answers.push(message);
        })
        .await;
        match read {
            Ok(true) => link.answer(&mut answers),
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(%error, "a peer's connection ended");
                return;
            }
        }
    }
}
