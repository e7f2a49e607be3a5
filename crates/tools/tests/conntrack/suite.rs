//! Sequences whose outcome is known from the real tool.

use crate::local::Local;

#[test]
fn steps_end_as_with_the_real_tool() {
    let local = Local::small();
    let mut count = 0;
    for line in include_str!("steps.txt").lines() {
        let (status, words) = line.split_once(' ').unwrap_or_default();
        let Ok(status) = status.parse::<u8>() else {
            continue;
        };
        let printed = local.run(words, "");
        assert_eq!(printed.status, status, "{words}: {}", printed.err);
        count += 1;
    }
    assert!(count >= 75, "{count} steps");
}
