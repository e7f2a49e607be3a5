//! Labels of SECMARK and CONNSECMARK, as `secmark_tg` and `connsecmark_tg` keep them.

mod common;

use tidegate_engine::env::IfIndex;
use tidegate_engine::{Engine, Incoming};
use tidegate_wire::{Family, checksum};

use common::{lowered, router_of_two};

/// UDP from 10.0.0.2 to a port of 10.0.1.2.
fn send(engine: &mut Engine, port: u8) {
    let mut packet = vec![
        0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 1, 2, 0x10, 0, 0, port, 0, 8,
        0, 0,
    ];
    checksum::fix_ipv4(&mut packet);
    engine.receive(0, Incoming::on(IfIndex(2)), packet, &mut ());
}

/// The label of the only connection.
fn label(engine: &Engine) -> u32 {
    let entry = engine.conntrack().iter().next().expect("a connection");
    entry.1.secmark()
}

fn router(rules: &str) -> Engine {
    router_of_two(&format!("*security\n{rules}COMMIT\n"))
}

#[test]
fn connections_take_the_labels_of_their_packets_and_keep_them() {
    let one = "-A FORWARD -p udp -m udp --dport 1 -j SECMARK --selctx a:b:c:s0\n";
    let other = "-A FORWARD -p udp -m udp --dport 1 -j SECMARK --selctx a:b:other:s0\n";
    let save = "-A FORWARD -j CONNSECMARK --save\n";
    let mut engine = router(save);
    send(&mut engine, 1);
    assert_eq!(
        label(&engine),
        0,
        "a packet without a label has none to give"
    );
    engine.load(lowered(
        &format!("*security\n{one}{save}COMMIT\n"),
        Family::V4,
    ));
    send(&mut engine, 1);
    let first = label(&engine);
    assert_ne!(first, 0);
    // Another label of its packets leaves the connection's as it is.
    engine.load(lowered(
        &format!("*security\n{other}{save}COMMIT\n"),
        Family::V4,
    ));
    send(&mut engine, 1);
    assert_eq!(label(&engine), first);
    // The number is the text's.
    let mut again = router(&format!("{one}{save}"));
    send(&mut again, 1);
    assert_eq!(label(&again), first);
    let mut another = router(&format!("{other}{save}"));
    send(&mut another, 1);
    assert_ne!(label(&another), first);
}
