// Puts the page together: what is looked at, and who follows.
function choose(host, name, options, changed) {
  const label = html("label", {}, name);
  const select = html("select");
  for (const [value, text] of options) select.append(html("option", { value }, text));
  label.append(select);
  select.addEventListener("change", () => changed(select.value));
  host.append(label);
  return select;
}

function start() {
  const own = DATA.picks ? ownTargets() : { ...DATA.targets };
  const seen = { targets: own, along: DATA.picks?.axes.filter((a) => a.lines_ms.length > 1).at(-1)?.target, unit: "gpus" };
  const drawCost = () => cost(seen.targets, seen.along, seen.unit);
  const looked = (targets, answer) => {
    seen.targets = targets;
    const winner = (role) => (answer ? answer[role] : null);
    performance("prefill", targets, winner("prefill"));
    performance("decode", targets, winner("decode"));
    drawCost();
    markChosen(answer);
  };

  const costControls = document.getElementById("cost-controls");
  const axes = DATA.picks ? DATA.picks.axes.filter((a) => a.lines_ms.length > 1) : [];
  if (axes.length > 0) {
    const along = choose(costControls, "Along", axes.map((a) => [a.target, TARGETS[a.target]]), (value) => {
      seen.along = value;
      drawCost();
    });
    along.value = seen.along;
    choose(costControls, "Cost in", [["gpus", "GPUs of the plan"], ["hours", "GPU-hours for 1,000 requests"]], (value) => {
      seen.unit = value;
      drawCost();
    });
  }
  if (DATA.picks) setUpPicker(looked);
  else looked(own, DATA.chosen);

  for (const [role, what, draw] of [["prefill", "ttft", ttftCurve], ["decode", "itl", itlCurve]]) {
    const count = (c) => DATA.points.filter((p) => candidateOf(p) === c).length;
    const measured = DATA.candidates.filter((c) => c.role === role && count(c) > 0);
    if (measured.length === 0) continue;
    const winner = DATA.chosen ? DATA.candidates[DATA.chosen[role].candidate] : undefined;
    const first = winner ?? measured.reduce((a, b) => (count(b) > count(a) ? b : a));
    const select = choose(document.getElementById(`${what}-controls`), "Candidate", measured.map((c) => [c.id, c === winner ? `${c.label}, chosen by the run` : c.label]), (id) => draw(DATA.candidates[Number(id)]));
    select.value = String(first.id);
    draw(first);
  }
  gpus();
  setUpCandidates();
  setUpPoints();
  document.documentElement.dataset.ready = "yes";
}

start();
