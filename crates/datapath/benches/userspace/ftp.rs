//! FTP control connections through a router that follows them and masquerades: a client's lines,
//! of which one in eight announces an address, and a server's answers.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::measure::processor;
use crate::net::{self, Host};
use crate::place::{Case, Firewall, Place};
use crate::{Figures, held, measured_place};

/// Connections at a time, and lines that each of them sends in a round.
const CONNECTIONS: usize = 64;
const LINES: usize = 400;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

/// With and without the helper and translation.
const RULES: [(&str, &str); 2] = [
    ("ftp, no helper", ""),
    (
        "ftp, helper and MASQUERADE",
        "*raw\n-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp\nCOMMIT\n\
         *nat\n-A POSTROUTING -o eth1 -j MASQUERADE\nCOMMIT\n",
    ),
];

/// Client's ends of connections whose server answers every line.
struct Talk(Vec<BufReader<TcpStream>>);

impl Talk {
    fn new(place: &Place) -> Self {
        let (inside, outside): (&Host, &Host) = (&place.inside, &place.outside);
        inside.sh("ip addr add 10.0.0.2/24 dev eth0; ip route add default via 10.0.0.1");
        outside.sh("ip addr add 10.1.0.2/24 dev eth0; ip route add default via 10.1.0.1");
        let address = SocketAddr::from((SERVER, 21));
        let listener = outside.run(|| TcpListener::bind(address).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming().take(CONNECTIONS) {
                thread::spawn(move || answer(stream.unwrap()));
            }
        });
        let connect = |_| {
            let stream = inside.run(|| TcpStream::connect(address).unwrap());
            stream.set_nodelay(true).unwrap();
            BufReader::new(stream)
        };
        Talk((0..CONNECTIONS).map(connect).collect())
    }

    /// Says a line on all connections, then hears all answers, over and over; returns the
    /// processor's time of an exchange, and of that the datapath's thread's.
    fn measure(&mut self) -> (f64, f64) {
        let before = processor();
        let mut heard = String::new();
        for n in 0..LINES {
            for (at, one) in self.0.iter_mut().enumerate() {
                let line = match (n + at) % 8 {
                    0 => {
                        let host = CLIENT.to_string().replace('.', ",");
                        format!("PORT {host},{},{}\r\n", 80 + at, n % 256)
                    }
                    _ => "NOOP\r\n".to_owned(),
                };
                one.get_mut().write_all(line.as_bytes()).unwrap();
            }
            for one in &mut self.0 {
                heard.clear();
                one.read_line(&mut heard).unwrap();
                assert!(heard.starts_with("200 "), "{heard}");
            }
        }
        let after = processor();
        let each = |i: usize| (after[i] - before[i]) as f64 / (LINES * CONNECTIONS) as f64;
        (each(0), each(1))
    }
}

/// Answers lines until there are no more.
fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(read) = stream.try_clone() else { return };
    for line in BufReader::new(read).lines() {
        if line.is_err() || stream.write_all(b"200 Fine.\r\n").is_err() {
            return;
        }
    }
}

/// Measures all.
pub(crate) fn run(rounds: usize) {
    println!(
        "\n| FTP control | firewall | ns an exchange | of that the datapath's thread | ratio to the kernel alone | from, to | memory, MB |"
    );
    println!("|---|---|--:|--:|--:|---|--:|");
    for (name, more) in RULES {
        for firewall in crate::firewalls() {
            if let Err(why) = compare(name, more, firewall, rounds) {
                net::skipped(&format!("{name}, {}: {why}", firewall.name()));
            }
        }
    }
}

fn compare(
    name: &str,
    more: &'static str,
    firewall: Firewall,
    rounds: usize,
) -> Result<(), String> {
    let case = Case {
        // No datagrams are sent, so that none can settle.
        fresh: true,
        more,
        ..Case::new("ftp", 1, 100)
    };
    let plain = Place::new(&case, Firewall::None)?;
    let (place, before) = measured_place(&case, firewall)?;
    let (mut base, mut talk) = (Talk::new(&plain), Talk::new(&place));
    let mut figures = Figures::default();
    for _ in 0..rounds {
        let alone = base.measure().0;
        let (took, own) = talk.measure();
        figures.add(took, own, alone);
    }
    println!(
        "| {name} | {} | {} | {:.1} |",
        firewall.name(),
        figures.cells(),
        held(firewall, &place, before)
    );
    drop((base, talk));
    place.end();
    plain.end();
    Ok(())
}
