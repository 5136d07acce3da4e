// A bar a function: its working set in its limit, with the peak, the pressure, and what went wrong.

import { byId, make, makeSvg, Rows, say, show } from "./dom.js";
import * as format from "./format.js";

const NEAR = 0.9;
const SECONDS_A_POINT = 2;
const PRESSURE = {
  psi: "share of time in which a process of it waited for memory",
  reclaims: "times a second that its limit was reached; the kernel tells no pressure here",
};
const SPARK = { width: 240, height: 34 };

export function startFunctions() {
  let now = 0;
  const rows = new Rows(byId("functions"), () => create(() => now));
  return (state) => {
    now = state.now;
    rows.update(state.functions, (item) => item.name);
    const empty = byId("functions-empty");
    empty.hidden = state.functions.length > 0;
    const gateway = state.sources.find((source) => source.name === "gateway");
    say(empty, gateway?.status === "ok" ? "The gateway has no functions: peerless up deploys them." : (gateway?.text ?? ""));
    byId("functions").classList.toggle("stale", gateway?.status === "failed");
  };
}

function create(now) {
  const name = make("h3");
  const ratio = make("b", { class: "ratio" });
  const used = make("span");
  const most = make("span");
  const limit = make("span");
  const fill = make("i", { class: "fill" });
  const peak = make("i", { class: "peak", title: "peak" });
  const bar = make("div", { class: "bar", role: "meter", "aria-valuemin": "0", "aria-valuemax": "1" }, fill, peak, make("i", { class: "near", title: "90 % of the limit" }));
  const waited = make("i", { class: "fill" });
  const pressure = make("b");
  const waits = make("div", { class: "waits" }, make("span", {}, "memory pressure"), make("div", { class: "bar" }, waited), pressure);
  const spark = makeSvg("svg", { class: "spark", viewBox: `0 0 ${SPARK.width} ${SPARK.height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const facts = make("dl", { class: "facts" });
  const values = Object.fromEntries(
    ["OOM kills", "Replicas", "In flight", "Cold starts", "CPU"].map((title) => {
      const value = make("dd");
      facts.append(make("div", {}, make("dt", {}, title), value));
      return [title, value];
    }),
  );
  const element = make(
    "article",
    { class: "function" },
    make("div", { class: "head" }, name, ratio),
    make("div", { class: "gauge" }, bar, make("div", { class: "ends" }, used, most, limit), waits),
    spark,
    facts,
  );

  return {
    element,
    update(item) {
      element.dataset.function = item.name;
      show(name, "name", item.name, String);
      show(ratio, "memory_ratio", item.memory_ratio, format.share);
      show(used, "working_set_bytes", item.working_set_bytes, (value) => `working set ${format.bytes(value)}`);
      show(most, "peak_bytes", item.peak_bytes, (value) => `peak ${format.bytes(value)}`);
      show(limit, "limit_bytes", item.limit_bytes, (value) => `limit ${format.bytes(value)}`);
      if (item.limit_bytes === null) say(limit, "no limit");
      const scale = item.limit_bytes ?? Math.max(item.peak_bytes ?? 0, item.working_set_bytes ?? 0, 1);
      const part = (value) => `${Math.min(100, (100 * (value ?? 0)) / scale)}%`;
      fill.style.width = part(item.working_set_bytes);
      peak.style.left = part(item.peak_bytes);
      peak.hidden = item.peak_bytes === null;
      bar.setAttribute("aria-label", `${item.name}: working set of its memory limit`);
      bar.setAttribute("aria-valuenow", String(item.memory_ratio ?? 0));
      bar.setAttribute("aria-valuetext", `${used.textContent}, ${limit.textContent}`);
      tellPressure(waits, waited, pressure, item);
      element.dataset.level = level(item);
      draw(spark, item, now());
      tell(values, item);
    },
  };
}

function level(item) {
  if (item.oom_marks.length) return "error";
  return (item.memory_ratio ?? 0) >= NEAR || (item.pressure_ratio ?? 0) >= 0.1 ? "warning" : "ok";
}

function tell(values, item) {
  show(values["OOM kills"], "oom_kills", item.oom_kills, format.count);
  values["OOM kills"].classList.toggle("wrong", (item.oom_kills ?? 0) > 0);
  show(values.Replicas, "replicas_available", item.replicas_available, (value) => `${value} of ${item.replicas ?? "–"}`);
  const waiting = item.waiting ? `, ${item.waiting} waiting` : "";
  show(values["In flight"], "in_flight", item.in_flight, (value) => `${value}${waiting}`);
  const mean = item.cold_start_seconds === null ? "" : ` × ${format.seconds(item.cold_start_seconds)}`;
  show(values["Cold starts"], "cold_starts", item.cold_starts, (value) => `${format.count(value)}${mean}`);
  show(values.CPU, "cpu_cores", item.cpu_cores, (value) => `${format.decimal(value)} cores`);
}

/** The share of time that it waited for memory; where the kernel does not tell, how often memory was reclaimed. */
function tellPressure(row, bar, text, item) {
  const isKnown = item.pressure_ratio !== null;
  row.classList.toggle("plain", !isKnown);
  row.title = isKnown ? PRESSURE.psi : PRESSURE.reclaims;
  bar.style.width = `${100 * Math.min(1, item.pressure_ratio ?? 0)}%`;
  if (isKnown) show(text, "pressure_ratio", item.pressure_ratio, format.share);
  else show(text, "reclaims_per_second", item.reclaims_per_second, (value) => `${format.rate(value)} reclaims`);
}

/** The last minutes of the working set as a fraction of the limit, with a mark at each OOM kill. */
function draw(svg, item, now) {
  const points = item.memory_ratios;
  const most = Math.max(30, points.length);
  const x = (index) => (SPARK.width * (index + most - points.length)) / (most - 1);
  const y = (value) => SPARK.height - 1 - Math.min(1, value) * (SPARK.height - 3);
  let line = "";
  points.forEach((value, index) => {
    if (value !== null) line += `${line ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
  });
  const marks = item.oom_marks
    .map((mark) => SPARK.width * (1 - (now - mark.time) / (SECONDS_A_POINT * most)))
    .filter((at) => at >= 0)
    .map((at) => makeSvg("line", { class: "oom", x1: at, x2: at, y1: 0, y2: SPARK.height }));
  const limit = makeSvg("line", { class: "limit", x1: 0, x2: SPARK.width, y1: y(1), y2: y(1) });
  svg.replaceChildren(limit, makeSvg("path", { d: line || "M0 0" }), ...marks);
}
