//! Tables of the program as a whole: how soon it starts, and what the quickstart's decisions cost.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use sla_profiler_tests::{program, root};

use crate::figures::{micros, quartiles, spread};

/// Starting the program, until it has written something.
pub fn start(cache: &Path) {
    println!("| start to first output | ms |\n|---|---|");
    for arguments in [&["--version"][..], &["plugin", "list"]] {
        let once = || {
            let started = Instant::now();
            let mut child = Command::new(program())
                .args(arguments)
                .env("XDG_CACHE_HOME", cache)
                .stdout(Stdio::piped())
                .spawn()
                .expect("the program starts");
            let mut out = child.stdout.take().expect("it is piped");
            out.read_exact(&mut [0]).expect("it says something");
            let elapsed = micros(started.elapsed()) / 1e3;
            out.read_to_end(&mut Vec::new()).expect("readable");
            child.wait().expect("it ends");
            elapsed
        };
        once();
        println!("| `sla-profiler {}` | {} |", arguments.join(" "), spread((0..21).map(|_| once()).collect()));
    }
    println!();
}

/// The quickstart's run, and how much of it is decisions.
pub fn quickstart(dir: &Path) {
    let mut wall = Vec::new();
    let (mut decisions, mut share) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let started = Instant::now();
        let output = Command::new(program())
            .args(["-vv", "profile", "-f", "examples/quickstart/dgdr.yaml", "--no-progress", "--out"])
            .arg(dir.join(format!("run-{round}")))
            .current_dir(root())
            .env("XDG_CACHE_HOME", dir)
            .output()
            .expect("the program starts");
        let elapsed = micros(started.elapsed());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let log = String::from_utf8_lossy(&output.stderr);
        let of_plugins: Vec<f64> = log
            .split("elapsed_us=")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .collect();
        decisions.push(of_plugins.len() as f64);
        share.push(of_plugins.iter().sum::<f64>() / elapsed * 100.0);
        wall.push(elapsed / 1e6);
    }
    println!(
        "Quickstart: {} s; {:.0} decisions of plugins take {} % of it.\n",
        spread(wall),
        quartiles(decisions)[1],
        spread(share)
    );
}
