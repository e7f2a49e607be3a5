//! The lints: codes, what they mean, an example of each and when they stay silent.

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Worth knowing.
    Note,
    /// Most likely not what was meant.
    Warning,
    /// Cuts something off that has to work.
    Error,
}

impl Level {
    /// In one word.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// A lint.
#[derive(Debug)]
pub(crate) struct Lint {
    /// Stable code.
    pub(crate) code: &'static str,
    /// How bad it is.
    pub(crate) level: Level,
    /// What it finds.
    pub(crate) what: &'static str,
    /// When it says nothing, although one might think.
    pub(crate) silent: &'static str,
    /// Rules that have it: chains as `iptables -A` and `-P` have them, per table.
    pub(crate) example: Example,
}

/// Rules with a finding.
#[derive(Debug)]
pub(crate) struct Example {
    /// IPv6 rules.
    pub(crate) v6: bool,
    /// As a rules file.
    pub(crate) rules: &'static str,
}

const fn v4(rules: &'static str) -> Example {
    Example { v6: false, rules }
}

const fn v6(rules: &'static str) -> Example {
    Example { v6: true, rules }
}

/// All of them, by code.
pub(crate) const LINTS: &[Lint] = &[
    Lint {
        code: "TG000",
        level: Level::Note,
        what: "Whether some rules can match is unknown: they tell more combinations of packets apart than can be followed.",
        silent: "Where all packets at once are too many (three million diagram nodes), rules are looked at one by one.",
        example: v4(""),
    },
    Lint {
        code: "TG003",
        level: Level::Error,
        what: "A chain whose policy is DROP has no rules: everything stops there, as after `iptables -F`.",
        silent: "FORWARD may be like that: a host that does not forward needs no rules for it.",
        example: v4(
            "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG010",
        level: Level::Warning,
        what: "A rule can never match: earlier rules take all of its packets and treat them otherwise.",
        silent: "Proved over all packets; a rule that is only covered while some limit lasts is not reported.",
        example: v4(
            "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -j REJECT\n-A INPUT -p tcp -m tcp --dport 443 -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG011",
        level: Level::Warning,
        what: "Of the connection states a rule is for, only INVALID or UNTRACKED packets can get to it.",
        silent: "Rules that ask for these states themselves.",
        example: v4(
            "*filter\n:INPUT ACCEPT [0:0]\n:fail2ban-ssh - [0:0]\n-A INPUT -m conntrack --ctstate RELATED -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j fail2ban-ssh\n-A fail2ban-ssh -s 192.0.2.1/32 -j DROP\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG012",
        level: Level::Warning,
        what: "No packet that can be at this place fulfils the rule's conditions.",
        silent: "Says nothing about conditions that keep state.",
        example: v4(
            "*filter\n:INPUT ACCEPT [0:0]\n:web - [0:0]\n-A INPUT -p tcp -j web\n-A web -p udp -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG013",
        level: Level::Note,
        what: "A chain with rules is never used.",
        silent: "Empty chains, which daemons keep for themselves.",
        example: v4("*filter\n:INPUT ACCEPT [0:0]\n:old - [0:0]\n-A old -p tcp -j DROP\nCOMMIT\n"),
    },
    Lint {
        code: "TG014",
        level: Level::Note,
        what: "A rule is redundant: earlier rules take all of its packets and treat them alike.",
        silent: "As TG010.",
        example: v4(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 20:25 -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG020",
        level: Level::Warning,
        what: "INPUT refuses by default, and nothing lets in what this host sends to itself over lo.",
        silent: "Local services that no connection over lo reaches are not known; allow it where there are none.",
        example: v4(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG021",
        level: Level::Warning,
        what: "INPUT refuses by default, and no rule can let in answers to what this host asks.",
        silent: "Where any answer to a UDP or TCP question can be accepted.",
        example: v4(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG022",
        level: Level::Note,
        what: "The rule that accepts ESTABLISHED comes late, although nearly all packets match it.",
        silent: "Up to position 5. Whether it can move is proved, not assumed.",
        example: v4(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 25 -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 443 -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG023",
        level: Level::Note,
        what: "A rule refuses a service over loopback that programs of this host reach by a unix socket as well, which no rule sees.",
        silent: "Rules that also match what comes from elsewhere, that no packet reaches, or that name more than 16 ports; services that are not known to have such a socket.",
        example: v4(
            "*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -d 127.0.0.1/32 -p tcp -m tcp --dport 3306 -m owner ! --uid-owner 33 -j REJECT --reject-with tcp-reset\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG040",
        level: Level::Warning,
        what: "FTP is let in or through, but no rule gives its connections the ftp helper: data connections are unknown.",
        silent: "Where rules open the passive ports themselves (a range of ten or more ports above 1023).",
        example: v4(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 21 -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG042",
        level: Level::Note,
        what: "A helper is in use, and RELATED is accepted whatever it is: everything that the helper expects comes in.",
        silent: "Where the rule narrows RELATED by protocol, port or address.",
        example: v4(
            "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 21 -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG043",
        level: Level::Warning,
        what: "A rule is about connections of a helper that no rule of the table raw gives to any connection.",
        silent: "Inverted tests; rules for a helper whose module is loaded for a port are reported as well, since files do not say so: allow them.",
        example: v4(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A INPUT -p icmp -j ACCEPT\n-A INPUT -m helper --helper ftp -m conntrack --ctstate RELATED -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG052",
        level: Level::Warning,
        what: "One direction of a service is exempted from tracking and the other is not.",
        silent: "Rules without a port.",
        example: v4(
            "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 1234 -j NOTRACK\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG053",
        level: Level::Warning,
        what: "A translation can never see packets, because raw exempts all of them from tracking.",
        silent: "Proved over all packets.",
        example: v4(
            "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING -p udp -j NOTRACK\n-A OUTPUT -p udp -j NOTRACK\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -m udp --dport 53 -j DNAT --to-destination 192.0.2.53\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG064",
        level: Level::Warning,
        what: "New connections come in by their source port alone, which the sender chooses.",
        silent: "Rules that also ask for a destination port or a state without NEW; DHCP (67, 68) and multicast DNS.",
        example: v4(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p tcp -m tcp --sport 80 -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG071",
        level: Level::Warning,
        what: "INPUT refuses by default, and no rule can let in the ICMP errors that path MTU discovery needs.",
        silent: "Where any such error of a known connection can be accepted.",
        example: v4(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG080",
        level: Level::Warning,
        what: "IPv4 INPUT refuses by default and IPv6 INPUT accepts everything: what listens on :: is open.",
        silent: "Only where both families are given.",
        example: v4(""),
    },
    Lint {
        code: "TG081",
        level: Level::Error,
        what: "IPv6 INPUT drops neighbour discovery: the link stops working.",
        silent: "Where some solicitation and some advertisement can be accepted.",
        example: v6(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG090",
        level: Level::Warning,
        what: "An INPUT rule refuses what a DNAT rule sends elsewhere before: the packets go through FORWARD and never see it.",
        silent: "Rules that refuse everything or name no destination port.",
        example: v4(
            "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.4:3000\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 8080 -j DROP\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG120",
        level: Level::Warning,
        what: "A limited ACCEPT without effect: what exceeds the limit is accepted by what follows.",
        silent: "Where something behind it can stop one of its packets.",
        example: v4(
            "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p icmp -m icmp --icmp-type 8 -m limit --limit 1/second -j ACCEPT\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG121",
        level: Level::Note,
        what: "Hours in a rule are UTC, and this host's clock shows others.",
        silent: "Where the rule says UTC in a comment or uses --kerneltz, and on hosts whose time zone is UTC.",
        example: v4(""),
    },
    Lint {
        code: "TG122",
        level: Level::Note,
        what: "A destination port is excluded, and answers match too: their destination port is the client's.",
        silent: "Rules that ask for a state without ESTABLISHED, or come after ESTABLISHED has been accepted.",
        example: v4(
            "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m multiport ! --dports 80,443 -j DROP\nCOMMIT\n",
        ),
    },
    Lint {
        code: "TG124",
        level: Level::Note,
        what: "A LOG rule without a limit: whoever sends fast enough fills the log.",
        silent: "Rules in chains that are only entered through a limit are reported as well; allow them.",
        example: v4(
            "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 23 -j LOG\nCOMMIT\n",
        ),
    },
];

/// Something that other commands, or other parts of `check`, say with a code.
#[derive(Debug)]
pub(crate) struct Said {
    /// Stable code.
    pub(crate) code: &'static str,
    /// Which commands.
    pub(crate) by: &'static str,
    /// What it means.
    pub(crate) what: &'static str,
}

/// All of them, by code.
pub(crate) const ELSEWHERE: &[Said] = &[
    Said {
        code: "TG001",
        by: "`apply`",
        what: "The rules would lock somebody out; they are not applied.",
    },
    Said {
        code: "TG002",
        by: "`apply`",
        what: "TCP connections of this host are unknown to connection tracking; their next packet is NEW.",
    },
    Said {
        code: "TG021",
        by: "`explain`, `replay`",
        what: "A rule refused a packet of a connection that was let through.",
    },
    Said {
        code: "TG030",
        by: "`status`",
        what: "The connection table is nearly full: how soon, and with whose connections.",
    },
    Said {
        code: "TG031",
        by: "`status`",
        what: "The connection table may hold many times more connections than it has buckets.",
    },
    Said {
        code: "TG040",
        by: "`replay`, `explain --capture`",
        what: "FTP announced a data connection, and rules refused it because no helper was watching.",
    },
    Said {
        code: "TG041",
        by: "`check`, of files that are refused",
        what: "A target stands in a table other than raw, which is the only one that takes it.",
    },
    Said {
        code: "TG050",
        by: "`explain`, `replay`",
        what: "INVALID because the beginning of the connection was not seen: asymmetric routing.",
    },
    Said {
        code: "TG051",
        by: "`explain`, `replay`",
        what: "INVALID because a TCP segment is outside the window that was seen; it is not translated either.",
    },
    Said {
        code: "TG060",
        by: "`apply`",
        what: "Connections follow a translation that the new rules do not make any more.",
    },
    Said {
        code: "TG070",
        by: "`explain --course`",
        what: "A server would answer a client on its own link past this host.",
    },
    Said {
        code: "TG071",
        by: "`explain`, `replay`",
        what: "A rule refused an ICMP error that path MTU discovery needs.",
    },
    Said {
        code: "TG100",
        by: "`status`",
        what: "The rules in force are not those in the rules files.",
    },
    Said {
        code: "TG110",
        by: "`status`",
        what: "The kernel has packet filters of its own, which packets pass as well.",
    },
    Said {
        code: "TG125",
        by: "`check`, of files that are refused",
        what: "A match or a port without the protocol that it needs.",
    },
];

/// The lint with that code.
pub(crate) fn lint(code: &str) -> Option<&'static Lint> {
    LINTS.iter().find(|l| l.code == code)
}
