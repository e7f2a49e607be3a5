//! `-m nfacct`: counts the packet in a named counter (kernel `nfacct_mt`), which
//! [`Accounts`] holds and rules share.

use std::collections::BTreeMap;

use tidegate_ir::{Shared, Step, StepInput, TableKey, Truth};

use crate::{Arg, Args, Case, Extension, Lower, LowerCtx, Opt, bad, ok};

const NAME: usize = 0;
/// Longest name (`NFACCT_NAME_MAX` less the final NUL).
pub const NAME_MAX: usize = 31;

/// Kind of the table of counters. Rules name their counters in it.
pub const KIND: &str = "nfacct";

const OPTIONS: &[Opt] = &[Opt::new("nfacct-name", Arg::Name { max: NAME_MAX })
    .mandatory()
    .help(" --nfacct-name STRING\t\tName of accouting area\n")];

/// `-m nfacct`.
pub static NFACCT: Extension = Extension {
    name: "nfacct",
    lower: Lower::Match(lower),
    options: OPTIONS,
    list: |x, _| format!(" nfacct-name  {}", x.args.text(NAME).unwrap_or("")),
    cases: CASES,
    ..Extension::MATCH
};

/// What a counter must not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// So many packets.
    Packets(u64),
    /// So many bytes.
    Bytes(u64),
}

/// A named counter (`struct nf_acct`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Packets.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What they are measured by; rules match while there is none, or beyond it.
    pub quota: Option<Quota>,
    /// The quota has been reached.
    pub reached: bool,
}

impl Account {
    /// Counts a packet and says whether rules match.
    fn count(&mut self, len: u32) -> bool {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(len.into());
        let (now, quota) = match self.quota {
            None => return true,
            Some(Quota::Packets(n)) => (self.packets, n),
            Some(Quota::Bytes(n)) => (self.bytes, n),
        };
        self.reached |= now >= quota;
        now > quota
    }
}

/// All named counters.
#[derive(Clone, Debug, Default)]
pub struct Accounts(pub BTreeMap<String, Account>);

fn name(account: &str) -> TableKey {
    TableKey {
        kind: KIND,
        name: account.to_owned(),
    }
}

/// All counters, to be changed; they stay whatever rules name.
pub fn all(shared: &mut Shared) -> Option<&mut Accounts> {
    shared.lasting(&name(""), Accounts::default)
}

/// Whether there is a counter of that name.
#[must_use]
pub fn exists(shared: &Shared, account: &str) -> bool {
    let all = shared.get::<Accounts>(&name(""));
    all.is_some_and(|all| all.0.contains_key(account))
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> tidegate_ir::Cond {
    ctx.step(Counted {
        table: name(""),
        account: args.text(NAME).unwrap_or("").to_owned(),
    })
}

/// One rule's counting.
#[derive(Clone, Debug)]
struct Counted {
    table: TableKey,
    account: String,
}

impl Step for Counted {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        let len = input.len;
        let all = input.shared.get_mut::<Accounts>(&self.table);
        let account = all.and_then(|all| all.0.get_mut(&self.account));
        account.is_some_and(|account| account.count(len)).into()
    }

    fn describe(&self, _: u64) -> String {
        format!("counter {}", self.account)
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(self.clone())
    }

    fn load(&self, shared: &mut Shared) {
        all(shared);
    }

    fn tables(&self) -> Vec<TableKey> {
        vec![name(&self.account)]
    }
}

const CASES: &[Case] = &[ok("-m nfacct --nfacct-name tcp-traffic"), bad("-m nfacct")];

#[cfg(test)]
mod tests {
    use super::*;

    /// `nfnl_acct_overquota`: reached at the quota, exceeded beyond it.
    #[test]
    fn a_quota_matches_when_it_is_exceeded() {
        let mut account = Account {
            quota: Some(Quota::Packets(2)),
            ..Account::default()
        };
        let counted = [1; 4].map(|len| (account.count(len), account.reached));
        assert_eq!(
            counted,
            [(false, false), (false, true), (true, true), (true, true)]
        );
        assert!(Account::default().count(1));
    }
}
