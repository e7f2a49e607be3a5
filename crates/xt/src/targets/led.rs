//! `-j LED`: a light that blinks with packets (kernel `led_tg`).
//!
//! The light is a trigger by name, whose state can be asked for. Which lamp of the machine
//! follows it is for others to say: triggers that lamps know are the kernel's.

use tidegate_ir::{Step, StepInput, TableKey, Truth, Verdict};

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Input, Instance, ListCtx, Lower,
    LowerCtx, Opt, Outcome, Value, bad, number, ok,
};

const ID: usize = 0;
const DELAY: usize = 1;
const BLINK: usize = 2;

/// Stays lit once it was.
const FOREVER: u64 = u32::MAX as u64;
/// Bytes of a trigger's name beside its prefix `netfilter-`.
const NAME_MAX: usize = 31 - 10 - 4;

const OPTIONS: &[Opt] = &[
    Opt::new("led-trigger-id", Arg::Text { min: 0, max: NAME_MAX })
        .mandatory()
        .help("--led-trigger-id name           suffix for led trigger name\n"),
    Opt::new(
        "led-delay",
        Arg::Special {
            arity: 1,
            parse: parse_delay,
            show: |v, _| match v.number() {
                Some(FOREVER) => "inf".to_owned(),
                n => n.unwrap_or(0).to_string(),
            },
        },
    )
    .help("--led-delay ms                  leave the LED on for this number of\n                                milliseconds after triggering.\n"),
    Opt::new("led-always-blink", Arg::Flag)
        .help("--led-always-blink              blink on arriving packets, even if\n                                the LED is already on.\n"),
];

/// `-j LED`.
pub static LED: Extension = Extension {
    name: "LED",
    lower: Lower::Target(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    finish: |args: &mut Args, _: &Context<'_>| {
        if args.number(DELAY) == Some(0) {
            args.remove(DELAY);
        }
        Ok(())
    },
    list,
    cases: CASES,
    ..Extension::TARGET
};

/// What lights are called in [`Shared`](tidegate_ir::Shared).
pub const KIND: &str = "led";

/// The key of the light of that name.
#[must_use]
pub fn table(name: &str) -> TableKey {
    TableKey {
        kind: KIND,
        name: name.to_owned(),
    }
}

/// A light.
#[derive(Clone, Copy, Debug, Default)]
pub struct Light {
    /// Until when it shines, in nanoseconds.
    until: u64,
    /// How often it has been switched on.
    pub flashes: u64,
}

impl Light {
    /// Whether it shines.
    #[must_use]
    pub const fn is_on(&self, now: u64) -> bool {
        now < self.until
    }
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Outcome {
    const MILLISECOND: u64 = 1_000_000;
    let flash = Flash {
        key: table(args.text(ID).unwrap_or("")),
        shines: match args.number(DELAY).unwrap_or(0) {
            FOREVER => u64::MAX,
            ms => ms * MILLISECOND,
        },
        blinks: args.has(BLINK),
    };
    Outcome::effect(ctx.effect(flash, false), Verdict::Continue)
}

/// Switches the light on for a while.
#[derive(Clone, Debug)]
struct Flash {
    key: TableKey,
    /// Nanoseconds; without any it goes out at once.
    shines: u64,
    blinks: bool,
}

impl Step for Flash {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        let now = input.now;
        if let Some(light) = input.shared.table(&self.key, Light::default) {
            light.flashes += u64::from(self.blinks || !light.is_on(now));
            light.until = now.saturating_add(self.shines);
        }
        Truth::True
    }

    fn describe(&self, _: u64) -> String {
        format!("light {}", self.key.name)
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(self.clone())
    }

    fn load(&self, shared: &mut tidegate_ir::Shared) {
        shared.table(&self.key, Light::default);
    }

    fn tables(&self) -> Vec<TableKey> {
        vec![self.key.clone()]
    }
}

fn parse_delay(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    if word == "inf" {
        return Ok(Value::Number(FOREVER));
    }
    number::whole(word, 0, FOREVER)
        .map(Value::Number)
        .ok_or_else(|| Error::parameter("Delay value must be within range 0..4294967295"))
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    let id = x.args.text(ID).unwrap_or("");
    let mut out = format!(" led-trigger-id:\"{id}\"");
    out += &match x.args.number(DELAY) {
        Some(FOREVER) => " led-delay:inf".to_owned(),
        n => format!(" led-delay:{}ms", n.unwrap_or(0)),
    };
    if x.args.has(BLINK) {
        out += " led-always-blink";
    }
    out
}

const CASES: &[Case] = &[
    ok("-j LED --led-trigger-id foo"),
    ok("-j LED --led-trigger-id foo --led-delay 42 --led-always-blink").v6(),
    ok("-j LED --led-trigger-id foo --led-delay inf"),
    bad("-j LED"),
    bad("-j LED --led-trigger-id"),
];
