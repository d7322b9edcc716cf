//! The compiler in a process of its own, with limits on its memory, CPU and wall time.
//!
//! The child is this program with a hidden command. It sets the limits on itself before it reads the first byte of the
//! component: it is trusted until then, and no code has to run between fork and exec. It is in a process group of its
//! own, which is killed as a whole when the wall time is over; it ends with its parent.

use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, setrlimit};

use super::super::error::LoadProblem;
use super::super::{engine, limits::Limits, text};

/// The hidden command.
pub(crate) const COMMAND: &str = "__compile";

/// Exit code of a child whose compiler did not take the component; the reason is on its standard error.
const REFUSED: u8 = 10;

/// Most of the child's standard error that is kept.
const MAX_STDERR: u64 = 64 << 10;

/// Largest image: 30 times the largest file.
const MAX_IMAGE: u64 = 1 << 30;

/// Threads of the compiler. Each adds address space, of which the child has little, and more of them gain nothing for
/// components of one module.
const THREADS: &str = "4";

/// Where strangers' components are compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// In this process, without limits.
    Here,
    /// By this program's hidden command, in a process of its own.
    Program(PathBuf),
}

static OWN_PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says that this process runs the program that has the hidden command. The program's `main` says so; a test or another
/// program that uses the library does not.
pub(crate) fn this_program_compiles() {
    // The link leads to the running file even when an update has replaced it meanwhile.
    let link = PathBuf::from("/proc/self/exe");
    if let Some(program) = Some(link).filter(|link| link.exists()).or_else(|| std::env::current_exe().ok()) {
        // Said twice is said once.
        let _ = OWN_PROGRAM.set(program);
    }
}

impl Default for Compiler {
    /// A child process in the program itself; in a program that only uses the library, which has no hidden command, here.
    fn default() -> Self {
        OWN_PROGRAM.get().map_or(Self::Here, |program| Self::Program(program.clone()))
    }
}

/// The limit that stopped the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompileLimit {
    /// Too much work.
    #[error("takes more than {0} s of CPU time to compile (limit `compile_cpu_s`)")]
    Cpu(u64),
    /// Too slow.
    #[error("takes more than {0} ms to compile (limit `compile_deadline_ms`)")]
    Deadline(u64),
    /// Too much memory.
    #[error("takes more than {0} bytes of address space to compile (limit `compile_memory_bytes`)")]
    Memory(u64),
    /// Too much machine code.
    #[error("becomes more than {0} bytes of machine code")]
    Image(u64),
}

/// What the child does; its arguments are `stack_bytes`, `compile_memory_bytes` and `compile_cpu_s`.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> u8 {
    let numbers: Vec<u64> = arguments.filter_map(|number| number.to_str()?.parse().ok()).collect();
    let outcome = match numbers.as_slice() {
        [stack_bytes, memory_bytes, cpu_s] => serve(*stack_bytes, *memory_bytes, *cpu_s),
        _ => Err("this command is the program's own; `sla-profiler plugin check` compiles a plugin".to_owned()),
    };
    match outcome {
        Ok(()) => 0,
        Err(reason) => {
            let _ = io::stderr().write_all(reason.as_bytes());
            REFUSED
        }
    }
}

fn serve(stack_bytes: u64, memory_bytes: u64, cpu_s: u64) -> Result<(), String> {
    restrict(memory_bytes, cpu_s).map_err(|error| format!("the compiler's limits cannot be set: {error}"))?;
    let limits = Limits { stack_bytes: usize::try_from(stack_bytes).unwrap_or(usize::MAX), ..Limits::default() };
    let engine = engine::for_compiling(&limits).map_err(|error| format!("{error:#}"))?;
    let mut wasm = Vec::new();
    io::stdin().lock().read_to_end(&mut wasm).map_err(|error| error.to_string())?;
    let image = super::compile(&engine, &wasm).map_err(|problem| match problem {
        LoadProblem::Compile(reason) => reason,
        other => other.to_string(),
    })?;
    io::stdout().lock().write_all(&image).map_err(|error| error.to_string())
}

/// From here on the process cannot grow, run or write beyond the limits.
fn restrict(memory_bytes: u64, cpu_s: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let limit =
        |resource, soft: u64, hard: u64| setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) });
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Fsize, 0, 0)?;
    limit(Resource::As, memory_bytes, memory_bytes)?;
    // The soft limit ends the process with a signal that tells what happened.
    Ok(limit(Resource::Cpu, cpu_s, cpu_s.saturating_add(1))?)
}

/// Compiles in a child of `program`.
///
/// # Errors
/// What the compiler says, the limit that it met, or that it could not be run.
pub(super) fn compile(program: &Path, wasm: &[u8], limits: &Limits) -> Result<Vec<u8>, LoadProblem> {
    let broken = |reason: String| LoadProblem::Compiler { program: program.to_owned(), reason };
    let mut child = Command::new(program)
        .arg(COMMAND)
        .args([
            limits.stack_bytes.to_string(),
            limits.compile_memory_bytes.to_string(),
            limits.compile_cpu_s.to_string(),
        ])
        .env_clear()
        .env("RAYON_NUM_THREADS", THREADS)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| broken(format!("cannot be started: {error}")))?;
    let ended = converse(&mut child, wasm, Duration::from_millis(limits.compile_deadline_ms));
    if ended.is_err() {
        end(&mut child);
    }
    let Ended { status, image, stderr } = ended.map_err(|problem| match problem {
        Stopped::Deadline => LoadProblem::CompileLimit(CompileLimit::Deadline(limits.compile_deadline_ms)),
        Stopped::Image => LoadProblem::CompileLimit(CompileLimit::Image(MAX_IMAGE)),
        Stopped::Io(error) => broken(error.to_string()),
    })?;
    if status.success() {
        return Ok(image);
    }
    let said = text::one_line(&String::from_utf8_lossy(&stderr), 400);
    if status.code() == Some(i32::from(REFUSED)) && !is_about_memory(&said) {
        return Err(LoadProblem::Compile(said));
    }
    let memory = LoadProblem::CompileLimit(CompileLimit::Memory(limits.compile_memory_bytes));
    Err(match status.signal().and_then(Signal::from_named_raw) {
        Some(Signal::XCPU) => LoadProblem::CompileLimit(CompileLimit::Cpu(limits.compile_cpu_s)),
        _ if is_about_memory(&said) => memory,
        // The kernel, when the machine itself is out of memory.
        Some(Signal::KILL) => memory,
        _ => broken(format!("ended with {status}: {said}")),
    })
}

/// Rust's allocator, a thread that gets no stack, and wasmtime's own `mmap` say so in these words.
fn is_about_memory(said: &str) -> bool {
    ["memory allocation of", "Cannot allocate memory", "Resource temporarily unavailable", "out of memory"]
        .iter()
        .any(|words| said.contains(words))
}

/// How a child ended by itself.
struct Ended {
    status: ExitStatus,
    image: Vec<u8>,
    stderr: Vec<u8>,
}

/// Why a child has to be ended.
enum Stopped {
    Deadline,
    Image,
    Io(io::Error),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Hands the component over and waits for the answer.
fn converse(child: &mut Child, wasm: &[u8], deadline: Duration) -> Result<Ended, Stopped> {
    let started = Instant::now();
    let missing = || io::Error::other("the compiler has no pipes");
    let mut stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let (send, receive) = mpsc::channel();
    let read = |from: &mut dyn Read, limit: u64| {
        let mut bytes = Vec::new();
        from.take(limit.saturating_add(1)).read_to_end(&mut bytes).map(|_| bytes)
    };
    thread::scope(|scope| {
        // A child that ends early does not read on; its exit tells why.
        scope.spawn(move || drop(stdin.write_all(wasm)));
        let errors = scope.spawn(move || read(&mut { stderr }, MAX_STDERR));
        scope.spawn(move || drop(send.send(read(&mut { stdout }, MAX_IMAGE))));
        let outcome = (|| {
            let image = match receive.recv_timeout(deadline) {
                Ok(image) => image?,
                Err(RecvTimeoutError::Timeout) => return Err(Stopped::Deadline),
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the reader ended").into()),
            };
            if u64::try_from(image.len()).unwrap_or(u64::MAX) > MAX_IMAGE {
                return Err(Stopped::Image);
            }
            // It has closed its output; what is left is to exit.
            loop {
                if let Some(status) = child.try_wait()? {
                    break Ok((status, image));
                }
                if started.elapsed() > deadline {
                    break Err(Stopped::Deadline);
                }
                thread::sleep(Duration::from_millis(1));
            }
        })();
        if outcome.is_err() {
            // The threads wait for its pipes.
            end(child);
        }
        let stderr = errors.join().map_err(|_| io::Error::other("the reader panicked"))??;
        outcome.map(|(status, image)| Ended { status, image, stderr })
    })
}

/// Ends the child and whatever it may have started.
fn end(child: &mut Child) {
    // Not yet waited for, so the number is still its own.
    if matches!(child.try_wait(), Ok(None))
        && let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
    {
        let _ = kill_process_group(group, Signal::KILL);
        let _ = child.wait();
    }
}
