"use strict";
/* Small layouts run at once; large ones in a worker, so that the page answers meanwhile. The worker is
   made of the texts of two scripts of this page: nothing is fetched. */

const Layouts = (() => {
  const SMALL = 120;
  let worker = null;
  let waiting = null;
  let count = 0;

  function start() {
    const source = ["layout-library", "layout-code"].map((id) => Dom.at(id).textContent).join("\n");
    const code = `${source}\nonmessage = (e) => postMessage([e.data[0], Layout.layout(e.data[1])]);`;
    const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    worker = new Worker(url);
    worker.onmessage = ({ data: [number, result] }) => {
      if (waiting && waiting.number === number) finish(result);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      worker = "none";
      if (waiting) here(waiting.seen);
    };
  }

  function finish(result) {
    const { resolve } = waiting;
    waiting = null;
    resolve(result);
  }

  /** Without a worker: after the page has shown that it is busy. */
  function here(seen) {
    const number = count;
    setTimeout(() => {
      if (waiting && waiting.number === number) finish(Layout.layout(seen));
    }, 30);
  }

  /** A promise of the layout; one that a newer call overtakes is never resolved. */
  function run(seen) {
    count += 1;
    waiting = null;
    if (seen.boxes.length <= SMALL) return Promise.resolve(Layout.layout(seen));
    return new Promise((resolve) => {
      waiting = { resolve, number: count, seen };
      if (worker === null) {
        try {
          start();
        } catch {
          worker = "none";
        }
      }
      if (worker === "none") here(seen);
      else worker.postMessage([count, seen]);
    });
  }

  return { run };
})();
