// `node test.mjs`: the strategy under Node, against engines of known speed. No packages needed.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

// Node has no such module as the host's log; the test takes its place.
const lines = [];
globalThis.hostLog = (level, message) => lines.push([level, message]);
const source = await readFile(new URL("sweep.js", import.meta.url), "utf8");
const native = source.replace(/^import \{ write \} from .*$/m, "const write = globalThis.hostLog;");
const print = console;
const { about, strategy } = await import("data:text/javascript," + encodeURIComponent(native));

const job = {
  model: { maxContext: 8192 }, workload: { isl: 3000, osl: 300 }, sla: { ttftMs: 300, itlMs: 10 }, settings: [],
};
const candidates = { role: ["prefill", "decode", "decode"], attentionDp: [1, 1, 4] };
const empty = () => ({
  facts: { candidate: [], kvTokens: [], maxRunning: [] },
  measurements: { candidate: [], isl: [], osl: [], concurrency: [], itlMs: { target: [] } },
  failures: { candidate: [], isl: [], osl: [], concurrency: [] },
});
const at = (history, id) =>
  history.measurements.concurrency.filter((_, i) => history.measurements.candidate[i] === id);

// Measures whatever is asked for, until `done`.
function run(goal, history = empty(), settings = []) {
  for (let step = 0; step < 100; step++) {
    const answer = strategy.next({ ...job, settings }, goal, candidates, history);
    if (answer.tag === "done") return history;
    for (const p of answer.val) {
      const m = history.measurements;
      const repeated = m.candidate.some((id, i) =>
        id === p.candidate && m.isl[i] === p.isl && m.osl[i] === p.osl && m.concurrency[i] === p.concurrency);
      assert(!repeated, "a point is asked for once");
      for (const key of ["candidate", "isl", "osl", "concurrency"]) m[key].push(p[key]);
      m.itlMs.target.push(5 + 0.3 * p.concurrency);
      if (!history.facts.candidate.includes(p.candidate)) {
        history.facts.candidate.push(p.candidate);
        history.facts.kvTokens.push(330_000);
        history.facts.maxRunning.push(256);
      }
    }
  }
  assert.fail("never done");
}

// The load doubles until the target of 10 ms breaks: 5 + 0.3 * 16 = 9.8 holds, 32 does not.
const decode = run({ tag: "decode" });
assert.deepEqual(at(decode, 1), [1, 2, 4, 8, 16, 32]);
assert.deepEqual(at(decode, 2), [4, 8, 16, 32]);

// One look per prefill candidate.
assert.deepEqual(at(run({ tag: "prefill" }), 0), [1]);

// An engine that does not start is left alone.
const broken = empty();
for (const [key, value] of Object.entries({ candidate: 1, isl: 0, osl: 0, concurrency: 0 })) broken.failures[key].push(value);
assert.deepEqual(at(run({ tag: "decode" }, broken), 1), []);

// Curves keep within the model's context and have no more points than said.
const curve = { candidate: 1, minIsl: 100, maxIsl: 9000, concurrency: 16 };
const points = run({ tag: "decode-curve", val: curve }, decode, [["curve-points", "3"]]).measurements;
assert(points.isl.every((isl, i) => isl + points.osl[i] <= 8192));
assert(at({ measurements: points }, 1).length <= 6 + 9);

// Settings are checked, and what goes wrong has words.
assert.throws(() => run({ tag: "decode" }, empty(), [["samples", "many"]]), { tag: "bad-setting" });
assert.throws(() => strategy.next(job, { tag: "decode" }, null, empty()), (e) => e.tag === "other" && /next: TypeError/.test(e.val));
assert.equal(lines.at(-1)[0], "error");
assert.equal(about.describe().name, "sweep-doubling");
globalThis.console = print;
