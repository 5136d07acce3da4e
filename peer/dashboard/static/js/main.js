// The page: states come from the server, each part shows its own piece of them.

import { byId, say } from "./dom.js";
import { clock } from "./format.js";
import { startCurves } from "./curves.js";
import { startFindings } from "./findings.js";
import { startFunctions } from "./functions.js";
import { startInvocations } from "./invocations.js";
import { startPeers } from "./peers.js";
import { startRun } from "./run.js";
import { startSources } from "./sources.js";
import { follow } from "./stream.js";
import { startTheme } from "./theme.js";

const curves = startCurves();
const peers = startPeers();
const parts = [startRun(), startFindings(), curves.update, startFunctions(), peers.update, startInvocations(), startSources()];
let shown = null;

startTheme(() => {
  curves.redraw();
  peers.redraw();
});

follow(
  (state) => {
    shown = state;
    document.body.dataset.at = state.now;
    for (const part of parts) part(state);
  },
  (isUp) => {
    byId("link").dataset.link = isUp ? "up" : "down";
    say(byId("link").lastElementChild, isUp ? "live" : "no connection");
    byId("lost").hidden = isUp;
    const state = shown ? ` What you see is the state at ${clock(shown.now)}.` : "";
    say(byId("lost"), `The page's server does not answer; trying again.${state} If it has ended: peerless dashboard`);
  },
);
