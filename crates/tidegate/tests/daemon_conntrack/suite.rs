//! The sequences whose outcome is known from the real tool, by the tool's own name.

use std::process::Command;

use crate::err;
use crate::support::{Daemon, PROGRAM};

#[test]
fn steps_end_as_with_the_real_tool() {
    let mut d = Daemon::new();
    d.start();
    let linked = Command::new(PROGRAM).arg("link").arg(d.dir.path()).status();
    assert!(linked.unwrap().success());
    let steps = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tools/tests/conntrack/steps.txt"
    );
    let mut count = 0;
    for line in std::fs::read_to_string(steps).unwrap().lines() {
        let (status, words) = line.split_once(' ').unwrap_or_default();
        let Ok(status) = status.parse::<i32>() else {
            continue;
        };
        let run = Command::new(d.path("conntrack"))
            .args(words.split(' '))
            .env("TIDEGATE_SOCKET", d.path("sock"))
            .env_remove("TIDEGATE_STATE")
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(status), "{words}: {}", err(&run));
        count += 1;
    }
    assert!(count >= 75, "{count} steps");
}
