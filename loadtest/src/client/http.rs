//! Steps as HTTP/1.1 requests, and their answers.
//!
//! Invariant: an answer is taken for a grant only if it is about the order that was asked for.

use std::sync::Arc;

use super::batch::read_batch;
use super::members::{Members, names};
use super::{Answer, Broken, Code, Protocol};
use crate::identity::{RunId, push_number, push_pin};
use crate::workload::{Item, Step, Workload};

/// Headers of an answer, at most.
const HEADERS_MAX: usize = 32;

/// How the body of a grant begins, up to the order's id.
const GRANT: &[u8] = b"{\"order_id\":\"";

/// Digits left free for a request's length: bodies are below 1 MiB.
const LENGTH_DIGITS: usize = 7;

/// HTTP/1.1 of one connection.
#[derive(Debug)]
pub struct Http {
    run: RunId,
    workload: Arc<Workload>,
    /// The header lines of every request.
    headers: Vec<u8>,
    /// The order id an answer must name.
    order: Vec<u8>,
    members: Members,
    /// Whether a grant must name its order.
    checks_names: bool,
}

impl Http {
    /// HTTP to the node at `host`.
    pub fn new(run: RunId, workload: Arc<Workload>, host: &str) -> Self {
        Self {
            run,
            workload,
            headers: format!(" HTTP/1.1\r\nhost: {host}\r\n").into_bytes(),
            order: Vec::new(),
            members: Members::default(),
            checks_names: true,
        }
    }

    /// The same to a server that answers everybody alike.
    #[must_use]
    pub fn to_anyone(mut self) -> Self {
        self.checks_names = false;
        self
    }

    /// A request whose body `write` appends. The length's digits are left blank in front, which HTTP allows.
    fn post(
        &self,
        path: impl FnOnce(&mut Vec<u8>),
        out: &mut Vec<u8>,
        write: impl FnOnce(&Self, &mut Vec<u8>),
    ) {
        out.extend_from_slice(b"POST ");
        path(out);
        out.extend_from_slice(&self.headers);
        out.extend_from_slice(b"content-length:");
        let length_at = out.len();
        out.extend_from_slice(&[b' '; LENGTH_DIGITS]);
        out.extend_from_slice(b"\r\n\r\n");
        let body_at = out.len();
        write(self, out);
        let mut digits = itoa::Buffer::new();
        let length = digits.format(out.len() - body_at).as_bytes();
        let end = length_at + LENGTH_DIGITS;
        out[end - length.len()..end].copy_from_slice(length);
    }

    fn push_grab(&self, order: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"order_id\":\"");
        self.run.push_order(order, out);
        out.extend_from_slice(b"\",\"pin\":\"");
        push_pin(order, out);
        out.extend_from_slice(b"\",\"ip\":\"10");
        for part in self.workload.ip(order) {
            out.push(b'.');
            push_number(u64::from(part), out);
        }
        out.extend_from_slice(b"\",\"channel\":\"app\",\"items\":");
        let mut between = b'[';
        for Item {
            promotion,
            quantity,
        } in self.workload.items(order)
        {
            out.push(between);
            between = b',';
            out.extend_from_slice(b"{\"promotion_id\":\"");
            self.run.push_promotion(promotion, out);
            out.extend_from_slice(b"\",\"quantity\":");
            push_number(u64::from(quantity), out);
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
    }

    fn push_order_path(&self, order: u64, verb: &[u8], promotion: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"/v1/orders/");
        self.run.push_order(order, out);
        out.extend_from_slice(verb);
        out.extend_from_slice(b"?promotion_id=");
        self.run.push_promotion(promotion, out);
    }

    fn read_one(&mut self, step: &Step, status: u16, body: &[u8]) -> Result<Answer, Broken> {
        let code = match (status, step) {
            (200, Step::Grab { order } | Step::Repeat { order }) => {
                self.order.clear();
                self.run.push_order(*order, &mut self.order);
                if self.checks_names && !names(body, GRANT, &self.order) {
                    let (run, body) = (self.run, String::from_utf8_lossy(body));
                    return Err(Broken(format!(
                        "order {run}-{order} was asked for, and this came: {body}"
                    )));
                }
                self.members.grant(body)
            }
            (200..300, _) => Code::OK,
            _ => self.members.code(body),
        };
        Ok(Answer { status, code })
    }
}

impl Protocol for Http {
    fn encode(&mut self, step: &Step, out: &mut Vec<u8>) {
        match *step {
            Step::Grab { order } | Step::Repeat { order } => self.post(
                |out| out.extend_from_slice(b"/v1/grabs"),
                out,
                |this, out| this.push_grab(order, out),
            ),
            Step::Batch {
                first,
                count,
                stride,
            } => self.post(
                |out| out.extend_from_slice(b"/v1/grabs/batch"),
                out,
                |this, out| {
                    out.extend_from_slice(b"{\"grabs\":");
                    let mut between = b'[';
                    for index in 0..u64::from(count) {
                        out.push(between);
                        between = b',';
                        this.push_grab(first + index * stride, out);
                    }
                    out.extend_from_slice(b"]}");
                },
            ),
            Step::Confirm { order, promotion } => self.post(
                |out| self.push_order_path(order, b"/confirm", promotion, out),
                out,
                |_, _| {},
            ),
            Step::Cancel { order, item, ahead } => self.post(
                |out| self.push_order_path(order, b"/cancel", item.promotion, out),
                out,
                |this, out| {
                    out.extend_from_slice(b"{\"reason\":\"user\"");
                    if ahead {
                        out.extend_from_slice(b",\"promotion_ids\":[\"");
                        this.run.push_promotion(item.promotion, out);
                        out.extend_from_slice(b"\"]");
                    }
                    out.push(b'}');
                },
            ),
            Step::ReadPromotion { promotion } => {
                out.extend_from_slice(b"GET /v1/promotions/");
                self.run.push_promotion(promotion, out);
                out.extend_from_slice(&self.headers);
                out.extend_from_slice(b"\r\n");
            }
            Step::ReadOrder { order, promotion } => {
                out.extend_from_slice(b"GET ");
                self.push_order_path(order, b"", promotion, out);
                out.extend_from_slice(&self.headers);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn decode(
        &mut self,
        step: &Step,
        input: &[u8],
        answers: &mut Vec<Answer>,
    ) -> Result<Option<usize>, Broken> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head
            .parse(input)
            .map_err(|error| Broken(format!("the head of an answer: {error}")))?;
        let httparse::Status::Complete(body_at) = parsed else {
            return Ok(None);
        };
        let status = head.code.expect("a complete head has a status");
        let length = head
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("content-length"))
            .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
        let length: usize =
            length.ok_or_else(|| Broken("an answer without its length".to_owned()))?;
        let end = body_at + length;
        let Some(body) = input.get(body_at..end) else {
            return Ok(None);
        };
        match step {
            Step::Batch { count, .. } if status == 200 => {
                let expected = |index: usize, out: &mut Vec<u8>| {
                    let order = step.order(index).expect("a batch is about orders");
                    self.run.push_order(order, out);
                };
                read_batch(body, *count, expected, &self.members, answers)?;
            }
            // A batch refused as a whole is refused for every grab in it.
            Step::Batch { count, .. } => {
                let code = self.members.code(body);
                answers.extend((0..*count).map(|_| Answer { status, code }));
            }
            _ => answers.push(self.read_one(step, status, body)?),
        }
        Ok(Some(end))
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
