//! Makes components of our worlds out of hand-written core modules (`guests/*.wat`), without a WebAssembly toolchain.

#![allow(clippy::expect_used, clippy::panic, reason = "a helper of tests: a test's own input that is wrong ends it")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use sla_profiler::plugin::api::Kind;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn wat(name: &str) -> String {
    read(root().join("guests").join(name).with_extension("wat"))
}

fn world(kind: Kind) -> &'static str {
    match kind {
        Kind::SweepStrategy => "sweep-strategy",
        Kind::SelectionPolicy => "selection-policy",
        Kind::PlannerModel => "planner-model",
    }
}

/// The sweep strategy in `guests/<name>.wat`, as a component.
pub fn sweep(name: &str) -> Vec<u8> {
    component(Kind::SweepStrategy, &wat(name))
}

/// The names of all sweep strategies in `guests/`.
pub fn sweeps() -> Vec<String> {
    let files = fs::read_dir(root().join("guests")).expect("the folder of guests");
    let mut names: Vec<String> = files
        .filter_map(|file| file.expect("readable").file_name().to_str()?.strip_suffix(".wat").map(str::to_owned))
        .filter(|name| !["prelude", "describe"].contains(&name.as_str()))
        .collect();
    names.sort();
    names
}

/// A component of the kind's world: the text of a core module, or what goes into one after the prelude.
pub fn component(kind: Kind, body: &str) -> Vec<u8> {
    Contract::default().component(world(kind), body)
}

/// A core module, complete but for the wrapper that makes a component of it.
pub fn core_module(name: &str) -> Vec<u8> {
    assemble(&module(&wat(name)))
}

fn module(body: &str) -> String {
    let code: Vec<&str> = body.lines().filter(|line| !line.trim_start().starts_with(";;")).collect();
    if code.first().is_some_and(|line| line.starts_with("(module")) {
        return body.to_owned();
    }
    let describe = if body.contains("#describe") { String::new() } else { wat("describe") };
    format!("(module\n{}\n{describe}\n{body})", wat("prelude"))
}

/// A module or component in its text form, as bytes.
pub fn assemble(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// The contract, or a changed copy of it: what a plugin was built against.
#[derive(Debug, Default)]
pub struct Contract {
    changes: Vec<(String, String)>,
}

impl Contract {
    /// Replaces a piece of the contract's text and of the guest's.
    #[must_use]
    pub fn replacing(mut self, old: &str, new: &str) -> Self {
        self.changes.push((old.to_owned(), new.to_owned()));
        self
    }

    fn apply(&self, text: &str) -> String {
        self.changes.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old.as_str(), new))
    }

    /// A component of the world.
    pub fn component(&self, world: &str, body: &str) -> Vec<u8> {
        self.encode(world, &module(body))
    }

    /// The same with imports, which have to come first in a module.
    pub fn component_with_imports(&self, world: &str, imports: &str, body: &str) -> Vec<u8> {
        self.encode(world, &module(body).replacen("(module", &format!("(module\n{imports}"), 1))
    }

    fn encode(&self, world: &str, module: &str) -> Vec<u8> {
        let copy = tempfile::tempdir().expect("a temporary folder");
        self.copy(&root().join("../wit"), copy.path());
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(copy.path()).unwrap_or_else(|error| panic!("{error:#}"));
        let world = resolve.select_world(&[package], Some(world)).unwrap_or_else(|error| panic!("{error:#}"));

        let mut core = assemble(&self.apply(module));
        embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).expect("an encodable world");
        let encoder = ComponentEncoder::default().validate(true).module(&core);
        encoder.and_then(|mut encoder| encoder.encode()).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn copy(&self, from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("a writable folder");
        for entry in fs::read_dir(from).expect("the folder wit") {
            let entry = entry.expect("readable");
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                self.copy(&entry.path(), &target);
            } else if entry.path().extension().is_some_and(|extension| extension == "wit") {
                fs::write(target, self.apply(&read(entry.path()))).expect("writable");
            }
        }
    }
}

/// A probe as a guest writes it.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Field of `probe`.
    pub candidate: u32,
    /// Field of `probe`.
    pub isl: u32,
    /// Field of `probe`.
    pub osl: u32,
    /// Field of `probe`.
    pub concurrency: u32,
    /// Field of `probe`, as WebAssembly text has it: `0.05`, `nan`, `inf`.
    pub relative_precision: &'static str,
    /// Field of `probe`.
    pub max_samples: u32,
}

/// A sweep strategy that always asks for these points.
pub fn measures(probes: &[Probe]) -> Vec<u8> {
    let mut body = format!("(data (i32.const 4096) (i32 0 0 8192 {}))\n(data (i32.const 8192)", probes.len());
    for p in probes {
        let Probe { candidate, isl, osl, concurrency, relative_precision, max_samples } = p;
        let _ = write!(
            body,
            " (i32 {candidate} {isl} {osl} {concurrency}) (f64 {relative_precision}) (i32 {max_samples} 0)"
        );
    }
    body += ")\n(func (export \"sla-profiler:sweep/strategy@0.1.0#next\") (param i32) (result i32) (i32.const 4096))";
    component(Kind::SweepStrategy, &body)
}

/// A choice as a guest writes it: candidate, concurrency, and score as WebAssembly text has it.
pub type Choice = (u32, u32, &'static str);

/// A selection policy that always ranks so.
pub fn ranks(prefill: &[Choice], decode: &[Choice]) -> Vec<u8> {
    let table = |at: u32, choices: &[Choice]| {
        let rows = choices.iter().fold(String::new(), |mut rows, (candidate, concurrency, score)| {
            let _ = write!(rows, " (i32 {candidate} {concurrency} 1 0) (f64 {score}) (i32 0 0 0 0)");
            rows
        });
        format!("(data (i32.const {at}){rows})\n")
    };
    let body = format!(
        "(data (i32.const 4096) (i32 0 8192 {} 16384 {} 0 0))\n{}{}(func (export \
         \"sla-profiler:selection/policy@0.1.0#select\") (param i32) (result i32) (i32.const 4096))",
        prefill.len(),
        decode.len(),
        table(8192, prefill),
        table(16384, decode),
    );
    component(Kind::SelectionPolicy, &body)
}

/// A selection policy with so many notes, each of them the same megabyte.
pub fn repeats_a_note(times: u32) -> Vec<u8> {
    let body = format!(
        "(func (export \"sla-profiler:selection/policy@0.1.0#select\") (param i32) (result i32) (local $at i32)
          (local.set $at (i32.const 1048576))
          (loop $more
            (i32.store (local.get $at) (i32.const 3145728))
            (i32.store offset=4 (local.get $at) (i32.const 1000000))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $more (i32.lt_u (local.get $at) (i32.const {end}))))
          (i32.store (i32.const 4116) (i32.const 1048576))
          (i32.store (i32.const 4120) (i32.const {times}))
          (i32.const 4096))",
        end = 1_048_576 + 8 * times,
    );
    component(Kind::SelectionPolicy, &body)
}

/// A number as WebAssembly has lengths: LEB128.
fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).expect("seven bits");
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &leb128(content.len()), content].concat()
}

/// A component that holds another one, and nothing else.
pub fn around(inner: &[u8]) -> Vec<u8> {
    [b"\0asm\x0d\0\x01\0", &section(4, inner)[..]].concat()
}

/// A component with a module in it that exports one function under so many names.
pub fn exports(count: usize) -> Vec<u8> {
    let names = (0..count).flat_map(|i| {
        let name = format!("x{i}");
        [&leb128(name.len())[..], name.as_bytes(), &[0, 0]].concat()
    });
    let exports: Vec<u8> = leb128(count).into_iter().chain(names).collect();
    let module = [
        &b"\0asm\x01\0\0\0"[..],
        // One type, one function of it, and its body.
        &section(1, &[1, 0x60, 0, 0]),
        &section(3, &[1, 0]),
        &section(7, &exports),
        &section(10, &[1, 2, 0, 0x0b]),
    ]
    .concat();
    [b"\0asm\x0d\0\x01\0", &section(1, &module)[..]].concat()
}

/// A plan as a guest writes it; rates and times as WebAssembly text has them.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Field of `deployment-plan`.
    pub prefill_replicas: u32,
    /// Field of `deployment-plan`.
    pub decode_replicas: u32,
    /// All three rates.
    pub requests_per_second: &'static str,
    /// Both latencies.
    pub latency_ms: &'static str,
}

/// A planner model that always plans so.
pub fn plans(plan: Plan) -> Vec<u8> {
    let Plan { prefill_replicas, decode_replicas, requests_per_second: rps, latency_ms: ms } = plan;
    let body = format!(
        "(data (i32.const 4096) (i32 0 0 {prefill_replicas} {decode_replicas}) (f64 {rps} {rps} {rps}) (i32 8 0) (f64 \
         {ms} {ms}) (i32 0x0101 0 0 0 0 0))\n(func (export \"sla-profiler:planner/model@0.1.0#plan\") (param i32) \
         (result i32) (i32.const 4096))"
    );
    component(Kind::PlannerModel, &body)
}
