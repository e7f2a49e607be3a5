//! Results as JUnit XML, which build servers read.

use std::fmt::Write;

use super::{Done, name};

/// All files as one document.
pub(super) fn text(all: &[Done]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for done in all {
        let file = escaped(&name(&done.path));
        let (ran, failed) = (done.ran.held.len(), done.failures().count());
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{file}\" tests=\"{ran}\" failures=\"{failed}\" errors=\"0\" time=\"{:.3}\">",
            done.seconds
        );
        for held in &done.ran.held {
            let title = escaped(&format!("{}: {}", held.case, held.what));
            let _ = write!(
                xml,
                "    <testcase classname=\"{file}\" name=\"{title}\" file=\"{file}\" line=\"{}\" time=\"0\"",
                held.line
            );
            let _ = match &held.failure {
                None => writeln!(xml, "/>"),
                Some(failure) => writeln!(
                    xml,
                    ">\n      <failure type=\"expectation\" message=\"{}\">{}</failure>\n    </testcase>",
                    escaped(&failure.why),
                    escaped(&failure.trace)
                ),
            };
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// Text as XML has it; characters that XML cannot have are left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn what_xml_reserves_is_escaped() {
        assert_eq!(
            escaped("a < \"b\" & c > d\x1b[1m\n"),
            "a &lt; &quot;b&quot; &amp; c &gt; d[1m&#10;"
        );
    }
}
