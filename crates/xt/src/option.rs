//! One row of an extension's option table, and the argument types.

use tidegate_wire::Family;

use crate::{Args, Context, Error, Value, text};

mod parse;

pub use parse::{parse_port, syslog_level};

/// One option of an extension.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Long name without dashes, as error texts use it.
    pub name: &'static str,
    /// Name in saved rules.
    pub saved: &'static str,
    /// Other accepted names.
    pub aliases: &'static [&'static str],
    /// What its argument looks like.
    pub arg: Arg,
    /// Whether `!` may stand before it.
    pub invertible: bool,
    /// Whether the extension is useless without it.
    pub mandatory: bool,
    /// Indices of options it cannot be used together with, as bits.
    pub excludes: u32,
    /// Indices of options it needs, as bits.
    pub needs: u32,
    /// Indices of options it takes the place of, as bits.
    pub replaces: u32,
    /// Text of the error when it is given twice, or at once after an option it
    /// excludes; `None` for the usual errors.
    pub twice: Option<&'static str>,
    /// Whether it may be given more than once; what its argument reader makes of it
    /// all stands side by side.
    pub repeats: bool,
    /// Whether it may stand without its argument.
    pub optional: bool,
    /// Printed on the error output when it is used.
    pub warning: Option<&'static str>,
    /// What is to be said on the error output about a value that it takes.
    pub remark: Option<fn(&Value, Family) -> Option<String>>,
    /// Its lines in the help text, with their newlines.
    pub help: &'static str,
}

impl Opt {
    /// An option that takes `arg`, with everything else off.
    #[must_use]
    pub const fn new(name: &'static str, arg: Arg) -> Self {
        Opt {
            name,
            saved: name,
            aliases: &[],
            arg,
            invertible: false,
            mandatory: false,
            excludes: 0,
            needs: 0,
            replaces: 0,
            twice: None,
            repeats: false,
            optional: false,
            warning: None,
            remark: None,
            help: "",
        }
    }

    /// With the name used in saved rules.
    #[must_use]
    pub const fn saved(mut self, name: &'static str) -> Self {
        self.saved = name;
        self
    }

    /// With other accepted names.
    #[must_use]
    pub const fn aliases(mut self, names: &'static [&'static str]) -> Self {
        self.aliases = names;
        self
    }

    /// Accepting `!`.
    #[must_use]
    pub const fn invertible(mut self) -> Self {
        self.invertible = true;
        self
    }

    /// Required.
    #[must_use]
    pub const fn mandatory(mut self) -> Self {
        self.mandatory = true;
        self
    }

    /// Not together with the options at these indices.
    #[must_use]
    pub const fn excludes(mut self, opts: &[usize]) -> Self {
        let mut i = 0;
        while i < opts.len() {
            self.excludes |= 1 << opts[i];
            i += 1;
        }
        self
    }

    /// Only together with the options at these indices.
    #[must_use]
    pub const fn needs(mut self, opts: &[usize]) -> Self {
        let mut i = 0;
        while i < opts.len() {
            self.needs |= 1 << opts[i];
            i += 1;
        }
        self
    }

    /// In place of earlier options at these indices.
    #[must_use]
    pub const fn replaces(mut self, opts: &[usize]) -> Self {
        let mut i = 0;
        while i < opts.len() {
            self.replaces |= 1 << opts[i];
            i += 1;
        }
        self
    }

    /// With its own text for being given twice.
    #[must_use]
    pub const fn twice(mut self, text: &'static str) -> Self {
        self.twice = Some(text);
        self
    }

    /// Accepted more than once.
    #[must_use]
    pub const fn repeats(mut self) -> Self {
        self.repeats = true;
        self
    }

    /// Accepted without its argument.
    #[must_use]
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// With a warning against its use.
    #[must_use]
    pub const fn warning(mut self, text: &'static str) -> Self {
        self.warning = Some(text);
        self
    }

    /// With a remark about some of its values.
    #[must_use]
    pub const fn remark(mut self, text: fn(&Value, Family) -> Option<String>) -> Self {
        self.remark = Some(text);
        self
    }

    /// With its help lines.
    #[must_use]
    pub const fn help(mut self, lines: &'static str) -> Self {
        self.help = lines;
        self
    }

    /// All names the command line knows it by.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// How many arguments follow it.
    #[must_use]
    pub const fn arity(&self) -> usize {
        match self.arg {
            Arg::Flag => 0,
            Arg::Special { arity, .. } => arity,
            Arg::Int { .. }
            | Arg::IntRange { .. }
            | Arg::Mark
            | Arg::Text { .. }
            | Arg::Name { .. }
            | Arg::PortRange
            | Arg::OneOf(_)
            | Arg::SetOf(_)
            | Arg::Network
            | Arg::SyslogLevel => 1,
        }
    }
}

/// What an option's argument looks like: how it is read and how it is saved.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// No argument. Value: [`Value::Flag`].
    Flag,
    /// A number in a range. Value: [`Value::Number`].
    Int {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
        /// Saved as `0x…` with at least this many digits; 0 for decimal.
        hex: u8,
    },
    /// `a`, `a:b`, `a:` or `:b`. Value: [`Value::Range`].
    IntRange {
        /// Largest bound.
        max: u64,
    },
    /// `value[/mask]`, saved in hexadecimal. Value: [`Value::Masked`].
    Mark,
    /// Text of limited length in bytes. Value: [`Value::Text`].
    Text {
        /// Smallest length.
        min: usize,
        /// Largest length.
        max: usize,
    },
    /// A name, cut to what the kernel's structure holds, saved without quotes where that
    /// can be read again. Value: [`Value::Text`].
    Name {
        /// Largest length in bytes.
        max: usize,
    },
    /// A port or service, or a range of them. Value: [`Value::Range`].
    PortRange,
    /// One of these words. Value: [`Value::Number`].
    OneOf(&'static Words),
    /// A comma-separated set of these words. Value: [`Value::Bits`].
    SetOf(&'static Words),
    /// `address[/mask]`. Value: [`Value::Net`].
    Network,
    /// A syslog level by name or number. Value: [`Value::Number`].
    SyslogLevel,
    /// Anything else.
    Special {
        /// Number of arguments.
        arity: usize,
        /// Reads them.
        parse: fn(&Input<'_>) -> Result<Value, Error>,
        /// Writes them as a saved rule shows them.
        show: fn(&Value, Family) -> String,
    },
}

/// Words that stand for numbers or bits, in the order they are printed.
#[derive(Debug)]
pub struct Words {
    /// The words; a number listed twice prints as its first word.
    pub list: &'static [(&'static str, u32)],
    /// Whether the start of a word is enough (the first that fits is taken, upper
    /// and lower case being the same); else only the exact word will do.
    pub prefix: bool,
    /// Text of the error for an unknown word; `{}` stands for the word.
    pub unknown: &'static str,
}

impl Words {
    /// The number of a word.
    #[must_use]
    pub fn find(&self, word: &str) -> Option<u32> {
        let same = |w: &str| {
            if self.prefix {
                !word.is_empty() && starts_with_ignoring_case(w, word)
            } else {
                w == word
            }
        };
        self.list.iter().find(|w| same(w.0)).map(|w| w.1)
    }

    /// The word for a number.
    #[must_use]
    pub fn name(&self, number: u64) -> Option<&'static str> {
        self.list
            .iter()
            .find(|w| u64::from(w.1) == number)
            .map(|w| w.0)
    }

    /// The words of a bit set, comma separated; each bit once.
    #[must_use]
    pub fn names(&self, bits: u32) -> String {
        let mut left = bits;
        let mut out = Vec::new();
        for &(word, bit) in self.list {
            if (bit != 0 && left & bit == bit) || (bits == 0 && bit == 0) {
                left &= !bit;
                out.push(word);
            }
        }
        out.join(",")
    }
}

/// Whether `word` begins with `start`, upper and lower case being the same.
#[must_use]
pub fn starts_with_ignoring_case(word: &str, start: &str) -> bool {
    word.get(..start.len())
        .is_some_and(|w| w.eq_ignore_ascii_case(start))
}

/// One option's arguments on their way in.
#[derive(Debug)]
pub struct Input<'a> {
    /// Name of the extension.
    pub ext: &'static str,
    /// The option.
    pub opt: &'static Opt,
    /// Whether `!` stood before it.
    pub invert: bool,
    /// Its arguments; as many as [`Opt::arity`] says, or fewer when the line ended.
    pub args: &'a [&'a str],
    /// What the rule has given the extension so far.
    pub given: &'a Args,
    /// Surroundings.
    pub ctx: &'a Context<'a>,
}

impl Input<'_> {
    /// The first argument.
    #[must_use]
    pub fn text(&self) -> &str {
        self.args.first().copied().unwrap_or("")
    }

    /// The first argument, as much of it as `max` bytes hold.
    #[must_use]
    pub fn cut(&self, max: usize) -> Value {
        let text = self.text();
        Value::Text(text[..text.floor_char_boundary(max)].to_owned())
    }

    /// `EXT: bad value for option "--OPT", or out of range (MIN-MAX).`
    #[must_use]
    pub fn out_of_range(&self, min: impl std::fmt::Display, max: impl std::fmt::Display) -> Error {
        Error::parameter(format!(
            "{}: bad value for option \"--{}\", or out of range ({min}-{max}).\n",
            self.ext, self.opt.name
        ))
    }

    /// `EXT: Bad value for "--OPT" option: "TEXT"`
    #[must_use]
    pub fn bad_value(&self, text: &str) -> Error {
        Error::parameter(format!(
            "{}: Bad value for \"--{}\" option: \"{text}\"",
            self.ext, self.opt.name
        ))
    }
}

impl Arg {
    /// Reads the argument.
    ///
    /// # Errors
    /// The tool's own text for a bad argument.
    pub fn parse(&self, input: &Input<'_>) -> Result<Value, Error> {
        match *self {
            Arg::Flag => Ok(Value::Flag),
            Arg::Int { min, max, .. } => parse::int(input, min, max),
            Arg::IntRange { max } => parse::int_range(input, max),
            Arg::Mark => parse::mark(input),
            Arg::Text { min, max } => parse::string(input, min, max),
            Arg::Name { max } => Ok(input.cut(max)),
            Arg::PortRange => parse::port_range(input),
            Arg::OneOf(words) => parse::one_of(input, words),
            Arg::SetOf(words) => parse::set_of(input, words),
            Arg::Network => parse::network(input),
            Arg::SyslogLevel => parse::level(input),
            Arg::Special { parse, .. } => parse(input),
        }
    }

    /// The argument as a saved rule shows it; empty for flags.
    #[must_use]
    pub fn show(&self, value: &Value, family: Family) -> String {
        if let Arg::Special { show, .. } = self {
            return show(value, family);
        }
        match value {
            Value::Flag | Value::Nat(_) => String::new(),
            Value::At(_, inner) => self.show(inner, family),
            Value::Named(_, name) => name.clone(),
            &Value::Number(n) => self.show_number(n),
            Value::Range(lo, hi) if lo == hi => lo.to_string(),
            Value::Range(lo, hi) => format!("{lo}:{hi}"),
            &Value::Masked { value, mask } => show_mark(value, mask),
            Value::Text(s) if matches!(self, Arg::Name { .. }) => text::bare(s),
            Value::Text(s) => text::quote(s),
            &Value::Bits(b) => self.show_bits(b),
            Value::Ports(list) => show_ports(list),
            &Value::Net { addr, mask } => {
                text::addr(addr, family) + &text::mask_suffix(mask, family)
            }
            &Value::Addrs(lo, hi) => {
                format!("{}-{}", text::addr(lo, family), text::addr(hi, family))
            }
        }
    }

    fn show_number(&self, n: u64) -> String {
        if let Arg::OneOf(words) = self {
            return words.name(n).unwrap_or("").to_owned();
        }
        if let &Arg::Int {
            hex: width @ 1.., ..
        } = self
        {
            return format!("0x{n:0width$x}", width = usize::from(width));
        }
        n.to_string()
    }

    fn show_bits(&self, bits: u32) -> String {
        if let Arg::SetOf(words) = self {
            return words.names(bits);
        }
        format!("{bits:#x}")
    }
}

/// `0x1` or `0x1/0xff`.
#[must_use]
pub fn show_mark(value: u32, mask: u32) -> String {
    if mask == u32::MAX {
        format!("{value:#x}")
    } else {
        format!("{value:#x}/{mask:#x}")
    }
}

/// `22,80,8000:8080`.
#[must_use]
pub fn show_ports(list: &[(u16, u16)]) -> String {
    let one = |&(lo, hi): &(u16, u16)| {
        if lo == hi {
            lo.to_string()
        } else {
            format!("{lo}:{hi}")
        }
    };
    list.iter().map(one).collect::<Vec<_>>().join(",")
}
