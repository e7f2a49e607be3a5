//! The dictionary of the targets that read rules has the words of the option tables.

use std::collections::BTreeSet;
use std::path::Path;

use tidegate_xt::{ALL, Arg, Extension, Lower};

/// How an extension and what it takes stand in a rule.
fn words(extension: &Extension) -> Vec<String> {
    let by = match extension.lower {
        Lower::Match(_) => "-m",
        Lower::Target(_) => "-j",
    };
    let mut words = vec![format!(" {by} {} ", extension.name)];
    for option in extension.options {
        words.extend(option.names().map(|name| format!(" --{name} ")));
        if let Arg::OneOf(list) | Arg::SetOf(list) = option.arg {
            words.extend(list.list.iter().map(|(word, _)| (*word).to_owned()));
        }
    }
    words
}

#[test]
fn the_dictionary_has_every_word_of_the_option_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/rules.dict");
    let text = std::fs::read_to_string(&path).expect("the dictionary");
    let has: BTreeSet<&str> = text.lines().collect();
    let wanted: BTreeSet<String> = ALL
        .iter()
        .flat_map(|e| words(e))
        .map(|word| format!("\"{word}\""))
        .collect();
    let missing: Vec<&String> = wanted
        .iter()
        .filter(|w| !has.contains(w.as_str()))
        .collect();
    if std::env::var_os("TIDEGATE_WRITE").is_some() {
        let more: String = missing.iter().map(|w| format!("{w}\n")).collect();
        std::fs::write(&path, text + &more).expect("the dictionary is written");
        return;
    }
    assert!(
        missing.is_empty(),
        "TIDEGATE_WRITE=1 cargo test -p tidegate-fuzz-targets --test dictionary adds {missing:?}"
    );
}
