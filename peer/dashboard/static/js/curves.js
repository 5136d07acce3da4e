// Loss, accuracy, and where the time of the rounds went, over the whole run. Drawn by uPlot.

/* global uPlot */
import { byId, color, make, say } from "./dom.js";
import * as format from "./format.js";

const HEIGHT = 190;

/** Return `{update, redraw}`; the charts are made with the first state, which names the phases. */
export function startCurves() {
  let charts = null;
  return {
    update(state) {
      charts ??= createCharts(state.phases);
      charts.forEach((chart) => chart.update(state.curves));
    },
    redraw: () => charts?.forEach((chart) => chart.redraw()),
  };
}

function createCharts(phases) {
  return [
    new Chart("Loss", [
      { title: "training", field: "loss", stroke: "--training" },
      { title: "held-out", field: "validation_loss", stroke: "--held-out", isSparse: true },
    ], format.loss),
    new Chart("Accuracy", [
      { title: "training", field: "accuracy", stroke: "--training" },
      { title: "held-out", field: "validation_accuracy", stroke: "--held-out", isSparse: true },
    ], format.percent),
    new Chart("A round, by phase", phases.map((phase) => ({ title: phase, phase, stroke: `--${phase}` })), format.seconds, true),
  ];
}

class Chart {
  constructor(title, series, text, isStacked = false) {
    this.series = series;
    this.text = text;
    this.isStacked = isStacked;
    this.rounds = [];
    this.values = series.map(() => []);
    this.readouts = series.map(({ title: name, stroke }) => {
      const value = make("b");
      return { value, element: make("span", { class: "key", "data-key": stroke.slice(2) }, make("i"), `${name} `, value) };
    });
    this.where = make("span", { class: "where" });
    const legend = make("p", { class: "legend" }, ...this.readouts.map(({ element }) => element));
    this.plot = make("div", { class: "plot", role: "img", "aria-label": `${title} over the rounds` });
    this.empty = make("p", { class: "empty" }, "after the first round");
    const head = make("header", {}, make("h2", {}, title), this.where);
    byId("charts").append(make("section", { class: "card chart" }, head, legend, this.plot, this.empty));
    new ResizeObserver(() => this.resize()).observe(this.plot);
  }

  update(curves) {
    this.rounds = curves.rounds;
    this.values = this.series.map(({ field, phase }) => (phase ? (curves.phase_seconds[phase] ?? []) : curves[field]));
    this.empty.hidden = this.rounds.length > 0;
    this.plot.hidden = this.rounds.length === 0;
    if (this.rounds.length) {
      this.uplot ??= this.create();
      this.uplot.setData([this.rounds, ...this.drawn()]);
    }
    this.readOut(this.uplot?.cursor.idx ?? null);
  }

  redraw() {
    this.uplot?.redraw(false, true);
  }

  resize() {
    const width = this.plot.clientWidth;
    if (this.uplot && width && width !== this.uplot.width) this.uplot.setSize({ width, height: HEIGHT });
  }

  /** Stacked series are sums up to theirs, the largest first: each covers the foot of the one before. */
  drawn() {
    if (!this.isStacked) return this.values;
    const sums = [];
    this.values.forEach((values, index) => {
      sums.push(values.map((value, at) => (value ?? 0) + (index ? sums[index - 1][at] : 0)));
    });
    return sums.reverse();
  }

  create() {
    const order = this.isStacked ? [...this.series].reverse() : this.series;
    const axis = { stroke: () => color("--muted"), font: "11px system-ui, sans-serif", ticks: { show: false } };
    const grid = { stroke: () => color("--line"), width: 1 };
    return new uPlot(
      {
        width: this.plot.clientWidth || 300,
        height: HEIGHT,
        legend: { show: false },
        padding: [8, 8, 0, 0],
        cursor: { y: false, points: { show: !this.isStacked }, drag: { x: true, y: false } },
        scales: { x: { time: false }, y: { range: (_, low, high) => this.range(low, high) } },
        axes: [
          { ...axis, grid: { show: false }, size: 26, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
          { ...axis, grid, size: 54, values: (_, ticks) => ticks.map((tick) => this.tick(tick)) },
        ],
        series: [
          {},
          ...order.map(({ stroke, isSparse }) => ({
            stroke: () => color(stroke),
            fill: this.isStacked ? () => color(stroke) : undefined,
            width: this.isStacked ? 0 : 2,
            // a round is a step: between two of them there is nothing
            paths: this.isStacked ? uPlot.paths.stepped({ align: -1 }) : undefined,
            spanGaps: true,
            points: { show: isSparse ?? this.rounds.length < 2, size: 6, fill: () => color(stroke) },
          })),
        ],
        hooks: { setCursor: [(plot) => this.readOut(plot.cursor.idx)] },
      },
      [this.rounds, ...this.drawn()],
      this.plot,
    );
  }

  range(low, high) {
    if (low === null || high === null) return [0, 1];
    if (this.isStacked) return [0, high * 1.05 || 1];
    const margin = 0.05 * (high - low || Math.abs(high) || 1);
    return [Math.max(0, low - margin), this.text === format.percent ? Math.min(1, high + margin) : high + margin];
  }

  tick(value) {
    if (this.text === format.percent) return `${Math.round(100 * value)}%`;
    return `${Number(value.toPrecision(3))}${this.isStacked ? " s" : ""}`;
  }

  /** Show the values under the cursor, else the newest of each. */
  readOut(index) {
    say(this.where, index === null || !this.rounds.length ? "" : `round ${this.rounds[index]}`);
    this.readouts.forEach(({ value }, at) => {
      const values = this.values[at];
      const found = index === null ? values.findLast((entry) => entry !== null) : values[index];
      say(value, found === null || found === undefined ? "–" : this.text(found));
    });
  }
}
