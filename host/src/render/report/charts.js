// The charts, from the data of the run and from the SLA that is being looked at.
const POINT = { candidate: 0, phase: 1, isl: 2, osl: 3, asked: 4, seen: 5, ttft: 6, itl: 7, tokens: 8, kv: 9, samples: 10, failed: 11 };
const get = (point, what) => point[POINT[what]];
const candidateOf = (point) => DATA.candidates[get(point, "candidate")];
const latency = (point, role) => get(point, role === "prefill" ? "ttft" : "itl");
const NAME = { prefill: "TTFT", decode: "ITL" };

// The same mapping has the same colour and shape in both roles.
const labels = [...new Set(DATA.candidates.map((c) => c.label))];
const look = (candidate) => {
  const n = labels.indexOf(candidate.label);
  return { color: `var(--c${n % 8})`, form: n };
};

const atLengths = (role) =>
  DATA.points.filter((p) => candidateOf(p).role === role && latency(p, role) && get(p, "isl") === DATA.isl && (role === "prefill" || get(p, "osl") === DATA.osl));

function describe(point, role) {
  const [value, low, high] = latency(point, role);
  return [
    `${role} ${candidateOf(point).label}, ${get(point, "asked")} at once`,
    `${NAME[role]} ${short(value)} ms (${DATA.statistic})`,
    `mean between ${short(low)} and ${short(high)} ms, 95 %`,
    `${short(get(point, "tokens"))} tokens/s/GPU, ${get(point, "samples")} samples`,
  ].join("\n");
}

function roleChart(role, targets, winner) {
  const host = document.getElementById(`chart-${role}`);
  const points = atLengths(role);
  if (points.length === 0) {
    host.textContent = `No ${role} point was measured at the job's lengths.`;
    return;
  }
  const target = targets[role === "prefill" ? "ttft" : "itl"];
  const x = reach([...points.flatMap((p) => latency(p, role)), target ?? NaN]);
  const y = reach(points.map((p) => get(p, "tokens")), { zero: true, log: false });
  const settings = {
    label: `${role}-title`,
    x: { ...x, label: `${NAME[role]}, ms (${DATA.statistic})` },
    y: { ...y, label: "tokens/s/GPU" },
  };
  chart(host, settings, (frame) => {
    const { svg, X, Y } = frame;
    targetLine(frame, target, `${NAME[role]} ≤ ${plain(target ?? 0)} ms`);
    for (const candidate of DATA.candidates.filter((c) => c.role === role)) {
      const { color, form } = look(candidate);
      const own = points.filter((p) => candidateOf(p) === candidate).sort((a, b) => get(a, "asked") - get(b, "asked"));
      if (role === "decode") svg.append(line(own.map((p) => [X(latency(p, role)[0]), Y(get(p, "tokens"))]), { stroke: color }));
      for (const p of own) {
        const [value, low, high] = latency(p, role);
        const at = Y(get(p, "tokens"));
        svg.append(node("line", { x1: X(low), x2: X(high), y1: at, y2: at, stroke: color, "stroke-width": 1.5 }));
        const isWinner = winner && winner.candidate === candidate.id && winner.concurrency === get(p, "asked");
        if (isWinner) svg.append(node("circle", { class: "chosen", cx: X(value), cy: at, r: 10 }));
        mark(frame, shape(form, X(value), at, 4.5, { fill: color }), (isWinner ? "chosen: " : "") + describe(p, role));
      }
    }
  });
  const shown = DATA.candidates.filter((c) => points.some((p) => candidateOf(p) === c));
  legend(host, shown.map((c) => ({ name: c.label, ...look(c) })));
}

// What the plan costs along one axis of the grid, the other target being as it is.
function cost(targets, along, unit) {
  const host = document.getElementById("chart-cost");
  const axis = DATA.picks && DATA.picks.axes.find((a) => a.target === along);
  if (!axis || axis.lines_ms.length < 2) {
    host.textContent = "There is no plan under other targets to draw; see above.";
    return;
  }
  const rows = axis.lines_ms
    .map((ms) => ({ ms, answer: answerAt({ ...targets, [along]: ms }).answer }))
    .filter(({ answer }) => answer && answer.meets_sla && answer.capacity_requests_per_second > 0);
  const price = (answer) => (unit === "gpus" ? answer.gpus : (answer.gpus * 1000) / answer.capacity_requests_per_second / 3600);
  if (rows.length === 0) {
    host.querySelectorAll("svg.plot, .tip, .legend").forEach((old) => old.remove());
    host.textContent = "No target along this axis is met.";
    return;
  }
  host.childNodes.forEach((child) => child.nodeType === Node.TEXT_NODE && child.remove());
  const name = { ttft: "TTFT", itl: "ITL", e2e: "E2E" }[along];
  const own = targets[along];
  const settings = {
    label: "cost-title",
    x: { ...reach([...rows.map((r) => r.ms), own ?? NaN], { log: true }), label: `${name} target, ms (${DATA.statistic})` },
    y: { ...reach(rows.map((r) => price(r.answer)), { zero: true, log: false }), label: unit === "gpus" ? "GPUs of the plan" : "GPU-hours for 1,000 requests" },
  };
  chart(host, settings, (frame) => {
    const { svg, X, Y } = frame;
    targetLine(frame, own, `${name} ≤ ${plain(own ?? 0)} ms`);
    if (unit === "gpus") limitLine(frame, DATA.tenancy.gpus, `${DATA.tenancy.gpus} GPUs may be used`);
    const steps = rows.flatMap((r, n) => (n ? [[X(r.ms), Y(price(rows[n - 1].answer))]] : []).concat([[X(r.ms), Y(price(r.answer))]]));
    svg.append(line(steps, { stroke: "var(--accent)", "stroke-width": 2 }));
    for (const { ms, answer } of rows) {
      const text = `${name} ≤ ${plain(ms)} ms\n${headline(answer)}\n${answer.gpus} GPUs, ${short(answer.capacity_requests_per_second)} requests/s\n${short((answer.gpus * 1000) / answer.capacity_requests_per_second / 3600)} GPU-hours for 1,000 requests`;
      const over = answer.gpus > DATA.tenancy.gpus;
      const fill = over ? "var(--card)" : "var(--accent)";
      const said = over ? `${text}\nmore than the ${DATA.tenancy.gpus} GPUs that may be used` : text;
      mark(frame, shape(0, X(ms), Y(price(answer)), 4, { fill, stroke: "var(--accent)", "stroke-width": 1.5 }), said);
    }
  });
}

// Curves of one candidate: TTFT over input length.
function ttftCurve(candidate) {
  const host = document.getElementById("chart-ttft");
  const points = DATA.points.filter((p) => candidateOf(p) === candidate && get(p, "ttft"));
  const byLength = new Map();
  for (const p of points.filter((q) => get(q, "asked") === Math.min(...points.map((r) => get(r, "asked"))))) {
    const known = byLength.get(get(p, "isl"));
    if (!known || get(known, "samples") < get(p, "samples")) byLength.set(get(p, "isl"), p);
  }
  const own = [...byLength.values()].sort((a, b) => get(a, "isl") - get(b, "isl"));
  if (own.length === 0) return;
  const settings = {
    label: "ttft-title",
    x: { ...reach(own.map((p) => get(p, "isl"))), label: "input length, tokens" },
    y: { ...reach(own.flatMap((p) => get(p, "ttft")), { zero: true, log: false }), label: `TTFT, ms (${DATA.statistic})` },
  };
  const { color, form } = look(candidate);
  chart(host, settings, (frame) => drawCurve(frame, own, "isl", "ttft", color, form, "prefill"));
}

function drawCurve(frame, own, along, what, color, form, role) {
  const { svg, X, Y } = frame;
  svg.append(band(own.map((p) => [X(get(p, along)), Y(get(p, what)[1]), Y(get(p, what)[2])]), { fill: color }));
  svg.append(line(own.map((p) => [X(get(p, along)), Y(get(p, what)[0])]), { stroke: color }));
  for (const p of own) {
    const [at, [value, low, high]] = [X(get(p, along)), get(p, what)];
    svg.append(node("line", { x1: at, x2: at, y1: Y(low), y2: Y(high), stroke: color, "stroke-width": 1.5 }));
    const lengths = `${get(p, "isl").toLocaleString("en-US")} tokens in, ${get(p, "osl").toLocaleString("en-US")} out`;
    mark(frame, shape(form, at, Y(value), 4.5, { fill: color }), `${lengths}\n${describe(p, role)}`);
  }
}

// ITL over load, one line per context length.
function itlCurve(candidate) {
  const host = document.getElementById("chart-itl");
  const points = DATA.points.filter((p) => candidateOf(p) === candidate && get(p, "itl"));
  if (points.length === 0) return;
  const lengths = [...new Set(points.map((p) => `${get(p, "isl")}/${get(p, "osl")}`))];
  const settings = {
    label: "itl-title",
    x: { ...reach(points.map((p) => get(p, "asked"))), label: "requests at once" },
    y: { ...reach(points.flatMap((p) => get(p, "itl")), { zero: true, log: false }), label: `ITL, ms (${DATA.statistic})` },
  };
  const entries = [];
  chart(host, settings, (frame) => {
    entries.length = 0;
    lengths.sort((a, b) => parseInt(a, 10) - parseInt(b, 10)).forEach((key, n) => {
      const own = points.filter((p) => `${get(p, "isl")}/${get(p, "osl")}` === key).sort((a, b) => get(a, "asked") - get(b, "asked"));
      const color = `var(--c${n % 8})`;
      drawCurve(frame, own, "asked", "itl", color, n, "decode");
      const [isl, osl] = key.split("/").map((tokens) => Number(tokens).toLocaleString("en-US"));
      entries.push({ name: `${isl} in, ${osl} out`, color, form: n });
    });
  });
  legend(host, entries);
}

const STATE = { launching: "launching", measuring: "measuring", idle: "held, not measuring" };

// One row per GPU, time from left to right.
function gpus() {
  const host = document.getElementById("chart-gpus");
  const { tenures, phases, end_s: end, gpus: count } = DATA.tenancy;
  const rows = Math.max(count, ...tenures.flatMap((t) => t.lanes.map(([first, n]) => first + n)));
  const lane = Math.max(4, Math.min(24, 360 / rows));
  const margin = { top: 34, bottom: 44, left: 72 };
  const settings = {
    height: Math.round(rows * lane) + margin.top + margin.bottom,
    margin,
    label: "gpus-title",
    x: { min: 0, max: end || 1, label: "time of the run (cluster's clock)", show: clock, ticks: (most) => timeTicks(end || 1, most) },
    y: { min: 0, max: rows, label: "GPU", show: String, ticks: () => linearTicks(0, rows, Math.min(rows, 8)).filter(Number.isInteger) },
  };
  chart(host, settings, (frame) => {
    const { svg, X, Y, m, height, width } = frame;
    let free = -Infinity;
    // Phases that run side by side share a name.
    const starts = new Map();
    for (const { title, from_s: from, to_s: to } of phases) {
      const known = starts.get(from);
      starts.set(from, { title: known ? `${known.title}, ${title}` : title, to: Math.max(to, known ? known.to : to) });
    }
    for (const [from, { title, to }] of starts) {
      svg.append(node("line", { class: "axis", x1: X(from), x2: X(from), y1: m.top - 22, y2: height - m.bottom }));
      // A name only where there is room for it.
      const room = Math.min(X(to), width - m.right) - X(from);
      if (room > title.length * 6.4 && X(from) > free) {
        svg.append(node("text", { x: X(from) + 4, y: m.top - 12 }, title));
        free = X(from) + title.length * 6.4;
      }
    }
    for (const tenure of tenures) {
      const { lanes, from_s: from, to_s: to, launched_s: launched, measuring, failed } = tenure;
      const name = tenure.candidate === null ? "the deployment" : [...new Set([tenure.candidate, ...tenure.also].map((id) => DATA.candidates[id].role))].join(" and ") + ` ${DATA.candidates[tenure.candidate].label}`;
      const held = lanes.reduce((sum, [, n]) => sum + n, 0);
      const parts = [["idle", from, to], ["launching", from, launched ?? to], ...measuring.map(([a, b]) => ["measuring", a, b])];
      const group = node("g");
      for (const [first, n] of lanes) {
        for (const [state, a, b] of parts) {
          group.append(node("rect", { x: X(a), width: Math.max(0.4, X(b) - X(a)), y: Y(first + n) + 1, height: Math.max(1, n * lane - 2), fill: `var(--${state})` }));
        }
        const tag = tenure.candidate === null ? "deployment" : name;
        if (X(to) - X(from) > tag.length * 7 && n * lane > 15) {
          const text = node("text", { x: X(from) + 5, y: Y(first + n / 2) + 4 }, tag);
          text.setAttribute("class", "on-bar");
          group.append(text);
        }
      }
      const worked = measuring.reduce((sum, [a, b]) => sum + b - a, 0);
      const starting = (launched ?? to) - from;
      const text = [
        `${name}, ${held} GPU${held === 1 ? "" : "s"}${failed ? ", failed" : ""}`,
        `${clock(from)} to ${clock(to)}`,
        `launching ${short(starting)} s, measuring ${short(worked)} s, idle ${short(Math.max(0, to - from - starting - worked))} s`,
      ].join("\n");
      mark(frame, group, text);
    }
  });
  legend(host, Object.entries(STATE).map(([state, name]) => ({ name, color: `var(--${state})`, form: "box" })));
}
