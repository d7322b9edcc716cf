//! Builds plugins as WebAssembly components, and gets whatever that needs.
//!
//! * [`toolchain`]: a rustc that can build [`TARGET`]: the current one, `rustup target add`, or a sysroot made from
//!   Debian's packages.
//! * [`component`]: cargo packages in, `<name>.wasm` files with their digests out.
//! * [`project`]: a plugin's folder of sources in any of four languages, built by what `plugin.toml` says.
//! * [`scaffold`]: new projects.
//! * [`chromium`]: a headless browser for the tests of the report.
//! * [`python`]: the Python environments of the tests: numpy, and NVIDIA's packages.
//!
//! One code path serves the bundled plugins (`cargo xtask plugins`), the tests, and plugins written elsewhere. No build
//! script runs cargo: nested builds wait for cargo's lock and inherit settings that were meant for the host.

pub mod chromium;
pub mod component;
mod debian;
mod error;
mod languages;
pub mod process;
pub mod project;
pub mod python;
pub mod scaffold;
pub mod toolchain;

pub use error::Error;

/// The target of every Rust plugin. It has no WASI: a plugin can reach only what its world imports.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// The linker that turns the core module into a component; it ships inside every rustup toolchain.
pub const LINKER: &str = "wasm-component-ld";

/// Is told, in one line each, about the steps that take a while.
pub type Report<'a> = &'a dyn Fn(&str);
