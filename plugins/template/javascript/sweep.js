const description = {
  name: "my-plugin",
  version: "0.1.0",
  summary: "Doubles the load of each decode engine until the ITL target breaks.",
  settings: [{ name: "samples", default: "64", help: "samples per point at most, 1 to 10000" }],
};

const CURVE_POINTS = 6; // per axis

function samplesOf(job) {
  const text = job.settings.find(([key]) => key === "samples")?.[1] ?? "64";
  const value = Number(text);
  if (text.trim() === "" || !Number.isInteger(value) || value < 1 || value > 10000) {
    throw { tag: "bad-setting", val: `samples is "${text}", but must be a whole number from 1 to 10000` };
  }
  return value;
}

// Whole numbers from `least` to `most`, both included, without repeats.
const spaced = (least, most) =>
  [...new Set(Array.from({ length: CURVE_POINTS }, (_, i) => Math.round(least + ((most - least) * i) / (CURVE_POINTS - 1))))];

// What to measure next; called again and again, with all that was measured so far, until it says `done`.
function next(job, goal, candidates, { measurements, facts, failures }) {
  const samples = samplesOf(job);
  const { isl, osl } = job.workload;
  const ranks = (id) => Math.max(1, candidates.attentionDp[id]);
  const probe = (candidate, isl, osl, concurrency) =>
    ({ candidate, isl, osl, concurrency, relativePrecision: 0.02, maxSamples: samples });
  const row = (p) => measurements.candidate.findIndex((id, i) => id === p.candidate
    && measurements.isl[i] === p.isl && measurements.osl[i] === p.osl && measurements.concurrency[i] === p.concurrency);
  // A failure at concurrency 0 is the engine's own: there is no use in asking for more of it.
  const failed = (p) => failures.candidate.some((id, i) => id === p.candidate && (failures.concurrency[i] === 0
    || (failures.isl[i] === p.isl && failures.osl[i] === p.osl && failures.concurrency[i] === p.concurrency)));
  // Requests that fit the engine's KV cache; unknown before it has run.
  const room = (id, isl, osl) => {
    const i = facts.candidate.indexOf(id);
    return i < 0 ? ranks(id) : Math.max(ranks(id), Math.min(facts.maxRunning[i], Math.floor(facts.kvTokens[i] / (isl + osl))));
  };
  const ids = (role) => candidates.role.flatMap((r, id) => (r === role ? [id] : []));

  // The first load of the series that is not measured yet, unless the series has ended.
  const doubling = (id) => {
    for (let load = ranks(id); ; load *= 2) {
      const p = probe(id, isl, osl, load);
      const i = row(p);
      if (i < 0) return [p];
      const broken = job.sla.itlMs != null && measurements.itlMs.target[i] > job.sla.itlMs;
      if (broken || load * 2 > room(id, isl, osl)) return [];
    }
  };

  const { candidate, minIsl, maxIsl } = goal.val ?? {};
  const lengths = (osl) => spaced(minIsl, Math.max(minIsl, Math.min(maxIsl, job.model.maxContext - osl)));
  const points = {
    "prefill": () => ids("prefill").map((id) => probe(id, isl, 5, ranks(id))),
    "decode": () => ids("decode").flatMap(doubling),
    "prefill-curve": () => lengths(5).map((n) => probe(candidate, n, 5, ranks(candidate))),
    "decode-curve": () => lengths(osl).flatMap((n) => spaced(1, Math.floor(room(candidate, n, osl) / ranks(candidate)))
      .map((load) => probe(candidate, n, osl, load * ranks(candidate)))),
  };
  const probes = points[goal.tag]().filter((p) => row(p) < 0 && !failed(p));
  return probes.length > 0
    ? { tag: "measure", val: probes }
    : { tag: "done", val: `${measurements.candidate.length} points are measured` };
}

const PROBE = { candidate: 0, isl: 0, osl: 0, concurrency: 0, relativePrecision: 0, maxSamples: 0 };
const STEP = new Map([["measure", [PROBE]], ["done", ""]]);

export const about = { describe: guarded("describe", () => description, DESCRIPTION) };
export const strategy = { next: guarded("next", next, STEP) };
