//! How long `tidegate test` takes for 10,000 expectations against 1,000 rules:
//! `cargo bench -p tidegate --bench expectations`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fmt::Write;
use std::process::Command;
use std::time::Instant;

const RULES: u32 = 1_000;
const EXPECTATIONS: u32 = 10_000;
const ROUNDS: usize = 5;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let mut rules = String::from(
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
    );
    for n in 1..RULES {
        let net = format!("10.{}.{}.0/24", n / 250, n % 250);
        writeln!(
            rules,
            "-A INPUT -s {net} -p tcp -m tcp --dport {} -j ACCEPT",
            1000 + n
        )
        .unwrap();
    }
    rules += "COMMIT\n";
    std::fs::write(dir.path().join("big.rules"), rules).unwrap();
    let mut toml = String::from(
        "rules = \"big.rules\"\n[[interface]]\nname = \"eth0\"\naddresses = [\"192.0.2.1/24\"]\n[[route]]\nto = \"default\"\nvia = \"192.0.2.254\"\n",
    );
    for n in 0..EXPECTATIONS / 2 {
        let rule = 1 + n % (RULES - 1);
        let from = format!("10.{}.{}.{}", rule / 250, rule % 250, 1 + n % 250);
        let port = 1000 + rule;
        writeln!(
            toml,
            "[[test]]\nname = \"{n}\"\nallow = \"tcp {from} > 192.0.2.1:{port} in eth0\"\ndrop = \"tcp {from} > 192.0.2.1:{} in eth0\"",
            port + 1
        )
        .unwrap();
    }
    let file = dir.path().join("big.toml");
    std::fs::write(&file, toml).unwrap();
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let run = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["test", "--min-coverage", "99"])
            .arg(&file)
            .output()
            .unwrap();
        best = best.min(begun.elapsed().as_secs_f64());
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{said}");
        print!("{said}");
    }
    println!(
        "{EXPECTATIONS} expectations, {RULES} rules: {best:.3} s, start and end of the program included"
    );
}
