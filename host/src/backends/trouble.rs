//! What the last lines of a log say of why a process ended: words of engines, of Python and of the tools that fetch
//! weights. Where nothing is known, nothing is guessed.

use crate::domain::FailureCause;

/// Words and what they mean. What comes first counts: an engine that runs out of memory often complains of its connections
/// afterwards.
const WORDS: [(FailureCause, &[&str]); 6] = [
    (
        // vLLM, when it starts: the memory is there, but in somebody else's hands.
        FailureCause::GpusTaken,
        &[
            "Free memory on device",
            "CUDA-capable device(s) is/are busy or unavailable",
            "all CUDA-capable devices are busy",
        ],
    ),
    (
        FailureCause::GpuMemory,
        &[
            "CUDA out of memory",
            "torch.OutOfMemoryError",
            "torch.cuda.OutOfMemoryError",
            "CUDA_ERROR_OUT_OF_MEMORY",
            "No available memory for the cache blocks",
            "Not enough memory. Please try to increase --mem-fraction-static",
            "is larger than the maximum number of tokens that can be stored in KV cache",
            "is larger than the available KV cache memory",
        ],
    ),
    (
        FailureCause::CommandLine,
        &[
            "error: unrecognized arguments",
            "error: argument ",
            "error: the following arguments are required",
            "error: ambiguous option",
            "error: unexpected argument",
            "error: invalid value",
            "No such option",
            "executable file not found",
        ],
    ),
    (
        // A model that the token may not read, or that does not exist.
        FailureCause::Missing,
        &[
            "GatedRepoError",
            "RepositoryNotFoundError",
            "401 Client Error",
            "403 Client Error",
            "404 Client Error",
            "is not a local folder and is not a valid model identifier",
        ],
    ),
    (
        FailureCause::Connection,
        &[
            "Connection reset by peer",
            "ConnectionResetError",
            "RemoteDisconnected",
            "IncompleteRead",
            "ReadTimeoutError",
            "Temporary failure in name resolution",
            "429 Client Error",
            "500 Server Error",
            "502 Server Error",
            "503 Server Error",
            "504 Server Error",
        ],
    ),
    (FailureCause::HostMemory, &["DefaultCPUAllocator: can't allocate memory", "Cannot allocate memory"]),
];

/// Why a process ended that wrote this at its end, and the line that says so.
pub fn cause(log: &str) -> Option<(FailureCause, &str)> {
    WORDS.iter().find_map(|(cause, words)| {
        let says = |line: &&str| words.iter().any(|word| line.contains(word));
        Some((*cause, log.lines().find(says)?.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_last_words_is_told_apart_and_others_mean_nothing() {
        for (line, wanted) in [
            ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB.", FailureCause::GpuMemory),
            (
                "ValueError: Free memory on device cuda:0 (1.2/79.1 GiB) on startup is less than desired GPU memory \
                 utilization (0.9, 71.2 GiB).",
                FailureCause::GpusTaken,
            ),
            ("api_server.py: error: unrecognized arguments: --no-such-flag", FailureCause::CommandLine),
            ("huggingface_hub.errors.GatedRepoError: 401 Client Error.", FailureCause::Missing),
            ("ConnectionResetError: [Errno 104] Connection reset by peer", FailureCause::Connection),
        ] {
            let log = format!("INFO starting\n{line}\nRuntimeError: Engine core initialization failed.");
            assert_eq!(cause(&log), Some((wanted, line)), "{line}");
        }
        assert_eq!(cause("Segmentation fault (core dumped)"), None);
        assert_eq!(cause(""), None);
    }

    #[test]
    fn out_of_memory_counts_before_the_connections_that_broke_of_it() {
        let log = "ConnectionResetError: peer\nCUDA out of memory. Tried to allocate 2 GiB";
        assert_eq!(cause(log).map(|found| found.0), Some(FailureCause::GpuMemory));
    }
}
