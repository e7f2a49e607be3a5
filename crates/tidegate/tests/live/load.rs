//! Connections that are busy all the time, and those who ask for what rules forbid.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tidegate_sys::Namespace;

use crate::busy::Busy;
use crate::host::Host;

/// Bytes written at a time.
const PIECE: usize = 8 << 10;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// The bytes of a stream from `at`, no two pieces of which are alike.
pub(crate) fn content(at: u64, len: usize) -> Vec<u8> {
    let byte = |i: u64| ((i.wrapping_mul(0x9e37_79b1) >> 24) ^ (i >> 13)) as u8;
    (at..at + len as u64).map(byte).collect()
}

/// Writes the stream's bytes until told to end; returns how many.
pub(crate) fn write(mut to: TcpStream, pause: Duration) -> Busy<io::Result<u64>> {
    to.set_write_timeout(Some(PATIENCE)).unwrap();
    Busy::start(move |ends| {
        let mut at = 0;
        while !ends.load(Ordering::Relaxed) {
            to.write_all(&content(at, PIECE))?;
            at += PIECE as u64;
            thread::sleep(pause);
        }
        to.shutdown(std::net::Shutdown::Write)?;
        Ok(at)
    })
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) bytes: u64,
    /// The longest silence in between.
    pub(crate) silence: Duration,
}

/// Reads the stream's bytes to its end; `progress` says how many there are so far.
pub(crate) fn read(mut from: TcpStream, progress: Arc<AtomicU64>) -> JoinHandle<io::Result<Heard>> {
    from.set_read_timeout(Some(PATIENCE)).unwrap();
    thread::spawn(move || {
        let (mut bytes, mut silence, mut last) = (0, Duration::ZERO, Instant::now());
        let mut buffer = vec![0; PIECE];
        loop {
            let len = from.read(&mut buffer)?;
            silence = silence.max(last.elapsed());
            last = Instant::now();
            if len == 0 {
                return Ok(Heard { bytes, silence });
            }
            assert!(
                buffer[..len] == content(bytes, len),
                "other bytes near {bytes}"
            );
            bytes += len as u64;
            progress.store(bytes, Ordering::Relaxed);
        }
    })
}

/// A connection on which both ends talk all the time.
pub(crate) struct Talk {
    writers: [Busy<io::Result<u64>>; 2],
    readers: [JoinHandle<io::Result<Heard>>; 2],
    progress: [Arc<AtomicU64>; 2],
}

impl Talk {
    /// `from` calls `to`, which listens at `at`.
    pub(crate) fn start(from: &Host, to: &Host, at: &str) -> Self {
        let listener = to.listen(at);
        let caller = from.connect(at).unwrap();
        let called = listener.accept().unwrap().0;
        let progress = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let ends = [&caller, &called].map(|end| end.try_clone().unwrap());
        let writers = ends.map(|end| write(end, Duration::from_millis(2)));
        let [first, second] = progress.clone();
        let readers = [read(called, first), read(caller, second)];
        Talk {
            writers,
            readers,
            progress,
        }
    }

    /// Bytes that have arrived at the one called, and the caller.
    pub(crate) fn progress(&self) -> [u64; 2] {
        self.progress.each_ref().map(|p| p.load(Ordering::Relaxed))
    }

    /// Ends it; everything must have arrived. The longest silence.
    pub(crate) fn end(self) -> Duration {
        let written = self.writers.map(|w| w.end().unwrap());
        let heard = self.readers.map(|r| r.join().unwrap().unwrap());
        assert_eq!(heard.each_ref().map(|h| h.bytes), written);
        heard.map(|h| h.silence).into_iter().max().unwrap()
    }
}

/// Somebody at each end who asks for what no rule allows.
pub(crate) struct Intruders {
    askers: [Busy<u32>; 2],
    asked: [UdpSocket; 2],
    caller: Busy<u32>,
    called: TcpListener,
}

impl Intruders {
    pub(crate) fn start(client: &Host, server: &Host) -> Self {
        let [inside, outside] = [server, client].map(|host| {
            let socket = host.udp("0.0.0.0:9");
            socket.set_nonblocking(true).unwrap();
            socket
        });
        let ask = |host: &Host, to: &'static str| {
            let socket = host.udp("0.0.0.0:0");
            Busy::start(move |ends| {
                let mut sent = 0;
                while !ends.load(Ordering::Relaxed) {
                    // Who is told that it cannot be goes on all the same.
                    let _ = socket.send_to(b"let me in", to);
                    sent += 1;
                    thread::sleep(Duration::from_millis(1));
                }
                sent
            })
        };
        let called = server.listen("0.0.0.0:7002");
        called.set_nonblocking(true).unwrap();
        let space = client.run(Namespace::current).unwrap();
        let caller = Busy::start(move |ends| {
            let to = "10.0.0.1:7002".parse().unwrap();
            let mut calls = 0;
            while !ends.load(Ordering::Relaxed) {
                let called =
                    space.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(20)));
                assert!(called.is_err(), "nobody may call");
                calls += 1;
            }
            calls
        });
        Intruders {
            askers: [ask(client, "10.0.0.1:9"), ask(server, "10.0.0.2:9")],
            asked: [inside, outside],
            caller,
            called,
        }
    }

    /// None has got through.
    pub(crate) fn end(self) {
        for (asker, asked) in self.askers.into_iter().zip(self.asked) {
            assert!(asker.end() > 300);
            assert!(asked.recv(&mut [0; 16]).is_err(), "a datagram got through");
        }
        assert!(self.caller.end() > 30);
        assert!(self.called.accept().is_err());
    }
}
