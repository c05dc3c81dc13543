//! The comparison, as short as it can be. Invariant: figures are there and have a meaning; how good they are is not tested.

use serde_json::Value;

use super::node::{qiang, qiang_load};

#[test]
fn a_row_is_compared_and_everything_is_stopped() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().to_str().unwrap();
    let qiang = qiang();
    let arguments = [
        "compare",
        "--quick",
        "--rounds",
        "1",
        "--only",
        "sold-out-64",
        "-o",
        "json",
        "--qiang",
        qiang.to_str().unwrap(),
        "--data-dir",
        directory,
    ];
    let output = qiang_load(&arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let compared: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cases = compared[0]["cases"].as_array().unwrap();
    let labels: Vec<_> = cases
        .iter()
        .map(|case| case["label"].as_str().unwrap())
        .collect();
    assert_eq!(labels[..2], ["qiang, one node", "bare hyper"]);
    let has_redis = labels.len() == 3;
    assert!(
        has_redis || errors.contains("apt-get install redis-server"),
        "{errors}"
    );
    for case in cases {
        let positive = |path: &str| case.pointer(path).and_then(Value::as_f64) > Some(0.0);
        assert!(
            positive("/figure/median") && positive("/samples/0/server_cpu_us"),
            "{case}"
        );
    }
    assert_eq!(compared[0]["goals"][0]["target"], 0.8);
    // Nothing is left of the servers' data, nor any server: their directories were theirs to hold.
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}
