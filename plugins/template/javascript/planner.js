const description = {
  name: "my-plugin",
  version: "0.1.0",
  summary: "Replicas in proportion to the demand, without queues.",
  settings: [{ name: "headroom", default: "0.8", help: "highest load of an engine, as a fraction of what it could do, 0.05 to 1" }],
};

function headroomOf(job) {
  const text = job.settings.find(([key]) => key === "headroom")?.[1] ?? "0.8";
  const value = Number(text);
  if (text.trim() === "" || !(value >= 0.05 && value <= 1)) {
    throw { tag: "bad-setting", val: `headroom is "${text}", but must be a number from 0.05 to 1` };
  }
  return value;
}

// Rows of a curve at the lengths nearest to the job's, in the order of load.
function nearest(curve, latencies, isl, osl, role) {
  const rows = curve.isl.map((n, i) => ({
    distance: Math.abs(n - isl) + (osl == null ? 0 : Math.abs(curve.osl[i] - osl)), isl: n, load: curve.concurrency[i], ms: latencies[i],
  })).filter(({ ms }) => Number.isFinite(ms) && ms > 0);
  if (rows.length === 0) throw { tag: "other", val: `nothing was measured of the ${role} engine` };
  const least = Math.min(...rows.map((row) => row.distance));
  return rows.filter((row) => row.distance === least).sort((a, b) => a.load - b.load || a.isl - b.isl || a.ms - b.ms);
}

function plan(job, engines, curves, demand) {
  const share = headroomOf(job);
  const { isl, osl } = job.workload;
  const { sla } = job;
  const first = nearest(curves.prefill, curves.prefill.ttftMs.target, isl, null, "prefill")[0];
  const ttftMs = first.ms * isl / first.isl;
  const loads = nearest(curves.decode, curves.decode.itlMs.target, isl, osl, "decode");
  const { load, ms: itlMs } = loads.filter(({ ms }) => sla.itlMs == null || ms <= sla.itlMs).at(-1) ?? loads[0];
  // Requests per second that one engine of each role takes.
  const prefillRate = share * 1e3 * Math.max(1, engines.prefill.attentionDp) / ttftMs;
  const decodeRate = share * 1e3 * load / (itlMs * osl);

  const e2eMs = ttftMs + itlMs * osl;
  const wanted = demand.tag === "requests-per-second" ? demand.val
    : demand.tag === "concurrency" ? demand.val * 1e3 / e2eMs // Little's law
    : Infinity;
  const total = job.hardware.totalGpus;
  const capacity = (p, d) => Math.min(p * prefillRate, d * decodeRate);
  // The fewest GPUs that serve the demand; where none do, the most that the budget serves.
  let best = { p: 1, d: 1, gpus: engines.prefill.gpus + engines.decode.gpus, served: Math.min(capacity(1, 1), wanted) };
  for (let p = 1; p * engines.prefill.gpus < total; p++) {
    for (let d = 1; p * engines.prefill.gpus + d * engines.decode.gpus <= total; d++) {
      const pair = { p, d, gpus: p * engines.prefill.gpus + d * engines.decode.gpus, served: Math.min(capacity(p, d), wanted) };
      if (pair.served > best.served || (pair.served === best.served && pair.gpus < best.gpus)) best = pair;
    }
  }
  const { p, d, served } = best;
  const meets = (value, limit) => limit == null || value <= limit;
  return {
    prefillReplicas: p,
    decodeReplicas: d,
    capacityRequestsPerSecond: capacity(p, d),
    prefillRequestsPerSecond: p * prefillRate,
    decodeRequestsPerSecond: d * decodeRate,
    decodeConcurrency: Math.max(1, Math.ceil(served * itlMs * osl / 1e3 / d)),
    expectedTtftMs: ttftMs,
    expectedItlMs: itlMs,
    meetsSla: meets(ttftMs, sla.ttftMs) && meets(itlMs, sla.itlMs) && meets(e2eMs, sla.e2eMs),
    meetsDemand: wanted === Infinity || capacity(p, d) >= wanted,
    assumptions: [`Engines run at ${(share * 100).toFixed(0)} % of what they could do; waiting is not modelled.`],
    extra: [],
  };
}

const PLAN = {
  prefillReplicas: 0,
  decodeReplicas: 0,
  capacityRequestsPerSecond: 0,
  prefillRequestsPerSecond: 0,
  decodeRequestsPerSecond: 0,
  decodeConcurrency: 0,
  expectedTtftMs: 0,
  expectedItlMs: 0,
  meetsSla: true,
  meetsDemand: true,
  assumptions: [""],
  extra: [["", ""]],
};

export const about = { describe: guarded("describe", () => description, DESCRIPTION) };
export const model = { plan: guarded("plan", plan, PLAN) };
