//! save | restore | save gives the same text, for every rules file there is.

use crate::common::{Host, data, lacks_extension, without_dates};

/// All rules files of the test data with their family's tool, without the lines whose
/// extensions the program does not have.
pub(crate) fn files() -> Vec<(&'static str, String)> {
    [
        ("iptables", "samples/v4.save.txt"),
        ("iptables", "samples/v4.save_c.txt"),
        ("iptables", "samples/empty_save.txt"),
        ("ip6tables", "samples/v6.save.txt"),
        ("iptables", "rules/router.rules"),
        ("ip6tables", "rules/router6.rules"),
    ]
    .map(|(tool, name)| (tool, supported(tool, &data(name))))
    .into()
}

fn supported(tool: &str, file: &str) -> String {
    let host = Host::new();
    let mut lines: Vec<&str> = file.lines().collect();
    loop {
        let text: String = lines.iter().flat_map(|l| [l, "\n"]).collect();
        let run = host.feed(&[&format!("{tool}-restore")], &text);
        if run.status == 0 {
            return text;
        }
        assert!(lacks_extension(&run.err), "{}", run.err);
        let at = run.err.split("line: ").nth(1).unwrap();
        let at: usize = at.split('\n').next().unwrap().parse().unwrap();
        lines.remove(at - 1);
    }
}

#[test]
fn saving_what_was_restored_gives_the_same_text() {
    for (tool, file) in files() {
        let (restore, save) = (format!("{tool}-restore"), format!("{tool}-save"));
        let (first, second) = (Host::new(), Host::new());
        assert_eq!(first.feed(&[&restore, "-c"], &file).status, 0);
        let once = first.run(&[&save, "-c"]).out;
        assert_eq!(second.feed(&[&restore, "-c"], &once).status, 0);
        let twice = second.run(&[&save, "-c"]).out;
        assert_eq!(without_dates(&once), without_dates(&twice));
        assert!(once.contains("-A ") || file.contains("\n*filter"));
    }
}
