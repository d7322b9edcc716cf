// sweep-doubling: doubles the load of each decode engine until the ITL target breaks.
//
// Small on purpose: one look per prefill candidate, a doubling series per decode candidate, evenly spaced curves.

import { write } from "sla-profiler:base/log@0.1.0";

// --- What every JavaScript plugin needs; leave as it is. -----------------------------------------------------------

// There is no console in the sandbox: calling QuickJS's own one would trap.
const say = (level) => (...parts) => write(level, parts.map(String).join(" "));
globalThis.console = { log: say("info"), info: say("info"), debug: say("debug"), warn: say("warn"), error: say("error") };

// What of an answer does not fit the contract, if anything. A shape is a value of the right types; the list of one stands
// for lists of any length, and a Map says which shape `val` has by `tag`.
const misfit = (answer, shape, at = "the answer") => {
  const first = (parts) => parts.reduce((found, [of, like, name]) => found ?? misfit(of, like, name), undefined);
  if (Array.isArray(shape)) {
    return Array.isArray(answer) ? first(answer.map((item, i) => [item, shape[0], `${at}[${i}]`])) : `${at} is no list: ${answer}`;
  }
  if (typeof shape !== "object") return typeof answer === typeof shape ? undefined : `${at} is no ${typeof shape}: ${answer}`;
  if (answer === null || typeof answer !== "object") return `${at} is no object: ${answer}`;
  if (!(shape instanceof Map)) return first(Object.keys(shape).map((key) => [answer[key], shape[key], `${at}.${key}`]));
  const { tag, val } = answer;
  return shape.has(tag) ? misfit(val, shape.get(tag), `${at}.val`) : `${at}.tag is none of ${[...shape.keys()].join(", ")}: ${tag}`;
};

const DESCRIPTION = { name: "", version: "", summary: "", settings: [{ name: "", default: "", help: "" }] };

// An exception that nobody catches is a bare trap, as is an answer of another shape; this makes both an error that the user
// gets to read.
const guarded = (name, call, shape) => (...args) => {
  try {
    const answer = call(...args);
    const wrong = misfit(answer, shape);
    if (wrong) throw new TypeError(wrong);
    return answer;
  } catch (thrown) {
    if (thrown?.tag) throw thrown; // an error of the contract, thrown on purpose
    const place = String(thrown?.stack ?? "").trim().split("\n")[0].trim();
    const said = thrown?.payload ? JSON.stringify(thrown.payload) : thrown; // payload: a call of the host said no
    const message = `${name}: ${said} ${place}`;
    write("error", message);
    throw { tag: "other", val: message };
  }
};

// --- The plugin. ---------------------------------------------------------------------------------------------------

const description = {
  name: "sweep-doubling",
  version: "0.1.0",
  summary: "Doubles the load of each decode engine until the ITL target breaks.",
  settings: [
    { name: "samples", default: "64", help: "samples per point at most, 1 to 10000" },
    { name: "curve-points", default: "6", help: "points per curve and axis, 2 to 32" },
  ],
};

function whole(job, name, least, most) {
  const text = job.settings.find(([key]) => key === name)?.[1] ?? description.settings.find((s) => s.name === name).default;
  const value = Number(text);
  if (text.trim() === "" || !Number.isInteger(value) || value < least || value > most) {
    throw { tag: "bad-setting", val: `${name} is "${text}", but must be a whole number from ${least} to ${most}` };
  }
  return value;
}

// `points` whole numbers from `least` to `most`, both included, without repeats.
const spaced = (least, most, points) =>
  [...new Set(Array.from({ length: points }, (_, i) => Math.round(least + ((most - least) * i) / (points - 1))))];

function next(job, goal, candidates, history) {
  const samples = whole(job, "samples", 1, 10000);
  const curvePoints = whole(job, "curve-points", 2, 32);
  const { isl, osl } = job.workload;
  const { measurements, facts, failures } = history;
  const longest = job.model.maxContext;
  const ranks = (id) => Math.max(1, candidates.attentionDp[id]);
  const probe = (candidate, isl, osl, concurrency) =>
    ({ candidate, isl, osl, concurrency, relativePrecision: 0.02, maxSamples: samples });
  const row = (p) => measurements.candidate.findIndex((id, i) => id === p.candidate
    && measurements.isl[i] === p.isl && measurements.osl[i] === p.osl && measurements.concurrency[i] === p.concurrency);
  // A failure at concurrency 0 is the engine's own: there is no use in asking for more of it.
  const failed = (p) => failures.candidate.some((id, i) => id === p.candidate && (failures.concurrency[i] === 0
    || (failures.isl[i] === p.isl && failures.osl[i] === p.osl && failures.concurrency[i] === p.concurrency)));
  const open = (p) => row(p) < 0 && !failed(p);
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
      if (failed(p)) return [];
      const i = row(p);
      if (i < 0) return [p];
      const broken = job.sla.itlMs != null && measurements.itlMs.target[i] > job.sla.itlMs;
      if (broken || load * 2 > room(id, isl, osl)) return [];
    }
  };

  let probes;
  switch (goal.tag) {
    case "prefill":
      probes = ids("prefill").map((id) => probe(id, isl, 5, ranks(id)));
      break;
    case "decode":
      probes = ids("decode").flatMap(doubling);
      break;
    case "prefill-curve": {
      const { candidate, minIsl, maxIsl } = goal.val;
      probes = spaced(minIsl, Math.min(maxIsl, longest - 5), curvePoints).map((n) => probe(candidate, n, 5, ranks(candidate)));
      break;
    }
    case "decode-curve": {
      const { candidate, minIsl, maxIsl } = goal.val;
      const dp = ranks(candidate);
      probes = spaced(minIsl, Math.min(maxIsl, longest - osl), curvePoints).flatMap((n) =>
        spaced(1, Math.floor(room(candidate, n, osl) / dp), curvePoints).map((k) => probe(candidate, n, osl, k * dp)));
      break;
    }
  }
  probes = probes.filter(open);
  return probes.length > 0
    ? { tag: "measure", val: probes }
    : { tag: "done", val: `${measurements.candidate.length} points are measured` };
}

const PROBE = { candidate: 0, isl: 0, osl: 0, concurrency: 0, relativePrecision: 0, maxSamples: 0 };
const STEP = new Map([["measure", [PROBE]], ["done", ""]]);

export const about = { describe: guarded("describe", () => description, DESCRIPTION) };
export const strategy = { next: guarded("next", next, STEP) };
