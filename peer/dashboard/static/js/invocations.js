// How often each function was called, how it answered, how long that took.

import { byId, make, Rows, say, show } from "./dom.js";
import * as format from "./format.js";

const COLUMNS = [
  ["function", "function", String],
  ["count", "invocations", format.count],
  ["per_second", "rate", format.rate],
  ["num_errors", "errors", format.count],
  ["errors_by_code", "by code", codes],
  ["p50_seconds", "p50", format.seconds],
  ["p95_seconds", "p95", format.seconds],
];

export function startInvocations() {
  const body = make("tbody");
  const head = make("thead", {}, make("tr", {}, ...COLUMNS.map(([field, title]) => make("th", { "data-column": field, scope: "col" }, title))));
  byId("invocations").append(head, body);
  const rows = new Rows(body, create);

  return (state) => {
    rows.update(state.invocations, (row) => row.function);
    byId("invocations").hidden = state.invocations.length === 0;
    byId("invocations-empty").hidden = state.invocations.length > 0;
    say(byId("invocations-empty"), state.run?.compute === "local" ? "The peers of this run compute by themselves." : "No invocations are known.");
    const retries = Object.entries(state.retries).map(([reason, count]) => `${count} × ${reason}`);
    say(byId("retries"), state.run ? `tried again in this run: ${retries.join(", ") || "none"}` : "");
  };
}

function create() {
  const cells = COLUMNS.map(([field, title]) => make("td", { "data-column": field, "data-title": title }));
  const element = make("tr", {}, ...cells);
  return {
    element,
    update(row) {
      element.dataset.function = row.function;
      COLUMNS.forEach(([field, , text], index) => show(cells[index], field, row[field], text));
      element.classList.toggle("failing", row.num_errors > 0);
    },
  };
}

function codes(counts) {
  return Object.entries(counts).map(([code, count]) => `${count} × ${code}`).join(", ") || "none";
}
