//! The helpers' modules and their parameters.

use tidegate_conntrack::{Config, HelperKind, HelperPort, HelperSettings};

/// A parameter of a module besides `ports`.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// Sets it; `None` when the text is no value for it.
    pub(super) set: fn(&mut HelperSettings, &str) -> Option<()>,
    /// Makes it what it is in other settings.
    reset: fn(&mut HelperSettings, &HelperSettings),
}

/// A helper's module.
pub(super) struct Module {
    pub(super) name: &'static str,
    /// Other names it is loaded by.
    pub(super) aliases: &'static [&'static str],
    pub(super) description: &'static str,
    /// The helpers it brings.
    pub(super) kinds: &'static [HelperKind],
    /// It takes `ports`.
    pub(super) ports: bool,
    pub(super) parameters: &'static [Parameter],
}

pub(super) const MODULES: &[Module] = &[
    Module {
        name: "nf_conntrack_ftp",
        aliases: &[
            "ip_conntrack_ftp",
            "nf_nat_ftp",
            "ip_nat_ftp",
            "nfct_helper_ftp",
        ],
        description: "Follows FTP control connections to the data connections they announce",
        kinds: &[HelperKind::Ftp],
        ports: true,
        parameters: &[Parameter {
            name: "loose",
            about: "expect data connections with hosts other than the server and its client (bool)",
            set: |to, text| boolean(text).map(|on| to.ftp_loose = on),
            reset: |to, usual| to.ftp_loose = usual.ftp_loose,
        }],
    },
    Module {
        name: "nf_conntrack_tftp",
        aliases: &[
            "ip_conntrack_tftp",
            "nf_nat_tftp",
            "ip_nat_tftp",
            "nfct_helper_tftp",
        ],
        description: "Expects the answers to TFTP requests, from whatever port",
        kinds: &[HelperKind::Tftp],
        ports: true,
        parameters: &[],
    },
    Module {
        name: "nf_conntrack_irc",
        aliases: &[
            "ip_conntrack_irc",
            "nf_nat_irc",
            "ip_nat_irc",
            "nfct_helper_irc",
        ],
        description: "Expects the DCC connections that IRC clients offer to each other",
        kinds: &[HelperKind::Irc],
        ports: true,
        parameters: &[
            Parameter {
                name: "max_dcc_channels",
                about: "most connections expected at a time, 8 unless given (uint)",
                set: |to, text| {
                    let most = text.parse().ok().filter(|n| *n > 0);
                    most.map(|n| to.irc_max_dcc_channels = n)
                },
                reset: |to, usual| to.irc_max_dcc_channels = usual.irc_max_dcc_channels,
            },
            Parameter {
                name: "dcc_timeout",
                about: "seconds they are expected, 300 unless given (uint)",
                set: |to, text| text.parse().ok().map(|n| to.irc_dcc_timeout = n),
                reset: |to, usual| to.irc_dcc_timeout = usual.irc_dcc_timeout,
            },
        ],
    },
    Module {
        name: "nf_conntrack_netbios_ns",
        aliases: &["ip_conntrack_netbios_ns", "nfct_helper_netbios_ns"],
        description: "Expects the answers to NetBIOS name queries by broadcast",
        kinds: &[HelperKind::NetbiosNs],
        ports: false,
        parameters: &[Parameter {
            name: "timeout",
            about: "seconds answers are expected, 3 unless given (uint)",
            set: |to, text| text.parse().ok().map(|n| to.netbios_timeout = n),
            reset: |to, usual| to.netbios_timeout = usual.netbios_timeout,
        }],
    },
    Module {
        name: "nf_conntrack_snmp",
        aliases: &["nfct_helper_snmp"],
        description: "Expects the answers to SNMP queries by broadcast",
        kinds: &[HelperKind::Snmp],
        ports: false,
        parameters: &[Parameter {
            name: "timeout",
            about: "seconds answers are expected, 30 unless given (uint)",
            set: |to, text| text.parse().ok().map(|n| to.snmp_timeout = n),
            reset: |to, usual| to.snmp_timeout = usual.snmp_timeout,
        }],
    },
    Module {
        name: "nf_nat_snmp_basic",
        aliases: &["ip_nat_snmp_basic", "nfct_helper_snmp_trap"],
        description: "Translates the addresses in SNMP traps",
        kinds: &[HelperKind::SnmpTrap],
        ports: false,
        parameters: &[],
    },
    Module {
        name: "nf_conntrack_amanda",
        aliases: &[
            "ip_conntrack_amanda",
            "nf_nat_amanda",
            "ip_nat_amanda",
            "nfct_helper_amanda",
        ],
        description: "Expects the data connections of Amanda backups",
        kinds: &[HelperKind::Amanda],
        ports: false,
        parameters: &[Parameter {
            name: "master_timeout",
            about: "seconds the control connection lives after a reply, 300 unless given (uint)",
            set: |to, text| text.parse().ok().map(|n| to.amanda_master_timeout = n),
            reset: |to, usual| to.amanda_master_timeout = usual.amanda_master_timeout,
        }],
    },
    Module {
        name: "nf_conntrack_sane",
        aliases: &["nfct_helper_sane"],
        description: "Expects the data connections of network scanners",
        kinds: &[HelperKind::Sane],
        ports: true,
        parameters: &[],
    },
    Module {
        name: "nf_conntrack_pptp",
        aliases: &[
            "ip_conntrack_pptp",
            "nf_nat_pptp",
            "ip_nat_pptp",
            "nfct_helper_pptp",
        ],
        description: "Expects the GRE tunnels that PPTP announces",
        kinds: &[HelperKind::Pptp],
        ports: false,
        parameters: &[],
    },
    Module {
        name: "nf_conntrack_sip",
        aliases: &[
            "ip_conntrack_sip",
            "nf_nat_sip",
            "ip_nat_sip",
            "nfct_helper_sip",
        ],
        description: "Expects the calls and media that SIP announces",
        kinds: &[HelperKind::Sip],
        ports: true,
        parameters: &[
            Parameter {
                name: "sip_timeout",
                about: "seconds a signalling connection lives after a packet, 3600 unless given (uint)",
                set: |to, text| text.parse().ok().map(|n| to.sip_timeout = n),
                reset: |to, usual| to.sip_timeout = usual.sip_timeout,
            },
            Parameter {
                name: "sip_direct_signalling",
                about: "expect calls from the registrar only, 1 unless given (int)",
                set: |to, text| boolean(text).map(|on| to.sip_direct_signalling = on),
                reset: |to, usual| to.sip_direct_signalling = usual.sip_direct_signalling,
            },
            Parameter {
                name: "sip_direct_media",
                about: "expect media between the ends of the signalling only, 1 unless given (int)",
                set: |to, text| boolean(text).map(|on| to.sip_direct_media = on),
                reset: |to, usual| to.sip_direct_media = usual.sip_direct_media,
            },
            Parameter {
                name: "sip_external_media",
                about: "leave media alone that go by the interface of the signalling (int)",
                set: |to, text| boolean(text).map(|on| to.sip_external_media = on),
                reset: |to, usual| to.sip_external_media = usual.sip_external_media,
            },
        ],
    },
    Module {
        name: "nf_conntrack_h323",
        aliases: &[
            "ip_conntrack_h323",
            "nf_nat_h323",
            "ip_nat_h323",
            "nfct_helper_RAS",
            "nfct_helper_Q.931",
            "nfct_helper_H.245",
        ],
        description: "Expects the calls and media that H.323 announces",
        kinds: &[HelperKind::Ras, HelperKind::Q931, HelperKind::H245],
        ports: false,
        parameters: &[
            Parameter {
                name: "default_rrq_ttl",
                about: "seconds a registration lasts that does not say so, 300 unless given (uint)",
                set: |to, text| text.parse().ok().map(|n| to.h323_default_rrq_ttl = n),
                reset: |to, usual| to.h323_default_rrq_ttl = usual.h323_default_rrq_ttl,
            },
            Parameter {
                name: "gkrouted_only",
                about: "expect calls from the gatekeeper only, 1 unless given (int)",
                set: |to, text| boolean(text).map(|on| to.h323_gkrouted_only = on),
                reset: |to, usual| to.h323_gkrouted_only = usual.h323_gkrouted_only,
            },
            Parameter {
                name: "callforward_filter",
                about: "leave forwarded calls alone that go by the same router, 1 unless given (bool)",
                set: |to, text| boolean(text).map(|on| to.h323_callforward_filter = on),
                reset: |to, usual| to.h323_callforward_filter = usual.h323_callforward_filter,
            },
        ],
    },
];

/// Kernel modules whose work is always done here.
const BUILT_IN: [&str; 24] = [
    "ip_tables",
    "ip6_tables",
    "x_tables",
    "iptable_filter",
    "iptable_nat",
    "iptable_mangle",
    "iptable_raw",
    "iptable_security",
    "ip6table_filter",
    "ip6table_nat",
    "ip6table_mangle",
    "ip6table_raw",
    "ip6table_security",
    "nf_conntrack",
    "nf_conntrack_ipv4",
    "nf_conntrack_ipv6",
    "nf_conntrack_netlink",
    "ip_conntrack",
    "nf_nat",
    "nf_nat_ipv4",
    "nf_nat_ipv6",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_log_syslog",
];
/// The same for extensions.
const BUILT_IN_FAMILIES: [&str; 3] = ["ipt_", "ip6t_", "xt_"];

pub(super) fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// Names of all helpers that modules bring.
pub fn helpers() -> impl Iterator<Item = &'static str> {
    MODULES.iter().flat_map(|m| m.kinds).map(|k| k.name())
}

pub(super) fn find(name: &str) -> Option<&'static Module> {
    let name = plain(name);
    MODULES
        .iter()
        .find(|m| m.name == name || m.aliases.contains(&name.as_str()))
}

pub(super) fn built_in(name: &str) -> bool {
    let name = plain(name);
    BUILT_IN.contains(&name.as_str()) || BUILT_IN_FAMILIES.iter().any(|f| name.starts_with(f))
}

impl Module {
    pub(super) fn loaded(&self, config: &Config) -> bool {
        config.helpers.iter().any(|h| self.kinds.contains(&h.kind))
    }

    /// Has connections to `ports`, or to the helpers' usual ones, helped.
    pub(super) fn load(&self, config: &mut Config, ports: &[u16], settings: HelperSettings) {
        for kind in self.kinds {
            let usual = Some(kind.port()).filter(|port| *port != 0);
            let usual = usual.as_slice();
            let ports = if ports.is_empty() { usual } else { ports };
            for &proto in kind.protocols() {
                config.helpers.extend(ports.iter().map(|port| HelperPort {
                    kind: *kind,
                    proto,
                    port: *port,
                }));
            }
        }
        config.helper = settings;
    }

    /// Forgets ports and parameters.
    pub(super) fn unload(&self, config: &mut Config) {
        config.helpers.retain(|h| !self.kinds.contains(&h.kind));
        let usual = HelperSettings::default();
        for parameter in self.parameters {
            (parameter.reset)(&mut config.helper, &usual);
        }
    }

    /// How many rules use its helpers.
    pub(super) fn users(&self, in_use: &dyn Fn(&str) -> usize) -> usize {
        self.kinds.iter().map(|kind| in_use(kind.name())).sum()
    }
}

/// A parameter that is on or off (`kstrtobool`).
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "y" | "Y" | "t" | "T" | "on" => Some(true),
        "0" | "n" | "N" | "f" | "F" | "off" => Some(false),
        _ => None,
    }
}
