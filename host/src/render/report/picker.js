// The picker: what the run's own policies answered under other targets, looked up.
const TARGETS = { ttft: "TTFT", itl: "ITL", e2e: "Whole answer" };

// The tightest line that is not looser than the value; -1 where there is none.
function lineAt(axis, ms) {
  let found = -1;
  axis.lines_ms.forEach((line, n) => {
    if (line <= ms * (1 + 1e-12)) found = n;
  });
  return found;
}

// The answer under these targets, the targets that it was given under, and which target is below all of them.
function answerAt(targets) {
  let index = 0;
  const asked = {};
  for (const axis of DATA.picks.axes) {
    const count = Math.max(1, axis.lines_ms.length);
    let at = 0;
    if (axis.lines_ms.length > 0) {
      at = lineAt(axis, targets[axis.target]);
      if (at < 0) return { answer: null, tooTight: axis };
      asked[axis.target] = axis.lines_ms[at];
    }
    index = index * count + at;
  }
  return { answer: DATA.picks.answers[index], asked };
}

const headline = ({ prefill, decode }) => `${prefill.replicas} × ${prefill.mapping} prefill + ${decode.replicas} × ${decode.mapping} decode`;
const yamlOf = (answer) => answer.yaml.map((n) => DATA.picks.yaml_lines[n]).join("\n");
const targetText = (targets) => Object.entries(targets).map(([target, ms]) => `${TARGETS[target]} ≤ ${plain(ms)} ms`).join(", ");

function ownTargets() {
  const own = {};
  for (const axis of DATA.picks.axes) if (axis.lines_ms.length > 0) own[axis.target] = axis.lines_ms[axis.own];
  return own;
}

function terms(list, rows) {
  list.replaceChildren();
  for (const [term, text, kind] of rows) list.append(html("dt", {}, term), html("dd", kind ? { class: kind } : {}, text));
}

// Fills the result in; the charts follow through `changed`.
function showPick(targets) {
  const result = document.getElementById("pick-result");
  const yaml = document.getElementById("pick-yaml");
  const { answer, asked, tooTight } = answerAt(targets);
  const heading = result.querySelector("h3");
  const list = result.querySelector("dl");
  const buttons = document.querySelectorAll("#pick-copy, #pick-download");
  const usable = Boolean(answer && answer.yaml.length > 0);
  buttons.forEach((button) => {
    button.disabled = !usable;
  });
  if (!answer) {
    heading.textContent = "No answer";
    const why = tooTight
      ? `No measured point meets ${TARGETS[tooTight.target]} ≤ ${plain(targets[tooTight.target])} ms; the tightest target that was asked is ${plain(tooTight.lines_ms[0])} ms.`
      : "The policies have no answer under these targets.";
    terms(list, [["Why", why, "no"]]);
    yaml.textContent = "";
    return null;
  }
  heading.textContent = headline(answer);
  const same = headline(answer) === headline(DATA.picks.ownAnswer ?? answer);
  const rows = [
    ["Meets the SLA", answer.meets_sla ? "yes" : "no: this is the least bad answer", answer.meets_sla ? "ok" : "no"],
    answer.gpus > DATA.tenancy.gpus
      ? ["GPUs", `${answer.gpus}, more than the ${DATA.tenancy.gpus} that may be used`, "no"]
      : ["GPUs", `${answer.gpus} of ${DATA.tenancy.gpus}`],
    ["Serves", `${short(answer.capacity_requests_per_second)} requests/s${answer.meets_demand ? "" : ", less than is asked for"}`],
    ["Expects", `TTFT ${short(answer.expected_ttft_ms)} ms, ITL ${short(answer.expected_itl_ms)} ms (${DATA.statistic})`],
    ["Prefill", `${answer.prefill.mapping}, ${answer.prefill.concurrency} at once: ${answer.prefill.reason}`],
    ["Decode", `${answer.decode.mapping}, ${answer.decode.concurrency} at once: ${answer.decode.reason}`],
    ["Asked at", `${targetText(asked)}${targetText(asked) === targetText(targets) ? "" : ", the next tighter targets that were asked"}`],
    ["The run", same ? "the same engines" : headline(DATA.picks.ownAnswer)],
  ];
  terms(list, rows);
  yaml.textContent = usable ? yamlOf(answer) : "The journal does not hold what a deployment is written from.";
  return answer;
}

function setUpPicker(changed) {
  const form = document.getElementById("pick-form");
  if (!form || !DATA.picks) return;
  DATA.picks.ownAnswer = answerAt(ownTargets()).answer;
  const inputs = {};
  const targets = () => Object.fromEntries(Object.entries(inputs).map(([target, { number }]) => [target, Number(number.value)]));
  const update = () => {
    const wanted = targets();
    const wrong = Object.values(wanted).some((ms) => !(ms > 0));
    for (const [target, { slider, axis }] of Object.entries(inputs)) {
      const at = lineAt(axis, wanted[target]);
      slider.value = String(Math.max(0, at));
      slider.setAttribute("aria-valuetext", `${plain(axis.lines_ms[Math.max(0, at)])} ms`);
    }
    if (!wrong) changed(wanted, showPick(wanted));
  };
  for (const axis of DATA.picks.axes.filter((a) => a.lines_ms.length > 0)) {
    const name = `${TARGETS[axis.target]} at most, ms (${DATA.statistic})`;
    const label = html("label", {}, name);
    const number = html("input", { type: "number", min: "0.001", step: "any", id: `pick-${axis.target}`, value: String(axis.lines_ms[axis.own]) });
    const slider = html("input", { type: "range", min: "0", max: String(axis.lines_ms.length - 1), step: "1", "aria-label": `${name}, step by step` });
    label.append(number);
    inputs[axis.target] = { number, slider, axis };
    number.addEventListener("input", update);
    slider.addEventListener("input", () => {
      number.value = String(axis.lines_ms[Number(slider.value)]);
      update();
    });
    const both = html("div");
    both.append(label, slider);
    form.append(both);
  }
  const reset = html("button", { type: "button", id: "pick-reset" }, "The run's own SLA");
  reset.addEventListener("click", () => {
    for (const { number, axis } of Object.values(inputs)) number.value = String(axis.lines_ms[axis.own]);
    update();
  });
  form.append(reset);
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());

  const yaml = document.getElementById("pick-yaml");
  const said = document.getElementById("pick-said");
  document.getElementById("pick-copy").addEventListener("click", () => {
    const selection = getSelection();
    selection.selectAllChildren(yaml);
    said.textContent = document.execCommand("copy") ? "Copied." : "Selected; copy it with the keyboard.";
  });
  document.getElementById("pick-download").addEventListener("click", () => {
    const link = html("a", { download: "final_config.yaml" });
    link.href = URL.createObjectURL(new Blob([yaml.textContent], { type: "application/yaml" }));
    link.click();
    URL.revokeObjectURL(link.href);
  });
  update();
}
