//! Long listings come in pieces, and the table may change between them.

use std::io;

use tidegate_conntrack::Cursor;
use tidegate_tools::{HostNames, Sink};

use crate::local::{Local, tool};

fn fill(local: &Local, count: u32) {
    for i in 0..count {
        let [_, _, b, c] = i.to_be_bytes();
        local.lines(&format!(
            "-I -s 10.0.{b}.{c} -d 192.0.2.1 -p udp --sport 1 --dport 2 -t 100"
        ));
    }
}

#[test]
fn everything_that_stays_is_shown_once() {
    let local = Local::small();
    fill(&local, 1000);
    let (mut next, mut shown, mut round) = (Some(Cursor::default()), Vec::new(), 0);
    while let Some(cursor) = next {
        local.change(|ct, now| {
            let (entries, after) = ct.piece(cursor, 100);
            shown.extend(entries.map(|(id, _)| id));
            next = after;
            // Something goes and something comes between two pieces.
            let last = ct.iter().last().map(|(id, _)| id).unwrap();
            assert!(ct.delete_by_hand(now, last));
        });
        local.lines(&format!(
            "-I -s 9.9.9.{round} -d 192.0.2.1 -p udp --sport 1 --dport 2 -t 100"
        ));
        round += 1;
    }
    let distinct: std::collections::BTreeSet<_> = shown.iter().collect();
    assert_eq!(distinct.len(), shown.len());
    assert!(round >= 10);
    let stayed = local.change(|ct, _| shown.iter().filter(|id| ct.entry(**id).is_some()).count());
    assert!(
        stayed >= 1000 - round,
        "{stayed} of 1000 after {round} pieces"
    );
}

/// Counts how often it is written to, and goes away after the third time.
struct Reader(usize);

impl Sink for Reader {
    fn out(&mut self, text: &str) -> io::Result<()> {
        if !text.is_empty() {
            self.0 += 1;
        }
        if self.0 == 3 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
    fn err(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn stopped(&self) -> bool {
        false
    }
}

#[test]
fn a_reader_that_goes_ends_the_listing() {
    let local = Local::small();
    fill(&local, 5000);
    let mut reader = Reader(0);
    let status = tool().run_to(&["-L"], "", &local, &HostNames::default(), &mut reader);
    assert_eq!((status, reader.0), (1, 3));
}
