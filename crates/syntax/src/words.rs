//! Splitting a line of a rules file into words.

use std::borrow::Cow;

use smallvec::SmallVec;

/// What separates words.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n')
}

/// Words that stand in place; most lines have fewer.
pub type Few<W> = SmallVec<[W; 24]>;

/// One line's words, as restore cuts them: blanks separate; a double quote opens a
/// quoted stretch in which blanks count and a backslash protects the next character;
/// the closing quote ends the word; an open quote reaches to the line's end.
///
/// `line` includes its newline, if the file has one there.
#[must_use]
pub fn split(line: &str) -> Few<Cow<'_, str>> {
    let mut words = Few::new();
    let mut rest = line;
    loop {
        let Some(start) = rest.bytes().position(|b| !is_blank(b)) else {
            return words;
        };
        rest = &rest[start..];
        let end = rest.bytes().position(|b| is_blank(b) || b == b'"');
        let end = end.unwrap_or(rest.len());
        let (plain, after) = rest.split_at(end);
        rest = match after.strip_prefix('"') {
            Some(quoted) => {
                let (word, after) = unquote(plain, quoted);
                words.push(Cow::Owned(word));
                after
            }
            None => {
                words.push(Cow::Borrowed(plain));
                after
            }
        };
    }
}

/// The word that begins with `plain` and goes on in quotes, and what follows it.
fn unquote<'a>(plain: &str, quoted: &'a str) -> (String, &'a str) {
    let mut word = plain.to_owned();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => word.extend(chars.next()),
            c => word.push(c),
        }
    }
    (word, chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::split;

    /// Every line below was given to iptables-restore 1.8.9 as the text of a comment.
    #[test]
    fn cuts_as_restore_does() {
        for (line, want) in [
            (
                "-A INPUT  -j\tACCEPT\n",
                vec!["-A", "INPUT", "-j", "ACCEPT"],
            ),
            ("'single q'\n", vec!["'single", "q'"]),
            ("a\"b c\"d\n", vec!["ab c", "d"]),
            ("a\\\"b -j\n", vec!["a\\b -j\n"]),
            ("\"a\\nb\\\"c\" x", vec!["anb\"c", "x"]),
            ("\"\" x\n", vec!["", "x"]),
            (" \t\n", vec![]),
        ] {
            assert_eq!(split(line).to_vec(), want, "{line:?}");
        }
    }
}
