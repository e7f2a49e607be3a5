//! NFLOG's packets in capture files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tidegate_capture::{LinkType, Payload, Reader};
use tidegate_ir::Hook;
use tidegate_logs::Logs;

use crate::common::{at, eventually, nflog, packet, quiet};

/// Time, interface, captured bytes and original length of every packet.
fn read(path: &Path) -> Vec<(u64, String, Vec<u8>, u32)> {
    let mut reader = Reader::new("test", File::open(path).unwrap());
    let mut all = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        assert_eq!(frame.interface.link, LinkType::Raw);
        assert!(matches!(frame.network_packet().payload, Payload::Ip(_)));
        let name = frame.interface.name.clone().unwrap_or_default();
        all.push((frame.time_ns, name, frame.data.to_vec(), frame.original_len));
    }
    all
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn each_group_has_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let config = quiet(directory.path());
    let captures = config.nflog.directory.clone();
    let logs = Logs::start(config).unwrap();
    let handle = logs.handle();
    for (ms, group, hook, kept) in [
        (0, 5, Hook::Forward, 44),
        (1, 0, Hook::Input, 24),
        (2, 5, Hook::Output, 44),
    ] {
        handle.log(at(ms), &nflog(packet(group, hook, kept)));
    }
    eventually(|| logs.status().captures.written == 3);
    let whole = |ms, name: &str| {
        let bytes = packet(5, Hook::Forward, 44).bytes;
        (at(ms), name.to_owned(), bytes, 44)
    };
    assert_eq!(
        read(&captures.join("nflog-5.pcapng")),
        [whole(0, "eth0"), whole(2, "eth1")]
    );
    let cut = read(&captures.join("nflog-0.pcapng"));
    assert_eq!((cut[0].2.len(), cut[0].3), (24, 44));
}

#[test]
fn files_are_bounded_and_each_can_be_read_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = quiet(directory.path());
    config.nflog.size = 20_000;
    config.nflog.keep = 3;
    let captures = config.nflog.directory.clone();
    let logs = Logs::start(config).unwrap();
    for i in 0..2000 {
        let mut copy = packet(7, Hook::Forward, 44);
        copy.len = i as u32 + 44;
        logs.handle().log(at(i), &nflog(copy));
    }
    drop(logs);
    let files = files(&captures);
    let names: Vec<_> = files
        .iter()
        .map(|f| f.file_name().unwrap().to_str().unwrap())
        .collect();
    let wanted = [
        "nflog-7.1.pcapng",
        "nflog-7.2.pcapng",
        "nflog-7.3.pcapng",
        "nflog-7.pcapng",
    ];
    assert_eq!(names, wanted);
    let mut last = 2044;
    for file in [3, 0, 1, 2].map(|i| &files[i]) {
        assert!(fs::metadata(file).unwrap().len() <= 20_000);
        for (.., len) in read(file).iter().rev() {
            assert_eq!(*len, last - 1, "a packet is missing");
            last = *len;
        }
    }
}

#[test]
fn a_new_start_goes_on_in_the_file_unless_it_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let config = quiet(directory.path());
    let captures = config.nflog.directory.clone();
    let path = captures.join("nflog-5.pcapng");
    let run = || {
        let logs = Logs::start(config.clone()).unwrap();
        let output = nflog(packet(5, Hook::Forward, 44));
        logs.handle().log(at(0), &output);
    };
    run();
    run();
    assert_eq!(read(&path).len(), 2);
    // As if the last writer had died while it wrote.
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 3).unwrap();
    run();
    assert_eq!(read(&path).len(), 1);
    assert!(captures.join("nflog-5.1.pcapng").exists());
}

#[test]
fn the_number_of_groups_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = quiet(directory.path());
    config.nflog.groups = 3;
    let captures = config.nflog.directory.clone();
    let logs = Logs::start(config).unwrap();
    for group in 0..9 {
        let output = nflog(packet(group, Hook::Forward, 44));
        logs.handle().log(at(0), &output);
    }
    eventually(|| logs.status().captures.lost == 6);
    assert_eq!(files(&captures).len(), 3);
    let why = logs.status().captures.last_error.unwrap();
    assert!(why.contains("group 8"), "{why}");
}
