// What is wrong, in words, above everything that is fine.

import { byId, make, Rows, say } from "./dom.js";

export function startFindings() {
  const section = byId("findings");
  const rows = new Rows(section, () => {
    const [subject, text, remedy] = [make("strong"), make("span"), make("small")];
    const element = make("p", {}, subject, text, remedy);
    return {
      element,
      update(finding) {
        element.dataset.severity = finding.severity;
        say(subject, finding.subject);
        say(text, finding.text);
        say(remedy, finding.remedy);
      },
    };
  });

  return (state) => {
    section.hidden = state.findings.length === 0;
    rows.update(state.findings, (finding) => `${finding.subject} ${finding.severity}`);
  };
}
