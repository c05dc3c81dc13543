use super::*;
use crate::workload::Name;

fn http() -> Http {
    let workload = Arc::new(Workload::new(Name::Spread, 1));
    Http::new(RunId::now(), workload, "node:1")
}

fn request(step: &Step) -> String {
    let mut out = Vec::new();
    http().encode(step, &mut out);
    String::from_utf8(out).unwrap()
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_grab_is_whole_http_with_its_length() {
    let text = request(&Step::Grab { order: 12 });
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/grabs HTTP/1.1\r\nhost: node:1\r\n"));
    let length = head.split_once("content-length:").unwrap().1.trim();
    assert_eq!(length.parse(), Ok(body.len()));
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert!(body["order_id"].as_str().unwrap().ends_with("-12"));
    assert_eq!(body["pin"], "b12");
    assert_eq!(body["items"][0]["quantity"], 1);
    let ip: Result<std::net::Ipv4Addr, _> = body["ip"].as_str().unwrap().parse();
    assert!(ip.is_ok());
}

#[test]
fn a_repeat_is_the_same_request() {
    let run = RunId::now();
    let workload = Arc::new(Workload::new(Name::Spread, 1));
    let mut http = Http::new(run, workload, "node:1");
    let (mut first, mut again) = (Vec::new(), Vec::new());
    http.encode(&Step::Grab { order: 3 }, &mut first);
    http.encode(&Step::Repeat { order: 3 }, &mut again);
    assert_eq!(first, again);
}

#[test]
fn a_batch_holds_its_orders() {
    let step = Step::Batch {
        first: 4,
        count: 3,
        stride: 2,
    };
    let text = request(&step);
    let body: serde_json::Value =
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    let pins: Vec<_> = body["grabs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|grab| grab["pin"].as_str().unwrap())
        .collect();
    assert_eq!(pins, ["b4", "b6", "b8"]);
}

#[test]
fn a_cancel_in_advance_names_the_promotion() {
    let item = Item {
        promotion: 7,
        quantity: 1,
    };
    let ahead = |ahead| {
        let order = 1;
        request(&Step::Cancel { order, item, ahead })
    };
    assert!(ahead(true).contains("\"promotion_ids\":[\"") && ahead(true).contains("-p7\"]"));
    assert!(!ahead(false).contains("promotion_ids"));
}

#[test]
fn an_answer_is_read_when_all_of_it_is_there() {
    let mut http = http();
    let body = format!(
        "{{\"order_id\":\"{}\",\"outcome\":\"granted\",\"replayed\":false}}",
        http.run.order(5)
    );
    let text = answer("200 OK", &body) + "HTTP/1.1 2";
    let whole = text.len() - "HTTP/1.1 2".len();
    let mut answers = Vec::new();
    let step = Step::Grab { order: 5 };
    for end in 0..whole {
        let part = http.decode(&step, &text.as_bytes()[..end], &mut answers);
        assert_eq!(part, Ok(None), "after {end} bytes");
    }
    let read = http.decode(&step, text.as_bytes(), &mut answers);
    assert_eq!(read, Ok(Some(whole)));
    assert_eq!((answers[0].status, answers[0].code), (200, Code::GRANTED));
}

#[test]
fn a_refusal_is_told_by_its_code() {
    let mut http = http();
    let text = answer(
        "409 Conflict",
        r#"{"title":"Sold out","status":409,"code":"sold_out"}"#,
    );
    let mut answers = Vec::new();
    let step = Step::Grab { order: 5 };
    http.decode(&step, text.as_bytes(), &mut answers).unwrap();
    assert_eq!((answers[0].status, answers[0].code), (409, Code::SOLD_OUT));
}

#[test]
fn a_grant_of_another_order_is_no_answer() {
    let mut http = http();
    let body = format!("{{\"order_id\":\"{}\"}}", http.run.order(50));
    let text = answer("200 OK", &body);
    let read = http.decode(&Step::Grab { order: 5 }, text.as_bytes(), &mut Vec::new());
    assert!(read.unwrap_err().to_string().contains("-5 was asked for"));
}

#[test]
fn a_batch_refused_as_a_whole_is_refused_for_each() {
    let mut http = http();
    let text = answer("429 Too Many Requests", r#"{"code":"overloaded"}"#);
    let step = Step::Batch {
        first: 0,
        count: 3,
        stride: 1,
    };
    let mut answers = Vec::new();
    http.decode(&step, text.as_bytes(), &mut answers).unwrap();
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|a| a.code.as_str() == "overloaded"));
}

#[test]
fn what_is_not_http_is_no_answer() {
    let mut http = http();
    let step = Step::Grab { order: 5 };
    for text in ["SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        let read = http.decode(&step, text.as_bytes(), &mut Vec::new());
        assert!(read.is_err(), "{text:?} was taken");
    }
}
