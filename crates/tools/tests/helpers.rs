//! Rules name helpers (`-j CT --helper`) that connection tracking has, and all of them.
#![allow(missing_docs, clippy::unwrap_used)]

use tidegate_conntrack::HelperKind;
use tidegate_syntax::parse_rules;
use tidegate_wire::{Family, proto};
use tidegate_xt::NoNames;

#[test]
fn rules_and_the_tracker_know_the_same_helpers() {
    for helper in HelperKind::all() {
        for family in [Family::V4, Family::V6] {
            for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
                let name = helper.name();
                let rule = format!("-A PREROUTING -p {protocol} -j CT --helper {name}");
                let taken = parse_rules(&format!("*raw\n{rule}\nCOMMIT\n"), family, &NoNames);
                let serves = helper.serves(family, protocol);
                assert_eq!(taken.is_ok(), serves, "{family:?} {rule}");
            }
        }
    }
    let unknown = "*raw\n-A PREROUTING -p tcp -j CT --helper nosuch\nCOMMIT\n";
    assert!(parse_rules(unknown, Family::V4, &NoNames).is_err());
}
