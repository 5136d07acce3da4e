// States as they come, and whether they still come. The browser's own EventSource comes back after a lost
// connection; after an answer that is none (a proxy's 502, a 401) it gives up, so a new one is made.

const SILENT_SECONDS = 25;
const AGAIN_SECONDS = 2;

/** Call `onState` with each state, and `onLink(isUp)` when the connection comes or goes. */
export function follow(onState, onLink) {
  let source = null;
  let heardAt = Date.now();

  function open() {
    source = new EventSource("/api/events");
    source.addEventListener("open", () => {
      heardAt = Date.now();
      onLink(true);
    });
    source.addEventListener("state", (event) => {
      heardAt = Date.now();
      onLink(true);
      onState(JSON.parse(event.data));
    });
    source.addEventListener("error", () => {
      onLink(false);
      if (source.readyState === EventSource.CLOSED) again();
    });
  }

  function again() {
    source.close();
    setTimeout(open, 1000 * AGAIN_SECONDS);
  }

  // a connection may be dead without an error: a laptop that slept, a network that changed
  setInterval(() => {
    if (source.readyState === EventSource.OPEN && Date.now() - heardAt > 1000 * SILENT_SECONDS) {
      onLink(false);
      heardAt = Date.now();
      again();
    }
  }, 1000);
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && open());
  open();
}
