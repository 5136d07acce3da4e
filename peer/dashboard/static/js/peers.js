// A lane a peer: its last rounds on one time axis, each round cut into its phases.

import { byId, color, make, Rows, say, show } from "./dom.js";
import * as format from "./format.js";

const LANE_HEIGHT = 30;
const PIXELS_A_ROUND = 46;

/** Return `{update, redraw}`. */
export function startPeers() {
  const lanes = new Rows(byId("lanes"), (lane) => createLane(lane, () => newest));
  const legend = new Rows(byId("phases"), createPhase);
  const bar = new Rows(byId("phase-bar"), createPart);
  let newest = null;

  function update(state) {
    newest = state;
    const known = state.peers.filter((peer) => peer.round_seconds !== null);
    const total = mean(known.map((peer) => peer.round_seconds));
    const phases = state.phases.map((phase, index) => {
      const seconds = mean(known.map((peer) => peer.phase_seconds[index]));
      return { phase, seconds, share: total ? seconds / total : 0 };
    });
    legend.update(known.length ? phases : [], (item) => item.phase);
    bar.update(known.length ? phases : [], (item) => item.phase);
    lanes.update(state.peers, (peer) => peer.peer);
    tellAxis(state, known.length > 0);
    table(state);
    byId("peers-empty").hidden = state.peers.length > 0;
    byId("peer-details").hidden = state.peers.length === 0;
    say(byId("peers-empty"), state.run ? "No round has ended yet." : "Peers are shown once a run begins.");
  }

  new ResizeObserver(() => newest && update(newest)).observe(byId("lanes"));
  return { update, redraw: () => newest && update(newest) };
}

/** The clock times at both ends of the lanes. */
function tellAxis(state, isKnown) {
  byId("lanes-axis").hidden = !isKnown;
  if (!isKnown) return;
  const { start, length } = stretch(state, byId("lanes").querySelector("canvas").clientWidth);
  say(byId("lanes-start"), format.clock(start));
  say(byId("lanes-end"), format.clock(start + length));
}

function createPhase(item) {
  const seconds = make("b");
  const part = make("small");
  const element = make("div", { class: "phase", "data-key": item.phase }, make("i"), make("span", {}, item.phase), seconds, part);
  return {
    element,
    update({ phase, seconds: value, share }) {
      show(seconds, `phase.${phase}`, value, format.seconds);
      say(part, format.share(share));
    },
  };
}

function createPart(item) {
  const element = make("i", { "data-key": item.phase });
  return { element, update: ({ share }) => (element.style.width = `${100 * share}%`) };
}

function createLane(first, state) {
  const name = make("b");
  const note = make("small");
  const canvas = make("canvas", { role: "img" });
  const seconds = make("b");
  const own = make("small");
  const element = make("div", { class: "lane" }, make("div", { class: "who" }, name, note), canvas, make("div", { class: "took" }, seconds, own));
  let lane = first;

  canvas.addEventListener("pointermove", (event) => {
    const found = roundAt(state(), lane, event.offsetX, canvas.clientWidth);
    if (found) say(byId("lanes-hint"), describe(state(), lane, found));
  });
  canvas.addEventListener("pointerleave", () => say(byId("lanes-hint"), byId("lanes-hint").dataset.text));
  byId("lanes-hint").dataset.text ??= byId("lanes-hint").textContent;

  return {
    element,
    update(next) {
      lane = next;
      element.dataset.peer = lane.peer;
      element.dataset.status = lane.status;
      element.classList.toggle("slow", lane.is_slow);
      say(name, `peer ${lane.peer}`);
      say(note, [lane.is_slow ? "slow" : "", lane.status === "running" ? "" : lane.status].filter(Boolean).join(", "));
      show(seconds, "round_seconds", lane.round_seconds, format.seconds);
      show(own, "own_seconds", lane.own_seconds, (value) => `own work ${format.seconds(value)}`);
      canvas.setAttribute("aria-label", lane.round === null ? `peer ${lane.peer}: no round yet` : describe(state(), lane, lane.rounds.at(-1)));
      draw(canvas, state(), lane);
    },
  };
}

/** The stretch of time that fits: as many rounds as are wide enough to be told apart. */
function stretch(state, width) {
  const ends = state.peers.flatMap((peer) => peer.rounds.map((round) => round.ended_at));
  const end = Math.max(...ends);
  const typical = mean(state.peers.map((peer) => peer.round_seconds).filter((value) => value !== null));
  const length = Math.max(1e-3, typical * Math.max(4, Math.floor(width / PIXELS_A_ROUND)));
  const first = Math.min(...state.peers.flatMap((peer) => peer.rounds.map((round) => round.ended_at - sum(round.seconds))));
  return { start: Math.max(first, end - length), length: Math.min(length, end - first) || length };
}

function roundAt(state, lane, x, width) {
  if (!lane.rounds.length) return null;
  const { start, length } = stretch(state, width);
  const time = start + (length * x) / width;
  return lane.rounds.find((round) => round.ended_at >= time) ?? lane.rounds.at(-1);
}

function describe(state, lane, round) {
  const parts = state.phases
    .map((phase, index) => [phase, round.seconds[index]])
    .filter(([, value]) => value >= 0.0005)
    .map(([phase, value]) => `${phase} ${format.seconds(value)}`);
  return `peer ${lane.peer}, round ${round.round + 1}: ${format.seconds(sum(round.seconds))} – ${parts.join(", ")}`;
}

function draw(canvas, state, lane) {
  const width = canvas.clientWidth;
  if (!width) return;
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(LANE_HEIGHT * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  if (!lane.rounds.length) return;
  const { start, length } = stretch(state, width);
  const colors = state.phases.map((phase) => color(`--${phase}`));
  for (const round of lane.rounds) {
    let at = round.ended_at - sum(round.seconds);
    if (round.ended_at < start) continue;
    round.seconds.forEach((seconds, index) => {
      const left = (width * (at - start)) / length;
      at += seconds;
      const right = (width * (at - start)) / length;
      context.fillStyle = colors[index];
      context.fillRect(left, 0, Math.max(0, right - left), LANE_HEIGHT);
    });
    context.clearRect((width * (at - start)) / length - 1, 0, 1.5, LANE_HEIGHT);
  }
}

function table(state) {
  const head = make("tr", {}, ...["peer", ...state.phases, "a round", "sent", "fetched", "retries"].map((title) => make("th", {}, title)));
  const rows = state.peers.map((peer) =>
    make(
      "tr",
      {},
      make("th", {}, String(peer.peer)),
      ...peer.phase_seconds.map((value) => make("td", {}, format.seconds(value))),
      make("td", {}, peer.round_seconds === null ? "–" : format.seconds(peer.round_seconds)),
      ...["put", "get"].map((kind) => make("td", {}, format.megabytes(peer.object_bytes[kind] ?? 0))),
      make("td", {}, String(sum(Object.values(peer.retries)))),
    ),
  );
  byId("peer-table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const mean = (values) => (values.length ? sum(values) / values.length : 0);
