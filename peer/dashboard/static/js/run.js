// The run: its name, how far it is, its newest figures.

import { byId, make, say, show } from "./dom.js";
import * as format from "./format.js";

const FIGURES = [
  ["loss", "Loss", format.loss],
  ["accuracy", "Accuracy", format.percent],
  ["validation_accuracy", "Held-out", format.percent],
  ["test_accuracy", "Test", format.percent],
  ["round_seconds", "A round", format.seconds],
  ["elapsed_seconds", "Elapsed", format.duration],
  ["learning_rate", "Learning rate", (value) => value.toPrecision(2).replace(/\.?0+$/, "").replace(/\.?0+e/, "e")],
  ["gradient_norm", "Gradient norm", format.decimal],
];

export function startRun() {
  const list = byId("run-figures");
  const values = {};
  for (const [field, title] of FIGURES) {
    values[field] = make("dd");
    list.append(make("div", { "data-figure": field }, make("dt", {}, title), values[field]));
  }

  return (state) => {
    const run = state.run;
    byId("run").classList.toggle("none", !run);
    say(byId("following"), state.is_following ? "newest run" : "");
    document.title = run ? `${run.name} – peerless` : "peerless";
    if (!run) return sayNone(state);
    show(byId("run-name"), "run.name", run.name, String);
    show(byId("run-status"), "run.status", run.status, String);
    byId("run-status").dataset.status = run.status;
    say(byId("run-about"), about(run));
    const progress = byId("run-progress");
    progress.max = Math.max(1, run.rounds_planned);
    progress.value = run.rounds_done;
    show(byId("run-round"), "run.rounds_done", run.rounds_done, (value) => `round ${value} of ${run.rounds_planned}`);
    say(byId("run-left"), left(run));
    for (const [field, , text] of FIGURES) {
      show(values[field], `run.${field}`, run[field], text);
      values[field].parentElement.hidden = run[field] === null;
    }
  };
}

function sayNone(state) {
  say(byId("run-name"), "No run yet");
  say(byId("run-status"), "");
  const store = state.sources.find((source) => source.name === "store");
  const isThere = store && store.status === "ok";
  say(byId("run-about"), isThere ? "Start one with: peerless train" : (store?.text ?? ""));
}

function about(run) {
  const batches = run.batches_per_round ? `${run.batches_per_round}` : "all";
  return [
    [run.model, run.dataset].filter(Boolean).join(" on "),
    `${run.num_peers} ${run.num_peers === 1 ? "peer" : "peers"}`,
    run.compute === "local" ? "gradients by the peers" : "gradients by functions",
    `${run.num_peers} × ${batches} × ${run.batch_size} samples a round`,
  ].join("  ·  ");
}

function left(run) {
  if (run.status === "running" && run.remaining_seconds !== null) {
    return run.remaining_seconds < 1 ? "about to end" : `about ${format.duration(run.remaining_seconds)} left`;
  }
  return run.reason;
}
