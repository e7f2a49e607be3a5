//! `-j LED`: a light that blinks with packets (kernel `led_tg`).

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Input, Instance, ListCtx, Lower,
    Opt, Value, bad, number, ok,
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
    lower: Lower::Target(|_, ctx| ctx.refuse_target("LED: there are no lights")),
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
