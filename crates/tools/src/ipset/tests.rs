//! What Debian's ipset 7.17 printed for the same commands on Linux 6.18, members sorted.

use super::*;

const NOW: u64 = 1_000_000_000_000;

struct Table(Sets);

impl Table {
    fn new() -> Self {
        Table(Sets::default())
    }

    fn at(&mut self, now: u64, line: &str) -> Printed {
        let words = line::split(line).unwrap();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let users = Users::from([("held".to_owned(), 1)]);
        work(&words, "", &mut self.0, &Ctx { users: &users, now })
    }

    fn run(&mut self, line: &str) -> Printed {
        self.at(NOW, line)
    }

    /// A command that succeeds without a word.
    fn ok(&mut self, line: &str) {
        assert_eq!(self.run(line), Printed::default(), "{line}");
    }

    fn fails(&mut self, line: &str, why: &str) {
        let done = self.run(line);
        assert_eq!(done.err, format!("ipset v7.17: {why}\n"), "{line}");
        assert_eq!(done.status, 1, "{line}");
    }

    fn unknown(&mut self, line: &str, why: &str) {
        let hint = "Try `ipset help' for more information.";
        let done = self.run(line);
        assert_eq!(done.err, format!("ipset v7.17: {why}\n{hint}\n"), "{line}");
        assert_eq!(done.status, 2, "{line}");
    }

    /// The saved members of a set.
    fn members(&mut self, set: &str) -> Vec<String> {
        let saved = self.run(&format!("save {set}")).out;
        let start = format!("add {set} ");
        let lines = saved.lines().filter_map(|l| l.strip_prefix(&start));
        lines.map(str::to_owned).collect()
    }

    fn is_in(&mut self, set: &str, member: &str) -> bool {
        self.run(&format!("test {set} {member}")).status == 0
    }
}

#[test]
fn addresses() {
    let mut t = Table::new();
    t.ok("create a hash:ip");
    let exists = "Set cannot be created: set with the same name already exists";
    t.fails("create a hash:ip", exists);
    t.ok("create a hash:ip -exist");
    t.fails("create a hash:net -exist", exists);
    t.fails("create a hash:ip -exist maxelem 100", exists);
    t.ok("create a hash:ip -exist hashsize 4096");
    t.ok("add a 10.0.0.4/30");
    let added = "Element cannot be added to the set: it's already added";
    t.fails("add a 10.0.0.5", added);
    t.ok("add a 10.0.0.5 -exist");
    t.ok("add a 10.0.1.3-10.0.1.1");
    assert_eq!(
        t.members("a"),
        [
            "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.1.1", "10.0.1.2", "10.0.1.3"
        ]
    );
    t.ok("del a 10.0.0.5");
    t.fails(
        "del a 10.0.0.5",
        "Element cannot be deleted from the set: it's not added",
    );
    t.ok("del a 10.0.0.5 -exist");
    t.fails(
        "add a 0.0.0.0",
        "Null-valued element, cannot be stored in a hash type of set",
    );
    t.fails(
        "add a fe80::1",
        "Syntax error: cannot parse fe80::1: resolving to IPv4 address failed",
    );
    t.fails(
        "add a 1.1.1.1,1.1.1.2",
        "Syntax error: Elem separator in 1.1.1.1,1.1.1.2, but settype hash:ip supports none.",
    );
    t.fails(
        "add a 1.1.1.1 timeout 5",
        "Timeout cannot be used: set was created without timeout support",
    );
    t.unknown("add a 1.1.1.1 nomatch", "Unknown argument: `nomatch'");
    t.unknown("add a", "Missing second mandatory argument to command add");
    t.fails(
        "add b 1.1.1.1",
        "The set with the given name does not exist",
    );
    let found = t.run("test a 10.0.0.4");
    assert_eq!(found.err, "Warning: 10.0.0.4 is in set a.\n");
    let missing = t.run("test a 10.0.0.9");
    assert_eq!(
        (missing.err.as_str(), missing.status),
        ("10.0.0.9 is NOT in set a.\n", 1)
    );
    assert_eq!(t.run("-q test a 10.0.0.9").err, "");
}

#[test]
fn networks() {
    let mut t = Table::new();
    t.ok("create n hash:net");
    t.ok("add n 10.0.0.0/24");
    t.ok("add n 10.0.0.9/24 nomatch -exist");
    assert!(!t.is_in("n", "10.0.0.5"));
    assert!(!t.is_in("n", "10.0.0.0/24"));
    assert!(t.is_in("n", "10.0.0.5 nomatch"));
    t.ok("add n 10.0.0.5");
    assert!(t.is_in("n", "10.0.0.5"));
    t.ok("add n 10.1.0.0-10.1.0.10");
    assert_eq!(
        t.members("n"),
        [
            "10.0.0.0/24 nomatch",
            "10.0.0.5",
            "10.1.0.0/29",
            "10.1.0.8/31",
            "10.1.0.10"
        ]
    );
    t.fails(
        "add n 0.0.0.0/0",
        "The value of the CIDR parameter of the IP address is invalid",
    );
    t.fails(
        "add n 10.0.0.0/33",
        "Syntax error: '33' is out of range 0-32",
    );
    t.fails(
        "add n 0.0.0.0-255.255.255.255",
        "Invalid range, covers the whole address space",
    );
    t.ok("create six hash:net family inet6");
    t.ok("add six 2001:db8::/32");
    assert!(t.is_in("six", "2001:db8:1::7"));
    assert!(!t.is_in("six", "2001:db9::"));
}

#[test]
fn ports() {
    let mut t = Table::new();
    t.ok("create p hash:ip,port");
    for member in [
        "80",
        "udp:53",
        "icmp:echo-request",
        "icmp:5/3",
        "icmp:40/9",
        "gre:0",
        "sctp:5-7",
    ] {
        t.ok(&format!("add p 10.0.0.1,{member}"));
    }
    assert_eq!(
        t.members("p"),
        [
            "10.0.0.1,icmp:TOS-host-redirect",
            "10.0.0.1,icmp:echo-request",
            "10.0.0.1,icmp:40/9",
            "10.0.0.1,tcp:80",
            "10.0.0.1,udp:53",
            "10.0.0.1,gre:0",
            "10.0.0.1,sctp:5",
            "10.0.0.1,sctp:6",
            "10.0.0.1,sctp:7"
        ]
    );
    t.fails(
        "add p 10.0.0.1,gre:5",
        "Syntax error: Protocol gre can be used with pseudo port value 0 only.",
    );
    t.fails(
        "add p 10.0.0.1,foo:5",
        "Syntax error: cannot parse 'foo' as a protocol",
    );
    t.fails(
        "add p 10.0.0.1",
        "Syntax error: Second element is missing from 10.0.0.1.",
    );
    t.fails(
        "add p 10.0.0.1,tcp:70000",
        "Syntax error: '70000' is out of range 0-65535\nSyntax error: 'tcp' is invalid as number\n\
         cannot parse '70000' as a tcp port",
    );
    t.ok("create q hash:ip,port,net");
    t.ok("add q 10.0.0.1-10.0.0.2,udp:5-6,10.0.0.0/25");
    assert_eq!(t.members("q").len(), 4);
    t.ok("create b bitmap:port range 10-20");
    t.ok("add b tcp:12-14");
    t.fails("add b 30", "Element is out of the range of the set");
    assert_eq!(t.members("b"), ["12", "13", "14"]);
}

#[test]
fn what_belongs_to_members() {
    let mut t = Table::new();
    t.ok("create b hash:net timeout 300 counters comment skbinfo maxelem 5 hashsize 64");
    t.ok("add b 10.1.0.0/16 timeout 100 packets 5 bytes 77 comment \"hello world\" skbmark 0x11/0xff skbprio 1:10 skbqueue 3");
    t.ok("add b 10.2.0.0/16 timeout 0 nomatch");
    let later = NOW + 1_500_000_000;
    let listed = t.at(later, "list b").out;
    let end = "Members:\n\
        10.1.0.0/16 timeout 98 packets 5 bytes 77 comment \"hello world\" skbmark 0x11/0xff skbprio 1:10 skbqueue 3\n\
        10.2.0.0/16 timeout 0 nomatch packets 0 bytes 0\n";
    assert!(listed.ends_with(end), "{listed}");
    let header = "Header: family inet hashsize 64 maxelem 5 timeout 300 counters comment skbinfo bucketsize 12 initval ";
    assert!(listed.contains(header), "{listed}");
    let xml = t.at(later, "list b -o xml").out;
    let member = "<member><elem>10.2.0.0/16</elem><timeout>0</timeout><nomatch/><packets>0</packets><bytes>0</bytes></member>";
    assert!(xml.contains(member), "{xml}");
    let over = t.at(NOW + 100_000_000_000, "list b -t").out;
    assert!(over.ends_with("Number of entries: 1\n"), "{over}");
    t.fails(
        "add b 1.1.1.1 skbmark 5",
        "Syntax error: Invalid skbmark format, it should be:  MARK/MASK or MARK (see manpage)",
    );
    t.fails(
        "add b 1.1.1.1 timeout 3000000",
        "Syntax error: '3000000' is out of range 0-2147483",
    );
    t.fails(
        "add b 1.1.1.1 packets 5 packets 6",
        "Syntax error: packets already specified",
    );
    t.ok("create full hash:ip maxelem 1");
    t.ok("add full 1.1.1.1");
    t.fails("add full 1.1.1.2", "Hash is full, cannot add more elements");
    t.ok("create forced hash:ip maxelem 1 forceadd");
    t.ok("add forced 1.1.1.1");
    t.ok("add forced 1.1.1.2");
    assert_eq!(t.members("forced"), ["1.1.1.2"]);
}

#[test]
fn lists_of_sets() {
    let mut t = Table::new();
    for name in ["a", "b", "c", "held"] {
        t.ok(&format!("create {name} hash:ip"));
    }
    t.ok("create l list:set");
    t.ok("add l a");
    t.ok("add l b before a");
    t.ok("add l c after b");
    assert_eq!(t.members("l"), ["b", "c", "a"]);
    t.fails(
        "add l nosuch",
        "Set to be added/deleted/tested as element does not exist.",
    );
    t.fails(
        "add l l",
        "Sets with list:set type cannot be added to the set.",
    );
    t.fails(
        "del l b before a",
        "The set to which you referred with 'before' or 'after' is not added to the set.",
    );
    let used = "Set cannot be destroyed: it is in use by a kernel component";
    t.fails("destroy a", used);
    t.fails("destroy held", used);
    t.fails("destroy", used);
    t.fails(
        "rename a z",
        "Set cannot be renamed: it is in use by another system",
    );
    t.fails(
        "swap a l",
        "The sets cannot be swapped: their type does not match",
    );
    t.ok("add a 1.1.1.1");
    t.ok("swap a b");
    assert_eq!((t.members("a").len(), t.members("b").len()), (0, 1));
    t.ok("destroy l");
    t.ok("destroy a");
    t.ok("rename b z");
    assert_eq!(t.run("list -n").out, "z\nc\nheld\n");
}

#[test]
fn other_types() {
    let mut t = Table::new();
    t.ok("create i hash:net,iface");
    t.ok("add i 10.0.0.0/24,eth0");
    t.ok("add i 10.0.0.0/24,physdev:eth1");
    t.ok("add i 0.0.0.0/0,eth wildcard");
    t.fails(
        "add i 0.0.0.0/0,eth0 nomatch",
        "Element cannot be added to the set: it's already added",
    );
    t.fails(
        "add i 10.0.0.0/24,abcdefghijklmnopqrs",
        "Syntax error: interface name 'abcdefghijklmnopqrs' is longer than 15 characters",
    );
    assert_eq!(
        t.members("i"),
        [
            "0.0.0.0/0,eth wildcard",
            "10.0.0.0/24,eth0",
            "10.0.0.0/24,physdev:eth1"
        ]
    );
    t.ok("create m bitmap:ip,mac range 10.0.0.0/24");
    t.ok("add m 10.0.0.1,00:11:22:33:44:55");
    t.ok("add m 10.0.0.2");
    assert_eq!(t.members("m"), ["10.0.0.1,00:11:22:33:44:55", "10.0.0.2"]);
    assert!(t.is_in("m", "10.0.0.1"));
    assert!(!t.is_in("m", "10.0.0.1,00:11:22:33:44:56"));
    t.ok("create f bitmap:ip range 10.0.0.0/16 netmask 24");
    t.ok("add f 10.0.5.3");
    assert_eq!(t.members("f"), ["10.0.5.0"]);
    t.fails(
        "create x bitmap:ip range 10.0.0.0/8",
        "The range you specified exceeds the size limit of the set type",
    );
    t.unknown("create x bitmap:ip", "Mandatory option `range' is missing");
    t.ok("create k hash:ip,mark markmask 0xff");
    t.ok("add k 10.0.0.1,0x1234");
    assert_eq!(t.members("k"), ["10.0.0.1,0x00000034"]);
    t.ok("create w hash:mac");
    t.ok("add w 0:1:2:3:4:5");
    assert_eq!(t.members("w"), ["00:01:02:03:04:05"]);
    t.ok("create z hash:net,port,net");
    t.ok("add z 10.0.0.0/24,tcp:80,0.0.0.0/0");
    assert!(t.is_in("z", "10.0.0.7,tcp:80,9.9.9.9"));
    assert!(!t.is_in("z", "10.0.0.7,udp:80,9.9.9.9"));
}

#[test]
fn a_saved_text_restores_the_same_or_nothing() {
    let mut t = Table::new();
    t.ok("create a hash:net,port timeout 50 comment counters");
    t.ok("add a 10.0.0.0/8,tcp:80 comment \"two words\"");
    t.ok("create l list:set size 16");
    t.ok("add l a");
    t.ok("create b bitmap:ip range 10.0.0.0-10.0.0.20 netmask 28");
    let saved = save_all(&t.0, NOW);
    let again = read_all(&saved, NOW).unwrap();
    assert_eq!(save_all(&again, NOW), saved);
    let mut none = Table::new();
    let text = "create r hash:ip\nadd r 1.1.1.1\n# remark\n\nadd r 1.1.1.1\n";
    let ctx = Ctx {
        users: &Users::new(),
        now: NOW,
    };
    let done = work(&["restore"], text, &mut none.0, &ctx);
    let why =
        "ipset v7.17: Error in line 5: Element cannot be added to the set: it's already added\n";
    assert_eq!((done.err.as_str(), done.status), (why, 1));
    assert!(none.0.is_empty());
}

#[test]
fn a_huge_range_is_refused_at_once() {
    let mut t = Table::new();
    t.ok("create a hash:ip maxelem 4294967295");
    assert_eq!(t.run("add a 0.0.0.1-255.255.255.255").status, 1);
    t.ok("create f hash:ip");
    t.fails("add f 10.0.0.0/8", "Hash is full, cannot add more elements");
    assert_eq!(t.members("f").len(), 65536);
}
