const description = {
  name: "my-plugin",
  version: "0.1.0",
  summary: "Most tokens per second and GPU within the SLA.",
  settings: [], // { name, default, help }
};

// Ranks what was measured, best first.
function select(job, demand, candidates, { measurements }) {
  if (job.sla.e2eMs != null) throw { tag: "unsupported", val: "my-plugin knows no end-to-end target" };

  const rank = (role, latencies, rates, limitMs, binding) => {
    const choices = measurements.candidate.flatMap((candidate, i) => {
      const latencyMs = latencies[i];
      const rate = rates[i];
      const measured = candidates.role[candidate] === role && measurements.isl[i] === job.workload.isl
        && (role === "prefill" || measurements.osl[i] === job.workload.osl);
      if (!measured || !Number.isFinite(latencyMs) || !Number.isFinite(rate)) return [];
      const meetsSla = limitMs == null || latencyMs <= limitMs;
      return [{
        candidate,
        concurrency: measurements.concurrency[i],
        meetsSla,
        score: meetsSla ? rate : -latencyMs,
        reason: `${latencyMs.toFixed(1)} ms, ${rate.toFixed(0)} tokens/s/GPU`,
        binding: meetsSla ? "" : binding,
      }];
    });
    // The last word makes the answer independent of the order of the input.
    choices.sort((a, b) => Number(b.meetsSla) - Number(a.meetsSla) || b.score - a.score || a.concurrency - b.concurrency);
    // The best point of each candidate.
    const seen = new Set();
    return choices.filter(({ candidate }) => !seen.has(candidate) && seen.add(candidate));
  };

  const { ttftMs, itlMs, inputTokensPerSecondPerGpu, outputTokensPerSecondPerGpu } = measurements;
  return {
    prefill: rank("prefill", ttftMs.target, inputTokensPerSecondPerGpu, job.sla.ttftMs, "ttft"),
    decode: rank("decode", itlMs.target, outputTokensPerSecondPerGpu, job.sla.itlMs, "itl"),
    notes: [],
  };
}

const CHOICE = { candidate: 0, concurrency: 0, meetsSla: true, score: 0, reason: "", binding: "" };
const SELECTION = { prefill: [CHOICE], decode: [CHOICE], notes: [""] };

export const about = { describe: guarded("describe", () => description, DESCRIPTION) };
export const policy = { select: guarded("select", select, SELECTION) };
