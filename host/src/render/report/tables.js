// Tables: filters and sorting of the candidates, and the points, which are made when somebody asks for them.
function setUpCandidates() {
  const table = document.getElementById("candidate-table");
  const form = document.getElementById("filters");
  if (!table || !form) return;
  const rows = [...table.tBodies[0].rows];
  const field = (name) => document.getElementById(`filter-${name}`);
  const filter = () => {
    const [role, verdict, most, text] = ["role", "verdict", "gpus", "text"].map((name) => field(name).value);
    let shown = 0;
    for (const row of rows) {
      const keep =
        (!role || row.dataset.role === role) &&
        (!verdict || row.dataset.verdict === verdict) &&
        (!most || Number(row.dataset.gpus) <= Number(most)) &&
        row.textContent.toLowerCase().includes(text.trim().toLowerCase());
      row.hidden = !keep;
      shown += keep ? 1 : 0;
    }
    field("count").textContent = `${shown} of ${rows.length} candidates`;
  };
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();

  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = html("button", { type: "button" }, cell.textContent);
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = cell.getAttribute("aria-sort") !== "ascending";
      [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = Number.isNaN(Number(x)) || Number.isNaN(Number(y)) ? x.localeCompare(y) : Number(x) - Number(y);
        return up ? order : -order;
      };
      table.tBodies[0].append(...[...rows].sort(compare));
    });
  });
}

// Marks the rows of the engines that the picker has chosen.
function markChosen(answer) {
  const chosen = answer ? [answer.prefill.candidate, answer.decode.candidate].map(String) : [];
  document.querySelectorAll("#candidate-table tbody tr").forEach((row) => row.classList.toggle("chosen-now", chosen.includes(row.dataset.id)));
}

function setUpPoints() {
  const details = document.getElementById("points-details");
  const host = document.getElementById("points-table");
  const stat = (values) => (values ? `${short(values[0])} [${short(values[1])}, ${short(values[2])}]` : "–");
  details.addEventListener("toggle", () => {
    if (!details.open || host.firstChild) return;
    const table = html("table");
    table.append(html("caption", { class: "hint" }, `Latencies: ${DATA.statistic}, and the 95 % interval of the mean, in ms.`));
    const head = ["candidate", "phase", "tokens in", "out", "asked at once", "seen", "TTFT", "ITL", "tokens/s/GPU", "KV cache", "samples", "failed"];
    const row = table.createTHead().insertRow();
    head.forEach((name, n) => row.append(html("th", { scope: "col", ...(n > 1 ? { class: "n" } : {}) }, name)));
    const body = table.createTBody();
    for (const p of DATA.points) {
      const line = body.insertRow();
      const { role, label } = candidateOf(p);
      line.append(html("th", { scope: "row" }, `${role} ${label}`), html("td", {}, DATA.phases[get(p, "phase")]));
      const cells = [
        get(p, "isl").toLocaleString("en-US"), get(p, "osl").toLocaleString("en-US"), String(get(p, "asked")), short(get(p, "seen")),
        stat(get(p, "ttft")), stat(get(p, "itl")), short(get(p, "tokens")), `${short(get(p, "kv") * 100)} %`,
        get(p, "samples").toLocaleString("en-US"), String(get(p, "failed")),
      ];
      for (const text of cells) line.append(html("td", { class: "n" }, text));
    }
    host.append(table);
  });
}
