//! Exit codes. They are part of the interface: scripts and the operator's Job read them. The table in the README is
//! made from [`ALL`] and checked by a test.

/// The run found a configuration that meets the SLA, or the command did what it was asked.
pub const OK: u8 = 0;
/// Something that should not happen.
pub const UNEXPECTED: u8 = 1;
/// The command line makes no sense, or a value on it (the code that clap uses, too).
pub const USAGE: u8 = 2;
/// The DGDR, a plugin's project, or a file that either names, is wrong or cannot be read.
pub const INPUT: u8 = 3;
/// A plugin cannot be built, fetched or loaded.
pub const PLUGIN_LOAD: u8 = 4;
/// A plugin failed during the run and nobody stands in for it.
pub const PLUGIN_FAILED: u8 = 5;
/// The cluster cannot be reached or refuses.
pub const CLUSTER: u8 = 6;
/// The deployment did not become ready, or could not be generated.
pub const DEPLOYMENT: u8 = 7;
/// Not one candidate of some role could be measured.
pub const NOTHING_MEASURED: u8 = 8;
/// The output directory cannot be used, or a file cannot be written.
pub const OUTPUT: u8 = 9;
/// Measured, but no configuration meets the SLA. All artifacts are there; the result is the least bad one.
pub const INFEASIBLE: u8 = 10;
/// No legal mapping fits the GPUs; nothing was launched.
pub const NO_CANDIDATE: u8 = 11;
/// The deployment came up, but its check run did not keep what the plan promised.
pub const CHECK_MISSED: u8 = 12;
/// The weights fit, but the KV cache of no legal mapping holds one request; nothing was launched.
pub const KV_TOO_SMALL: u8 = 13;
/// The budget was used up before there was an answer.
pub const OUT_OF_BUDGET: u8 = 16;
/// Interrupted; what was measured is kept.
pub const INTERRUPTED: u8 = 130;

/// Code and meaning of each, in order.
pub const ALL: &[(u8, &str)] = &[
    (OK, "a configuration meets the SLA, or the command did what it was asked"),
    (UNEXPECTED, "something that should not happen"),
    (USAGE, "the command line, or a value on it, makes no sense"),
    (INPUT, "the DGDR, or a file that it names, is wrong or cannot be read"),
    (PLUGIN_LOAD, "a plugin cannot be built, fetched or loaded"),
    (PLUGIN_FAILED, "a plugin failed during the run and nobody stands in for it"),
    (CLUSTER, "the cluster cannot be reached or refuses"),
    (DEPLOYMENT, "the deployment could not be generated or did not become ready"),
    (NOTHING_MEASURED, "not one candidate of some role could be measured"),
    (OUTPUT, "the output directory cannot be used, or a file cannot be written"),
    (INFEASIBLE, "measured, but no configuration meets the SLA; the result is the least bad one"),
    (NO_CANDIDATE, "no legal mapping fits the GPUs; nothing was launched"),
    (CHECK_MISSED, "the deployment came up, but its check run did not keep what the plan promised"),
    (KV_TOO_SMALL, "the weights fit, but the KV cache of no mapping holds one request; nothing was launched"),
    (OUT_OF_BUDGET, "the budget was used up before there was an answer; --resume with a larger one goes on"),
    (INTERRUPTED, "interrupted; what was measured is kept"),
];

/// The table for `--help`.
pub fn help() -> String {
    let mut text = "Exit codes:".to_owned();
    for (code, meaning) in ALL {
        text.push_str(&format!("\n  {code:>3}  {meaning}"));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_code_stands_for_two_things() {
        let mut codes: Vec<u8> = super::ALL.iter().map(|(code, _)| *code).collect();
        codes.dedup();
        assert_eq!(codes.len(), super::ALL.len());
        assert!(codes.is_sorted());
    }
}
