// What the page reads, and whether it answers.

import { byId, make, Rows, say } from "./dom.js";

export function startSources() {
  const rows = new Rows(byId("sources"), () => {
    const [name, text] = [make("b"), make("span")];
    const element = make("li", {}, make("i", { class: "dot" }), name, text);
    return {
      element,
      update(source) {
        element.dataset.status = source.status;
        element.dataset.source = source.name;
        say(name, source.name);
        say(text, source.text);
      },
    };
  });
  return (state) => rows.update(state.sources, (source) => source.name);
}
