//! `nfacct`: the counters of `-m nfacct`, as nfacct 1.0.2 shows and changes them.

use std::collections::HashMap;
use std::fmt::Write;

use tidegate_xt::matches::nfacct::{Account, Accounts, NAME_MAX, Quota};

use super::Printed;

const NAME: &str = "nfacct v1.0.2";
const USAGE: &str = "Usage: nfacct command [parameters]...\n";
const HELP: &str = "
Commands:
  list [reset] [xml|json]\tShow the counters (and set them to zero)
  add NAME [byte|packet N]\tA new counter, with a quota
  delete NAME\t\t\tEnd a counter
  get NAME [reset] [xml]\tShow a counter
  flush\t\t\t\tEnd all counters that no rule names
  restore\t\t\tMake the counters that the input lists
  version
  help
";

/// How counters are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Plain,
    Xml,
    Json,
}

fn failed(text: &str) -> Printed {
    Printed {
        err: format!("{NAME}: {text}\n"),
        status: 1,
        ..Printed::default()
    }
}

fn printed(out: String) -> Printed {
    Printed {
        out,
        ..Printed::default()
    }
}

const MISSING: &str = "error: No such file or directory";
const BUSY: &str = "error: Device or resource busy";

/// Does what `words` say. `users` are the counters that rules name; `input` is what
/// `restore` reads; `now` is in seconds since 1970.
pub fn run(
    accounts: &mut Accounts,
    words: &[&str],
    input: &str,
    users: &HashMap<String, usize>,
    now: u64,
) -> Printed {
    let Some((&command, words)) = words.split_first() else {
        return Printed {
            err: USAGE.to_owned(),
            status: 1,
            ..Printed::default()
        };
    };
    match command {
        "list" => list(accounts, None, words, now),
        "add" => add(accounts, words),
        "delete" | "del" => delete(accounts, words, users),
        "get" => match words.split_first() {
            Some((name, words)) => list(accounts, Some(name), words, now),
            None => failed("missing object name"),
        },
        "flush" => {
            accounts.0.retain(|name, _| users.contains_key(name));
            Printed::default()
        }
        "restore" => restore(accounts, input),
        "version" => printed(format!("{NAME}\n")),
        "help" => printed(format!("{NAME}\n{USAGE}{HELP}")),
        other => Printed {
            err: format!("{NAME}: Unknown command: {other}\n{USAGE}"),
            status: 1,
            ..Printed::default()
        },
    }
}

/// Names are cut, as the kernel's attribute is.
fn cut(name: &str) -> &str {
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

fn add(accounts: &mut Accounts, words: &[&str]) -> Printed {
    let Some((name, rest)) = words.split_first() else {
        return failed("missing object name");
    };
    let quota = match rest {
        [] => None,
        ["byte" | "packet"] => return failed("missing quota value"),
        [unit @ ("byte" | "packet"), value, ..] => match (value.parse(), *unit) {
            (Ok(n), "byte") => Some(Quota::Bytes(n)),
            (Ok(n), _) => Some(Quota::Packets(n)),
            (Err(_), _) => return failed("error reading quota"),
        },
        _ => return failed("argument must \"byte\" or \"packet\""),
    };
    let name = cut(name).to_owned();
    // What is listed must be readable.
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == ';') {
        return failed("no possible object name");
    }
    if accounts.0.contains_key(&name) {
        return failed(BUSY);
    }
    let account = Account {
        quota,
        ..Account::default()
    };
    accounts.0.insert(name, account);
    Printed::default()
}

fn delete(accounts: &mut Accounts, words: &[&str], users: &HashMap<String, usize>) -> Printed {
    let Some(name) = words.first() else {
        return failed("missing object name");
    };
    if !accounts.0.contains_key(*name) {
        return failed(MISSING);
    }
    if users.contains_key(*name) {
        return failed(BUSY);
    }
    accounts.0.remove(*name);
    Printed::default()
}

fn list(accounts: &mut Accounts, only: Option<&str>, words: &[&str], now: u64) -> Printed {
    let (mut reset, mut format) = (false, Format::Plain);
    for word in words {
        match *word {
            "reset" => reset = true,
            "xml" => format = Format::Xml,
            "json" => format = Format::Json,
            _ => return failed("unknown argument"),
        }
    }
    if only.is_some_and(|name| !accounts.0.contains_key(name)) {
        return failed(MISSING);
    }
    let shown = accounts.0.iter().filter(|a| only.is_none_or(|n| n == a.0));
    let out = match format {
        Format::Plain => shown.map(plain).collect(),
        Format::Xml => {
            let all: String = shown.map(xml).collect();
            format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<nfacct>\n{all}</nfacct>\n")
        }
        Format::Json => {
            let all: Vec<String> = shown.map(json).collect();
            let all = all.join(",\n  ");
            format!("{{ \"timestamp\" : {now}, \n  \"nfacct_counters\" : [\n  {all}\n] }}\n")
        }
    };
    if reset {
        let all = accounts.0.iter_mut();
        for (_, account) in all.filter(|a| only.is_none_or(|n| n == a.0)) {
            (account.packets, account.bytes, account.reached) = (0, 0, false);
        }
    }
    printed(out)
}

fn quota(account: &Account) -> Option<(u64, &'static str)> {
    account.quota.map(|quota| match quota {
        Quota::Packets(n) => (n, "packet"),
        Quota::Bytes(n) => (n, "byte"),
    })
}

fn plain((name, account): (&String, &Account)) -> String {
    let mut out = format!(
        "{{ pkts = {:020}, bytes = {:020}",
        account.packets, account.bytes
    );
    if let Some((n, mode)) = quota(account) {
        let over = if account.reached { "yes" } else { "no" };
        let _ = write!(out, ", quota = {n:020}, mode = {mode}, overquota = {over}");
    }
    out + &format!(" }} = {name};\n")
}

fn xml((name, account): (&String, &Account)) -> String {
    let name = name
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    format!(
        "<obj><name>{name}</name><pkts>{:020}</pkts><bytes>{:020}</bytes></obj>\n",
        account.packets, account.bytes
    )
}

fn json((name, account): (&String, &Account)) -> String {
    let quota = quota(account).map_or(String::new(), |(n, mode)| {
        let over = u8::from(account.reached);
        format!(" \"quota\" : {n}, \"mode\" = \"{mode}\", \"overquota\" = {over},")
    });
    format!(
        "{{ \"pkts\" : {}, \"bytes\" : {},{quota} \"name\" : \"{name}\" }}",
        account.packets, account.bytes
    )
}

/// Makes counters from what `list` printed: all of them or none.
fn restore(accounts: &mut Accounts, input: &str) -> Printed {
    let mut new = Vec::new();
    for line in input.lines().filter(|line| !line.trim().is_empty()) {
        match account(line) {
            Some(read) => new.push(read),
            None => return failed("invalid line"),
        }
    }
    accounts.0.extend(new);
    Printed::default()
}

/// Reads a line of `list`.
fn account(line: &str) -> Option<(String, Account)> {
    let (values, name) = line.trim().strip_prefix('{')?.split_once('}')?;
    let name = name.trim().strip_prefix('=')?.trim().strip_suffix(';')?;
    let mut account = Account::default();
    let (mut quota, mut mode) = (None, "");
    for pair in values.split(',') {
        let (key, value) = pair.split_once('=')?;
        let value = value.trim();
        match key.trim() {
            "pkts" => account.packets = value.parse().ok()?,
            "bytes" => account.bytes = value.parse().ok()?,
            "quota" => quota = Some(value.parse().ok()?),
            "mode" => mode = value,
            "overquota" => account.reached = value == "yes",
            _ => return None,
        }
    }
    account.quota = match (quota, mode) {
        (None, _) => None,
        (Some(n), "packet") => Some(Quota::Packets(n)),
        (Some(n), "byte") => Some(Quota::Bytes(n)),
        _ => return None,
    };
    let name = cut(name);
    (!name.is_empty()).then(|| (name.to_owned(), account))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_one(accounts: &mut Accounts, line: &str) -> (String, u8) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let users = HashMap::from([("held".to_owned(), 1)]);
        let done = run(accounts, &words, "", &users, 7);
        (done.out + &done.err, done.status)
    }

    /// What Debian's nfacct 1.0.2 printed on Linux 6.18.
    #[test]
    fn counters_are_made_shown_and_ended() {
        let mut all = Accounts::default();
        let mut told = |line: &str| run_one(&mut all, line);
        let done = (String::new(), 0);
        let fails = |why: &str| (format!("nfacct v1.0.2: {why}\n"), 1);
        for line in ["add a", "add b packet 5", "add c byte 1000", "add held"] {
            assert_eq!(told(line), done, "{line}");
        }
        assert_eq!(told("add a"), fails(BUSY));
        assert_eq!(told("add d packet x"), fails("error reading quota"));
        assert_eq!(told("add d byte"), fails("missing quota value"));
        assert_eq!(
            told("add d foo 5"),
            fails("argument must \"byte\" or \"packet\"")
        );
        assert_eq!(told("add"), fails("missing object name"));
        let list = "{ pkts = 00000000000000000000, bytes = 00000000000000000000 } = a;\n\
            { pkts = 00000000000000000000, bytes = 00000000000000000000, quota = 00000000000000000005, mode = packet, overquota = no } = b;\n\
            { pkts = 00000000000000000000, bytes = 00000000000000000000, quota = 00000000000000001000, mode = byte, overquota = no } = c;\n\
            { pkts = 00000000000000000000, bytes = 00000000000000000000 } = held;\n";
        assert_eq!(told("list"), (list.to_owned(), 0));
        assert_eq!(told("list bogus"), fails("unknown argument"));
        assert_eq!(told("get nope"), fails(MISSING));
        assert_eq!(told("delete nope"), fails(MISSING));
        assert_eq!(told("delete held"), fails(BUSY));
        assert_eq!(told("del b"), done);
        assert_eq!(told("flush"), done);
        let mut again = Accounts::default();
        let restored = run(&mut again, &["restore"], list, &HashMap::new(), 0);
        assert_eq!(restored, Printed::default());
        assert_eq!(run_one(&mut again, "list"), (list.to_owned(), 0));
        let wrong = run(&mut again, &["restore"], "nonsense\n", &HashMap::new(), 0);
        assert_eq!(wrong.err, "nfacct v1.0.2: invalid line\n");
    }
}
